"""
The contract where memory is counted in bytes, held against whatever can happen.

`ContractTests` plays histories; `MutantTests` shows that they would notice: each replaces a policy
by one that breaks it. What a plan prefers among what the contract allows is in `PlaceTests`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from llamagw.fleet import needs, plan
from llamagw.fleet.actions import Admit, Reject, Start, Stop
from llamagw.fleet.books import Books, Capacity
from llamagw.fleet.model import Model
from llamagw.fleet.plan import _Planning
from llamagw.fleet.scheduler import Scheduler
from llamagw.launch import Need
from tests.support.room import NO_MEMORY, Broken, eviction, history, hold

#: The histories that are played; and until a mutant is noticed, the most.
HISTORIES, MOST = 1500, 8000


GIB = 2**30


def need(group: int = 0, flags: tuple[str, ...] = (), **devices: float) -> Need:
    """Of so many GiB on each device."""
    sizes = {device: round(size * GIB) for device, size in devices.items()}
    return Need(devices=sizes, group=group, flags=flags)


def scheduler(capacity: Mapping[str, float], **models: Sequence[Need]) -> Scheduler:
    """With so many GiB of each device, and what each model takes."""
    made = Scheduler((), limit=99, swap_after=0, max_queue=10)
    made.memory({device: Capacity(round(size * GIB)) for device, size in capacity.items()}, 0)
    for name, places in models.items():
        made.add(name, needs=lambda places=places: places)  # type: ignore[misc]
    return made


def always_one_loads(seed: int = 0) -> None:
    """
    Small models are loaded in turn, so that one is loading at any time, and the others are idle.

    One that takes all of the room waits for it from the beginning.
    """
    small = {f"small{number}": [need(host=5)] for number in range(9)}
    made = scheduler({"host": 10}, big=[need(host=10)], **small)
    for number in (0, 1):
        made.arrived(f"small{number}", number, 1)
    made.loaded("small0", 2)
    made.finished("small0", 3)
    # The second one is loading, the first is idle.
    made.arrived("big", "big", 4)
    for number in range(2, 9):
        actions = made.arrived(f"small{number}", number, 5)
        hold(not actions, "5", f"small{number} overtakes", actions)
    stops = [*made.loaded("small1", 6), *made.finished("small1", 7)]
    gone = [stop.key for stop in stops if isinstance(stop, Stop)]
    hold(gone == ["small0", "small1"], "5", stops)


def a_lease_of_it_ends(seed: int = 0) -> None:
    """A model closes; then one of its leases ends, so that it is the most recently used one."""
    made = scheduler({"host": 10}, a=[need(host=5)], b=[need(host=5)], c=[need(host=5)])
    for now, name in enumerate("ab"):
        made.arrived(name, f"first of {name}", now)
        made.loaded(name, now)
        made.arrived(name, f"second of {name}", now)
    made.arrived("c", "c", 3)
    hold(made.models["a"].closing, "5", "the least recently used one closes")
    made.finished("a", 4)
    made.tick(5)
    hold(made.models["a"].closing and not made.models["b"].closing, "5", "it goes on closing")


class ContractTests(SynchronousTestCase):
    def test_whatever_happens_the_contract_is_kept(self) -> None:
        for seed in range(HISTORIES):
            history(seed)

    def test_each_eviction_helps_and_none_could_have_been_spared(self) -> None:
        for seed in range(HISTORIES // 2):
            eviction(seed)

    def test_who_waits_for_what_is_loading_is_not_overtaken_for_ever(self) -> None:
        always_one_loads()

    def test_the_model_that_closes_stays_the_same_one(self) -> None:
        a_lease_of_it_ends()


class MutantTests(SynchronousTestCase):
    def assertNoticed(
        self, *changes: tuple[object, str, object], by: Callable[[int], None] = history
    ) -> None:
        with ExitStack() as stack:
            for owner, name, broken in changes:
                stack.enter_context(mock.patch.object(owner, name, broken))
            for seed in range(MOST):
                try:
                    by(seed)
                except (Broken, KeyError, ValueError):
                    return
        self.fail("nobody noticed")

    def test_what_stops_is_counted_until_it_is_gone(self) -> None:
        def fits_now(self: _Planning, need: Need | None) -> bool:
            return self.fits(need, self.soon)

        self.assertNoticed((_Planning, "fits_now", fits_now))

    def test_who_is_not_needed_after_all_is_let_off(self) -> None:
        def spared(self: _Planning, chosen: Sequence[Model], *_: object) -> list[Model]:
            return list(chosen)

        self.assertNoticed((_Planning, "spared", spared), by=eviction)

    def test_busy_ones_close_for_who_is_out_of_patience(self) -> None:
        self.assertNoticed((plan, "is_out_of_patience", lambda *_: False))

    def test_room_that_is_set_aside_is_not_given_away(self) -> None:
        self.assertNoticed((_Planning, "set_aside", lambda self, need: None))

    def test_room_is_set_aside_while_those_that_hold_it_load(self) -> None:
        self.assertNoticed((_Planning, "claim", lambda self, need: None), by=always_one_loads)

    def test_who_never_fits_is_told_so(self) -> None:
        self.assertNoticed(
            (plan, "lacks_forever", lambda *_: ()),
            (Scheduler, "_lacks_forever", lambda *_: ()),
        )

    def test_pinned_ones_are_counted_for_who_never_fits(self) -> None:
        self.assertNoticed((needs, "pinned_beside", lambda *_: Books()))

    def test_pinned_ones_stay(self) -> None:
        def may_stop(model: Model) -> bool:
            return model.status.value in ("loading", "ready") and model.idle

        self.assertNoticed((plan, "may_stop", may_stop))

    def test_those_that_are_closing_already_go_first(self) -> None:
        self.assertNoticed(
            (plan, "prefers", lambda model: 0 if model.idle else 1), by=a_lease_of_it_ends
        )

    def test_what_others_hold_is_not_ours(self) -> None:
        self.assertNoticed((Capacity, "room", property(lambda self: self.budget)))

    def test_what_a_run_has_grown_to_is_counted(self) -> None:
        self.assertNoticed((Scheduler, "_grows", lambda *_: False))

    def test_a_charge_never_falls(self) -> None:
        def grows(self: Scheduler, model: Model, devices: Mapping[str, int]) -> bool:
            assert model.charge is not None
            model.charge = Need(
                devices={**model.charge.devices, **devices}, files=model.charge.files
            )
            return True

        self.assertNoticed((Scheduler, "_grows", grows))

    def test_where_too_much_is_held_idle_ones_go(self) -> None:
        self.assertNoticed((_Planning, "relieve", lambda self: None))

    def test_a_load_without_memory_is_tried_again(self) -> None:
        self.assertNoticed((Scheduler, "_is_tried_again", lambda *_: False))

    def test_and_only_once(self) -> None:
        def again(self: Scheduler, model: Model) -> bool:
            return bool(model.waiting) and self._others_could_go(model)

        self.assertNoticed((Scheduler, "_is_tried_again", again))

    def test_a_raised_figure_is_no_more_than_it_can_have(self) -> None:
        def raised(need: Need, to: Mapping[str, int], *_: Any) -> Need:
            more = {device: max(size, to.get(device, 0)) for device, size in need.devices.items()}
            return Need(devices=more, files=need.files)

        self.assertNoticed((needs, "raised", raised))

    def test_max_loaded_models_is_one_more_limit(self) -> None:
        def fits(self: Books, need: Need | None, capacity: Any, limit: int) -> bool:
            return need is None or not self.lacks(need, capacity)

        self.assertNoticed((Books, "fits", fits))

    def test_a_file_counts_once_and_for_all_that_map_it(self) -> None:
        def wants(self: Books, need: Need) -> dict[str, int]:
            return dict(need.devices)

        self.assertNoticed((Books, "wants", wants))


class PlaceTests(SynchronousTestCase):
    def place(self, made: Scheduler, name: str) -> Need | None:
        [start] = made.arrived(name, name, 1)
        assert isinstance(start, Start)
        return start.need

    def test_of_several_gpus_it_is_the_one_with_the_least_room_that_suffices(self) -> None:
        alone = [need(A=6), need(B=6), need(C=6)]
        made = scheduler({"A": 24, "B": 8, "C": 4}, small=alone, large=[need(A=20), need(B=20)])
        self.assertEqual(self.place(made, "small"), alone[1])
        self.assertIsNotNone(self.place(made, "large"))

    def test_it_is_spread_only_if_it_fits_on_none(self) -> None:
        spread = need(group=1, A=10, B=10)
        made = scheduler({"A": 12, "B": 12}, big=[need(A=20), need(B=20), spread])
        self.assertEqual(self.place(made, "big"), spread)

    def test_of_several_gpus_room_is_made_where_the_least_recently_used_one_is(self) -> None:
        places = [need(gpu0=10), need(gpu1=10)]
        made = scheduler({"gpu0": 10, "gpu1": 10}, a=places, b=places, c=places)
        for now, name in enumerate("ab"):
            made.arrived(name, name, now)
            made.loaded(name, now)
            made.finished(name, now)
        made.arrived("a", "again", 2)
        made.finished("a", 3)
        self.assertEqual(made.arrived("c", "c", 4), [Stop("b")])

    def test_as_many_layers_as_fit_now_before_anything_is_evicted(self) -> None:
        half = need(group=1, A=5, host=5)
        made = scheduler({"A": 12, "host": 20}, a=[need(A=6)], auto=[need(A=10), half])
        self.place(made, "a")
        made.loaded("a", 2)
        made.finished("a", 3)
        self.assertEqual(self.place(made, "auto"), half)

    def test_who_fits_beside_others_lets_them_stay(self) -> None:
        made = scheduler({"host": 10}, a=[need(host=4)], b=[need(host=4)], c=[need(host=2)])
        for name in "abc":
            self.assertIsNotNone(self.place(made, name))

    def test_two_models_of_one_file_hold_its_weights_once(self) -> None:
        weights = {"8:15": 6 * GIB}
        both = [Need(devices={"host": GIB}, files=weights)]
        made = scheduler({"host": 9}, a=both, b=both, c=[need(host=2)])
        self.assertIsNotNone(self.place(made, "a"))
        self.assertIsNotNone(self.place(made, "b"))
        self.assertEqual(made.arrived("c", "c", 2), [])

    def test_of_a_file_that_two_models_map_the_larger_part_counts(self) -> None:
        less, more = (Need(devices={}, files={"8:15": size * GIB}) for size in (2, 6))
        made = scheduler({"host": 7}, less=[less], more=[more], c=[need(host=2)])
        self.assertIsNotNone(self.place(made, "less"))
        self.assertIsNotNone(self.place(made, "more"))
        self.assertEqual(made.arrived("c", "c", 2), [])

    def test_a_model_without_figures_is_not_counted(self) -> None:
        made = scheduler({"host": 1}, unknown=[], other=[need(host=1)])
        self.assertIsNone(self.place(made, "unknown"))
        self.assertIsNotNone(self.place(made, "other"))

    def test_one_that_never_fits_is_refused_with_the_figures(self) -> None:
        made = scheduler({"host": 10}, big=[need(host=12)])
        [reject] = made.arrived("big", "ticket", 1)
        assert isinstance(reject, Reject)
        self.assertIn("big", reject.error.message)

    def test_if_asked_for_all_the_same_it_gets_what_there_is(self) -> None:
        made = scheduler({"host": 10}, big=[need(host=12)], idle=[need(host=4)])
        self.place(made, "idle")
        made.loaded("idle", 2)
        made.finished("idle", 3)
        self.assertEqual(made.arrived("big", "ticket", 4, anyway=True), [Stop("idle")])
        [start] = made.exited("idle", None, 5)
        assert isinstance(start, Start)
        assert start.need is not None
        self.assertEqual(start.need.devices, {"host": 10 * GIB})
        self.assertEqual(made.loaded("big", 6), [Admit("ticket")])
        made.finished("big", 7)
        self.assertEqual(made.tick(8), [])

    def test_a_load_without_memory_has_others_go_and_is_tried_again(self) -> None:
        made = scheduler({"host": 10}, a=[need(host=4)], b=[need(host=5)])
        self.place(made, "a")
        made.loaded("a", 2)
        made.finished("a", 3)
        self.place(made, "b")
        self.assertEqual(made.exited("b", NO_MEMORY, 4, out_of_memory=True), [Stop("a")])
        [start] = made.exited("a", None, 5)
        assert isinstance(start, Start)
        assert start.need is not None
        self.assertEqual(start.need.devices["host"], 5 * GIB * 5 // 4)
        [reject] = made.exited("b", NO_MEMORY, 6, out_of_memory=True)
        self.assertIsInstance(reject, Reject)

    def test_counting_begins_with_what_is_in_memory_already(self) -> None:
        made = Scheduler((), limit=9, swap_after=0, max_queue=10)
        for name in "ab":
            made.add(name, needs=lambda: [need(host=6)])
        made.arrived("a", "a", 1)
        made.loaded("a", 2)
        made.memory({"host": Capacity(10 * GIB)}, 3)
        self.assertEqual(made.arrived("b", "b", 4), [])
        self.assertTrue(made.models["a"].closing)

    def test_without_counting_bytes_decide_nothing(self) -> None:
        made = scheduler({"host": 10}, a=[need(host=9)], b=[need(host=9)])
        made.memory(None, 0)
        made.room.limit = 2
        for name in "ab":
            self.assertIsNone(self.place(made, name))
