"""
What OpenTelemetry wants of a request that its record does not have: the ids of its spans, and what
only the bodies tell.

Made at the request's head while something is exported, else there is none. What becomes of it is
for otel.py; nothing of the SDK is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from llamagw.observe.capture import Captured

#: Bytes of either body that are kept to be exported.
MOST_CONTENT = 64 * 1024

#: Maximum size, in bytes, of a request's body in which its parameters are looked for.
MOST_BODY = 1024 * 1024

#: Reasons of an answer's choices at most.
MOST_REASONS = 16

#: The id of an answer, as the makers of engines and their clients form it; those of tool calls
#: look alike but for the beginning. Within a text of the answer the quotes would be escaped.
_ID = re.compile(rb'"id":\s?"((?:chatcmpl|cmpl|msg|resp)[-_][0-9A-Za-z_-]{1,128})"')
_REASON = re.compile(rb'"(?:finish_reason|stop_reason)":\s?"([a-z_]{1,40})"')

#: Numbers that are no count of tokens are left out.
_MOST_TOKENS = 2**53


class _Asked(Struct):
    """The keys of a body that limit its answer."""

    max_tokens: int | float | None = None
    max_completion_tokens: int | float | None = None
    max_output_tokens: int | float | None = None
    n_predict: int | float | None = None


_asked = msgspec.json.Decoder(_Asked).decode


class Trace:
    """
    The spans of one request.

    :ivar trace_id: of all of them
    :ivar span_id: of the request's own span
    :ivar upstream_id: of the span of what is sent to the engine
    :ivar sampled: whether they are exported; if not, nothing more is noted
    :ivar parent: the client's span, as the SDK has it; None without one
    :ivar position: in the queue of the model when it joined it, from 1; 0 if it did not wait
    :ivar max_tokens: the limit that the request gives; None without one
    :ivar response_id: the answer's; "" if it is not told
    :ivar reasons: why the answer's choices ended, each once
    :ivar keeps_content: whether prompt and answer are exported too
    :ivar content: these
    """

    # No Struct: a record is packed, and this is not (activity.py).
    __slots__ = (
        "content",
        "keeps_content",
        "max_tokens",
        "parent",
        "position",
        "reasons",
        "response_id",
        "sampled",
        "span_id",
        "trace_id",
        "upstream_id",
    )

    def __init__(
        self,
        trace_id: int,
        span_id: int,
        upstream_id: int,
        sampled: bool,
        parent: Any = None,
        keeps_content: bool = False,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.upstream_id = upstream_id
        self.sampled = sampled
        self.parent = parent
        self.keeps_content = keeps_content
        self.position = 0
        self.max_tokens: int | None = None
        self.response_id = ""
        self.reasons: Sequence[str] = ()
        self.content: Captured | None = None

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id:032x}{'' if self.sampled else ', not sampled'}>"

    @property
    def header(self) -> bytes:
        """The line ``traceparent`` for the engine: its parent is the upstream span."""
        return b"traceparent: 00-%032x-%016x-%02x\r\n" % (
            self.trace_id,
            self.upstream_id,
            self.sampled,
        )

    def asked(self, target: bytes, body: bytes, captured: Captured | None) -> Captured | None:
        """
        Note what a request's body asks for; never fails.

        :param target: path and query
        :param body: the whole body
        :param captured: its content, if that is kept anyway
        :return: its content, if that is kept; takes the answer
        """
        if not self.sampled:
            return captured
        if self.keeps_content:
            self.content = captured = captured or Captured(target, (), body, MOST_CONTENT)
        if len(body) <= MOST_BODY:
            self.max_tokens = _limit(body)
        return captured

    def answered(self, begin: bytes, end: bytes) -> None:
        """
        Note what an answer tells of itself.

        :param begin: the first bytes of its body
        :param end: the last bytes of its body
        """
        if not self.sampled:
            return
        found = _ID.search(begin) or _ID.search(end)
        if found is not None:
            self.response_id = found[1].decode()
        reasons = dict.fromkeys(_REASON.findall(begin) + _REASON.findall(end))
        self.reasons = [reason.decode() for reason in reasons][:MOST_REASONS]


#: Begins the spans of a request; see `llamagw.observe.Telemetry.begin`.
Begin = Callable[[Mapping[bytes, Sequence[bytes]]], Trace]


def _limit(body: bytes) -> int | None:
    """The number of tokens that an answer may have; None if a body gives none."""
    try:
        found = _asked(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    given = (
        found.max_tokens,
        found.max_completion_tokens,
        found.max_output_tokens,
        found.n_predict,
    )
    limit = next((value for value in given if value is not None), None)
    return int(limit) if limit is not None and 0 <= limit <= _MOST_TOKENS else None
