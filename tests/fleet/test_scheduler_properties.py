"""
The scheduler's contract, held against whatever can happen.

`ContractTests` has hypothesis look for what breaks it, and show the shortest way there.
`MutantTests` shows that the checks hold: for each rule the scheduler's policies are replaced by
ones that break it, and the checks of this rule alone must notice on a random walk.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from tests.support.mutants import MUTANTS
from tests.support.scheduler import BEGIN, RULES, STEPS, Broken, Fleet, Pick, Step, walk

#: The most walks of 40 steps until a mutant is noticed. They are the same ones on each run.
WALKS = 1000


def _strategies(arguments: dict[str, Pick]) -> dict[str, Any]:
    return {name: pick.strategy() for name, pick in arguments.items()}


def _possible(step: Step) -> Callable[[Any], bool]:
    return lambda machine: bool(step.possible(machine))


class Machine(Fleet, RuleBasedStateMachine):
    """The fleet, with hypothesis choosing the steps."""

    begin = initialize(**_strategies(BEGIN.arguments))(Fleet.begin)

    def teardown(self) -> None:
        self.end()


for _step in STEPS:
    _rule = rule(**_strategies(_step.arguments))(_step.do)
    setattr(Machine, _step.do.__name__, precondition(_possible(_step))(_rule))


class ContractTests(Machine.TestCase):  # type: ignore[misc, valid-type]
    """The scheduler keeps its contract."""

    settings = settings(
        max_examples=120,
        stateful_step_count=40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class WalkTests(SynchronousTestCase):
    """It keeps it on the walks on which the mutants do not, too."""

    def test_each_rule_is_kept(self) -> None:
        for seed in range(150):
            walk(RULES, Random(seed))


class MutantTests(SynchronousTestCase):
    """The checks of each rule notice when this rule is broken."""

    def assertNoticed(self, number: int) -> None:
        mutants = [mutant for mutant in MUTANTS if mutant.rule == number]
        self.assertTrue(mutants)
        for mutant in mutants:
            with mutant.at_large():
                self.assertTrue(self.is_noticed(number), f"nobody noticed: {mutant.says}")

    def is_noticed(self, number: int) -> bool:
        for seed in range(WALKS):
            try:
                walk(frozenset({number}), Random(seed))
            except (Broken, KeyError):  # some forget a model that is still there
                return True
        return False

    def test_every_rule_has_mutants(self) -> None:
        self.assertEqual({mutant.rule for mutant in MUTANTS}, RULES)

    def test_rule_1_is_held(self) -> None:
        self.assertNoticed(1)

    def test_rule_2_is_held(self) -> None:
        self.assertNoticed(2)

    def test_rule_3_is_held(self) -> None:
        self.assertNoticed(3)

    def test_rule_4_is_held(self) -> None:
        self.assertNoticed(4)

    def test_rule_5_is_held(self) -> None:
        self.assertNoticed(5)

    def test_rule_6_is_held(self) -> None:
        self.assertNoticed(6)

    def test_rule_7_is_held(self) -> None:
        self.assertNoticed(7)

    def test_rule_8_is_held(self) -> None:
        self.assertNoticed(8)

    def test_rule_9_is_held(self) -> None:
        self.assertNoticed(9)

    def test_rule_10_is_held(self) -> None:
        self.assertNoticed(10)

    def test_rule_11_is_held(self) -> None:
        self.assertNoticed(11)

    def test_rule_12_is_held(self) -> None:
        self.assertNoticed(12)
