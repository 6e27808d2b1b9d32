"""
Tokens and timings that an answer tells, read once from the bytes that were kept of it.

Knows the forms of OpenAI's, Anthropic's and llama-server's own answers, streamed or not. Which
bytes are kept is for the relay; nothing here is called while an answer passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

#: Maximum number of bytes of an answer's end that are looked at.
TAIL = 64 * 1024

#: Maximum size of an error in which its reason is looked for, in bytes.
MOST_ERROR = 16 * 1024

#: Maximum size of one object that is read, in bytes, and of objects in it.
_OBJECT, _INNER = 2000, 6

#: Maximum number of blanks between a key and its object.
_BLANKS = 4

#: More tokens or milliseconds than this are no count: 2**53 is where JSON numbers become inexact.
_MOST = 2**53

_Count = Annotated[int, Meta(ge=0, le=_MOST)] | None
_Milliseconds = Annotated[float, Meta(ge=0, le=_MOST)] | None


class Usage(Struct, kw_only=True, gc=False):
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
    cached_tokens: _Count = None


class _Usage(Struct):
    """OpenAI's chat and completions, its responses, and Anthropic's messages."""

    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    prompt_tokens_details: _Details | None = None
    input_tokens: _Count = None
    output_tokens: _Count = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: _Count = None


class _Timings(Struct):
    """llama-server's own."""

    cache_n: _Count = None
    prompt_n: _Count = None
    prompt_ms: _Milliseconds = None
    predicted_n: _Count = None
    predicted_ms: _Milliseconds = None


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
    if len(tail) > TAIL:
        tail = tail[-TAIL:]
    told = None
    at = tail.rfind(b'"usage":')
    if at >= 0:
        told = _object(tail, at + 8, _usage)
        if told is not None:
            _count_tokens(usage, told)
    at = tail.rfind(b'"timings":')
    timings = _object(tail, at + 10, _timings) if at >= 0 else None
    if timings is not None:
        if timings.prompt_ms is not None:
            usage.prompt_sec = timings.prompt_ms / 1000
        if timings.predicted_ms is not None:
            usage.completion_sec = timings.predicted_ms / 1000
        if told is None:
            usage.cached = timings.cache_n or 0
            if timings.prompt_n is not None:
                usage.prompt = timings.prompt_n + usage.cached
            usage.completion = timings.predicted_n
    elif told is not None and usage.prompt is None:
        at = first.rfind(b'"usage":', 0, TAIL)
        begun = _object(first, at + 8, _usage) if at >= 0 else None
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


def _object(data: bytes, at: int, decode: Callable[[bytes], _T]) -> _T | None:
    """
    The object behind a key; None if it is none that `decode` takes.

    Within a text of the answer the key's quotes would be escaped, so it is not found there.

    :param at: where the key and its colon end
    """
    begin = data.find(b"{", at, at + _BLANKS)
    if begin < 0:
        return None
    most = begin + _OBJECT
    end = data.find(b"}", begin, most)
    inner = begin
    for _ in range(_INNER):
        inner = data.find(b"{", inner + 1, end)
        if inner < 0:
            break
        end = data.find(b"}", end + 1, most)
    try:
        return decode(data[begin : end + 1])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _count_tokens(usage: Usage, told: _Usage) -> None:
    details = told.prompt_tokens_details or told.input_tokens_details
    if told.prompt_tokens is not None or details is not None:
        usage.cached = details.cached_tokens if details else None
        usage.prompt = told.prompt_tokens or told.input_tokens
    elif told.input_tokens is not None:
        # Anthropic's count leaves out what was cached.
        usage.cached = told.cache_read_input_tokens
        usage.prompt = told.input_tokens + (usage.cached or 0)
    usage.completion = told.completion_tokens
    if usage.completion is None:
        usage.completion = told.output_tokens
