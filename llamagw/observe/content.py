"""
Prompts and answers as attributes of spans, in the form of OpenTelemetry's conventions.

Only for ``otel.content: true``. What comes in is text of unknown origin, cut off somewhere, without
what looks like a key; what is kept of it while a request lasts is for capture.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

#: Characters of an attribute.
MOST = 16 * 1024

#: Messages of one attribute, and parts of a message, at most.
MOST_MESSAGES = 200

_decode = msgspec.json.Decoder().decode


def content(asked: str, answered: str, reasons: Sequence[str] = ()) -> dict[str, str]:
    """
    The attributes.

    :param asked: the beginning of the request's body
    :param answered: the beginning of the answer's
    :param reasons: why its choices ended
    :return: ``gen_ai.input.messages`` and ``gen_ai.output.messages``; for what is none of the known
        forms, or cut off, ``llamagw.request.body`` and ``llamagw.response.body``
    """
    found = {}
    messages = _written(_input(_json(asked)))
    if messages:
        found["gen_ai.input.messages"] = msgspec.json.encode(messages).decode()
    elif asked:
        found["llamagw.request.body"] = asked[:MOST]
    messages = _written(_output(answered))
    for number, message in enumerate(messages):
        # Of choices that ended alike, the reason is known once.
        message["finish_reason"] = reasons[min(number, len(reasons) - 1)] if reasons else ""
    if messages:
        found["gen_ai.output.messages"] = msgspec.json.encode(messages).decode()
    elif answered:
        found["llamagw.response.body"] = answered[:MOST]
    return found


def _written(messages: list[tuple[str, list[str]]]) -> list[dict[str, Any]]:
    """Messages of `MOST` characters in all: the last ones get what room there is."""
    room = MOST
    written: list[dict[str, Any]] = []
    for role, texts in reversed(messages[-MOST_MESSAGES:]):
        parts = []
        for text in texts[:MOST_MESSAGES]:
            parts.append({"type": "text", "content": text[:room]})
            room -= len(parts[-1]["content"])
        written.append({"role": role, "parts": parts})
        if room <= 0:
            break
    return written[::-1]


def _json(text: str) -> Any:
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _input(body: Any) -> list[tuple[str, list[str]]]:
    """Roles and texts of what a request asks; empty if that is not found."""
    if not isinstance(body, dict):
        return []
    messages = []
    for key in ("system", "instructions"):
        if key in body:
            messages.append(("system", [*_texts(body[key])]))
    for key in ("messages", "input", "prompt"):
        given = body.get(key)
        if isinstance(given, list) and all(isinstance(one, dict) for one in given):
            messages += [(_role(one), [*_texts(one.get("content"))]) for one in given]
        elif given is not None:
            messages.append(("user", [*_texts(given)]))
    return [message for message in messages if message[1]]


def _output(body: str) -> list[tuple[str, list[str]]]:
    """Roles and texts of an answer, whole or as a stream of events; empty if none is found."""
    whole = _json(body)
    if whole is not None:
        found = [*_said(whole)]
    else:
        events = (line[5:] for line in body.splitlines() if line.startswith("data:"))
        joined: dict[int, str] = {}
        for event in map(_json, events):
            for number, text in _said(event):
                joined[number] = joined.get(number, "") + text
        found = [*joined.items()]
    return [("assistant", [text]) for _, text in found if text]


def _said(answer: Any) -> Iterator[tuple[int, str]]:
    """The texts of an answer or of one event, each with the number of its choice."""
    if not isinstance(answer, dict):
        return
    choices = answer.get("choices")
    if isinstance(choices, list):
        for number, choice in enumerate(choices):
            if isinstance(choice, dict):
                said = choice.get("message") or choice.get("delta") or choice
                at = choice.get("index", number)
                if isinstance(said, dict) and isinstance(at, int):
                    yield at, "".join(_texts(said.get("content", said.get("text"))))
        return
    delta, kind = answer.get("delta"), answer.get("type")
    if isinstance(delta, dict) and isinstance(delta.get("text"), str):
        yield 0, delta["text"]
    elif isinstance(delta, str) and kind == "response.output_text.delta":
        yield 0, delta
    elif answer.get("object") == "response" or kind == "message":
        said = answer.get("output", answer.get("content"))
        for one in said if isinstance(said, list) else ():
            yield 0, "".join(_texts(one.get("content", one) if isinstance(one, dict) else one))
    elif isinstance(answer.get("content"), str):
        yield 0, answer["content"]


def _texts(given: Any) -> Iterator[str]:
    """The texts of a message's content; of what is none (an image) its type."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, list):
        for one in given[:MOST_MESSAGES]:
            if isinstance(one, str | dict):
                yield from _texts(one)
    elif isinstance(given, Mapping):
        text = given.get("text")
        if isinstance(text, str):
            yield text
        elif isinstance(given.get("type"), str):
            yield f"[{given['type'][:40]}]"


def _role(message: Mapping[str, Any]) -> str:
    role = message.get("role")
    return role[:40] if isinstance(role, str) else "user"
