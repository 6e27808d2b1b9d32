"""How long loads have taken: kept across restarts, and shared by gateways side by side."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from llamagw.launch.durations import KEPT_LOADS, KEPT_MODELS, Durations
from llamagw.launch.leftovers import Leftovers
from tests.support.configs import local_model
from tests.support.logs import events_of

A, B = local_model("a", "/a.gguf"), local_model("b", "/b.gguf")


class DurationsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.file = self.folder / "loads.json"

    def durations(self) -> Durations:
        """Those of a gateway that has just been started."""
        return Durations(str(self.folder))

    def test_of_a_model_that_was_never_loaded_nothing_is_known(self) -> None:
        self.assertIsNone(self.durations().usual(A))

    def test_the_usual_time_is_the_median_of_the_last_ones(self) -> None:
        durations = self.durations()
        for seconds in (1.0, 90.0, 2.0):
            durations.add(A, seconds)
        self.assertEqual(durations.usual(A), 2)
        for _ in range(KEPT_LOADS):
            durations.add(A, 7.0)
        self.assertEqual(durations.usual(A), 7)
        self.assertEqual(self.file.read_text().count("7.0"), KEPT_LOADS)

    def test_a_restart_forgets_nothing(self) -> None:
        self.durations().add(A, 12.34567)
        self.assertEqual(self.durations().usual(A), 12.346)
        self.assertEqual(os.listdir(self.folder), ["loads.json"])

    def test_another_file_or_another_part_on_the_gpu_is_another_load(self) -> None:
        durations = self.durations()
        durations.add(A, 5)
        self.assertIsNone(durations.usual(local_model("a", "/other.gguf")))
        self.assertIsNone(durations.usual(local_model("a", "/a.gguf", gpu_layers=5)))
        self.assertEqual(durations.usual(local_model("a", "/a.gguf", context_size=9)), 5)

    def test_gateways_side_by_side_do_not_forget_each_other_s(self) -> None:
        first, second = self.durations(), self.durations()
        self.assertIsNone(first.usual(B))
        first.add(A, 1)
        second.add(B, 2)
        first.add(A, 3)
        self.assertEqual((first.usual(A), first.usual(B)), (2, 2))
        self.assertEqual(self.durations().usual(B), 2)

    def test_the_models_that_were_not_loaded_for_the_longest_are_dropped(self) -> None:
        durations = Durations()
        for number in range(KEPT_MODELS):
            durations.add(local_model(f"m{number}"), 1)
        durations.add(local_model("m0"), 1)
        durations.add(A, 1)
        self.assertEqual(durations.usual(local_model("m0")), 1)
        self.assertIsNone(durations.usual(local_model("m1")))
        self.assertEqual(durations.usual(local_model("m2")), 1)

    def test_a_damaged_file_is_ignored_with_one_line_and_replaced_by_the_next_load(self) -> None:
        events = events_of(self)
        self.folder.mkdir(mode=0o700)
        one = '[{"name": "a", "model_path": "/a.gguf", "gpu_layers": 0, "seconds": %s}]'
        for content in (
            *("", "{", "[[[[" * 100_000, '[{"name": "a"}]', "\udcff"),
            *(one % seconds for seconds in ("[]", '["x"]', "[-1]", "[1e99]", "[NaN]", "null")),
        ):
            self.file.write_bytes(content.encode(errors="surrogateescape"))
            events.clear()
            durations = self.durations()
            self.assertIsNone(durations.usual(A), content[:50])
            durations.add(A, 4)
            self.assertEqual(durations.usual(A), 4)
            self.assertEqual(self.durations().usual(A), 4)
            self.assertEqual(len(events), 1, content[:50])

    def test_a_folder_of_others_is_not_used(self) -> None:
        self.durations().add(A, 1)
        self.folder.chmod(0o777)
        durations = self.durations()
        self.assertIsNone(durations.usual(A))
        durations.add(A, 9)
        self.assertEqual(durations.usual(A), 9, "it is known until the gateway ends")
        self.folder.chmod(0o700)
        self.assertEqual(self.durations().usual(A), 1)

    def test_a_folder_that_is_cleaned_up_meanwhile_costs_nothing_but_the_others_times(self) -> None:
        durations = self.durations()
        durations.add(A, 1)
        self.file.unlink()
        durations.add(B, 2)
        self.assertEqual(self.durations().usual(A), 1)

    def test_it_is_no_file_of_a_gateway_that_has_ended(self) -> None:
        self.durations().add(A, 1)
        Leftovers(str(self.folder)).clean_up()
        self.assertTrue(self.file.exists())
