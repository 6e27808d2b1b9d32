"""The life of a backend: what each event does in each state, and how long it keeps quiet."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from llamagw.errors import GatewayError, LoadTimeout, ModelUnavailable
from llamagw.launch import Exit, Launcher, Need, Run, make_lifecycle
from llamagw.launch.restarts import STABLE_SEC
from llamagw.net import Address

CRASH = Exit("was killed by SIGKILL", "")


class FakeRun:
    """A run that writes down what is asked of it."""

    port = 8081

    address = Address("127.0.0.1", 8081)

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def stop(self) -> None:
        self.events.append("stop process")

    def kill(self, why: str) -> None:
        self.events.append("kill process")

    def progress(self) -> object:
        return None

    def memory(self) -> None:
        return None

    def await_ready(self, ready: Callable[[], None], give_up: Callable[[], None]) -> Probes:
        self.events.append("await ready")
        return Probes("awaiting", self.events)

    def broke_off(self) -> Deferred[bool]:
        return succeed(False)


class Probes:
    """A `Watch` that writes down when it is stopped."""

    def __init__(self, what: str, events: list[str]) -> None:
        self.what = what
        self.events = events

    def stop(self) -> None:
        self.events.append(f"stop {self.what}")


class Recorder:
    """The effects and the launcher of a lifecycle: writes down what is done."""

    name = "llama-server"
    takes_room = True
    slots: int | None = None

    def took(self, seconds: float) -> None:
        """The instance's part."""

    def usual(self) -> None:
        """The instance's part."""

    def needs(self) -> tuple[Need, ...]:
        """The scheduler's part."""
        return ()

    def fell_short(self, devices: Mapping[str, int]) -> None:
        """The dispatcher's part."""

    def __init__(self, relaunches: bool = True, longest_backoff: float = 60.0) -> None:
        self.launcher: Launcher = self
        self.relaunches = relaunches
        self.longest_backoff = longest_backoff
        self.events: list[str] = []
        self.errors: list[GatewayError] = []
        self.exits: list[Exit] = []
        self.held: list[bool] = []
        self.has_answered = False
        #: Done when the end of the run is told.
        self.on_exit: Callable[[], None] = lambda: None

    def launch(self, ended: Callable[[Exit], None], need: Need | None = None) -> Run:
        self.events.append("launch")
        return FakeRun(self.events)

    def launched(self, run: object) -> None:
        pass

    def ready_line(self, seconds: float) -> str:
        return "is loaded"

    def watch_health(self, run: object, hung: Callable[[], None]) -> Probes:
        self.events.append("watch health")
        return Probes("watching", self.events)

    def loaded(self) -> None:
        self.events.append("loaded")

    def load_failed(self, error: GatewayError) -> None:
        self.events.append("load failed")
        self.errors.append(error)

    def answered(self) -> bool:
        return self.has_answered

    def exited(self, exit: Exit, failure: GatewayError | None, hold: bool) -> None:
        self.held.append(hold)
        self.exits.append(exit)
        at_once = failure is None or failure.retry_after == 0
        self.events.append("exited" if at_once else "failed")
        if failure is not None:
            self.errors.append(failure)
        self.on_exit()

    def recovered(self) -> None:
        self.events.append("recovered")


class BackendCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.world = Recorder()
        self.backend = make_lifecycle("tiny", self.world, self.clock, 600)

    def did(self) -> list[str]:
        """What was done and told since the last call."""
        events = self.world.events[:]
        self.world.events.clear()
        return events

    def be_starting(self) -> None:
        self.backend.start()
        self.did()

    def be_ready(self) -> None:
        self.be_starting()
        self.backend.healthy()
        self.did()


class TransitionTests(BackendCase):
    def test_start_launches_and_probes(self) -> None:
        self.backend.start()
        self.assertEqual(self.did(), ["launch", "await ready"])

    def test_healthy_makes_it_ready(self) -> None:
        self.be_starting()
        self.backend.healthy()
        self.assertEqual(sorted(self.did()), ["loaded", "stop awaiting", "watch health"])

    def test_a_ready_backend_is_watched_before_it_is_told_to_be_loaded(self) -> None:
        self.be_starting()
        self.backend.healthy()
        self.assertEqual(self.did()[-1], "loaded")

    def test_stop_while_starting(self) -> None:
        self.be_starting()
        self.backend.stop()
        self.assertEqual(self.did(), ["stop awaiting", "stop process"])
        self.backend.ended(CRASH)
        self.assertEqual(self.did(), ["exited"])

    def test_stop_while_ready(self) -> None:
        self.be_ready()
        self.backend.stop()
        self.assertEqual(self.did(), ["stop watching", "stop process"])
        self.backend.ended(CRASH)
        self.assertEqual(self.did(), ["exited"])

    def test_it_can_be_started_again_when_it_has_stopped(self) -> None:
        self.be_ready()
        self.backend.stop()
        self.backend.ended(CRASH)
        self.did()
        self.backend.start()
        self.assertEqual(self.did(), ["launch", "await ready"])

    def test_a_process_that_ends_while_starting_is_a_failure(self) -> None:
        self.be_starting()
        self.backend.ended(Exit("exited with status 1", "out of memory"))
        self.assertEqual(sorted(self.did()), ["failed", "stop awaiting"])
        [error] = self.world.errors
        self.assertIsInstance(error, ModelUnavailable)
        self.assertEqual(
            error.message,
            "The model `tiny` cannot be loaded: llama-server exited with status 1: out of memory",
        )
        self.assertEqual(error.retry_after, 1)

    def test_without_last_words_only_the_end_is_told(self) -> None:
        self.be_starting()
        self.backend.ended(CRASH)
        [error] = self.world.errors
        self.assertTrue(error.message.endswith("llama-server was killed by SIGKILL"))

    def test_a_crash_of_one_that_was_ready_is_not_said_to_be_a_failed_load(self) -> None:
        for _ in range(2):  # the first costs no wait, and is no error
            self.be_ready()
            self.backend.ended(CRASH)
            self.clock.advance(0)
        self.assertEqual(
            self.world.errors[-1].message,
            "The model `tiny` is not available: llama-server was killed by SIGKILL",
        )

    def test_giving_up_kills_and_tells_at_once(self) -> None:
        self.be_starting()
        self.backend.give_up()
        self.assertEqual(self.did(), ["stop awaiting", "load failed", "kill process"])
        [error] = self.world.errors
        self.assertIsInstance(error, LoadTimeout)
        self.assertIn("`tiny` was loading for 600 s", error.message)
        self.backend.ended(CRASH)
        self.assertEqual(self.did(), ["failed"])

    def test_why_it_was_killed_is_its_failure_and_not_how(self) -> None:
        self.be_starting()
        self.backend.give_up()
        self.backend.ended(Exit("was killed by SIGKILL", "loading model"))
        said = "llama-server made no progress for 600 s: loading model"
        self.assertEqual(
            self.world.errors[-1].message, f"The model `tiny` cannot be loaded: {said}"
        )
        self.clock.advance(60)
        self.be_ready()
        self.backend.hung()
        self.backend.ended(CRASH)
        said = "llama-server does not answer any more"
        self.assertEqual(
            self.world.errors[-1].message, f"The model `tiny` is not available: {said}"
        )
        self.clock.advance(60)
        self.be_ready()
        self.backend.ended(CRASH)
        self.assertIn("was killed by SIGKILL", self.world.errors[-1].message, "of itself")

    def test_a_hung_backend_is_killed(self) -> None:
        self.be_ready()
        self.backend.hung()
        self.assertEqual(self.did(), ["stop watching", "kill process"])
        self.backend.ended(CRASH)
        self.assertEqual(self.did(), ["exited"])

    def test_stop_changes_nothing_while_it_is_being_killed(self) -> None:
        for fail in (self.backend.give_up, self.backend.hung):
            if fail == self.backend.hung:
                self.clock.advance(60)
                self.be_ready()
            else:
                self.be_starting()
            fail()
            self.did()
            self.backend.stop()
            self.assertEqual(self.did(), [])
            self.backend.ended(CRASH)

    def test_kill_ends_it_at_once_in_whatever_state(self) -> None:
        for be, probes in ((self.be_starting, "awaiting"), (self.be_ready, "watching")):
            be()
            self.backend.kill()
            self.assertEqual(self.did(), [f"stop {probes}", "kill process"])
            self.backend.ended(CRASH)
            self.assertEqual(self.did(), ["exited"], "that is no failure")
            be()
            self.backend.stop()
            self.did()
            self.backend.kill()
            self.assertEqual(self.did(), ["kill process"], "it is stopping, and waited for no more")
            self.backend.ended(CRASH)
            self.assertEqual(self.did(), ["exited"])

    def test_kill_changes_nothing_while_it_is_being_killed(self) -> None:
        self.be_ready()
        self.backend.hung()
        self.did()
        self.backend.kill()
        self.assertEqual(self.did(), [])
        self.backend.ended(CRASH)
        self.assertEqual(self.did(), ["exited"])

    def test_how_its_process_ended_is_told(self) -> None:
        ends = [Exit("exited with status 7", "", 7), Exit("was killed by SIGKILL", "")]
        for end in ends:
            self.be_ready()
            self.backend.stop()
            self.backend.ended(end)
        self.assertEqual(self.world.exits, ends)

    def test_every_state_can_be_left(self) -> None:
        """A backend can be brought back to Ready from wherever it was."""
        for way in (
            [],
            [self.backend.stop],
            [self.backend.give_up],
            [self.backend.give_up, self.backend.stop],
            [self.backend.healthy, self.backend.stop],
            [self.backend.healthy, self.backend.kill],
            [self.backend.stop, self.backend.kill],
            [self.backend.healthy, self.backend.hung, self.backend.kill],
            [self.backend.healthy, self.backend.hung],
            [self.backend.healthy, self.backend.hung, self.backend.stop],
            [self.backend.healthy],
        ):
            self.backend.start()
            for event in way:
                event()
            self.backend.ended(CRASH)
            self.clock.advance(100)
            self.be_ready()
            self.backend.stop()
            self.backend.ended(CRASH)


class BackoffTests(BackendCase):
    def fail_start(self) -> float | None:
        """Have one start fail; for how long it must not be started again."""
        self.backend.start()
        self.backend.ended(CRASH)
        return self.world.errors[-1].retry_after

    def waits(self) -> float:
        """For how many seconds it keeps quiet."""
        before = self.clock.seconds()
        self.assertNotIn("recovered", self.did())
        [timer] = self.clock.getDelayedCalls()
        seconds = timer.getTime() - before
        if seconds:
            self.clock.advance(seconds * 0.99)
            self.assertEqual(self.did(), [])
        self.clock.advance(timer.getTime() - self.clock.seconds())
        self.assertEqual(self.did(), ["recovered"])
        return seconds

    def test_each_failed_start_doubles_the_wait_up_to_a_minute(self) -> None:
        waits = []
        for _ in range(9):
            told = self.fail_start()
            waits.append(self.waits())
            self.assertEqual(told, waits[-1])
        self.assertEqual(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60])

    def test_a_backend_that_fails_for_days_keeps_on_failing_quietly(self) -> None:
        for _ in range(1200):
            self.fail_start()
            self.clock.advance(60)
        self.assertEqual(self.fail_start(), 60)

    def test_the_first_crash_costs_nobody_a_wait(self) -> None:
        self.be_ready()
        self.backend.ended(CRASH)
        self.assertEqual(sorted(self.did()), ["exited", "stop watching"])
        self.assertEqual(self.waits(), 0)

    def test_it_can_be_started_at_once_after_the_first_crash(self) -> None:
        self.be_ready()
        self.backend.ended(CRASH)
        self.did()
        self.backend.start()
        self.assertEqual(self.did(), ["launch", "await ready"])
        self.clock.advance(100)
        self.assertEqual(self.did(), [], "the wait that was cut short is not told to be over")

    def test_a_second_crash_soon_after_does(self) -> None:
        for expected in (0, 2, 4):
            self.be_ready()
            self.clock.advance(STABLE_SEC - 0.1)
            self.backend.ended(CRASH)
            self.assertEqual(self.waits(), expected)

    def test_a_stable_time_makes_failures_forgotten(self) -> None:
        for _ in range(4):
            self.fail_start()
            self.waits()
        for _ in range(2):
            self.be_ready()
            self.clock.advance(STABLE_SEC)
            self.backend.ended(CRASH)
            self.assertEqual(self.waits(), 0)

    def crash(self, answered: bool = False) -> float:
        """Have it come up, answer or not, and crash; for how many seconds it keeps quiet."""
        self.be_ready()
        self.world.has_answered = answered
        self.backend.ended(CRASH)
        return self.waits()

    def test_a_backend_that_has_answered_is_started_again_at_once_however_often(self) -> None:
        self.assertEqual([self.crash(answered=True) for _ in range(5)], [0] * 5)
        self.assertEqual([error.retry_after for error in self.world.errors], [0] * 5)
        self.assertIn("was killed by SIGKILL", self.world.errors[-1].message)

    def test_an_answer_makes_failures_forgotten(self) -> None:
        for _ in range(3):
            self.fail_start()
            self.waits()
        self.assertEqual(self.crash(answered=True), 0)
        self.assertEqual(self.fail_start(), 1)

    def test_after_a_short_backoff_of_a_crash_requests_wait_after_others_they_do_not(self) -> None:
        self.assertEqual([self.crash() for _ in range(5)], [0, 2, 4, 8, 16])
        self.assertEqual(self.world.held, [True, True, True, False, False])

    def test_nobody_is_to_wait_for_a_load_that_has_failed(self) -> None:
        self.assertEqual(self.fail_start(), 1)
        self.waits()
        self.backend.start()
        self.backend.give_up()
        self.backend.ended(CRASH)
        self.assertEqual(self.world.held, [False, False])

    def test_a_crash_after_failed_starts_is_one_failure_more(self) -> None:
        self.fail_start()
        self.waits()
        self.assertEqual(self.crash(), 2)

    def test_a_failed_start_after_a_stable_time_is_not_free(self) -> None:
        self.be_ready()
        self.clock.advance(STABLE_SEC)
        self.backend.stop()
        self.backend.ended(CRASH)
        self.assertEqual(self.fail_start(), 1)

    def test_an_orderly_stop_is_no_failure(self) -> None:
        for _ in range(3):
            self.be_ready()
            self.backend.stop()
            self.backend.ended(CRASH)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.fail_start(), 1)

    def test_a_hang_counts_as_a_crash(self) -> None:
        waits = []
        for _ in range(2):
            self.be_ready()
            self.backend.hung()
            self.backend.ended(CRASH)
            waits.append(self.waits())
        self.assertEqual(waits, [0, 2])


class ReentrancyTests(BackendCase):
    """What happens from within what it does."""

    def test_a_start_as_soon_as_a_crash_is_told(self) -> None:
        self.be_ready()
        self.world.on_exit = self.backend.start
        self.backend.ended(CRASH)
        self.assertEqual(self.did(), ["exited", "stop watching", "launch", "await ready"])
        self.clock.advance(100)
        self.assertEqual(self.did(), [])

    def test_a_stop_and_a_start_as_soon_as_it_is_loaded(self) -> None:
        def loaded() -> None:
            self.world.events.append("loaded")
            self.backend.stop()

        self.patch(self.world, "loaded", loaded)
        self.be_starting()
        self.backend.healthy()
        did = self.did()
        self.assertEqual(did[-3:], ["loaded", "stop watching", "stop process"])
        self.world.on_exit = self.backend.start
        self.backend.ended(CRASH)
        self.assertEqual(self.did(), ["exited", "launch", "await ready"])
