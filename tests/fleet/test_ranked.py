"""The lazy priority queue, against one that is sorted anew each time."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from llamagw.fleet.ranked import Ranked


class Thing:
    def __init__(self, number: int) -> None:
        self.number = number
        self.rank = 0.0
        self.here = False


class RankedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.things = [Thing(number) for number in range(8)]
        self.ranked: Ranked[Thing] = Ranked(lambda thing: thing.here, lambda thing: thing.rank)

    def lowest(self) -> Thing | None:
        here = [thing for thing in self.things if thing.here]
        return min(here, key=lambda thing: (thing.rank, thing.number), default=None)

    def test_the_first_is_the_lowest_whatever_has_changed(self) -> None:
        for seed in range(50):
            self.setUp()
            random = Random(seed)
            for _ in range(100):
                thing = random.choice(self.things)
                lower = random.random() < 0.3
                change = random.choice([0.0, 1.0, 5.0, float("inf")])
                thing.rank = -change if lower else max(thing.rank, 0.0) + random.choice([0, 1, 3])
                thing.here = random.random() < 0.6
                self.ranked.offer(thing)
                if random.random() < 0.1:
                    self.ranked.renew()
                self.assertIs(self.ranked.first(), self.lowest())

    def test_a_rank_that_has_risen_need_not_be_offered(self) -> None:
        for thing in self.things[:2]:
            thing.here = True
            self.ranked.offer(thing)
        self.things[0].rank = 1.0
        self.assertIs(self.ranked.first(), self.things[1])

    def test_one_that_belongs_no_more_need_not_be_offered(self) -> None:
        for thing in self.things[:2]:
            thing.here = True
            self.ranked.offer(thing)
        self.things[0].here = False
        self.assertIs(self.ranked.first(), self.things[1])

    def test_all_can_be_ranked_anew(self) -> None:
        for thing in self.things[:3]:
            thing.here = True
            thing.rank = 5.0 + thing.number
            self.ranked.offer(thing)
        self.things[2].rank = 0.0
        self.things[0].here = False
        self.ranked.renew()
        self.assertIs(self.ranked.first(), self.things[2])
