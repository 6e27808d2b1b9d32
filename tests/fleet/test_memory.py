"""How a fleet counts bytes: what is read of the machine, what runs take, and what follows."""

from __future__ import annotations

from llamagw.errors import GatewayError
from llamagw.fleet.memory import AGAIN_SEC, DRIVER_SEC, EVERY_SEC
from llamagw.fleet.model import Status
from llamagw.launch import Memory, Need, Reading
from tests.fleet.test_dispatch import DispatcherCase
from tests.support.fleet import make_config

GIB = 2**30


def takes(**devices: float) -> list[Need]:
    """One place, with so many GiB on each device."""
    return [Need(devices={device: round(size * GIB) for device, size in devices.items()})]


class CountingCase(DispatcherCase):
    def setUp(self) -> None:
        super().setUp()
        config = make_config(
            "a", "b", "c", memory={"host": "10GiB", "GPU": "10GiB"}, swap_after_sec=10
        )
        self.make_with(config)
        self.launcher.needs = {"a": takes(host=6), "b": takes(host=3), "c": takes(GPU=6)}
        self.held(host=0, GPU=0)

    def begin(self) -> None:
        self.dispatcher.begin()
        self.addCleanup(self.dispatcher._memory.end)

    def held(self, **used: float | None) -> None:
        """What is in use of each device, 16 GiB in all, by anybody."""
        for device, size in used.items():
            taken = None if size is None else round(size * GIB)
            self.launcher.readings[device] = Reading(16 * GIB, taken)

    def is_loaded(self, name: str) -> bool:
        return self.launcher.launched().count(name) > 0


class CountingTests(CountingCase):
    def test_as_many_are_loaded_as_fit(self) -> None:
        self.begin()
        self.have_lease("a")
        self.have_lease("b")
        self.have_lease("c")
        self.assertEqual(self.launcher.launched(), ["a", "b", "c"])

    def test_a_run_is_told_where_there_is_room_for_it(self) -> None:
        self.begin()
        self.have_lease("c")
        self.assertEqual(self.launcher.last("c").need, self.launcher.needs["c"][0])

    def test_others_are_left_what_they_hold(self) -> None:
        # Six are theirs in any case.
        self.held(host=11)
        self.begin()
        self.assertIsInstance(self.error_of(self.dispatcher.acquire("a")), GatewayError)
        self.have_lease("b")

    def test_what_a_run_holds_itself_is_not_others(self) -> None:
        self.begin()
        self.have_lease("a")
        self.launcher.last("a").in_use = Memory(6 * GIB, 6 * GIB, 0)
        self.held(host=6)
        self.clock.advance(EVERY_SEC)
        self.have_lease("b")
        self.assertTrue(self.is_loaded("b"))

    def test_a_run_that_grows_is_counted_with_more(self) -> None:
        self.begin()
        self.have_lease("a")
        self.launcher.last("a").in_use = Memory(8 * GIB, 8 * GIB, 0)
        self.held(host=8)
        self.clock.advance(EVERY_SEC)
        waiting = self.dispatcher.acquire("b")
        self.assertNoResult(waiting)
        waiting.addErrback(lambda _: None)
        waiting.cancel()

    def test_where_only_all_of_it_is_known_the_weights_are_not_its_own(self) -> None:
        self.launcher.needs["a"] = [Need(devices={"host": 2 * GIB}, files={"f": 4 * GIB})]
        self.begin()
        self.have_lease("a")
        self.launcher.last("a").in_use = Memory(6 * GIB)
        self.clock.advance(EVERY_SEC)
        self.have_lease("b")
        self.assertTrue(self.is_loaded("b"))

    def test_memory_that_a_driver_has_not_given_back_is_waited_for(self) -> None:
        self.launcher.needs["b"] = takes(GPU=6)
        self.begin()
        self.have_lease("c").release()
        self.held(GPU=12)
        waiting = self.dispatcher.acquire("b")
        self.launcher.last("c").end()
        self.clock.advance(AGAIN_SEC)
        self.assertFalse(self.is_loaded("b"))
        self.held(GPU=0)
        self.clock.advance(AGAIN_SEC)
        self.assertTrue(self.is_loaded("b"))
        self.become_ready()
        self.successResultOf(waiting)

    def test_but_not_for_long(self) -> None:
        self.launcher.needs["b"] = takes(GPU=3)
        self.launcher.needs["a"] = takes(GPU=5)
        self.begin()
        self.have_lease("c").release()
        self.held(GPU=12)
        waiting = self.dispatcher.acquire("a")
        self.launcher.last("c").end()
        self.clock.pump([AGAIN_SEC] * round(DRIVER_SEC / AGAIN_SEC + 1))
        self.assertEqual(self.dispatcher.scheduler.models["c#3"].status, Status.UNLOADED)
        self.become_ready()
        self.successResultOf(waiting)

    def test_a_device_that_tells_nothing_is_counted_by_charges_alone(self) -> None:
        self.launcher.needs["b"] = takes(GPU=6)
        self.held(GPU=None)
        self.begin()
        self.have_lease("c").release()
        self.dispatcher.acquire("b").addErrback(lambda _: None)
        self.launcher.last("c").end()
        self.assertTrue(self.is_loaded("b"))

    def test_a_load_without_memory_has_another_one_go_and_is_tried_again(self) -> None:
        self.begin()
        self.have_lease("b").release()
        waiting = self.dispatcher.acquire("a")
        self.launcher.last("a").end("was killed by SIGKILL", out_of_memory=True)
        self.assertEqual(self.launcher.last("b").asked, ["stop"])
        self.launcher.last("b").end()
        self.become_ready()
        self.successResultOf(waiting)
        self.assertEqual(self.launcher.short["a"], [{"host": 6 * GIB * 5 // 4}])

    def test_the_second_time_it_has_failed(self) -> None:
        self.begin()
        self.have_lease("b").release()
        waiting = self.dispatcher.acquire("a")
        self.launcher.last("a").end("was killed by SIGKILL", out_of_memory=True)
        self.launcher.last("b").end()
        self.launcher.last("a").end("was killed by SIGKILL", out_of_memory=True)
        self.assertIsInstance(self.error_of(waiting), GatewayError)

    def test_one_that_never_fits_is_loaded_if_asked_for_all_the_same(self) -> None:
        self.launcher.needs["a"] = takes(host=12)
        self.begin()
        self.error_of(self.dispatcher.acquire("a"))
        loaded = self.dispatcher.load("a", anyway=True)
        self.become_ready()
        self.successResultOf(loaded)

    def test_a_reload_begins_and_ends_it(self) -> None:
        self.begin()
        off = make_config("a", "b", "c", max_loaded_models=3, swap_after_sec=10)
        self.dispatcher.apply(off)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.launcher.needs["a"] = takes(host=12)
        self.have_lease("a")
        self.dispatcher.apply(make_config("a", "b", "c", memory="auto", swap_after_sec=10))
        self.assertNotEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_is_read_where_bytes_are_not_counted(self) -> None:
        self.make(limit=2)
        self.launcher.devices = None  # type: ignore[method-assign, assignment]
        self.dispatcher.begin()
        self.have_lease("a")
        self.assertEqual(self.dispatcher.accounts(), [])
