"""The scheduler's contract in examples, rule by rule; the whole of it is in the properties."""

from __future__ import annotations

from collections.abc import Hashable

from twisted.trial.unittest import SynchronousTestCase

from llamagw.errors import ModelNotLoaded, ModelUnavailable, ServerBusy, ShuttingDown
from llamagw.fleet.model import Status, Why
from llamagw.fleet.scheduler import Action, Admit, Kill, Reject, Scheduler, Start, Stop

BROKEN = ModelUnavailable("It broke.", retry_after=1)


def scheduler(models: str = "abc", limit: int = 1, max_queue: int = 10) -> Scheduler:
    return Scheduler(models, limit=limit, swap_after=10, max_queue=max_queue)


def have_ready(made: Scheduler, name: str, now: float = 0, leases: int = 0) -> None:
    """Have a model in memory, idle or with leases."""
    made.arrived(name, object(), now)
    made.loaded(name, now)
    for _ in range(leases - 1):
        made.arrived(name, object(), now)
    if not leases:
        made.finished(name, now)


def rejected(actions: list[Action]) -> dict[Hashable, type[Exception]]:
    return {action.ticket: type(action.error) for action in actions if isinstance(action, Reject)}


class AdmissionTests(SynchronousTestCase):
    """Rules 1, 2 and 6."""

    def test_a_ready_model_admits_at_once(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        self.assertEqual(made.arrived("a", 1, 1), [Admit(1)])
        self.assertEqual(made.arrived("a", 2, 1), [Admit(2)])
        self.assertEqual(made.models["a"].in_flight, 2)

    def test_an_unloaded_model_is_started(self) -> None:
        made = scheduler()
        self.assertEqual(made.arrived("a", 1, 0), [Start("a")])
        self.assertIs(made.models["a"].status, Status.LOADING)

    def test_two_waiters_share_one_load(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        self.assertEqual(made.arrived("a", 2, 1), [])
        self.assertEqual(made.loaded("a", 2), [Admit(1), Admit(2)])

    def test_who_waits_is_admitted_in_order_of_arrival(self) -> None:
        made = scheduler()
        for ticket in (3, 1, 2):
            made.arrived("a", ticket, 0)
        self.assertEqual(made.loaded("a", 1), [Admit(3), Admit(1), Admit(2)])

    def test_the_model_waited_for_longest_gets_the_room(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=1)
        made.arrived("c", 1, 1)
        made.arrived("b", 2, 2)
        self.assertEqual(made.finished("a", 3), [Stop("a")])
        self.assertEqual(made.exited("a", None, 4), [Start("c")])

    def test_who_has_left_is_not_admitted(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        made.arrived("a", 2, 0)
        made.left("a", 1, 1)
        self.assertEqual(made.loaded("a", 2), [Admit(2)])


class EvictionTests(SynchronousTestCase):
    """Rules 3 and 4."""

    def test_an_idle_model_is_stopped_for_room(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        self.assertEqual(made.arrived("b", 1, 1), [Stop("a")])

    def test_the_least_recently_used_goes_first(self) -> None:
        made = scheduler(limit=2)
        have_ready(made, "a", 0)
        have_ready(made, "b", 1)
        made.arrived("a", 1, 2)
        made.finished("a", 3)
        self.assertEqual(made.arrived("c", 2, 4), [Stop("b")])

    def test_a_stopping_model_counts_until_its_process_is_gone(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        self.assertEqual(made.arrived("b", 1, 1), [Stop("a")])
        self.assertEqual(made.exited("a", None, 2), [Start("b")])

    def test_a_busy_model_is_never_stopped_for_room(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=1)
        self.assertEqual(made.arrived("b", 1, 1), [])
        self.assertEqual(made.tick(100), [])

    def test_it_is_stopped_when_its_last_lease_ends(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=2)
        made.arrived("b", 1, 1)
        self.assertEqual(made.finished("a", 2), [])
        self.assertEqual(made.finished("a", 3), [Stop("a")])

    def test_one_is_stopped_for_one(self) -> None:
        made = scheduler(limit=2)
        have_ready(made, "a")
        have_ready(made, "b")
        self.assertEqual(made.arrived("c", 1, 1), [Stop("a")])
        self.assertEqual(made.arrived("c", 2, 1), [])

    def test_an_idle_model_stays_when_nobody_needs_its_room(self) -> None:
        made = scheduler(limit=2)
        have_ready(made, "a")
        self.assertEqual(made.arrived("b", 1, 1), [Start("b")])
        self.assertEqual(made.tick(1000), [])

    def test_a_load_that_nobody_waits_for_any_more_makes_room(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        made.arrived("b", 2, 1)
        self.assertEqual(made.left("a", 1, 2), [Stop("a")])

    def test_a_load_that_somebody_waits_for_goes_on(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        self.assertEqual(made.arrived("b", 2, 1), [])
        self.assertEqual(made.tick(100), [])


class StarvationTests(SynchronousTestCase):
    """Rule 5."""

    def closing(self, limit: int = 1) -> Scheduler:
        """A busy model a that closes for b, which waits since 1."""
        made = scheduler(limit=limit)
        have_ready(made, "a", leases=1)
        made.arrived("b", "b1", 1)
        self.assertEqual(made.wake_at, 11)
        self.assertEqual(made.tick(11), [])
        return made

    def test_until_patience_is_over_a_busy_model_stays_open(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=1)
        made.arrived("b", 1, 1)
        self.assertEqual(made.tick(10.9), [])
        self.assertEqual(made.arrived("a", 2, 10.9), [Admit(2)])

    def test_a_closing_model_keeps_its_newcomers_waiting(self) -> None:
        self.assertEqual(self.closing().arrived("a", 2, 11), [])

    def test_a_closing_model_is_swapped_when_it_has_finished(self) -> None:
        made = self.closing()
        made.arrived("a", 2, 12)
        self.assertEqual(made.finished("a", 13), [Stop("a")])
        self.assertEqual(made.exited("a", None, 14), [Start("b")])
        self.assertEqual(made.loaded("b", 15), [Admit("b1")])

    def test_the_swapped_out_come_back_in_their_turn(self) -> None:
        made = self.closing()
        made.arrived("a", "a2", 12)
        made.finished("a", 13)
        made.exited("a", None, 14)
        made.loaded("b", 15)
        self.assertEqual(made.finished("b", 16), [Stop("b")])
        self.assertEqual(made.exited("b", None, 17), [Start("a")])
        self.assertEqual(made.loaded("a", 18), [Admit("a2")])

    def test_the_least_recently_used_busy_model_closes(self) -> None:
        made = scheduler(limit=2)
        have_ready(made, "a", 0, leases=1)
        have_ready(made, "b", 1, leases=1)
        made.arrived("a", 1, 2)
        made.arrived("c", 2, 3)
        made.tick(13)
        self.assertEqual(made.arrived("a", 3, 13), [Admit(3)])
        self.assertEqual(made.arrived("b", 4, 13), [])

    def test_it_opens_again_when_the_waiter_leaves(self) -> None:
        made = self.closing()
        made.arrived("a", "a2", 12)
        self.assertEqual(made.left("b", "b1", 13), [Admit("a2")])
        self.assertEqual(made.arrived("a", "a3", 13), [Admit("a3")])

    def test_it_opens_again_when_another_falls_idle(self) -> None:
        made = scheduler(limit=2)
        have_ready(made, "a", 0, leases=1)
        have_ready(made, "b", 1, leases=1)
        made.arrived("c", 1, 2)
        made.tick(12)
        self.assertEqual(made.arrived("a", 2, 13), [])
        self.assertEqual(made.finished("b", 14), [Stop("b"), Admit(2)])

    def test_as_many_close_as_are_out_of_patience(self) -> None:
        made = scheduler("abcd", limit=2)
        have_ready(made, "a", 0, leases=1)
        have_ready(made, "b", 1, leases=1)
        made.arrived("c", 1, 2)
        made.arrived("d", 2, 3)
        made.tick(12)
        self.assertEqual([made.models[n].closing for n in "ab"], [True, False])
        self.assertEqual(made.wake_at, 13)
        made.tick(13)
        self.assertEqual([made.models[n].closing for n in "ab"], [True, True])
        self.assertIsNone(made.wake_at)

    def test_a_model_just_loaded_serves_all_who_waited_before_it_closes(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        made.arrived("a", 2, 1)
        made.arrived("b", 3, 2)
        self.assertEqual(made.loaded("a", 50), [Admit(1), Admit(2)])
        self.assertEqual(made.arrived("a", 4, 51), [])

    def test_patience_ends_at_the_moment_of_waking_whatever_the_rounding(self) -> None:
        for tenths in range(300):
            made = Scheduler("ab", limit=1, swap_after=0.7, max_queue=9)
            have_ready(made, "a", leases=1)
            made.arrived("b", 1, tenths / 10)
            assert made.wake_at is not None
            made.tick(made.wake_at)
            self.assertTrue(made.models["a"].closing)
            self.assertIsNone(made.wake_at)

    def test_nobody_is_to_be_woken_when_nobody_waits_for_room(self) -> None:
        made = self.closing()
        made.left("b", "b1", 12)
        self.assertIsNone(made.wake_at)


class StayTests(SynchronousTestCase):
    """Rules 3 and 5, for models that stay in proportion to their load times."""

    def loaded(
        self, load_sec: float = 40, leases: int = 0, models: str = "abc", limit: int = 1
    ) -> Scheduler:
        """A model a that was loaded until 100, idle or with leases."""
        made = Scheduler(models, limit=limit, swap_after=None, max_queue=10)
        made.arrived("a", "a0", 100 - load_sec)
        made.loaded("a", 100)
        for _ in range(leases - 1):
            made.arrived("a", object(), 100)
        if not leases:
            made.finished("a", 100)
        return made

    def test_an_idle_model_stays_for_a_twentieth_of_its_load(self) -> None:
        made = self.loaded(load_sec=40)
        self.assertEqual(made.arrived("b", 1, 100.5), [])
        self.assertEqual(made.wake_at, 102)
        self.assertEqual(made.tick(101.9), [])
        self.assertEqual(made.tick(102), [Stop("a")])
        self.assertIsNone(made.wake_at)

    def test_it_stays_longer_when_it_is_asked_again(self) -> None:
        made = self.loaded(load_sec=40)
        made.arrived("b", 1, 100.5)
        self.assertEqual(made.arrived("a", 2, 101.5), [Admit(2)])
        self.assertEqual(made.tick(102), [])
        self.assertEqual(made.finished("a", 102.5), [])
        self.assertEqual(made.wake_at, 104.5)
        self.assertEqual(made.tick(104.5), [Stop("a")])

    def test_it_stays_no_longer_than_its_part_of_the_load(self) -> None:
        made = self.loaded(load_sec=40)
        made.arrived("b", 1, 100.5)
        made.arrived("a", 2, 101.5)
        made.finished("a", 105)
        self.assertEqual(made.wake_at, 106)
        self.assertEqual(made.arrived("a", 3, 105.9), [Admit(3)])
        self.assertEqual(made.finished("a", 106), [Stop("a")])

    def test_who_comes_when_nobody_has_asked_lately_does_not_wait_for_the_stay(self) -> None:
        made = self.loaded(load_sec=40)
        self.assertEqual(made.arrived("b", 1, 102), [Stop("a")])

    def test_a_model_that_was_loaded_long_ago_does_not_stay(self) -> None:
        made = self.loaded(load_sec=40)
        made.arrived("a", 1, 200)
        made.finished("a", 201)
        self.assertEqual(made.arrived("b", 2, 201), [Stop("a")])

    def test_a_model_that_nobody_wants_the_room_of_needs_no_timer(self) -> None:
        made = self.loaded(load_sec=40, limit=2)
        self.assertEqual(made.arrived("b", 1, 100.5), [Start("b")])
        self.assertIsNone(made.wake_at)

    def test_a_busy_model_closes_after_its_part_of_the_load(self) -> None:
        made = self.loaded(load_sec=40, leases=1)
        made.arrived("b", 1, 100.5)
        self.assertEqual(made.wake_at, 106)
        made.tick(106)
        self.assertEqual(made.arrived("a", 2, 106), [], "it has closed")
        self.assertEqual(made.finished("a", 107), [Stop("a")])

    def test_a_busy_model_that_loads_fast_closes_after_3_seconds(self) -> None:
        made = self.loaded(load_sec=0.5, leases=1)
        made.arrived("b", 1, 100.5)
        self.assertEqual(made.wake_at, 103)
        self.assertEqual(made.arrived("a", 2, 102.9), [Admit(2)])
        made.tick(103)
        self.assertEqual(made.arrived("a", 3, 103), [])

    def test_a_busy_model_that_was_loaded_long_ago_closes_at_once(self) -> None:
        made = self.loaded(load_sec=40, leases=1)
        made.arrived("b", 1, 200)
        self.assertEqual(made.arrived("a", 2, 200), [])

    def test_no_busy_model_closes_while_an_idle_one_is_about_to_go(self) -> None:
        made = Scheduler("abc", limit=2, swap_after=None, max_queue=10)
        made.arrived("b", 1, 0)
        made.loaded("b", 1)
        made.arrived("a", 2, 60)
        made.loaded("a", 100)
        made.finished("a", 101)
        self.assertEqual(made.arrived("c", 3, 101), [])
        self.assertEqual(made.arrived("b", 4, 102), [Admit(4)])
        self.assertEqual(made.tick(103), [Stop("a")])

    def test_of_two_that_are_idle_the_one_that_is_loaded_fast_goes_first(self) -> None:
        made = self.loaded(load_sec=40, limit=2)
        made.arrived("b", 1, 100)
        made.loaded("b", 101)
        made.finished("b", 101)
        self.assertEqual(made.arrived("c", 2, 101.2), [Stop("b")])

    def test_of_two_that_are_idle_for_long_the_least_recently_used_goes(self) -> None:
        made = self.loaded(load_sec=40, limit=2)
        made.arrived("b", 1, 100)
        made.loaded("b", 101)
        made.finished("b", 200)
        self.assertEqual(made.arrived("c", 2, 300), [Stop("a")])

    def test_the_last_load_counts_for_half(self) -> None:
        made = self.loaded(load_sec=40)
        made.unload("a", 100)
        made.exited("a", None, 101)
        made.arrived("a", 1, 101)
        made.loaded("a", 111)
        made.finished("a", 111)
        made.arrived("b", 2, 111)
        self.assertEqual(made.wake_at, 112.25, "a twentieth of 25 s")

    def test_a_load_that_nobody_waits_for_does_not_stay(self) -> None:
        made = self.loaded(load_sec=40)
        made.unload("a", 100)
        made.exited("a", None, 101)
        made.arrived("a", 1, 101)
        made.arrived("b", 2, 101)
        self.assertEqual(made.left("a", 1, 101), [Stop("a")])

    def test_a_reload_changes_how_long_models_stay(self) -> None:
        made = self.loaded(load_sec=40)
        made.arrived("b", 1, 100.5)
        self.assertEqual(made.limits(limit=1, swap_after=10, max_queue=10, now=101), [Stop("a")])
        made = self.loaded(load_sec=40, leases=1)
        made.arrived("b", 1, 100.5)
        made.limits(limit=1, swap_after=10, max_queue=10, now=101)
        self.assertEqual(made.wake_at, 110.5)
        made.limits(limit=1, swap_after=None, max_queue=10, now=102)
        self.assertEqual(made.wake_at, 106)


class PinnedTests(SynchronousTestCase):
    """Rules 3 and 5, for those that stay."""

    def setUp(self) -> None:
        self.made = Scheduler("bc", limit=2, swap_after=10, max_queue=10)
        self.made.add("a", pinned=True)

    def test_a_pinned_model_is_not_stopped_for_room(self) -> None:
        have_ready(self.made, "a", 0)
        have_ready(self.made, "b", 1)
        self.assertEqual(self.made.arrived("c", 1, 2), [Stop("b")])

    def test_a_pinned_model_does_not_close(self) -> None:
        have_ready(self.made, "a", 0, leases=1)
        have_ready(self.made, "b", 1, leases=1)
        self.made.arrived("c", 1, 2)
        self.made.tick(12)
        self.assertEqual([self.made.models[n].closing for n in "ab"], [False, True])

    def test_a_pinned_model_is_loaded_as_any_other(self) -> None:
        have_ready(self.made, "b", 0)
        have_ready(self.made, "c", 1)
        self.assertEqual(self.made.arrived("a", 1, 2), [Stop("b")])

    def test_a_pinned_model_can_be_unloaded(self) -> None:
        have_ready(self.made, "a", 0)
        self.assertEqual(self.made.unload("a", 1), [Stop("a")])


class UnloadTests(SynchronousTestCase):
    """Rule 9."""

    def test_an_idle_model_is_stopped_at_once(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        self.assertEqual(made.unload("a", 1), [Stop("a")])
        self.assertEqual(made.unload("a", 1), [])
        self.assertEqual(made.exited("a", None, 2), [])

    def test_what_is_not_in_memory_stays_as_it_is(self) -> None:
        made = scheduler()
        have_ready(made, "c", leases=1)
        made.arrived("a", 2, 0)
        for force in (False, True):
            self.assertEqual(made.unload("a", 1, force), [])
        self.assertEqual(list(made.models["a"].waiting), [2])

    def test_what_has_failed_has_not_any_more_and_may_be_started_again(self) -> None:
        for force in (False, True):
            made = scheduler()
            have_ready(made, "a")
            made.exited("a", BROKEN, 1, hold=True)
            self.assertEqual(made.unload("a", 2, force), [])
            self.assertFalse(made.models["a"].failed)
            self.assertEqual(made.arrived("a", 2, 2), [Start("a")])

    def test_who_waits_for_the_restart_of_what_is_unloaded_need_wait_no_longer(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        made.exited("a", BROKEN, 1, hold=True)
        made.arrived("a", 1, 1)
        self.assertEqual(made.unload("a", 1), [Start("a")])
        self.assertEqual(made.loaded("a", 2), [Admit(1)])

    def test_a_busy_model_finishes_and_its_newcomers_wait_for_the_next_life(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=2)
        self.assertEqual(made.unload("a", 1), [])
        self.assertEqual(made.arrived("a", "new", 2), [])
        self.assertEqual(made.finished("a", 3), [])
        self.assertEqual(made.finished("a", 4), [Stop("a")])
        self.assertEqual(made.exited("a", None, 5), [Start("a")])
        self.assertEqual(made.loaded("a", 6), [Admit("new")])
        self.assertEqual(made.arrived("a", "newer", 7), [Admit("newer")], "it is open again")

    def test_a_load_that_somebody_waits_for_serves_all_of_them_first(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        self.assertEqual(made.unload("a", 1), [])
        made.arrived("a", 2, 2)
        self.assertEqual(made.loaded("a", 3), [Admit(1), Admit(2)])
        self.assertEqual(made.arrived("a", 3, 4), [])
        made.finished("a", 5)
        self.assertEqual(made.finished("a", 5), [Stop("a")])

    def test_a_load_that_nobody_waits_for_is_stopped_at_once(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        made.left("a", 1, 1)
        self.assertEqual(made.unload("a", 2), [Stop("a")])

    def test_a_load_is_stopped_when_the_last_who_waited_has_left(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        made.unload("a", 1)
        self.assertEqual(made.left("a", 1, 2), [Stop("a")])

    def test_its_room_goes_to_who_waits_for_it(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=1)
        made.arrived("b", 1, 1)
        made.unload("a", 2)
        made.arrived("a", 2, 3)
        self.assertEqual(made.finished("a", 4), [Stop("a")])
        self.assertEqual(made.exited("a", None, 5), [Start("b")])

    def test_another_does_not_close_for_the_room_that_it_makes(self) -> None:
        made = scheduler(limit=2)
        have_ready(made, "a", 0, leases=1)
        have_ready(made, "b", 1, leases=1)
        made.unload("b", 2)
        made.arrived("c", 1, 3)
        made.tick(13)
        self.assertEqual(made.arrived("a", 2, 14), [Admit(2)])

    def test_a_crash_meanwhile_is_an_unload_too(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=1)
        made.unload("a", 1)
        made.exited("a", None, 2)
        made.finished("a", 2)
        self.assertEqual(made.arrived("a", 1, 3), [Start("a")])
        self.assertEqual(made.loaded("a", 4), [Admit(1)])
        self.assertEqual(made.arrived("a", 2, 5), [Admit(2)])

    def test_by_force_it_dies_at_once_and_who_waits_is_told(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        [told, killed] = made.unload("a", 1, force=True)
        assert isinstance(told, Reject)
        self.assertIsInstance(told.error, ModelUnavailable)
        self.assertIn("The model `a` was unloaded by force.", told.error.message)
        self.assertEqual(killed, Kill("a"))
        self.assertIs(made.models["a"].status, Status.STOPPING)

    def test_by_force_answers_break_off(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=2)
        self.assertEqual(made.unload("a", 1, force=True), [Kill("a")])
        self.assertEqual(made.exited("a", None, 2), [])
        made.finished("a", 2)
        made.finished("a", 2)
        self.assertEqual(made.arrived("a", 1, 3), [Start("a")])

    def test_force_ends_what_takes_long_to_stop(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=1)
        made.unload("a", 1)
        self.assertEqual(made.unload("a", 2, force=True), [Kill("a")])
        made.finished("a", 3)
        self.assertEqual(made.unload("a", 3, force=True), [Kill("a")])

    def test_it_rests_when_nobody_has_used_it_for_so_long(self) -> None:
        made = scheduler()
        have_ready(made, "a", 1)
        self.assertEqual(made.idle_timeout("a", 10, 4), ([], 7))
        made.arrived("a", 1, 5)
        self.assertEqual(made.idle_timeout("a", 10, 100), ([], 10))
        made.finished("a", 101)
        self.assertEqual(made.idle_timeout("a", 10, 110), ([], 1))
        self.assertEqual(made.idle_timeout("a", 10, 111), ([Stop("a")], None))

    def test_what_is_not_loaded_need_not_rest(self) -> None:
        made = scheduler()
        self.assertEqual(made.idle_timeout("a", 10, 100), ([], None))
        made.arrived("a", 1, 100)
        self.assertEqual(made.idle_timeout("a", 10, 200), ([], None))
        self.assertEqual(made.idle_timeout("gone", 10, 200), ([], None))


class WhyTests(SynchronousTestCase):
    """Why a model is stopped, which is for the log."""

    def reasons(self, actions: list[Action]) -> list[tuple[str, Why, str]]:
        return [(a.key, a.why, a.room_for) for a in actions if isinstance(a, Stop)]

    def test_for_room_it_is_told_for_whom(self) -> None:
        made = scheduler("abcd", limit=2)
        have_ready(made, "a", leases=1)
        have_ready(made, "b", leases=1)
        made.arrived("c", 1, 1)
        made.arrived("d", 2, 2)
        said = self.reasons(made.finished("b", 3)) + self.reasons(made.finished("a", 4))
        self.assertEqual(said, [("b", Why.ROOM, "c"), ("a", Why.ROOM, "d")])

    def test_under_a_lower_limit_nobody_gets_the_room_of_the_first(self) -> None:
        made = scheduler(limit=2)
        have_ready(made, "a", 0)
        have_ready(made, "b", 1)
        actions = made.limits(limit=1, swap_after=10, max_queue=10, now=2)
        self.assertEqual(self.reasons(actions), [("a", Why.ROOM, "")])
        self.assertEqual(self.reasons(made.arrived("c", 1, 3)), [("b", Why.ROOM, "c")])

    def test_one_that_rests_is_idle(self) -> None:
        made = scheduler()
        have_ready(made, "a", 0)
        actions, _ = made.idle_timeout("a", 10, 10)
        self.assertEqual(self.reasons(actions), [("a", Why.IDLE, "")])

    def test_an_unload_was_asked_for_though_it_waits_for_an_answer(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=1)
        made.unload("a", 1)
        self.assertEqual(self.reasons(made.finished("a", 2)), [("a", Why.ASKED, "")])

    def test_a_retired_model_is_stopped_by_the_reload(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        _, actions = made.retire(["a"], 1)
        self.assertEqual(self.reasons(actions), [("a", Why.RELOAD, "")])

    def test_at_the_end_all_are_stopped_for_that(self) -> None:
        made = scheduler(limit=2)
        have_ready(made, "a")
        have_ready(made, "b", leases=1)
        said = self.reasons(made.drain(1)) + self.reasons(made.abandon())
        self.assertEqual(said, [("a", Why.END, ""), ("b", Why.END, "")])


class VisitTests(SynchronousTestCase):
    """Rule 10."""

    def refusal(self, made: Scheduler, name: str) -> str:
        [action] = made.arrived(name, "visit", 50, load=False)
        assert isinstance(action, Reject)
        assert isinstance(action.error, ModelNotLoaded)
        return action.error.message

    def test_a_model_that_is_not_loaded_refuses_and_says_how_it_is(self) -> None:
        made = scheduler(limit=3)
        how = "A GET does not load it: add ?autoload=true, or POST /models/load."
        self.assertEqual(self.refusal(made, "a"), f"The model `a` is not loaded. {how}")
        made.arrived("a", 1, 0)
        self.assertEqual(
            self.refusal(made, "a"), f"The model `a` is not loaded (it is loading). {how}"
        )
        made.exited("a", BROKEN, 1)
        self.assertIn("(it has failed)", self.refusal(made, "a"))
        have_ready(made, "b", leases=1)
        made.unload("b", 2)
        self.assertIn("(it is being unloaded)", self.refusal(made, "b"))
        made.finished("b", 3)
        self.assertIn("(it is being unloaded)", self.refusal(made, "b"))
        self.assertEqual(made.exited("b", None, 4), [], "nobody waits")

    def test_it_is_called_as_clients_call_it(self) -> None:
        made = scheduler()
        made.add("d#4", "d")
        self.assertIn("`d`", self.refusal(made, "d#4"))

    def test_a_loaded_model_admits(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        self.assertEqual(made.arrived("a", 1, 1, load=False), [Admit(1)])
        made.arrived("b", 2, 1)
        self.assertEqual(made.finished("a", 2, used=False), [Stop("a")], "it was busy until then")

    def test_it_counts_as_no_use(self) -> None:
        made = scheduler()
        have_ready(made, "a", 1)
        made.arrived("a", 1, 5, load=False)
        made.finished("a", 6, used=False)
        self.assertEqual(made.models["a"].last_used, 1)
        self.assertEqual(made.idle_timeout("a", 10, 11), ([Stop("a")], None))

    def test_while_draining_all_are_told_the_same(self) -> None:
        made = scheduler()
        made.drain(0)
        self.assertEqual(rejected(made.arrived("a", 1, 1, load=False)), {1: ShuttingDown})


class FailureTests(SynchronousTestCase):
    """Rules 7 and 8."""

    def test_a_failed_load_is_told_to_all_who_wait(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        made.arrived("a", 2, 0)
        self.assertEqual(made.exited("a", BROKEN, 1), [Reject(1, BROKEN), Reject(2, BROKEN)])

    def test_a_failed_model_rejects_until_it_recovers(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        made.exited("a", BROKEN, 1)
        [action] = made.arrived("a", 2, 1.75)
        assert isinstance(action, Reject)
        self.assertEqual((action.ticket, action.error.message), (2, BROKEN.message))
        self.assertEqual((action.error.retry_after, BROKEN.retry_after), (0.25, 1))
        self.assertEqual(made.recovered("a", 3), [])
        self.assertEqual(made.arrived("a", 3, 3), [Start("a")])

    def test_what_failed_stays_failed_until_a_load_succeeds(self) -> None:
        made = scheduler()
        told = made.models["a"]
        made.arrived("a", 1, 0)
        made.exited("a", BROKEN, 1)
        made.recovered("a", 2)
        self.assertTrue(told.failed)
        made.arrived("a", 2, 3)
        self.assertFalse(told.failed, "it is loading")
        made.left("a", 2, 3)
        made.arrived("b", 3, 3)
        made.exited("a", None, 4)
        self.assertEqual((told.failed, told.failure), (True, BROKEN), "it was stopped for room")
        made.left("b", 3, 4)
        made.exited("b", None, 4)
        have_ready(made, "a", 5)
        self.assertEqual((told.failed, told.failure), (False, None))

    def test_it_has_failed_since_it_first_did(self) -> None:
        made = scheduler()
        for start in (0, 10, 20):
            made.arrived("a", start, start)
            made.exited("a", BROKEN, start + 1)
            made.recovered("a", start + 2)
        self.assertEqual(made.models["a"].failed_at, 1)
        have_ready(made, "a", 30)
        made.exited("a", BROKEN, 31)
        self.assertEqual(made.models["a"].failed_at, 31)
        made.unload("a", 32)
        made.arrived("a", 1, 32)
        made.exited("a", BROKEN, 33)
        self.assertEqual(made.models["a"].failed_at, 33)

    def test_a_crash_after_which_it_may_be_started_at_once_is_a_failure_too(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        crash = ModelUnavailable("It crashed.", retry_after=0)
        self.assertEqual(made.exited("a", crash, 1, hold=True), [])
        self.assertTrue(made.models["a"].failed)
        self.assertEqual(made.arrived("a", 1, 1), [Start("a")])

    def test_one_elsewhere_stays_failed_while_it_is_tried_again(self) -> None:
        made = scheduler(models="")
        made.add("z", takes_no_room=True)
        self.assertEqual(made.tick(0), [Start("z")])
        self.assertFalse(made.models["z"].failed)
        made.exited("z", BROKEN, 1)
        self.assertEqual(made.recovered("z", 2), [Start("z")])
        self.assertTrue(made.models["z"].failed)
        made.loaded("z", 3)
        self.assertFalse(made.models["z"].failed)

    def test_a_failed_model_takes_no_room(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        made.arrived("b", 2, 0)
        self.assertEqual(made.exited("a", BROKEN, 1), [Reject(1, BROKEN), Start("b")])

    def test_a_load_that_is_given_up_takes_room_until_its_process_is_gone(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        made.arrived("b", 2, 0)
        self.assertEqual(made.load_failed("a", BROKEN, 1), [Reject(1, BROKEN)])
        self.assertEqual(made.exited("a", BROKEN, 2), [Start("b")])

    def test_a_crash_costs_those_who_wait_nothing_but_a_load(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        self.assertEqual(made.exited("a", None, 1), [])
        self.assertEqual(made.arrived("a", 1, 2), [Start("a")])

    def test_a_crash_keeps_the_queue(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=1)
        made.unload("a", 1)
        made.arrived("a", 1, 1)
        self.assertEqual(made.exited("a", None, 2, hold=True), [Start("a")])
        self.assertEqual(made.loaded("a", 3), [Admit(1)])

    def test_until_a_crashed_model_may_be_started_again_all_wait(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=1)
        made.unload("a", 1)
        made.arrived("a", 1, 1)
        self.assertEqual(made.exited("a", BROKEN, 2, hold=True), [])
        self.assertEqual(made.arrived("a", 2, 2), [])
        self.assertEqual(made.recovered("a", 3), [Start("a")])
        self.assertEqual(made.loaded("a", 4), [Admit(1), Admit(2)])

    def test_a_model_that_is_waited_for_while_it_must_not_start_takes_no_room(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        made.exited("a", BROKEN, 1, hold=True)
        made.arrived("a", 1, 2)
        self.assertEqual(made.arrived("b", 2, 3), [Start("b")])
        self.assertEqual(made.recovered("a", 4), [])
        self.assertEqual(made.wake_at, 12, "it has waited since 2")

    def test_who_may_not_load_is_not_kept_waiting_for_a_crashed_model(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        made.exited("a", BROKEN, 1, hold=True)
        self.assertEqual(rejected(made.arrived("a", 1, 2, load=False)), {1: ModelNotLoaded})

    def test_a_load_that_fails_after_a_crash_is_told(self) -> None:
        made = scheduler()
        have_ready(made, "a")
        made.exited("a", BROKEN, 1, hold=True)
        made.arrived("a", 1, 2)
        made.recovered("a", 3)
        self.assertEqual(made.exited("a", BROKEN, 4), [Reject(1, BROKEN)])
        self.assertEqual(rejected(made.arrived("a", 2, 4)), {2: ModelUnavailable})

    def test_leases_of_a_crashed_backend_end_once(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=2)
        made.exited("a", None, 1)
        made.finished("a", 2)
        made.finished("a", 2)
        self.assertEqual(made.models["a"].in_flight, 0)

    def test_a_crash_of_the_closing_model_lets_the_waiter_in(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=1)
        made.arrived("b", 1, 1)
        made.tick(11)
        made.arrived("a", 2, 12)
        self.assertEqual(made.exited("a", None, 13), [Start("b")])

    def test_a_full_queue_rejects(self) -> None:
        made = scheduler(max_queue=1)
        made.arrived("a", 1, 0)
        [action] = made.arrived("a", 2, 0)
        assert isinstance(action, Reject)
        self.assertEqual((action.ticket, type(action.error)), (2, ServerBusy))
        self.assertEqual(action.error.retry_after, 5)
        self.assertIn("`a`", action.error.message)

    def test_the_queue_is_counted_for_each_model(self) -> None:
        made = scheduler(max_queue=1)
        made.arrived("a", 1, 0)
        self.assertEqual(made.arrived("b", 2, 0), [])


class DrainTests(SynchronousTestCase):
    def test_who_waits_is_turned_away(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        made.arrived("b", 2, 0)
        actions = made.drain(1)
        self.assertEqual(rejected(actions), {1: ShuttingDown, 2: ShuttingDown})
        self.assertEqual(actions[-1], Stop("a"))

    def test_newcomers_are_turned_away(self) -> None:
        made = scheduler(limit=2)
        have_ready(made, "a", leases=1)
        made.drain(1)
        for name in "ab":
            self.assertEqual(rejected(made.arrived(name, 1, 2)), {1: ShuttingDown})

    def test_each_model_stops_when_it_falls_idle(self) -> None:
        made = scheduler(limit=2)
        have_ready(made, "a")
        have_ready(made, "b", leases=1)
        self.assertEqual(made.drain(1), [Stop("a")])
        self.assertEqual(made.finished("b", 2), [Stop("b")])
        self.assertEqual(made.exited("a", None, 3), [])

    def test_abandon_stops_the_busy_ones_too(self) -> None:
        made = scheduler(limit=2)
        have_ready(made, "a", leases=1)
        made.drain(1)
        self.assertEqual(made.abandon(), [Stop("a")])
        self.assertEqual(made.abandon(), [])

    def test_abandon_stops_a_load_whose_last_life_has_leases_still(self) -> None:
        made = scheduler()
        have_ready(made, "a", leases=1)
        made.exited("a", None, 1)
        made.arrived("a", 2, 2)
        made.drain(3)
        self.assertEqual(made.abandon(), [Stop("a")])

    def test_a_model_that_recovers_is_not_started(self) -> None:
        made = scheduler()
        made.arrived("a", 1, 0)
        made.exited("a", BROKEN, 1)
        made.drain(2)
        self.assertEqual(made.recovered("a", 3), [])
