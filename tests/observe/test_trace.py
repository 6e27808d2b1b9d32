"""Promises of what is noted of a request for its spans."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from llamagw.observe import Captured, Trace
from llamagw.observe.trace import MOST_BODY, MOST_CONTENT, MOST_REASONS


def trace(sampled: bool = True) -> Trace:
    return Trace(trace_id=0xA, span_id=0xB, upstream_id=0xC, sampled=sampled)


class TraceTests(SynchronousTestCase):
    def limit(self, body: bytes) -> int | None:
        found = trace()
        found.asked(b"/", body, None)
        return found.max_tokens

    def told(self, begin: bytes, end: bytes = b"") -> tuple[str, list[str]]:
        found = trace()
        found.answered(begin, end)
        return found.response_id, [*found.reasons]

    def test_the_engine_s_parent_is_the_upstream_span(self) -> None:
        head = f"traceparent: 00-{'a':0>32}-{'c':0>16}"
        self.assertEqual(trace().header.decode(), f"{head}-01\r\n")
        self.assertEqual(trace(sampled=False).header.decode(), f"{head}-00\r\n")

    def test_the_limit_of_an_answer_is_read_by_any_of_its_names(self) -> None:
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"):
            self.assertEqual(self.limit(b'{"model": "a", "%b": 12}' % name.encode()), 12)

    def test_a_body_that_is_odd_limits_nothing(self) -> None:
        for body in (
            b"",
            b"[]",
            b'{"max_tokens": "12"}',
            b'{"max_tokens": -1}',
            b'{"max_tokens": 1e300}',
            b'{"messages": [{"content": "\\"max_tokens\\": 12"}]}',
            b'{"max_tokens": 12, "x": "' + b"x" * MOST_BODY + b'"}',
            b"[" * 100_000,
        ):
            self.assertIsNone(self.limit(body), body[:40])

    def test_id_and_reasons_are_read_at_both_ends(self) -> None:
        self.assertEqual(
            self.told(
                b'{"choices":[{"finish_reason":"stop"},{"finish_reason":"length"}],',
                b'"usage":{},"id":"chatcmpl-x1"}',
            ),
            ("chatcmpl-x1", ["stop", "length"]),
        )
        self.assertEqual(
            self.told(b'"id": "msg_7"', b'"stop_reason": "end_turn"'), ("msg_7", ["end_turn"])
        )

    def test_what_an_answer_says_in_its_text_is_none_of_it(self) -> None:
        said = b'{"content":"\\"id\\":\\"cmpl-1\\", \\"finish_reason\\":\\"stop\\""}'
        self.assertEqual(self.told(said), ("", []))
        self.assertEqual(self.told(b'"tool_calls":[{"id":"call_1"}],"id":"cmpl-2"')[0], "cmpl-2")

    def test_what_is_kept_is_bounded(self) -> None:
        reasons = b",".join(
            b'"finish_reason":"%b"' % bytes([97 + n // 26, 97 + n % 26]) for n in range(99)
        )
        self.assertEqual(len(self.told(reasons)[1]), MOST_REASONS)
        self.assertEqual(self.told(b'"id":"cmpl-%b"' % (b"x" * 500)), ("", []))

    def test_content_is_kept_only_if_it_is_wanted(self) -> None:
        body = b'{"prompt": "' + b"x" * 2 * MOST_CONTENT + b'"}'
        found = trace()
        found.asked(b"/", body, None)
        self.assertIsNone(found.content)
        found.keeps_content = True
        found.asked(b"/", body, None)
        assert found.content is not None
        self.assertEqual(len(found.content.told()["request"]["body"]), MOST_CONTENT)
        captured = Captured(b"/", (), b"", 1)
        self.assertIs(found.asked(b"/", body, captured), captured)
        self.assertIs(found.content, captured, "it is not kept twice")
        self.assertIs(trace(sampled=False).asked(b"/", body, captured), captured)

    def test_nothing_is_noted_for_spans_that_are_not_exported(self) -> None:
        found = trace(sampled=False)
        found.keeps_content = True
        found.asked(b"/", b'{"max_tokens": 12}', None)
        found.answered(b'"id":"cmpl-1","finish_reason":"stop"', b"")
        known = found.content, found.max_tokens, found.response_id, [*found.reasons]
        self.assertEqual(known, (None, None, "", []))
