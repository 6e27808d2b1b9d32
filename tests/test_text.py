"""Text of unknown origin: what a terminal would act upon is written out."""

from __future__ import annotations

import unicodedata

from twisted.trial.unittest import SynchronousTestCase

from llamagw.text import harmless


class HarmlessTests(SynchronousTestCase):
    def test_ordinary_text_stays_as_it_is(self) -> None:
        for text in (
            "",
            "a\tb",
            "wörld, 日本語",
            "\u0645\u06cc\u200c\u062e",
            "👩\u200d🔬",
            "\\x1b",
        ):
            self.assertEqual(harmless(text), text)

    def test_escapes_and_line_ends_are_written_out(self) -> None:
        said = harmless("\x1b]0;title\x07\r\nforged\x9b\x7f\u2028\u202e\U000e0041")
        self.assertEqual(
            said, "\\x1b]0;title\\x07\\x0d\\x0aforged\\x9b\\x7f\\u2028\\u202e\\U000e0041"
        )

    def test_no_control_character_is_left(self) -> None:
        for number in range(0x110000):
            if chr(number) != "\t" and unicodedata.category(chr(number)) in ("Cc", "Zl", "Zp"):
                self.assertTrue(harmless(chr(number)).isascii(), hex(number))
        for bidi in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":
            self.assertTrue(harmless(bidi).isascii(), hex(ord(bidi)))

    def test_it_can_always_be_encoded(self) -> None:
        self.assertEqual(harmless("a\ud800b").encode(), b"a\\ud800b")

    def test_what_is_too_long_is_shortened(self) -> None:
        self.assertEqual(harmless("x" * 10, 10), "x" * 10)
        self.assertEqual(harmless("x" * 11, 10), "x" * 9 + "…")
        self.assertEqual(harmless("\x1b" * 1_000_000, 10), "\\x1b\\x1b\\…")
