"""What requests wait for, in words; the states are those of a real scheduler."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from llamagw.errors import ModelUnavailable
from llamagw.fleet.scheduler import Scheduler
from llamagw.fleet.waits import NAME_LENGTH, Wait, Waits

BROKEN = ModelUnavailable("It broke.", retry_after=3)


class WaitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.make(1)

    def make(self, limit: int) -> None:
        self.scheduler = Scheduler("abcdef", limit=limit, swap_after=10, max_queue=10)

    def have_busy(self, *names: str) -> None:
        for name in names:
            self.scheduler.arrived(name, name, 0)
            self.scheduler.loaded(name, 0)

    def wait(self, *names: str, now: float = 5) -> Wait | None:
        models = [self.scheduler.models[name] for name in names]
        return Waits(self.scheduler.room, now).of(models)

    def reason(self, name: str) -> str:
        wait = self.wait(name)
        assert wait is not None, "somebody waits"
        return wait.reason

    def test_where_nobody_waits_there_is_none(self) -> None:
        self.assertIsNone(self.wait("a"))
        self.have_busy("a")
        self.assertIsNone(self.wait("a"))

    def test_the_time_is_that_of_the_first(self) -> None:
        self.scheduler.arrived("a", 1, 1.5)
        self.scheduler.arrived("a", 2, 4)
        self.assertEqual(self.wait("a"), Wait(3.5, "its load"))

    def test_of_several_models_the_first_who_came_counts(self) -> None:
        self.scheduler.arrived("b", 1, 2)
        self.scheduler.arrived("a", 2, 1)
        self.assertEqual(self.wait("a", "b", "c"), Wait(4, "room: `b` is loading"))

    def test_for_room_who_holds_it_is_told_and_how(self) -> None:
        self.make(4)
        self.scheduler.add("p", pinned=True)
        self.have_busy("a", "b", "p")
        self.scheduler.finished("p", 0)
        self.scheduler.arrived("c", 1, 1)
        self.scheduler.arrived("d", 2, 1)
        self.assertEqual(
            self.reason("d"), "room: `a` and `b` are busy, `c` is loading, `p` is pinned"
        )
        self.scheduler.load_failed("c", BROKEN, 2)
        self.assertIn("`c` is stopping", self.reason("d"))

    def test_an_idle_model_that_stays_was_just_loaded(self) -> None:
        self.scheduler.limits(limit=1, swap_after=None, max_queue=10, now=0)
        self.scheduler.arrived("a", 1, 0)
        self.scheduler.loaded("a", 100)
        self.scheduler.finished("a", 101)
        self.assertEqual(self.scheduler.arrived("b", 2, 102), [])
        self.assertEqual(self.reason("b"), "room: `a` is just loaded")

    def test_the_names_are_few_short_and_harmless(self) -> None:
        self.make(9)
        names = ["\x1b[2J" + "x" * 1000, *(f"m{number}" for number in range(8))]
        for name in names:
            self.scheduler.add(name)
        self.have_busy(*names)
        self.scheduler.arrived("a", 1, 1)
        said = self.reason("a")
        self.assertTrue(said.startswith("room: `\\x1b[2Jxxx"), said)
        self.assertTrue(said.endswith("…`, `m0`, `m1` and 6 more are busy"), said)
        self.assertLess(len(said), NAME_LENGTH + 60)

    def test_for_a_restart_the_time_left_is_told(self) -> None:
        self.have_busy("a")
        self.scheduler.exited("a", BROKEN, 4, hold=True)
        self.scheduler.arrived("a", 1, 5)
        self.assertEqual(self.reason("a"), "its restart in 2 s")

    def test_what_is_unloaded_or_makes_room_is_to_be_loaded_anew(self) -> None:
        self.have_busy("a")
        self.scheduler.unload("a", 1)
        self.scheduler.arrived("a", 1, 1)
        self.assertEqual(self.reason("a"), "its next load: it is being unloaded first")
        self.scheduler.finished("a", 2)
        self.assertEqual(self.reason("a"), "its next load: it is being unloaded first")
        self.make(1)
        self.have_busy("a")
        self.scheduler.arrived("b", 1, 0)
        self.scheduler.tick(10)
        self.scheduler.arrived("a", 2, 11)
        self.assertEqual(self.reason("a"), "its next load: it makes room for others first")

    def test_for_a_server_elsewhere_no_load_is_told(self) -> None:
        self.scheduler.add("z", takes_no_room=True)
        self.scheduler.arrived("z", 1, 1)
        self.assertEqual(self.reason("z"), "its server to be reached")
