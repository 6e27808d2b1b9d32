"""Where those stand who wait: position, time, and what for; and how far each model is."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.logger import formatEvent

from llamagw.config import Replica
from llamagw.errors import BadRequest
from llamagw.fleet import Standing
from tests.fleet.test_dispatch import DispatcherCase
from tests.support.configs import configuration, local_model, remote_model
from tests.support.fleet import make_config
from tests.support.logs import events_of


class StandingTests(DispatcherCase):
    def standing(self, waiting: object) -> Standing:
        found = self.dispatcher.standing(waiting)  # type: ignore[arg-type]
        assert found is not None, "it waits"
        self.assertEqual(self.dispatcher.standings()[waiting], found)  # type: ignore[index]
        return found

    def test_who_waits_for_a_load_is_told_its_place_its_time_and_the_usual_one(self) -> None:
        self.launcher.usual["a"] = 12.0
        first = self.dispatcher.acquire("a")
        self.clock.advance(2)
        second = self.dispatcher.acquire("a")
        self.clock.advance(1)
        self.assertEqual(self.standing(first), Standing("a", 1, 3.0, "its load", "loading", 12.0))
        self.assertEqual(self.standing(second), Standing("a", 2, 1.0, "its load", "loading", 12.0))
        first.addErrback(lambda failure: failure.trap(CancelledError))
        first.cancel()
        self.assertEqual(self.standing(second).position, 1)
        self.assertIsNone(self.dispatcher.standing(first))

    def test_who_waits_for_room_is_told_who_has_it(self) -> None:
        self.have_lease("a")
        waiting = self.dispatcher.acquire("b")
        expected = Standing("b", 1, 0.0, "room: `a` is busy", "waiting", None)
        self.assertEqual(self.standing(waiting), expected)

    def test_who_does_not_wait_has_none(self) -> None:
        loading = self.dispatcher.acquire("a")
        self.become_ready()
        at_once = self.dispatcher.acquire("a")
        for lease in (loading, at_once):
            self.assertIsNone(self.dispatcher.standing(lease))
        self.assertEqual(self.dispatcher.standings(), {})
        failing = self.dispatcher.acquire("b")
        self.dispatcher.drain()
        self.assertIsNone(self.dispatcher.standing(failing))
        self.error_of(failing)

    def test_who_is_moved_to_a_changed_model_goes_on_waiting(self) -> None:
        waiting = self.dispatcher.acquire("a")
        self.clock.advance(5)
        self.dispatcher.apply(self.change("a", threads=2))
        self.assertEqual((self.standing(waiting).position, self.standing(waiting).seconds), (1, 5))

    def test_nobody_is_kept_who_has_left(self) -> None:
        for _ in range(5):
            waiting = self.dispatcher.acquire("a")
            waiting.addErrback(lambda failure: failure.trap(CancelledError))
            waiting.cancel()
        patient = self.dispatcher.acquire("a")
        self.clock.advance(self.dispatcher.config.queue_timeout_sec)
        self.error_of(patient)
        self.assertEqual(len(self.dispatcher._standings._waiting), 0)

    def test_in_words_it_is_one_harmless_line(self) -> None:
        words = {
            Standing("a", 3, 12.9, "", "", 11.6): "a: position 3, 12 s so far; its load usually "
            "takes 12 s",
            Standing("a", 1, 0.04, "", "", 0.42): "a: position 1, 0.0 s so far; its load usually "
            "takes 0.4 s",
            Standing("a\n\nb", 1, 125, "", "", None): "a\\x0a\\x0ab: position 1, 2 min so far",
        }
        for standing, said in words.items():
            self.assertEqual(standing.in_words(), f"waiting for {said}")


class ProgressTests(DispatcherCase):
    def test_nothing_is_told_of_models_at_rest(self) -> None:
        self.have_lease("a")
        self.assertEqual(self.dispatcher.progress(), {})

    def test_of_one_that_loads_the_time_is_told_even_if_nobody_waits_any_more(self) -> None:
        self.launcher.usual["a"] = 7.5
        waiting = self.dispatcher.acquire("a")
        self.clock.advance(2)
        [(name, progress)] = self.dispatcher.progress().items()
        self.assertEqual(
            (name, progress.state, progress.elapsed_sec, progress.usual_sec, progress.done),
            ("a", "loading", 2, 7.5, None),
        )
        self.assertEqual((progress.waiting, progress.waiting_sec), (1, 2))
        self.assertEqual((progress.waiting_for, progress.position), ("its load", None))
        waiting.addErrback(lambda failure: failure.trap(CancelledError))
        waiting.cancel()
        progress = self.dispatcher.progress()["a"]
        self.assertEqual((progress.state, progress.waiting), ("loading", 0))
        self.assertEqual((progress.waiting_sec, progress.waiting_for), (None, None))

    def test_of_those_that_wait_for_room_their_place_is_told(self) -> None:
        self.have_lease("a")
        for name in ("c", "b", "c"):
            self.dispatcher.acquire(name).addErrback(lambda _: None)
            self.clock.advance(1)
        progress = self.dispatcher.progress()
        self.assertEqual([*progress], ["b", "c"])
        places = {name: (p.state, p.position, p.waiting) for name, p in progress.items()}
        self.assertEqual(places, {"b": ("waiting", 2, 1), "c": ("waiting", 1, 2)})
        self.assertIsNone(progress["b"].elapsed_sec)

    def test_of_one_that_is_asked_for_by_name_its_state_is_told(self) -> None:
        self.have_lease("a")
        progress = self.dispatcher.progress(["a", "b", "no-more"])
        self.assertEqual(
            {n: p.state for n, p in progress.items()}, {"a": "loaded", "b": "unloaded"}
        )

    def test_a_server_elsewhere_is_told_of_only_if_somebody_waits_for_it(self) -> None:
        self.make_with(configuration(remote_model("far", Replica(url="http://far"))))
        self.probe.later = True
        self.dispatcher.begin()
        self.clock.advance(0)
        self.assertEqual(self.dispatcher.progress(), {})
        self.dispatcher.acquire("far").addErrback(lambda _: None)
        progress = self.dispatcher.progress()["far"]
        self.assertEqual((progress.waiting, progress.usual_sec), (1, None))

    def test_a_model_that_is_removed_while_it_loads_is_not_told_of(self) -> None:
        self.dispatcher.acquire("a").addErrback(lambda _: None)
        self.dispatcher.apply(make_config("b"))
        self.assertEqual(self.dispatcher.progress(), {})


class DurationTests(DispatcherCase):
    def test_each_load_tells_what_it_took_from_its_launch_on(self) -> None:
        self.clock.advance(100)
        self.dispatcher.acquire("a")
        self.clock.advance(4)
        self.become_ready()
        self.assertEqual([round(took, 3) for took in self.launcher.took["a"]], [4.05])

    def test_a_load_that_fails_tells_nothing(self) -> None:
        self.dispatcher.acquire("a").addErrback(lambda _: None)
        self.clock.advance(4)
        self.engine("a").end()
        self.assertEqual(self.launcher.took, {})

    def test_reports_have_what_a_load_takes_took_and_is_taking(self) -> None:
        self.launcher.usual["a"] = 7.5
        unloaded = self.dispatcher.report()[0]
        self.assertEqual((unloaded.usual_sec, unloaded.load_sec), (7.5, None))
        self.dispatcher.acquire("a")
        self.clock.advance(2)
        self.assertEqual(self.dispatcher.report()[0].load_sec, 2)
        self.become_ready()
        self.clock.advance(60)
        self.assertEqual(self.dispatcher.report()[0].load_sec, 2.05)
        self.dispatcher.unload("a", force=True)
        self.engine("a").end()
        self.assertIsNone(self.dispatcher.report()[0].load_sec)

    def test_reports_count_down_to_the_idle_timeout_while_it_is_idle(self) -> None:
        self.make_with(configuration(local_model("a", idle_unload_sec=60), local_model("b")))
        for name in ("a", "b"):
            lease = self.have_lease(name)
            self.assertEqual([r.unloads_in_sec for r in self.dispatcher.report()], [None, None])
            lease.release()
            if name == "a":
                self.assertEqual(self.dispatcher.report()[0].unloads_in_sec, 60)
                self.clock.advance(15)
                self.assertEqual(self.dispatcher.report()[0].unloads_in_sec, 45)
                self.have_lease("a")
        self.assertEqual([r.unloads_in_sec for r in self.dispatcher.report()], [None, None])


class PinTests(DispatcherCase):
    def setUp(self) -> None:
        super().setUp()
        self.make(limit=2)

    def pinned(self) -> list[str]:
        return [report.id for report in self.dispatcher.report() if report.pinned]

    def test_a_pinned_model_is_not_evicted_and_an_unpinned_one_is(self) -> None:
        self.have_lease("a").release()
        self.have_lease("b").release()
        self.dispatcher.pin("a", True)
        self.assertEqual(self.pinned(), ["a"])
        self.dispatcher.acquire("c")
        self.assertEqual((self.engine("a").asked, self.engine("b").asked), ([], ["stop"]))
        self.engine("b").end()
        self.become_ready()
        self.dispatcher.pin("a", False)
        self.assertEqual(self.pinned(), [])
        self.dispatcher.acquire("b").addErrback(lambda _: None)
        self.assertEqual(self.engine("a").asked, ["stop"])

    def test_one_that_is_pinned_while_it_closes_takes_requests_again(self) -> None:
        lease = self.have_lease("a")
        self.have_lease("b")
        self.dispatcher.acquire("c").addErrback(lambda _: None)
        self.clock.advance(10)
        waiting = self.dispatcher.acquire("a")
        self.assertNoResult(waiting)
        self.dispatcher.pin("a", True)
        self.successResultOf(waiting)
        lease.release()
        self.assertEqual(self.engine("a").asked, [])
        newcomer = self.dispatcher.acquire("b")
        self.assertNoResult(newcomer)  # b closes instead
        newcomer.addErrback(lambda _: None)

    def test_a_pin_does_not_outlive_its_model_s_configuration(self) -> None:
        self.dispatcher.pin("a", True)
        self.dispatcher.apply(self.change("b", threads=2))
        self.assertEqual(self.pinned(), ["a"])
        self.dispatcher.apply(self.change("a", threads=2))
        self.assertEqual(self.pinned(), [])

    def test_a_pin_of_the_configuration_can_be_lifted(self) -> None:
        self.make_with(configuration(local_model("a", pinned=True), local_model("b")))
        self.dispatcher.pin("a", False)
        self.assertEqual(self.pinned(), [])

    def test_one_too_many_is_refused_and_pinning_twice_is_no_second_pin(self) -> None:
        for _ in range(2):
            self.dispatcher.pin("a", True)
        error = self.assertRaises(BadRequest, self.dispatcher.pin, "b", True)
        self.assertIn("`b` cannot be pinned: 1 is pinned already and max_load", str(error))
        self.assertEqual(self.pinned(), ["a"])
        self.dispatcher.pin("a", False)
        self.dispatcher.pin("b", True)

    def test_all_may_be_pinned_if_there_is_room_for_all(self) -> None:
        self.make(limit=3)
        for name in "abc":
            self.dispatcher.pin(name, True)
        self.assertEqual(self.pinned(), ["a", "b", "c"])

    def test_a_model_elsewhere_cannot_be_pinned(self) -> None:
        self.make_with(configuration(remote_model("far", Replica(url="http://far"))))
        for pinned in (True, False):
            error = self.assertRaises(BadRequest, self.dispatcher.pin, "far", pinned)
            self.assertIn("takes no memory here", str(error))

    def test_pins_that_a_reload_leaves_no_room_for_are_given_up(self) -> None:
        self.make(limit=3)
        for name in "ab":
            self.dispatcher.pin(name, True)
        events = events_of(self)
        self.dispatcher.apply(make_config("a", "b", "c", max_loaded_models=2))
        self.assertEqual(self.pinned(), [])
        self.assertEqual(len(events), 2)
        self.assertIn("a is not pinned any more", formatEvent(events[0]))
