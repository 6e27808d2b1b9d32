"""What loads took in memory: kept across restarts, and shared by gateways side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.trial.unittest import SynchronousTestCase

from llamagw.models import HOST, MOST, Held, Learned
from llamagw.models.learned import DECAY, KEPT
from tests.support.logs import events_of

MIB = 2**20
SMALL = {HOST: Held(model=5 * MIB, kv=90 * MIB, compute=17 * MIB, base=20 * MIB)}
OWN = 132 * MIB


class LearnedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.file = self.folder / "memory.json"
        self.now = 1_000_000.0

    def learned(self) -> Learned:
        """Those of a gateway that has just been started."""
        return Learned(str(self.folder), lambda: self.now)

    def need(self, key: str = "a", cache: int = 0) -> dict[str, int] | None:
        found = self.learned().of(key)
        return None if found is None else found.need(cache)

    def test_of_what_was_never_loaded_nothing_is_known(self) -> None:
        self.assertIsNone(self.learned().of("a"))
        self.assertIsNone(self.learned().of(""))

    def test_a_load_is_known_after_a_restart(self) -> None:
        gpu = Held(model=300 * MIB, compute=8 * MIB)
        self.learned().add("a", {**SMALL, "CUDA0": gpu})
        self.now += 60
        figure = self.learned().of("a")
        assert figure is not None
        self.assertEqual(figure.devices, {HOST: OWN, "CUDA0": 308 * MIB})
        self.assertEqual(figure.partial, {"CUDA0"}, "of which the driver did not tell all")
        self.assertEqual((figure.when, figure.loads), (1_000_000, 1))
        self.assertEqual(os.listdir(self.folder), ["memory.json"])

    def test_the_last_load_counts(self) -> None:
        self.learned().add("a", SMALL)
        self.learned().add("a", {HOST: Held(kv=7, base=1)})
        figure = self.learned().of("a")
        assert figure is not None
        self.assertEqual((figure.devices, figure.loads), ({HOST: 8}, 2))

    def test_another_key_is_another_load(self) -> None:
        self.learned().add("a", SMALL)
        self.assertIsNone(self.learned().of("b"))

    def test_the_cache_of_prompts_is_added_in_full_and_counted_once(self) -> None:
        cache = 512 * MIB
        self.learned().add("a", SMALL)
        self.assertEqual(self.need(cache=cache), {HOST: OWN + cache})
        # It has filled in use: that is no more than what was counted.
        self.learned().raise_to("a", {HOST: OWN + cache - MIB})
        self.assertEqual(self.need(cache=cache), {HOST: OWN + cache})
        self.learned().raise_to("a", {HOST: OWN + cache + MIB})
        self.assertEqual(self.need(cache=cache), {HOST: OWN + cache + MIB})

    def test_a_peak_comes_down_slowly_with_each_load(self) -> None:
        self.learned().add("a", SMALL)
        self.learned().raise_to("a", {HOST: OWN + 1000 * MIB})
        above = 1000.0 * MIB
        for _ in range(3):
            self.learned().add("a", SMALL)
            above *= 1 - DECAY
            self.assertEqual(self.need(), {HOST: pytest.approx(OWN + above, abs=4)})
        for _ in range(600):
            self.learned().add("a", SMALL)
        self.assertEqual(self.need(), {HOST: pytest.approx(OWN, abs=20)})

    def test_what_was_too_little_is_known_before_any_load_has_told(self) -> None:
        self.learned().raise_to("a", {HOST: 5 * MIB})
        figure = self.learned().of("a")
        assert figure is not None
        self.assertEqual((figure.devices, figure.loads, figure.need(9)), ({}, 0, {HOST: 5 * MIB}))
        self.learned().raise_to("a", {HOST: MIB})
        self.assertEqual(self.need(), {HOST: 5 * MIB}, "it never falls by that")

    def test_no_figure_is_larger_than_any_machine(self) -> None:
        self.learned().add("a", {HOST: Held(model=2**80, kv=2**80, base=2**80)})
        self.learned().raise_to("a", {HOST: 2**90})
        self.assertEqual(self.need(), {HOST: 3 * MOST})

    def test_gateways_side_by_side_do_not_forget_each_other_s(self) -> None:
        first, second = self.learned(), self.learned()
        self.assertIsNone(first.of("b"))
        first.add("a", SMALL)
        second.add("b", SMALL)
        first.add("a", SMALL)
        self.assertIsNotNone(first.of("b"))
        self.assertEqual(self.need("b"), {HOST: OWN})

    def test_those_not_used_for_the_longest_are_dropped(self) -> None:
        learned = Learned()
        for number in range(KEPT):
            learned.add(str(number), SMALL)
        learned.raise_to("0", {HOST: 2 * OWN})
        learned.add("a", SMALL)
        self.assertIsNotNone(learned.of("0"))
        self.assertIsNone(learned.of("1"))
        self.assertIsNotNone(learned.of("2"))

    def test_a_damaged_file_is_ignored_with_one_line_and_replaced_by_the_next_load(self) -> None:
        events = events_of(self)
        self.folder.mkdir(mode=0o700)
        for content in (
            *(b"", b"{", b"[[[[" * 100_000, b"\xff", b"null", b"\x00" * 100),
            # Valid, but for its size: it is not ours.
            b"[" + b" " * 2**23 + b"]",
        ):
            self.file.write_bytes(content)
            events.clear()
            learned = self.learned()
            self.assertIsNone(learned.of("a"), content[:50])
            learned.add("a", SMALL)
            self.assertEqual(self.need(), {HOST: OWN}, content[:50])
            self.assertEqual(len(events), 1, content[:50])

    def test_a_damaged_or_foreign_entry_is_ignored_and_the_others_are_not(self) -> None:
        events = events_of(self)
        self.learned().add("good", SMALL)
        [good] = msgspec.json.decode(self.file.read_bytes())
        changes: tuple[dict[str, Any], ...] = (
            *({"version": 2}, {"key": ""}, {"key": "k" * 201}, {"when": -1}, {"loads": -1}),
            *({"devices": {"x" * 65: {}}}, {"devices": {HOST: {"kv": -1}}}),
            *({"devices": {HOST: {"kv": 2**60}}}, {"devices": {HOST: {"kv": 1.5}}}),
            {"devices": {f"G{number}": {} for number in range(33)}},
        )
        for change in changes:
            self.file.write_bytes(msgspec.json.encode([{**good, "key": "a", **change}, good]))
            events.clear()
            learned = self.learned()
            self.assertIsNone(learned.of("a"), change)
            self.assertIsNotNone(learned.of("good"), change)
            self.assertEqual(len(events), 1, change)

    def test_a_folder_of_others_is_not_used(self) -> None:
        self.learned().add("a", SMALL)
        self.folder.chmod(0o777)
        learned = self.learned()
        self.assertIsNone(learned.of("a"))
        learned.add("a", SMALL)
        self.assertIsNotNone(learned.of("a"), "it is known until the gateway ends")
