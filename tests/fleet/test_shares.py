"""Promises of a model with so many slots: who waits here, who is next, that nobody starves."""

from __future__ import annotations

from collections.abc import Hashable
from random import Random

import pytest
from twisted.trial.unittest import SynchronousTestCase

from llamagw.fleet.actions import Action, Admit, Reject, Start, Stop
from llamagw.fleet.queue import AGE_SEC, Share
from llamagw.fleet.scheduler import Scheduler


def admitted(actions: list[Action]) -> list[Hashable]:
    return [action.ticket for action in actions if isinstance(action, Admit)]


class SlotTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scheduler = Scheduler([], limit=1, swap_after=10.0, max_queue=3)
        self.scheduler.add("a", slots=2)
        self.scheduler.add("b", slots=2)

    def load(self, name: str, now: float = 0.0) -> list[Hashable]:
        return admitted(self.scheduler.loaded(name, now))

    def arrive(self, name: str, ticket: Hashable, now: float = 0.0, **how: object) -> list[Action]:
        return self.scheduler.arrived(name, ticket, now, **how)  # type: ignore[arg-type]

    def test_as_many_are_sent_as_there_are_slots(self) -> None:
        for ticket in (1, 2, 3):
            self.arrive("a", ticket)
        self.assertEqual(self.load("a"), [1, 2])
        self.assertEqual(self.arrive("a", 4), [])
        self.assertEqual(admitted(self.scheduler.finished("a", 1)), [3])
        self.assertEqual(admitted(self.scheduler.finished("a", 1)), [4])
        self.assertEqual(self.scheduler.finished("a", 1), [])

    def test_what_takes_no_slot_is_sent_at_once(self) -> None:
        for ticket in (1, 2, 3):
            self.arrive("a", ticket)
        self.load("a")
        self.assertEqual(admitted(self.arrive("a", "tokenize", share=None)), ["tokenize"])
        self.assertEqual(admitted(self.arrive("a", "look", load=False, share=None)), ["look"])
        # And frees none when it ends.
        self.assertEqual(self.scheduler.finished("a", 1, slot=False), [])
        self.assertEqual(admitted(self.scheduler.finished("a", 1)), [3])

    def test_who_leaves_the_queue_gets_no_slot(self) -> None:
        for ticket in (1, 2, 3):
            self.arrive("a", ticket)
        self.load("a")
        self.arrive("a", 4)
        self.scheduler.left("a", 3, 1)
        self.assertEqual(admitted(self.scheduler.finished("a", 2)), [4])

    def test_a_full_queue_of_one_keeps_nobody_else_out(self) -> None:
        for ticket in range(3):
            self.arrive("a", ticket, share=Share("greedy"))
        [refused] = self.arrive("a", 3, share=Share("greedy"))
        self.assertIsInstance(refused, Reject)
        self.assertEqual(self.arrive("a", "other", share=Share("modest")), [])

    def test_a_model_whose_room_is_wanted_finishes_what_it_has_and_keeps_its_queue(self) -> None:
        for ticket in (1, 2, 3):
            self.arrive("a", ticket)
        self.load("a")
        self.assertEqual(self.arrive("b", "b", 1), [])
        self.assertEqual(self.scheduler.tick(11), [])  # closes
        self.assertEqual(self.scheduler.finished("a", 12), [])
        [stop] = self.scheduler.finished("a", 12)
        assert isinstance(stop, Stop)
        self.assertEqual(stop.key, "a")
        # Ticket 3 has waited longest: its model is loaded again before the other's.
        [start] = self.scheduler.exited("a", None, 13)
        assert isinstance(start, Start)
        self.assertEqual(start.key, "a")
        self.assertEqual(self.load("a", 14), [3])

    def test_a_crash_keeps_the_queue(self) -> None:
        for ticket in (1, 2, 3):
            self.arrive("a", ticket)
        self.load("a")
        [start] = self.scheduler.exited("a", None, 1)
        assert isinstance(start, Start)
        for _ in range(2):
            self.scheduler.finished("a", 1)
        self.assertEqual(self.load("a", 2), [3])

    def test_more_slots_than_before_are_not_given_for_leases_that_outlive_a_run(self) -> None:
        for ticket in (1, 2, 3):
            self.arrive("a", ticket)
        self.load("a")
        self.scheduler.exited("a", None, 1)
        # Two leases of the old run have not ended yet.
        self.assertEqual(self.load("a", 2), [])
        self.assertEqual(admitted(self.scheduler.finished("a", 3)), [3])


@pytest.mark.parametrize("seed", range(40))
def test_no_slot_is_free_while_somebody_waits_and_nobody_waits_for_ever(seed: int) -> None:
    """Of three who ask at random, with classes; the lowest is served within a bound."""
    random, now = Random(seed), 0.0
    slots = random.randint(1, 4)
    made = Scheduler([], limit=1, swap_after=None, max_queue=10_000)
    made.add("m", slots=slots)
    made.arrived("m", "first", now)
    running: list[Hashable] = admitted(made.loaded("m", now))
    waiting: dict[Hashable, tuple[Share, float]] = {}
    longest = 0.0
    for number in range(1500):
        now += random.random()
        if running and random.random() < 0.55:
            running.pop(random.randrange(len(running)))
            served = admitted(made.finished("m", now))
        else:
            flow, priority = random.choice([("a", 50), ("a", 50), ("b", 50), ("c", -100)])
            share = Share(flow, priority, 1.0, random.randint(1, 9) * 100.0)
            waiting[number] = share, now
            served = admitted(made.arrived("m", number, now, share=share))
        for ticket in served:
            share, since = waiting.pop(ticket)
            running.append(ticket)
            if share.priority < 0:
                longest = max(longest, now - since)
        assert len(running) <= slots
        assert len(running) == slots or not waiting, "a slot is free, and somebody waits"
    # Aged, it is served by turns with the two others: after two of the largest for each of its own.
    assert longest < AGE_SEC + 40 * 9
