"""Promises of prompts and answers as attributes: the conventions' form if it is found, bounded."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from llamagw.observe.content import MOST, MOST_MESSAGES, content


def asked(**body: Any) -> list[tuple[str, list[str]]]:
    """Roles and texts of what a request asks."""
    return read(content(json.dumps(body), "")["gen_ai.input.messages"])


def said(text: str) -> list[tuple[str, list[str]]]:
    """Roles and texts of an answer."""
    return read(content("", text)["gen_ai.output.messages"])


def read(attribute: str) -> list[tuple[str, list[str]]]:
    messages = json.loads(attribute)
    assert all(part["type"] == "text" for one in messages for part in one["parts"])
    return [(one["role"], [part["content"] for part in one["parts"]]) for one in messages]


def events(*data: object) -> str:
    return "".join(f"data: {json.dumps(one)}\n\n" for one in data) + "data: [DONE]\n\n"


class ContentTests(SynchronousTestCase):
    def test_each_form_of_a_prompt_becomes_messages(self) -> None:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        for body, wanted in (
            ({"messages": [{"role": "user", "content": "Hi"}]}, [("user", ["Hi"])]),
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, image]}]},
                [("user", ["a", "[image_url]"])],
            ),
            (
                {"system": "Be brief", "messages": [{"role": "user", "content": "Hi"}]},
                [("system", ["Be brief"]), ("user", ["Hi"])],
            ),
            ({"prompt": "Once"}, [("user", ["Once"])]),
            ({"input": ["a", "b"]}, [("user", ["a", "b"])]),
            ({"instructions": "x", "input": "y"}, [("system", ["x"]), ("user", ["y"])]),
        ):
            self.assertEqual(asked(**body), wanted)

    def test_each_form_of_an_answer_becomes_a_message_for_each_choice(self) -> None:
        for answer, wanted in (
            ({"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}, "ab"),
            ({"choices": [{"text": "a"}]}, "a"),
            ({"content": "a", "tokens": []}, "a"),
            ({"type": "message", "content": [{"type": "text", "text": "a"}]}, "a"),
            ({"object": "response", "output": [{"content": [{"text": "a"}]}]}, "a"),
        ):
            self.assertEqual(said(json.dumps(answer)), [("assistant", [one]) for one in wanted])

    def test_a_stream_s_parts_are_joined(self) -> None:
        for parts in (
            [{"choices": [{"delta": {"content": one}}]} for one in ("a", "b")],
            [{"choices": [{"text": one}]} for one in ("a", "b")],
            [
                {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "ab"}},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
            ],
            [
                {"type": "response.output_text.delta", "delta": "ab"},
                {"type": "response.function_call_arguments.delta", "delta": "{"},
            ],
        ):
            self.assertEqual(said(events(*parts)), [("assistant", ["ab"])])

    def test_a_stream_that_is_cut_off_is_told_as_far_as_it_is_known(self) -> None:
        text = events(*({"choices": [{"delta": {"content": one}}]} for one in "abc"))
        self.assertEqual(said(text[: text.index('"c"')]), [("assistant", ["ab"])])

    def test_what_has_another_form_or_is_cut_off_is_told_as_it_is(self) -> None:
        for text in ('{"messages": [{"role": "us', "[" * 100_000, '{"tokens": [1]}', "a form"):
            self.assertEqual(content(text, ""), {"llamagw.request.body": text[:MOST]})
            self.assertEqual(content("", text), {"llamagw.response.body": text[:MOST]})

    def test_odd_values_do_no_harm(self) -> None:
        for body in (
            {"messages": [{"role": 7, "content": 7}]},
            {"messages": 7, "prompt": {"a": 1}},
            {"choices": [7, {"message": 7}, {"index": "x", "text": "y"}]},
            {"choices": {"text": "x"}},
            {"object": "response", "output": [7, {"content": 7}]},
        ):
            for found in content(json.dumps(body), json.dumps(body)):
                self.assertIn(found, ("llamagw.request.body", "llamagw.response.body"), body)
        self.assertEqual(content("", ""), {})

    def test_of_a_long_talk_the_end_is_told(self) -> None:
        messages = [{"role": "user", "content": f"{n}" + "x" * MOST} for n in range(3)]
        [(role, [text])] = asked(messages=messages)
        self.assertEqual((role, text[:2], len(text)), ("user", "2x", MOST))
        many = [{"role": "user", "content": ""} for _ in range(5000)]
        self.assertLessEqual(len(asked(messages=many)), MOST_MESSAGES)
