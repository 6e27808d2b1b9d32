"""Why a connection failed, in words: what the other side says is shortened and harmless."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from llamagw.net import WORDS, in_words


class InWordsTests(SynchronousTestCase):
    def test_somebody_elses_words_are_harmless_and_not_many(self) -> None:
        self.assertEqual(
            in_words(ValueError("no \x1b[2J number\n here.")), "no \\x1b[2J number here"
        )
        said = in_words(ValueError("x" * 10_000_000))
        self.assertEqual(said, "x" * (WORDS - 1) + "…")

    def test_without_words_the_kind_is_told(self) -> None:
        self.assertEqual(in_words(ValueError()), "ValueError")
