"""The fleet from its door: leases, swaps, crashes and the end, with engines of the mind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from llamagw.config import Config
from llamagw.errors import (
    GatewayError,
    LoadTimeout,
    ModelNotFound,
    ModelNotLoaded,
    ModelUnavailable,
    QueueTimeout,
    ServerBusy,
    ShuttingDown,
)
from llamagw.fleet import Change, Dispatcher, Lease
from llamagw.fleet.descriptions import DESCRIBE_SEC
from llamagw.launch import Memory
from llamagw.net import Address
from tests.support.fleet import FakeLaunchers, FakeProbe, FakeRun, make_config
from tests.support.logs import events_of


class SlowClock(Clock):
    """A Clock that goes on while things are done, and a reactor's dislike of the past."""

    def __init__(self) -> None:
        super().__init__()
        self.each_look = 0.0

    def seconds(self) -> float:
        self.rightNow += self.each_look
        return self.rightNow

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        assert delay >= 0, f"{delay} s from now is in the past"
        return super().callLater(delay, callable, *args, **kw)


class DispatcherCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = SlowClock()
        self.make(limit=1)

    def make(self, limit: int, **more: object) -> None:
        # With a number an idle model goes at once, however long its load took.
        values = {"swap_after_sec": 10, **more}
        self.make_with(make_config("a", "b", "c", max_loaded_models=limit, **values))

    def make_with(self, config: Config) -> None:
        self.probe = FakeProbe()
        self.launcher = FakeLaunchers(self.probe, self.clock, config.load_timeout_sec)
        self.dispatcher = Dispatcher(config, self.launcher, self.probe, self.clock)

    def change(self, name: str, **values: Any) -> Config:
        """The configuration, but for some values of one model."""
        models = [
            replace(m, **values) if m.name == name else m for m in self.dispatcher.config.models
        ]
        return replace(self.dispatcher.config, models=models)

    def become_ready(self) -> None:
        """Have the loading engines answer their next probe."""
        self.probe.well = True
        self.clock.advance(0.05)
        self.probe.well = False

    def have_lease(self, name: str) -> Lease:
        lease = self.dispatcher.acquire(name)
        if not lease.called:
            self.become_ready()
        return self.successResultOf(lease)

    def error_of(self, lease: Deferred[Lease]) -> GatewayError:
        error = self.failureResultOf(lease, GatewayError).value
        assert isinstance(error, GatewayError)
        return error

    def engine(self, name: str) -> FakeRun:
        return self.launcher.last(name)

    def status(self) -> dict[str, str]:
        return {report.id: report.status for report in self.dispatcher.report()}


class LeaseTests(DispatcherCase):
    def test_nothing_is_started_before_somebody_asks(self) -> None:
        self.clock.advance(1000)
        self.assertEqual(self.launcher.launched(), [])
        self.assertEqual([entry.model.name for entry in self.dispatcher.catalogue], ["a", "b", "c"])

    def test_the_first_who_asks_waits_for_the_load(self) -> None:
        lease = self.dispatcher.acquire("a")
        self.assertEqual(self.launcher.launched(), ["a"])
        self.clock.pump([0.05] * 10)
        self.assertNoResult(lease)
        self.become_ready()
        self.assertEqual(self.successResultOf(lease).address, self.engine("a").address)

    def test_two_waiters_share_one_start(self) -> None:
        leases = [self.dispatcher.acquire("a") for _ in range(3)]
        self.become_ready()
        for lease in leases:
            self.successResultOf(lease)
        self.assertEqual(self.launcher.launched(), ["a"])

    def test_a_loaded_model_gives_its_lease_at_once(self) -> None:
        self.have_lease("a")
        self.successResultOf(self.dispatcher.acquire("a"))
        self.assertEqual(self.launcher.launched(), ["a"])

    def test_an_unknown_model_is_told_at_once(self) -> None:
        error = self.assertRaises(ModelNotFound, self.dispatcher.acquire, "zzz")
        self.assertIn("`a`, `b`, `c`", error.message)

    def test_released_twice_is_released_once(self) -> None:
        first, second = self.have_lease("a"), self.have_lease("a")
        first.release()
        first.release()
        self.dispatcher.acquire("b").addErrback(lambda _: None)
        self.assertEqual(self.engine("a").asked, [])
        second.release()
        self.assertEqual(self.engine("a").asked, ["stop"])

    def test_moved_after_release_is_harmless(self) -> None:
        lease = self.have_lease("a")
        lease.release()
        lease.moved()

    def test_a_lease_knows_its_model(self) -> None:
        lease = self.have_lease("a")
        first = lease.model
        self.dispatcher.apply(self.change("a", threads=9))
        self.assertEqual((lease.model.name, lease.model), ("a", first))

    def test_who_must_not_load_gets_a_lease_of_what_is_loaded(self) -> None:
        self.have_lease("a").release()
        lease = self.successResultOf(self.dispatcher.acquire("a", load=False))
        self.assertEqual(self.dispatcher.report()[0].in_flight, 1)
        lease.release()
        self.assertEqual(self.dispatcher.report()[0].in_flight, 0)

    def test_who_must_not_load_is_told_that_nothing_is_loaded(self) -> None:
        self.assertIsInstance(
            self.error_of(self.dispatcher.acquire("a", load=False)), ModelNotLoaded
        )
        self.assertEqual(self.launcher.launched(), [])
        self.dispatcher.acquire("a")
        error = self.error_of(self.dispatcher.acquire("a", load=False))
        self.assertIn("The model `a` is not loaded (it is loading).", error.message)
        self.assertRaises(ModelNotFound, self.dispatcher.acquire, "zzz", load=False)

    def test_who_must_not_load_does_not_count_as_use(self) -> None:
        self.make(limit=2)
        for name in "ab":
            self.have_lease(name).release()
            self.clock.advance(1)
        lease = self.successResultOf(self.dispatcher.acquire("a", load=False))
        self.clock.advance(1)
        lease.release()
        self.dispatcher.acquire("c")
        self.assertEqual((self.engine("a").asked, self.engine("b").asked), (["stop"], []))

    def test_a_waiter_who_cancels_is_forgotten(self) -> None:
        gone, stays = self.dispatcher.acquire("a"), self.dispatcher.acquire("a")
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.become_ready()
        self.successResultOf(stays)
        self.assertEqual(self.dispatcher.report()[0].in_flight, 1)

    def test_a_waiter_who_waits_too_long_is_told(self) -> None:
        self.make(limit=1, queue_timeout_sec=60)
        lease = self.dispatcher.acquire("a")
        self.clock.advance(59)
        self.assertNoResult(lease)
        self.clock.advance(1)
        self.assertIsInstance(self.error_of(lease), QueueTimeout)
        self.assertEqual(self.dispatcher.report()[0].waiting, 0)

    def test_cancelling_what_was_given_does_nothing(self) -> None:
        lease = self.dispatcher.acquire("a")
        self.become_ready()
        lease.cancel()
        self.successResultOf(lease)
        self.assertEqual(self.dispatcher.report()[0].in_flight, 1)

    def cancel(self, lease: Deferred[Lease], result: object) -> object:
        lease.cancel()
        return result

    def test_a_waiter_may_cancel_another_when_it_is_answered(self) -> None:
        for ends_well in (True, False):
            self.setUp()
            first, second = self.dispatcher.acquire("a"), self.dispatcher.acquire("a")
            first.addBoth(partial(self.cancel, second))
            if ends_well:
                self.become_ready()
                self.successResultOf(first)
            else:
                self.engine("a").end()
                self.failureResultOf(first, ModelUnavailable)
            self.failureResultOf(second, CancelledError)
            self.assertEqual(self.dispatcher.report()[0].in_flight, 1 if ends_well else 0)

    def test_a_waiter_may_release_and_ask_again_when_it_is_answered(self) -> None:
        again = []

        def answered(lease: Lease) -> None:
            lease.release()
            again.append(self.dispatcher.acquire("a"))

        self.dispatcher.acquire("a").addCallback(answered)
        self.become_ready()
        self.successResultOf(again[0])
        self.assertEqual(self.dispatcher.report()[0].in_flight, 1)


class SwapTests(DispatcherCase):
    def test_the_next_starts_when_the_process_is_gone(self) -> None:
        self.have_lease("a").release()
        lease = self.dispatcher.acquire("b")
        self.assertEqual(self.launcher.launched(), ["a"])
        self.engine("a").end()
        self.assertEqual(self.launcher.launched(), ["a", "b"])
        self.become_ready()
        self.assertEqual(self.successResultOf(lease).address, self.engine("b").address)

    def test_a_busy_model_closes_when_somebody_has_waited_for_swap_after(self) -> None:
        lease = self.have_lease("a")
        waiter = self.dispatcher.acquire("b")
        self.clock.advance(9.9)
        self.successResultOf(self.dispatcher.acquire("a")).release()
        self.clock.advance(0.2)
        newcomer = self.dispatcher.acquire("a")
        self.assertNoResult(newcomer)
        self.assertEqual(self.engine("a").asked, [])
        lease.release()
        self.assertEqual(self.engine("a").asked, ["stop"])
        self.engine("a").end()
        self.become_ready()
        self.successResultOf(waiter).release()
        self.engine("b").end()
        self.become_ready()
        self.successResultOf(newcomer)
        self.assertEqual(self.launcher.launched(), ["a", "b", "a"])

    def test_an_idle_model_stays_for_as_long_as_its_load_is_worth(self) -> None:
        self.make(limit=1, swap_after_sec="auto")
        lease = self.dispatcher.acquire("a")
        self.clock.advance(40)
        self.become_ready()
        self.successResultOf(lease).release()
        self.dispatcher.acquire("b")
        self.clock.advance(1.9)
        self.assertEqual(self.engine("a").asked, [])
        self.clock.advance(0.2)
        self.assertEqual(self.engine("a").asked, ["stop"])

    def test_a_timer_that_is_due_while_actions_are_carried_out(self) -> None:
        self.make(limit=1, swap_after_sec=0.05)
        self.have_lease("a")
        self.clock.each_look = 0.1
        self.dispatcher.acquire("b")
        self.clock.each_look = 0.0
        self.clock.advance(0)
        self.assertNoResult(self.dispatcher.acquire("a"))

    def test_no_timer_stays_when_nobody_waits(self) -> None:
        self.make(limit=1, health_check_sec=1000)
        self.have_lease("a")
        before = len(self.clock.getDelayedCalls())
        self.dispatcher.acquire("b").addErrback(lambda _: None).cancel()
        self.assertEqual(len(self.clock.getDelayedCalls()), before)


class FailureTests(DispatcherCase):
    def test_all_who_wait_are_told_each_by_an_error_of_its_own(self) -> None:
        leases = [self.dispatcher.acquire("a") for _ in range(2)]
        self.engine("a").end(last_words="out of memory")
        errors = [self.error_of(lease) for lease in leases]
        self.assertIsNot(errors[0], errors[1])
        for error in errors:
            self.assertIsInstance(error, ModelUnavailable)
            self.assertIn("exited with status 1: out of memory", error.message)
            self.assertEqual(error.retry_after, 1)

    def test_until_the_backoff_is_over_newcomers_are_told_too(self) -> None:
        self.dispatcher.acquire("a").addErrback(lambda _: None)
        self.engine("a").end(last_words="out of memory")
        self.clock.advance(0.25)
        error = self.error_of(self.dispatcher.acquire("a"))
        self.assertIn("out of memory", error.message)
        self.assertEqual(error.retry_after, 0.75, "what is left of the backoff")
        self.assertEqual(self.status()["a"], "failed")
        self.clock.advance(0.75)
        self.assertEqual(self.status()["a"], "failed", "until a load succeeds")
        self.assertNoResult(self.dispatcher.acquire("a"))
        self.assertEqual(self.launcher.launched(), ["a", "a"])

    def test_a_launch_that_fails_at_once(self) -> None:
        self.launcher.refuses.add("a")
        waiter = self.dispatcher.acquire("b")
        self.launcher.last("b").end()
        self.error_of(waiter)
        waiter = self.dispatcher.acquire("a")
        self.clock.advance(0)
        self.assertIn("there is no file", self.error_of(waiter).message)
        self.assertEqual(self.status()["a"], "failed")
        self.assertIsNone(self.dispatcher.report()[0].port)
        self.assertFalse(self.dispatcher.report()[0].waiting)
        self.successResultOf(self.dispatcher.drain())

    def test_a_load_without_progress_is_given_up(self) -> None:
        self.make(limit=1, load_timeout_sec=5)
        lease = self.dispatcher.acquire("a")
        self.clock.pump([0.05] * 150)
        self.assertIsInstance(self.error_of(lease), LoadTimeout)
        self.assertEqual(self.engine("a").asked, ["kill"])

    def test_a_slow_load_that_gets_on_is_waited_for(self) -> None:
        self.make(limit=1, load_timeout_sec=5)
        lease = self.dispatcher.acquire("a")
        for _ in range(50):
            self.engine("a").work += 1
            self.clock.pump([0.05] * 50)
        self.assertNoResult(lease)

    def test_a_crashed_model_is_started_again_at_once_for_the_next_who_asks(self) -> None:
        lease = self.have_lease("a")
        self.engine("a").end("was killed by SIGKILL")
        lease.release()
        self.assertEqual(self.status()["a"], "failed")
        again = self.dispatcher.acquire("a")
        self.become_ready()
        self.assertEqual(self.successResultOf(again).address, self.engine("a").address)
        self.assertEqual(self.launcher.launched(), ["a", "a"])

    def crash(self, answered: bool) -> Deferred[Lease]:
        """Have the model's backend crash under a request; the next one asks for it."""
        lease = self.have_lease("a")
        if answered:
            lease.moved()
            lease.release()
        self.engine("a").end("was killed by SIGKILL")
        lease.release()
        return self.dispatcher.acquire("a")

    def test_one_that_had_answered_is_started_again_at_once_however_soon_it_crashed(self) -> None:
        for _ in range(4):
            waiting = self.crash(answered=True)
            self.become_ready()
            self.successResultOf(waiting).release()
        self.assertEqual(self.launcher.launched(), ["a"] * 5)

    def test_bytes_of_an_answer_that_has_not_ended_are_no_answer(self) -> None:
        for _ in range(2):
            lease = self.have_lease("a")
            lease.moved()
            self.engine("a").end("was killed by SIGKILL")
            lease.release()
        self.assertEqual(self.status()["a"], "failed")

    def test_an_answer_that_the_crash_has_cut_off_is_no_answer(self) -> None:
        """Its connection may end before its process is seen to have ended."""
        for _ in range(2):
            lease = self.have_lease("a")
            lease.moved()
            lease.cut_off()
            lease.release()
            self.engine("a").end("was killed by SIGKILL")
        self.assertEqual(self.status()["a"], "failed")

    def test_who_asks_soon_after_crashes_with_nothing_answered_waits(self) -> None:
        self.crash(answered=False)
        self.become_ready()
        self.engine("a").end("was killed by SIGKILL")
        self.assertEqual(self.status()["a"], "failed")
        waiting = self.dispatcher.acquire("a")
        self.clock.advance(1.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.1)
        self.become_ready()
        self.successResultOf(waiting)

    def test_who_asks_after_many_crashes_with_nothing_answered_is_told(self) -> None:
        for pause in (0, 2, 4, 8):
            self.dispatcher.acquire("a").addErrback(lambda _: None)
            self.become_ready()
            self.engine("a").end("was killed by SIGKILL")
            if pause < 8:
                self.clock.advance(pause)
        error = self.error_of(self.dispatcher.acquire("a"))
        self.assertIsInstance(error, ModelUnavailable)
        assert error.retry_after is not None
        self.assertAlmostEqual(error.retry_after, 8)

    def test_a_hung_backend_is_killed_and_started_again(self) -> None:
        self.have_lease("a").release()
        self.clock.pump([30, 1, 1])
        self.assertEqual(self.engine("a").asked, ["kill"])
        self.engine("a").end("was killed by SIGKILL")
        self.assertNoResult(self.dispatcher.acquire("a"))
        self.assertEqual(self.launcher.launched(), ["a", "a"])

    def test_a_backend_that_moves_bytes_is_not_hung(self) -> None:
        lease = self.have_lease("a")
        for _ in range(20):
            self.clock.advance(30)
            lease.moved()
            self.clock.pump([1, 1])
        self.assertEqual(self.engine("a").asked, [])

    def test_too_many_waiters_are_told(self) -> None:
        self.make(limit=1, max_queue=2)
        leases = [self.dispatcher.acquire("a") for _ in range(3)]
        error = self.error_of(leases[2])
        self.assertIsInstance(error, ServerBusy)
        self.assertIn("the model `a` already", error.message)
        self.assertNoResult(leases[1])


class LoadTests(DispatcherCase):
    def test_a_model_is_loaded_and_nothing_asked_of_it(self) -> None:
        loaded = self.dispatcher.load("a")
        self.assertNoResult(loaded)
        self.become_ready()
        self.assertIsNone(self.successResultOf(loaded))
        self.assertEqual(self.dispatcher.report()[0].in_flight, 0)
        self.successResultOf(self.dispatcher.load("a"))
        self.assertEqual(self.launcher.launched(), ["a"])

    def test_another_makes_room_for_it(self) -> None:
        self.have_lease("a").release()
        loaded = self.dispatcher.load("b")
        self.assertEqual(self.engine("a").asked, ["stop"])
        self.engine("a").end()
        self.become_ready()
        self.successResultOf(loaded)

    def test_why_it_failed_is_told(self) -> None:
        loaded = self.dispatcher.load("a")
        self.engine("a").end(last_words="out of memory")
        error = self.failureResultOf(loaded, ModelUnavailable).value
        self.assertIn("out of memory", str(error))

    def test_it_can_be_cancelled(self) -> None:
        loaded = self.dispatcher.load("a")
        loaded.cancel()
        self.failureResultOf(loaded, CancelledError)
        self.assertEqual(self.dispatcher.report()[0].waiting, 0)

    def test_an_unknown_model_is_told_at_once(self) -> None:
        for do in (self.dispatcher.load, self.dispatcher.unload, self.dispatcher.log):
            self.assertRaises(ModelNotFound, do, "zzz")


class UnloadTests(DispatcherCase):
    def test_it_is_over_when_the_process_is_gone(self) -> None:
        self.have_lease("a").release()
        gone = [self.dispatcher.unload("a"), self.dispatcher.unload("a")]
        self.assertEqual(self.engine("a").asked, ["stop"])
        for each in gone:
            self.assertNoResult(each)
        self.engine("a").end()
        for each in gone:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual(self.status()["a"], "unloaded")

    def test_one_that_has_failed_has_not_any_more_and_is_tried_again_at_once(self) -> None:
        changes: list[Change | None] = []
        self.dispatcher.acquire("a").addErrback(lambda _: None)
        self.engine("a").end()
        self.dispatcher.watch(changes.append)
        self.successResultOf(self.dispatcher.unload("a"))
        self.assertEqual(changes, [Change("a", "unloaded")])
        self.assertEqual(self.status()["a"], "unloaded")
        again = self.dispatcher.acquire("a")
        self.become_ready()
        self.successResultOf(again)

    def test_one_that_is_waited_for_until_it_may_start_again_starts_at_once(self) -> None:
        for _ in range(2):
            self.have_lease("a").release()
            self.engine("a").end()
        waiting = self.dispatcher.acquire("a")
        self.successResultOf(self.dispatcher.unload("a"))
        self.become_ready()
        self.successResultOf(waiting)

    def test_without_a_process_it_is_over_at_once(self) -> None:
        self.successResultOf(self.dispatcher.unload("a"))
        self.successResultOf(self.dispatcher.unload("a", force=True))

    def test_running_answers_finish_and_newcomers_get_the_next_life(self) -> None:
        lease = self.have_lease("a")
        gone = self.dispatcher.unload("a")
        newcomer = self.dispatcher.acquire("a")
        self.assertNoResult(newcomer)
        self.assertEqual(self.engine("a").asked, [])
        lease.release()
        self.assertEqual(self.engine("a").asked, ["stop"])
        self.engine("a").end()
        self.successResultOf(gone)
        self.become_ready()
        self.successResultOf(newcomer)
        self.assertEqual(self.launcher.launched(), ["a", "a"])
        self.assertFalse(lease.revoked)

    def test_a_crash_meanwhile_ends_it_too(self) -> None:
        self.have_lease("a")
        gone = self.dispatcher.unload("a")
        self.engine("a").end("was killed by SIGSEGV")
        self.successResultOf(gone)

    def test_a_load_that_fails_meanwhile_ends_it_too(self) -> None:
        waiter = self.dispatcher.acquire("a")
        gone = self.dispatcher.unload("a")
        self.engine("a").end()
        self.error_of(waiter)
        self.successResultOf(gone)

    def test_by_force_its_process_is_killed_and_its_leases_know(self) -> None:
        lease = self.have_lease("a")
        gone = self.dispatcher.unload("a", force=True)
        self.assertEqual(self.engine("a").asked, ["kill"])
        self.assertTrue(lease.revoked)
        self.assertNoResult(gone)
        lease.release()
        self.engine("a").end("was killed by SIGKILL")
        self.successResultOf(gone)
        self.assertTrue(lease.revoked, "also when it was released")
        self.assertEqual(self.status()["a"], "unloaded")
        self.assertFalse(self.have_lease("a").revoked, "the next life has done nothing")

    def test_by_force_who_waits_is_told(self) -> None:
        waiter = self.dispatcher.acquire("a")
        self.dispatcher.unload("a", force=True)
        self.assertEqual(self.error_of(waiter).message, "The model `a` was unloaded by force.")
        self.assertEqual(self.engine("a").asked, ["kill"])

    def test_force_ends_an_unload_that_takes_long(self) -> None:
        self.have_lease("a").release()
        gone = self.dispatcher.unload("a")
        self.dispatcher.unload("a", force=True)
        self.assertEqual(self.engine("a").asked, ["stop", "kill"])
        self.engine("a").end("was killed by SIGKILL")
        self.successResultOf(gone)

    def test_a_model_that_was_changed_meanwhile_ends_it_too(self) -> None:
        lease = self.have_lease("a")
        engine = self.engine("a")
        gone = self.dispatcher.unload("a")
        self.dispatcher.apply(self.change("a", threads=9))
        lease.release()
        self.assertNoResult(gone)
        engine.end()
        self.successResultOf(gone)

    def test_to_cancel_the_wait_takes_nothing_back(self) -> None:
        lease = self.have_lease("a")
        gone, other = self.dispatcher.unload("a"), self.dispatcher.unload("a")
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        lease.release()
        self.engine("a").end()
        self.successResultOf(other)


class RestTests(DispatcherCase):
    def setUp(self) -> None:
        super().setUp()
        self.make(limit=1, health_check_sec=10**6)
        self.make_with(self.change("a", idle_unload_sec=60))

    def timers(self) -> int:
        return len(self.clock.getDelayedCalls())

    def test_a_model_that_nobody_uses_is_unloaded(self) -> None:
        self.have_lease("a").release()
        self.clock.advance(59.9)
        self.assertEqual(self.engine("a").asked, [])
        self.clock.advance(0.1)
        self.assertEqual(self.engine("a").asked, ["stop"])

    def test_each_use_puts_it_off_without_a_timer_of_its_own(self) -> None:
        self.have_lease("a").release()
        timers = self.timers()
        self.clock.advance(50)
        self.have_lease("a").release()
        self.assertEqual(self.timers(), timers)
        self.clock.pump([10, 49.9])
        self.assertEqual(self.engine("a").asked, [])
        self.clock.advance(0.2)
        self.assertEqual(self.engine("a").asked, ["stop"])

    def test_a_busy_model_stays(self) -> None:
        lease = self.have_lease("a")
        self.clock.pump([60] * 5)
        self.assertEqual(self.engine("a").asked, [])
        lease.release()
        self.clock.pump([60, 60])
        self.assertEqual(self.engine("a").asked, ["stop"])

    def test_a_visit_does_not_put_it_off(self) -> None:
        self.have_lease("a").release()
        for _ in range(59):
            self.clock.advance(1)
            self.successResultOf(self.dispatcher.acquire("a", load=False)).release()
        self.clock.advance(1)
        self.assertEqual(self.engine("a").asked, ["stop"])

    def test_a_pinned_model_rests_too(self) -> None:
        self.make_with(self.change("a", pinned=True))
        self.have_lease("a").release()
        self.clock.advance(60)
        self.assertEqual(self.engine("a").asked, ["stop"])

    def test_a_model_without_the_key_stays(self) -> None:
        self.have_lease("b").release()
        self.clock.pump([3600] * 10)
        self.assertEqual(self.engine("b").asked, [])

    def test_no_timer_outlives_its_backend(self) -> None:
        for end in ("stop", "crash"):
            before = self.timers()
            lease = self.have_lease("a")
            lease.release()
            if end == "stop":
                self.dispatcher.unload("a")
            self.engine("a").end()
            # A crash is followed by a backoff of 0 s.
            self.clock.advance(0)
            self.assertEqual(self.timers(), before)


class PreloadTests(DispatcherCase):
    def setUp(self) -> None:
        super().setUp()
        self.make(limit=2)
        for name in "ac":
            self.make_with(self.change(name, preload=True))

    def test_they_are_loaded_in_order_when_it_is_asked_for(self) -> None:
        self.assertEqual(self.launcher.launched(), [])
        self.dispatcher.begin()
        self.assertEqual(self.launcher.launched(), ["a", "c"])
        self.become_ready()
        reports = self.dispatcher.report()
        self.assertEqual([r.status for r in reports], ["loaded", "unloaded", "loaded"])
        self.assertEqual([r.in_flight for r in reports], [0, 0, 0])

    def test_one_that_fails_is_logged_and_nothing_more(self) -> None:
        logged = events_of(self)
        self.launcher.refuses.add("a")
        self.dispatcher.begin()
        self.become_ready()
        self.assertEqual(self.status(), {"a": "failed", "b": "unloaded", "c": "loaded"})
        said = [formatEvent(event) for event in logged]
        self.assertTrue(any(t.startswith("a is not preloaded: The model `a`") for t in said), said)

    def test_a_reload_loads_what_is_new_or_changed_and_nothing_else(self) -> None:
        self.dispatcher.begin()
        self.become_ready()
        self.dispatcher.unload("c")
        self.engine("c").end()
        self.dispatcher.apply(self.change("b", preload=True))
        self.assertEqual(self.launcher.launched(), ["a", "c", "b"])
        self.assertEqual(self.engine("a").asked, [], "nobody else wants its room")


class WatchTests(DispatcherCase):
    def setUp(self) -> None:
        super().setUp()
        self.heard: list[Change | None] = []
        self.watch()

    def watch(self) -> None:
        self.stop = self.dispatcher.watch(self.heard.append)

    def told(self) -> list[tuple[str, str]]:
        told = [(c.model, c.status) for c in self.heard if c is not None]
        self.heard.clear()
        return told

    def test_each_state_of_a_life(self) -> None:
        lease = self.dispatcher.acquire("a")
        self.become_ready()
        self.successResultOf(lease).release()
        self.successResultOf(self.dispatcher.acquire("a")).release()
        self.dispatcher.acquire("b")
        self.engine("a").end("exited with status 0", code=0)
        self.assertEqual(self.heard[3], Change("a", "unloaded", exit_code=0))
        self.assertEqual(
            self.told(),
            [
                *[("a", "loading"), ("a", "loaded"), ("a", "stopping"), ("a", "unloaded")],
                ("b", "loading"),
            ],
        )

    def test_a_failed_load_until_one_succeeds(self) -> None:
        self.patch(__import__("time"), "time", lambda: 1_000_000.0 + self.clock.rightNow)
        self.clock.advance(7)
        self.dispatcher.acquire("a").addErrback(lambda _: None)
        self.engine("a").end("exited with status 1", "out of memory", code=1)
        error = "The model `a` cannot be loaded: llama-server exited with status 1: out of memory"
        self.clock.advance(100)
        self.have_lease("a")
        self.assertEqual(
            self.heard,
            [
                Change("a", "loading"),
                Change("a", "failed", error=error, exit_code=1, failed_at=1_000_007),
                Change("a", "loading"),
                Change("a", "loaded"),
            ],
        )

    def test_a_crash_for_which_nobody_waits_is_told_once(self) -> None:
        self.have_lease("a")
        self.told()
        self.engine("a").end("was killed by SIGSEGV")
        self.clock.advance(1)
        [crash] = self.heard
        assert crash is not None
        self.assertEqual(crash.status, "failed")
        self.assertIn("was killed by SIGSEGV", crash.error or "")

    def test_a_load_that_is_given_up(self) -> None:
        self.make(limit=1, load_timeout_sec=5)
        self.watch()
        self.dispatcher.acquire("a").addErrback(lambda _: None)
        self.clock.pump([0.05] * 150)
        self.assertEqual(self.told(), [("a", "loading"), ("a", "stopping")])
        self.engine("a").end("was killed by SIGKILL")
        self.assertEqual(self.told(), [("a", "failed")])

    def test_an_unload_by_force(self) -> None:
        self.have_lease("a")
        self.told()
        self.dispatcher.unload("a", force=True)
        self.engine("a").end("was killed by SIGKILL")
        self.assertEqual(self.told(), [("a", "stopping"), ("a", "unloaded")])

    def test_a_name_stands_for_what_is_configured(self) -> None:
        lease = self.have_lease("a")
        self.told()
        engine = self.engine("a")
        self.dispatcher.apply(self.change("a", threads=9))
        self.assertEqual(self.told(), [("a", "unloaded")])
        lease.release()
        engine.end()
        self.assertEqual(self.told(), [], "it is nobody's any more")
        self.dispatcher.acquire("a")
        self.assertEqual(self.told(), [("a", "loading")])

    def test_who_stops_hears_no_more(self) -> None:
        self.stop()
        self.stop()
        self.have_lease("a")
        self.assertEqual(self.heard, [])

    def test_one_that_fails_costs_the_others_nothing(self) -> None:
        def fails(_: object) -> None:
            raise ZeroDivisionError

        self.stop()
        self.dispatcher.watch(fails)
        self.watch()
        self.have_lease("a")
        self.assertEqual(self.told(), [("a", "loading"), ("a", "loaded")])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_one_that_another_stops_is_not_told(self) -> None:
        self.stop()
        stops: list[Any] = []
        self.dispatcher.watch(lambda _: stops[0]())
        stops.append(self.dispatcher.watch(self.heard.append))
        self.have_lease("a")
        self.assertEqual(self.heard, [])

    def test_at_the_drain_it_is_over(self) -> None:
        self.have_lease("a").release()
        self.told()
        self.dispatcher.drain()
        self.engine("a").end()
        self.assertEqual(self.heard, [None])
        self.watch()
        self.assertEqual(self.heard, [None, None], "who comes later is told at once")


class ReasonTests(DispatcherCase):
    """The gateway's log says why a model is stopped."""

    def setUp(self) -> None:
        super().setUp()
        self.make(limit=1, health_check_sec=10**6)
        self.events = events_of(self)

    def said(self) -> list[str]:
        lines = [formatEvent(event) for event in self.events]
        return [line for line in lines if line.startswith(("stopping", "killing"))]

    def test_to_make_room(self) -> None:
        self.have_lease("a").release()
        self.dispatcher.acquire("b")
        self.assertEqual(self.said(), ["stopping a to make room for b"])

    def test_because_the_limit_was_lowered(self) -> None:
        self.make(limit=2)
        for name in "ab":
            self.have_lease(name).release()
        self.dispatcher.apply(replace(self.dispatcher.config, max_loaded_models=1))
        self.assertEqual(
            self.said(), ["stopping a: more is in memory than there is room for"]
        )

    def test_because_nobody_uses_it(self) -> None:
        self.make_with(self.change("a", idle_unload_sec=300))
        self.have_lease("a").release()
        self.clock.advance(300)
        self.assertEqual(self.said(), ["stopping a: idle for 300 s"])

    def test_because_somebody_asked(self) -> None:
        self.have_lease("a").release()
        self.dispatcher.unload("a")
        self.dispatcher.unload("a", force=True)
        self.assertEqual(
            self.said(),
            [
                "stopping a: asked by POST /models/unload",
                "killing a: asked by POST /models/unload with force",
            ],
        )

    def test_because_a_reload_has_changed_or_removed_it(self) -> None:
        self.make(limit=2)
        for name in "ab":
            self.have_lease(name).release()
        changed = self.change("a", threads=9)
        models = [model for model in changed.models if model.name != "b"]
        self.dispatcher.apply(replace(changed, models=models))
        self.assertEqual(
            self.said(), ["stopping a: changed by a reload", "stopping b: removed by a reload"]
        )

    def test_because_the_gateway_ends(self) -> None:
        self.have_lease("a").release()
        self.dispatcher.drain()
        self.assertEqual(self.said(), ["stopping a: the gateway is stopping"])


class LogTests(DispatcherCase):
    def test_it_goes_on_over_failures_restarts_and_reloads(self) -> None:
        log = self.dispatcher.log("a")
        heard: list[str] = []
        log.follow(heard.extend)
        self.dispatcher.acquire("a").addErrback(lambda _: None)
        self.engine("a").log.add("out of memory")
        self.engine("a").end()
        self.assertEqual([line[9:] for line in self.dispatcher.log("a").lines], ["out of memory"])
        self.dispatcher.apply(self.change("a", threads=9))
        self.dispatcher.acquire("a")
        self.engine("a").log.add("loading")
        self.assertEqual([line[9:] for line in heard], ["out of memory", "loading"])
        self.assertIs(self.dispatcher.log("a"), log)

    def test_each_model_has_its_own(self) -> None:
        self.dispatcher.acquire("a")
        self.engine("a").log.add("of a")
        self.assertEqual(list(self.dispatcher.log("b").lines), [])

    def test_that_of_a_removed_model_is_forgotten(self) -> None:
        log = self.dispatcher.log("a")
        self.dispatcher.apply(make_config("b"))
        self.dispatcher.apply(make_config("a"))
        self.assertIsNot(self.dispatcher.log("a"), log)


class DescriptionTests(DispatcherCase):
    """What the backends say of their models, for the lists."""

    def setUp(self) -> None:
        super().setUp()
        self.asked: list[Deferred[dict[str, Any]]] = []
        self.patch(self.probe, "describe", self.describe)
        self.have_lease("a").release()

    def describe(self, address: Address) -> Deferred[dict[str, Any]]:
        self.asked.append(Deferred())
        return self.asked[-1]

    def listing(self) -> Deferred[dict[str, dict[str, Any]]]:
        return Deferred.fromCoroutine(self.dispatcher.descriptions())

    def test_one_question_answers_all_who_ask_meanwhile(self) -> None:
        lists = [self.listing() for _ in range(50)]
        self.assertEqual(len(self.asked), 1)
        self.asked[0].callback({"size": 7})
        told = [self.successResultOf(one) for one in lists]
        self.assertEqual(told, [{"a": {"size": 7}}] * 50)
        self.assertEqual(self.successResultOf(self.listing()), {"a": {"size": 7}})
        self.assertEqual(len(self.asked), 1)

    def test_one_that_does_not_answer_in_time_is_left_out_and_asked_anew(self) -> None:
        lists = [self.listing() for _ in range(2)]
        self.clock.advance(DESCRIBE_SEC)
        self.assertEqual([self.successResultOf(one) for one in lists], [{}, {}])
        again = self.listing()
        self.asked[1].callback({"size": 7})
        self.assertEqual(self.successResultOf(again), {"a": {"size": 7}})

    def test_who_leaves_takes_nothing_from_the_others(self) -> None:
        leaving, staying = self.listing(), self.listing()
        leaving.addErrback(lambda _: None)
        leaving.cancel()
        self.asked[0].callback({"size": 7})
        self.assertEqual(self.successResultOf(staying), {"a": {"size": 7}})
        self.assertEqual(self.flushLoggedErrors(), [])


class ReportTests(DispatcherCase):
    def test_each_model_in_the_order_of_the_configuration(self) -> None:
        self.assertEqual(self.status(), {"a": "unloaded", "b": "unloaded", "c": "unloaded"})
        self.assertEqual([r.port for r in self.dispatcher.report()], [None, None, None])
        self.assertEqual([r.last_used for r in self.dispatcher.report()], [None, None, None])

    def test_what_is_told_of_a_model_through_its_life(self) -> None:
        told = []

        def tell() -> None:
            report = self.dispatcher.report()[0]
            told.append((report.status, report.port, report.in_flight, report.waiting))

        lease = self.dispatcher.acquire("a")
        tell()
        self.become_ready()
        tell()
        self.successResultOf(lease).release()
        tell()
        self.dispatcher.acquire("b")
        tell()
        self.engine("a").end()
        tell()
        self.assertEqual(
            told,
            [
                ("loading", 8081, 0, 1),
                ("loaded", 8081, 1, 0),
                ("loaded", 8081, 0, 0),
                ("stopping", 8081, 0, 0),
                ("unloaded", None, 0, 0),
            ],
        )

    def test_what_is_pinned_what_failed_and_how_it_ended(self) -> None:
        self.make(limit=2)
        self.make_with(self.change("b", pinned=True))
        for name in "ab":
            self.dispatcher.acquire(name).addErrback(lambda _: None)
        self.engine("a").end("exited with status 3", "no memory", code=3)
        self.engine("b").end("was killed by SIGKILL")
        [a, b, c] = self.dispatcher.report()
        self.assertEqual([a.pinned, b.pinned, c.pinned], [False, True, False])
        self.assertEqual([a.exit_code, b.exit_code, c.exit_code], [3, None, None])
        assert a.error is not None
        self.assertIn("exited with status 3: no memory", a.error)
        self.assertIsNone(c.error)
        self.clock.advance(1)
        self.assertEqual([r.error for r in self.dispatcher.report()], [a.error, b.error, None])
        self.assertEqual([r.id for r in self.dispatcher.report(busy=True)], ["a", "b"])
        self.dispatcher.acquire("a").addErrback(lambda _: None)
        [a, b, c] = self.dispatcher.report()
        self.assertEqual((a.exit_code, a.error), (None, None), "one runs")
        self.assertEqual((b.status, b.exit_code), ("failed", None))

    def test_since_when_it_has_failed_is_the_time_of_day(self) -> None:
        self.patch(__import__("time"), "time", lambda: 1_000_000.0 + self.clock.rightNow)
        for _ in range(2):
            self.dispatcher.acquire("a").addErrback(lambda _: None)
            self.engine("a").end()
            self.clock.advance(500)
        self.assertEqual(self.dispatcher.report()[0].failed_at, 1_000_000)

    def test_the_memory_is_that_of_the_run(self) -> None:
        self.have_lease("a")
        self.engine("a").in_use = Memory(5, 2, 3)
        self.assertEqual(
            [r.memory for r in self.dispatcher.report()], [Memory(5, 2, 3), None, None]
        )
        self.engine("a").end()
        self.assertIsNone(self.dispatcher.report()[0].memory)

    def test_of_what_waits_the_first_is_told_how_long_and_for_what(self) -> None:
        self.have_lease("a")
        self.dispatcher.acquire("b").addErrback(lambda _: None)
        self.clock.advance(4)
        self.dispatcher.acquire("b").addErrback(lambda _: None)
        [a, b, _] = self.dispatcher.report()
        self.assertEqual((a.waiting_sec, a.waiting_for), (None, None))
        self.assertEqual((b.waiting_sec, b.waiting_for), (4, "room: `a` is busy"))

    def test_last_used_is_the_time_of_day(self) -> None:
        self.patch(__import__("time"), "time", lambda: 1_000_000.0 + self.clock.rightNow)
        self.clock.advance(100)
        lease = self.have_lease("a")
        self.clock.advance(7)
        lease.release()
        released = self.clock.seconds()
        self.clock.advance(50)
        [report, *_] = self.dispatcher.report()
        assert report.last_used is not None
        self.assertAlmostEqual(report.last_used, 1_000_000 + released)


class EndTests(DispatcherCase):
    def test_without_backends_it_is_over_at_once(self) -> None:
        self.successResultOf(self.dispatcher.drain())

    def test_who_waits_and_who_comes_is_turned_away(self) -> None:
        lease = self.dispatcher.acquire("a")
        self.dispatcher.drain()
        self.assertIsInstance(self.error_of(lease), ShuttingDown)
        self.assertIsInstance(self.error_of(self.dispatcher.acquire("a")), ShuttingDown)
        self.assertIsInstance(self.error_of(self.dispatcher.acquire("b")), ShuttingDown)

    def test_running_answers_may_finish(self) -> None:
        self.make(limit=3)
        busy = self.have_lease("a")
        self.have_lease("b").release()
        self.dispatcher.acquire("c").addErrback(lambda _: None)
        over = self.dispatcher.drain()
        self.assertEqual([self.engine(n).asked for n in "abc"], [[], ["stop"], ["stop"]])
        self.engine("b").end()
        self.engine("c").end()
        self.assertNoResult(over)
        busy.release()
        self.assertEqual(self.engine("a").asked, ["stop"])
        self.assertNoResult(over)
        self.engine("a").end()
        self.successResultOf(over)

    def test_abandon_stops_the_busy_ones_too(self) -> None:
        self.have_lease("a")
        over = self.dispatcher.drain()
        self.dispatcher.abandon()
        self.assertEqual(self.engine("a").asked, ["stop"])
        self.engine("a").end()
        self.successResultOf(over)

    def test_a_backend_that_crashes_meanwhile_is_gone_too(self) -> None:
        lease = self.have_lease("a")
        over = self.dispatcher.drain()
        self.engine("a").end("was killed by SIGSEGV")
        self.successResultOf(over)
        lease.release()
        self.assertEqual(self.launcher.launched(), ["a"])

    def test_nothing_is_probed_any_more_when_it_is_over(self) -> None:
        self.have_lease("a").release()
        over = self.dispatcher.drain()
        self.engine("a").end()
        self.successResultOf(over)
        self.assertEqual(self.clock.getDelayedCalls(), [])
