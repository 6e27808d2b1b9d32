"""
Tokens and timings that an answer tells, read once from the bytes that were kept of it.

Knows the forms of OpenAI's, Anthropic's and llama-server's own answers, streamed or not. Which
bytes are kept is for the relay; nothing here is called while an answer passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Struct

#: Maximum number of bytes of an answer's end that are looked at.
TAIL = 64 * 1024

#: Maximum size of an error in which its reason is looked for, in bytes.
MOST_ERROR = 16 * 1024

#: Maximum size of one object that is read, in bytes, and of objects in it.
_OBJECT, _INNER = 2000, 6

#: Maximum number of blanks between a key and its object.
_BLANKS = 4

_COUNT = int | float | None


class Usage(Struct, kw_only=True):
    """
    What an answer tells of its tokens.

    :ivar prompt: number of tokens of the prompt, cached ones included; None if it is not told
    :ivar cached: how many of them were not computed again
    :ivar completion: number of generated tokens
    :ivar prompt_sec: seconds that the prompt took
    :ivar completion_sec: seconds that generating took
    """

    prompt: int | None = None
    cached: int | None = None
    completion: int | None = None
    prompt_sec: float | None = None
    completion_sec: float | None = None


class _Error(Struct):
    message: str = ""


class _Failed(Struct):
    """An engine's answer with an error."""

    error: _Error | str | None = None


class _Details(Struct):
    cached_tokens: _COUNT = None


class _Usage(Struct):
    """OpenAI's chat and completions, its responses, and Anthropic's messages."""

    prompt_tokens: _COUNT = None
    completion_tokens: _COUNT = None
    prompt_tokens_details: _Details | None = None
    input_tokens: _COUNT = None
    output_tokens: _COUNT = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: _COUNT = None


class _Timings(Struct):
    """llama-server's own."""

    cache_n: _COUNT = None
    prompt_n: _COUNT = None
    prompt_ms: _COUNT = None
    predicted_n: _COUNT = None
    predicted_ms: _COUNT = None


_usage = msgspec.json.Decoder(_Usage).decode
_timings = msgspec.json.Decoder(_Timings).decode
_failed = msgspec.json.Decoder(_Failed).decode


_T = TypeVar("_T")


def usage_of(first: bytes, tail: bytes) -> Usage:
    """
    What an answer tells of its tokens; never fails.

    :param first: the first bytes of the body: Anthropic's streams count the prompt there
    :param tail: the last bytes of the body, of which `TAIL` are read; may begin anywhere
    """
    usage = Usage()
    tail = tail[-TAIL:]
    # Looked for here as well, since most answers of other kinds have neither.
    told = _last(tail, b'"usage":', _usage) if b'"usage":' in tail else None
    if told is not None:
        _count_tokens(usage, told)
    timings = _last(tail, b'"timings":', _timings) if b'"timings":' in tail else None
    if timings is not None:
        usage.prompt_sec = _seconds(timings.prompt_ms)
        usage.completion_sec = _seconds(timings.predicted_ms)
        if told is None:
            usage.cached = _count(timings.cache_n) or 0
            computed = _count(timings.prompt_n)
            usage.prompt = None if computed is None else computed + usage.cached
            usage.completion = _count(timings.predicted_n)
    elif told is not None and usage.prompt is None:
        begun = _last(first[:TAIL], b'"usage":', _usage)
        if begun is not None:
            completion = usage.completion
            _count_tokens(usage, begun)
            usage.completion = completion
    return usage


def reason_of(body: bytes) -> str:
    """The message of an engine's error; "" if it has none, or is longer than `MOST_ERROR`."""
    if len(body) > MOST_ERROR:
        return ""
    try:
        error = _failed(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return (error.message if isinstance(error, _Error) else error) or ""


def _last(data: bytes, key: bytes, decode: Callable[[bytes], _T]) -> _T | None:
    """
    The object behind the last occurrence of a key.

    Within a text of the answer the key's quotes would be escaped, so it is not found there.
    """
    at = data.rfind(key) + len(key)
    begin = data.find(b"{", at, at + _BLANKS)
    if at < len(key) or begin < 0:
        return None
    found = data[begin : begin + _OBJECT]
    end = found.find(b"}")
    for _ in range(_INNER):
        if found.count(b"{", 0, end + 1) == found.count(b"}", 0, end + 1):
            break
        end = found.find(b"}", end + 1)
    try:
        return decode(found[: end + 1])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _count_tokens(usage: Usage, told: _Usage) -> None:
    details = told.prompt_tokens_details or told.input_tokens_details
    if told.prompt_tokens is not None or details is not None:
        usage.cached = _count(details.cached_tokens) if details else None
        usage.prompt = _count(told.prompt_tokens or told.input_tokens)
    elif told.input_tokens is not None:
        # Anthropic's count leaves out what was cached.
        usage.cached = _count(told.cache_read_input_tokens)
        usage.prompt = (_count(told.input_tokens) or 0) + (usage.cached or 0)
    usage.completion = _count(told.completion_tokens)
    if usage.completion is None:
        usage.completion = _count(told.output_tokens)


#: More tokens or milliseconds than this are no count: 2**53 is where JSON numbers become inexact.
_MOST = 2**53


def _count(value: float | None) -> int | None:
    return int(value) if value is not None and 0 <= value <= _MOST else None


def _seconds(value: float | None) -> float | None:
    return value / 1000 if value is not None and 0 <= value <= _MOST else None
