"""When an idle instance forgets earlier prompts."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from llamagw.fleet.shrink import Shrink
from tests.fleet.test_dispatch import DispatcherCase


class ShrinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.idle_since: float | None = 0.0
        self.forgot_at: list[float] = []
        self.shrink = Shrink(
            self.clock,
            10.0,
            lambda: self.idle_since,
            lambda: self.forgot_at.append(self.clock.seconds()),
        )

    def run_until(self, end: float) -> None:
        while self.clock.seconds() < end:
            self.clock.advance(1)

    def test_it_forgets_once_it_has_been_idle_for_so_long(self) -> None:
        self.run_until(9)
        self.assertEqual(self.forgot_at, [])
        self.run_until(10)
        self.assertEqual(self.forgot_at, [10])

    def test_a_use_in_between_puts_it_off_to_the_second(self) -> None:
        self.run_until(7)
        self.idle_since = 7.0
        self.run_until(100)
        self.assertEqual(self.forgot_at, [17])

    def test_it_forgets_once_for_each_time_that_it_falls_idle(self) -> None:
        self.run_until(45)
        self.idle_since = 45.0
        self.run_until(100)
        self.assertEqual(len(self.forgot_at), 2)
        self.assertLessEqual(self.forgot_at[1], 65)

    def test_a_busy_one_forgets_nothing(self) -> None:
        self.idle_since = None
        self.run_until(100)
        self.assertEqual(self.forgot_at, [])

    def test_nothing_is_left_when_it_is_stopped(self) -> None:
        self.shrink.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class InstanceTests(DispatcherCase):
    def setUp(self) -> None:
        super().setUp()
        self.make(limit=1, health_check_sec=10**6)
        self.make_with(self.change("a", idle_shrink_sec=60))

    def test_an_idle_engine_forgets_and_stays(self) -> None:
        self.have_lease("a").release()
        self.clock.advance(59.9)
        self.assertEqual(self.probe.erased, [])
        self.clock.advance(0.1)
        self.assertEqual(self.probe.erased, [self.engine("a").port])
        self.assertEqual(self.engine("a").asked, [])

    def test_a_busy_one_does_not(self) -> None:
        self.have_lease("a")
        self.clock.pump([60] * 5)
        self.assertEqual(self.probe.erased, [])

    def test_nothing_is_asked_of_one_that_has_ended(self) -> None:
        self.have_lease("a").release()
        self.engine("a").end()
        self.clock.pump([60] * 5)
        self.assertEqual(self.probe.erased, [])
