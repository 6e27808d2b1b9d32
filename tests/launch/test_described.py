"""How a backend describes its model: what is kept of it, and that it breaks nobody's list."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from llamagw.launch.described import MAX_META, described


class DescribedTests(SynchronousTestCase):
    def said(self, *entries: object, name: str | None = "m") -> dict[str, Any]:
        """What is kept, as it is told to clients."""
        kept = described(json.dumps({"data": entries}).encode(), name)
        told: dict[str, Any] = json.loads(msgspec.json.encode(kept))
        return told

    def test_numbers_and_meta_are_kept_and_nothing_else(self) -> None:
        entry = {"id": "m", "size": 7, "context_size": 5, "meta": {"a": [1, None]}, "more": "x"}
        self.assertEqual(self.said(entry), {"context_size": 5, "size": 7, "meta": {"a": [1, None]}})

    def test_the_context_has_many_names(self) -> None:
        for entry in ({"context_size": 5}, {"meta": {"n_ctx": 5}}, {"max_model_len": 5}):
            self.assertEqual(self.said({"id": "m", **entry})["context_size"], 5)

    def test_the_entry_of_its_name_is_taken_or_the_first(self) -> None:
        entries = [{"id": "a", "size": 1}, {"id": "b", "size": 2}]
        told = [self.said(*entries, name=name) for name in ("b", "c", None)]
        self.assertEqual([one["size"] for one in told], [2, 1, 1])
        self.assertEqual(self.said(), {})

    def test_what_is_no_number_is_left_out(self) -> None:
        wrong: object
        for wrong in ("7", True, None, [7], {}, -1, 2**63, 10**300):
            entry: dict[str, object] = {
                "id": "m",
                "size": wrong,
                "context_size": wrong,
                "max_model_len": 3,
            }
            self.assertEqual(self.said(entry), {"context_size": 3})

    def test_a_meta_that_is_large_is_left_out(self) -> None:
        fits = {"a": "x" * (MAX_META - 8)}
        self.assertEqual(self.said({"id": "m", "meta": fits}), {"meta": fits})
        for large in ({"a": "x" * (MAX_META - 7)}, [1] * MAX_META, "x" * MAX_META):
            self.assertEqual(self.said({"id": "m", "size": 1, "meta": large}), {"size": 1})

    def test_what_could_not_be_told_again_is_not_kept(self) -> None:
        for wrong in (
            b'{"data": [{"id": "m", "meta": {"a": "\\ud800"}}]}',
            b'{"data": [{"id": "m", "meta": {"a": "\xff"}}]}',
            b'{"data": [{"id": "m", "meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
            b'{"data": [{"id": "m", "meta": NaN}]}',
            b'{"data": 1}',
            b'{"data": [1]}',
            b"[]",
            b"",
        ):
            with self.assertRaises((ValueError, TypeError, RecursionError)):
                described(wrong, "m")

    def test_a_number_of_many_digits_breaks_nothing(self) -> None:
        body = b'{"data": [{"id": "m", "size": 1, "meta": {"a": %b}}]}' % (b"9" * 3000)
        try:
            kept = described(body, "m")
        except Exception:
            return
        json.loads(msgspec.json.encode(kept))
