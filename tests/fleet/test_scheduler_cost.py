"""
What an event costs the scheduler with few models and with many, in Python function calls.

The microseconds are shown by benchmarks/scheduler.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

from twisted.trial.unittest import SynchronousTestCase

from llamagw.fleet.books import Capacity
from llamagw.fleet.plan import LOOKED_AT
from llamagw.fleet.scheduler import Scheduler, Start, Stop
from llamagw.launch import Need

FEW, MANY = 10, 1000

#: How much more it may be with a hundred times as many: a search by halves is made of calls.
FACTOR = 2


def calls(work: Callable[[], object]) -> int:
    """How many Python functions are called by some work."""
    seen = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal seen
        seen += event == "call"

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


class Scene:
    """
    A busy model "0", and others at each of which somebody waits, or which are busy as well.

    :param in_memory: whether the others are in memory; then one more is waited for
    """

    #: Seconds, or None for stays in proportion to load times.
    swap_after: float | None = 10

    def __init__(self, models: int, in_memory: bool = False) -> None:
        self.keys = [str(number) for number in range(models + 2)]
        limit = models + 1 if in_memory else 1
        self.scheduler = self.made(limit)
        for now, key in enumerate(self.keys):
            self.scheduler.arrived(key, key, now / len(self.keys))
            if now < limit:
                self.scheduler.loaded(key, now / len(self.keys))

    def made(self, limit: int) -> Scheduler:
        """A scheduler with room for so many."""
        return Scheduler(self.keys, limit=limit, swap_after=self.swap_after, max_queue=10)

    def request(self) -> None:
        self.scheduler.arrived("0", "more", 2)
        self.scheduler.finished("0", 3)

    def wait_and_leave(self) -> None:
        self.scheduler.arrived(self.keys[-1], "more", 2)
        self.scheduler.left(self.keys[-1], "more", 3)

    def the_first_leaves(self) -> None:
        self.scheduler.left("1", "1", 2)

    def swap(self) -> None:
        [stop] = self.scheduler.finished("0", 2)
        assert isinstance(stop, Stop)
        [start] = self.scheduler.exited(stop.key, None, 3)
        assert isinstance(start, Start)
        self.scheduler.loaded(start.key, 4)

    def time_passes(self) -> None:
        self.scheduler.tick(5)

    def patience_ends(self) -> None:
        self.scheduler.tick(1000)


class StayScene(Scene):
    """The same, with models that stay in proportion to their load times."""

    swap_after = None


class BytesScene(Scene):
    """The same, where bytes are counted; each model takes as much, on one of two devices."""

    #: How many more models are configured that nobody asks for.
    others = 0

    def made(self, limit: int) -> Scheduler:
        names = [*self.keys, *(f"other {number}" for number in range(self.others))]
        scheduler = Scheduler((), limit=len(names), swap_after=self.swap_after, max_queue=10)
        places = Need(devices={"gpu0": 1}), Need(devices={"gpu1": 1})
        for name in names:
            scheduler.add(name, needs=lambda: places)
        half = limit // 2
        scheduler.memory({"gpu0": Capacity(half), "gpu1": Capacity(limit - half)}, 0)
        return scheduler


class SparseScene(BytesScene):
    """With many that nobody asks for."""

    others = MANY


class CostTests(SynchronousTestCase):
    """Whatever happens costs as much with a thousand models as with ten, but for a logarithm."""

    scene: type[Scene] = Scene

    def assertScales(self, event: Callable[[Scene], None], in_memory: bool = False) -> None:
        few, many = self.scene(FEW, in_memory), self.scene(MANY, in_memory)
        small, large = calls(lambda: event(few)), calls(lambda: event(many))
        self.assertGreater(small, 1)
        self.assertLessEqual(large, small * FACTOR)

    def test_with_many_who_wait(self) -> None:
        for event in (
            Scene.request,
            Scene.wait_and_leave,
            Scene.the_first_leaves,
            Scene.swap,
            Scene.time_passes,
            Scene.patience_ends,
        ):
            self.assertScales(event)

    def test_with_many_in_memory(self) -> None:
        for event in (Scene.request, Scene.wait_and_leave, Scene.swap, Scene.patience_ends):
            self.assertScales(event, in_memory=True)

    def test_those_who_leave_one_after_the_other(self) -> None:
        def leave(scene: Scene) -> None:
            for key in scene.keys[1 : FEW + 1]:
                scene.scheduler.left(key, key, 2)

        self.assertScales(leave)


class StayCostTests(CostTests):
    """So it does when models stay."""

    scene = StayScene


class BytesCostTests(SynchronousTestCase):
    """
    Where bytes are counted, an event costs the same however many models are configured or wait.

    It does cost more with more models in memory, of which there are few: each is looked at, for
    each of the first that wait.
    """

    EVENTS = (
        Scene.request,
        Scene.wait_and_leave,
        Scene.the_first_leaves,
        Scene.swap,
        Scene.time_passes,
        Scene.patience_ends,
    )

    def cost(self, event: Callable[[Scene], None], scene: Scene) -> int:
        found = calls(lambda: event(scene))
        self.assertGreater(found, 1)
        return found

    def test_with_many_who_wait(self) -> None:
        for event in self.EVENTS:
            few, many = (self.cost(event, BytesScene(n)) for n in (LOOKED_AT + 2, MANY))
            self.assertLessEqual(many, few * FACTOR)

    def test_with_many_configured(self) -> None:
        for event in self.EVENTS:
            few, many = (self.cost(event, scene(FEW)) for scene in (BytesScene, SparseScene))
            self.assertLessEqual(many, few * FACTOR)

    def test_with_more_in_memory(self) -> None:
        # It is searched in order for those that go: no more than in proportion, but for a sort.
        for event in (Scene.wait_and_leave, Scene.swap, Scene.time_passes, Scene.patience_ends):
            few, more = (self.cost(event, BytesScene(n, in_memory=True)) for n in (FEW, 10 * FEW))
            self.assertLessEqual(more, few * 10 * FACTOR)

    def test_a_request_at_a_busy_model_looks_at_no_other(self) -> None:
        few, more = (self.cost(Scene.request, BytesScene(n, True)) for n in (FEW, 10 * FEW))
        self.assertEqual(few, more)
