"""Another configuration while the gateway runs: what did not change goes on untouched."""

from __future__ import annotations

from typing import Any
from unittest import mock

from msgspec.structs import replace

from llamagw.errors import ModelNotFound
from tests.fleet.test_dispatch import DispatcherCase
from tests.support.fleet import make_config


class ReconfigureTests(DispatcherCase):
    def setUp(self) -> None:
        super().setUp()
        self.make(limit=2)

    def apply(self, *names: str, **more: Any) -> None:
        self.dispatcher.apply(make_config(*names, **{"max_loaded_models": 2, **more}))

    def apply_change(self, name: str, **values: Any) -> None:
        self.dispatcher.apply(self.change(name, **values))

    def test_what_did_not_change_keeps_its_backend_and_its_leases(self) -> None:
        lease = self.have_lease("a")
        self.apply("a", "b", "c")
        self.assertEqual(self.engine("a").asked, [])
        self.assertEqual(self.launcher.launched(), ["a"])
        lease.release()
        self.successResultOf(self.dispatcher.acquire("a"))

    def test_a_removed_model_is_unknown_at_once_and_stopped_when_it_is_idle(self) -> None:
        lease = self.have_lease("a")
        self.apply("b", "c")
        self.assertRaises(ModelNotFound, self.dispatcher.acquire, "a")
        self.assertEqual([entry.model.name for entry in self.dispatcher.catalogue], ["b", "c"])
        self.assertEqual(self.engine("a").asked, [], "its answer is finished first")
        lease.release()
        self.assertEqual(self.engine("a").asked, ["stop"])
        self.engine("a").end()
        configured = [entry.instances[0].key for entry in self.dispatcher.catalogue]
        self.assertEqual(list(self.dispatcher._instances), configured)

    def test_another_interval_of_health_checks_holds_for_what_is_loaded_already(self) -> None:
        self.have_lease("a").release()
        asked = len(self.probe.asked)
        self.probe.well = True
        self.dispatcher.apply(replace(self.dispatcher.config, health_check_sec=2.0))
        self.clock.pump([1.0] * 6)
        self.assertEqual(len(self.probe.asked) - asked, 3)

    def test_an_idle_model_that_is_removed_is_stopped_at_once(self) -> None:
        self.have_lease("a").release()
        self.apply("b")
        self.assertEqual(self.engine("a").asked, ["stop"])

    def test_however_many_models_go_the_scheduler_looks_at_the_whole_as_often(self) -> None:
        """Or thousands of them would take seconds."""

        def looks(count: int) -> int:
            names = [f"m{number}" for number in range(count)]
            self.apply(*names)
            scheduler = self.dispatcher.scheduler
            with mock.patch.object(scheduler, "_settle", wraps=scheduler._settle) as settle:
                self.apply("a")
            return settle.call_count

        self.assertEqual(looks(2), looks(50))

    def test_a_new_model_costs_no_machinery_until_it_is_asked_for(self) -> None:
        self.apply("a", "new")
        [keeper] = self.dispatcher.catalogue.find("new").instances
        self.assertNotIn("_lifecycle", vars(keeper))
        self.have_lease("new")
        self.assertIn("_lifecycle", vars(keeper))

    def test_who_waits_for_a_removed_model_is_told(self) -> None:
        waiting = self.dispatcher.acquire("a")
        self.apply("b")
        self.assertIsInstance(self.error_of(waiting), ModelNotFound)
        self.assertEqual(self.engine("a").asked, ["stop"])

    def test_a_changed_model_drains_and_its_successor_has_the_new_values(self) -> None:
        lease = self.have_lease("a")
        first = self.engine("a")
        self.apply_change("a", threads=2)
        successor = self.dispatcher.acquire("a")
        self.become_ready()
        self.assertNotEqual(self.successResultOf(successor).address, first.address)
        self.assertEqual(self.engine("a").model.threads, 2)
        self.assertEqual(first.asked, [])
        lease.release()
        self.assertEqual(first.asked, ["stop"])

    def test_who_waits_for_a_changed_model_gets_its_successor(self) -> None:
        waiting = self.dispatcher.acquire("a")
        first = self.engine("a")
        self.apply_change("a", threads=2)
        self.assertEqual(first.asked, ["stop"])
        first.end()
        self.become_ready()
        self.successResultOf(waiting)
        self.assertEqual(self.engine("a").model.threads, 2)

    def test_a_waiter_that_was_moved_can_still_leave(self) -> None:
        waiting = self.dispatcher.acquire("a")
        self.apply_change("a", threads=2)
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        self.assertEqual([report.waiting for report in self.dispatcher.report()], [0, 0, 0])

    def test_a_new_model_can_be_asked_for(self) -> None:
        self.apply("a", "b", "c", "d")
        self.assertEqual(
            [entry.model.name for entry in self.dispatcher.catalogue], ["a", "b", "c", "d"]
        )
        self.have_lease("d")

    def test_a_lower_limit_stops_what_is_idle(self) -> None:
        self.have_lease("a").release()
        self.have_lease("b").release()
        self.apply("a", "b", "c", max_loaded_models=1)
        self.assertEqual((self.engine("a").asked, self.engine("b").asked), (["stop"], []))

    def test_a_higher_limit_lets_the_next_one_start(self) -> None:
        self.have_lease("a")
        self.have_lease("b")
        waiting = self.dispatcher.acquire("c")
        self.assertNotIn("c", self.launcher.launched())
        self.apply("a", "b", "c", max_loaded_models=3)
        self.become_ready()
        self.successResultOf(waiting)

    def test_another_engine_is_another_backend_for_every_model(self) -> None:
        self.have_lease("a").release()
        config = replace(self.dispatcher.config, llama_server_path="/opt/other/llama-server")
        self.dispatcher.apply(config)
        self.assertEqual(self.engine("a").asked, ["stop"])

    def test_a_removed_model_that_fails_to_load_is_forgotten(self) -> None:
        waiting = self.dispatcher.acquire("a")
        waiting.addErrback(lambda _: None)
        self.apply("b")
        self.engine("a").end()
        self.clock.advance(100)
        self.assertEqual(len(self.dispatcher._instances), 1)
        self.assertEqual(set(self.dispatcher.scheduler.models), set(self.dispatcher._instances))
