"""Promises of llamagw.observe.usage: the tokens of an answer, whatever API it is of."""

from __future__ import annotations

import json

import pytest

from llamagw.observe.usage import TAIL, Usage, usage_of

#: The ends of real answers of build 10068, shortened in front.
TIMINGS = (
    b'"timings":{"cache_n":31,"prompt_n":1,"prompt_ms":250.0,"prompt_per_token_ms":250.0,'
    b'"prompt_per_second":4.0,"predicted_n":5,"predicted_ms":500.0,"predicted_per_token_ms":100.0,'
    b'"predicted_per_second":10.0}}'
)
CHAT = (
    b'"object":"chat.completion","usage":{"completion_tokens":5,"prompt_tokens":32,'
    b'"total_tokens":37,"prompt_tokens_details":{"cached_tokens":31}},"id":"chatcmpl-x",' + TIMINGS
)
CHAT_STREAM = (
    b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"id":"x",'
    + TIMINGS
    + b"\n\ndata: [DONE]\n\n"
)
MESSAGE = (
    b'"stop_sequence":null,"usage":{"cache_read_input_tokens":31,"input_tokens":1,'
    b'"output_tokens":5}}'
)
MESSAGE_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"x","content":[],'
    b'"usage":{"cache_read_input_tokens":31,"input_tokens":1,"output_tokens":0}}}\n\n'
)
MESSAGE_END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"max_tokens"},'
    b'"usage":{"output_tokens":5}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)
RESPONSE = (
    b'"status":"completed","usage":{"input_tokens":32,"output_tokens":5,"total_tokens":37,'
    b'"input_tokens_details":{"cached_tokens":31}}}'
)
EMBEDDINGS = b'],"index":0}],"usage":{"prompt_tokens":32,"total_tokens":32}}'

COUNTED = Usage(prompt=32, cached=31, completion=5)
TIMED = Usage(prompt=32, cached=31, completion=5, prompt_sec=0.25, completion_sec=0.5)


@pytest.mark.parametrize(
    ("first", "tail", "usage"),
    [
        (b"", CHAT, TIMED),
        (b"", CHAT_STREAM, TIMED),
        (b"", MESSAGE, COUNTED),
        (MESSAGE_START, MESSAGE_END, COUNTED),
        (b"", RESPONSE, COUNTED),
        (b"", b'"tokens_cached":5,' + TIMINGS, TIMED),
        (b"", EMBEDDINGS, Usage(prompt=32)),
        (b"", b'{"error":{"message":"no"}}', Usage()),
        (b"", b"", Usage()),
    ],
    ids=["chat", "stream", "message", "messages", "response", "native", "embeddings", "err", ""],
)
def test_the_tokens_of_each_api_are_usage_of(first: bytes, tail: bytes, usage: Usage) -> None:
    assert usage_of(first, tail) == usage


def test_what_a_model_writes_is_no_usage() -> None:
    said = json.dumps({"content": '"usage":{"prompt_tokens":7},"timings":{"prompt_n":7}'}).encode()
    assert usage_of(said, said) == Usage()


@pytest.mark.parametrize(
    "tail",
    [
        b'"usage":{',
        b'"usage":{"prompt_tokens":"many"}',
        b'"usage":{"prompt_tokens":-1,"completion_tokens":1e300}',
        b'"usage":{"prompt_tokens":\xff}',
        b'"usage":' + b"{" * TAIL,
        b'"timings":{"prompt_ms":-5,"prompt_n":null,"predicted_ms":1e308}',
        b'"timings":{}}}}}',
    ],
)
def test_what_is_no_count_is_left_out(tail: bytes) -> None:
    usage = usage_of(tail, tail)
    assert (usage.prompt, usage.completion, usage.prompt_sec) == (None, None, None)
