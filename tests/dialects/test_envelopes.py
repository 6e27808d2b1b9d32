"""How an error is said: the envelopes of OpenAI's dialect and of Anthropic's."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from llamagw import errors
from llamagw.dialects import ANTHROPIC, OPENAI, dialect_of
from llamagw.errors import InternalError, ModelNotFound


class EnvelopeTests(SynchronousTestCase):
    def test_the_envelope_is_openais(self) -> None:
        error = errors.BadRequest("No `model` in it.", param="model")
        self.assertEqual(
            json.loads(OPENAI.envelope(error)),
            {
                "error": {
                    "message": "No `model` in it.",
                    "type": "invalid_request_error",
                    "param": "model",
                    "code": "bad_request",
                }
            },
        )

    def test_under_v1_messages_the_envelope_is_anthropics(self) -> None:
        for path in (b"/v1/messages", b"/v1/messages/count_tokens", b"/upstream/m/v1/messages"):
            self.assertIs(dialect_of(path), ANTHROPIC)
        for path in (b"/v1/chat/completions", b"/v1/responses", b"/messages", b"/"):
            self.assertIs(dialect_of(path), OPENAI)
        error = errors.BadRequest("No `model` in it.", param="model")
        self.assertEqual(
            json.loads(ANTHROPIC.envelope(error)),
            {
                "type": "error",
                "error": {"type": "invalid_request_error", "message": "No `model` in it."},
            },
        )

    def test_each_way_to_fail_has_one_of_anthropics_types(self) -> None:
        types = set()
        for error in (
            errors.BadRequest("x"),
            ModelNotFound("x", []),
            errors.BodyTooLarge("x"),
            errors.BackendLost("x"),
            errors.NotAllowed("x"),
            errors.ModelUnavailable("x"),
            errors.LoadTimeout("x"),
        ):
            types.add(json.loads(ANTHROPIC.envelope(error))["error"]["type"])
        self.assertEqual(
            types,
            {
                "invalid_request_error",
                "not_found_error",
                "request_too_large",
                "permission_error",
                "api_error",
                "overloaded_error",
                "timeout_error",
            },
        )

    def test_as_an_event_each_line_of_it_is_data_and_anthropics_has_a_name(self) -> None:
        self.assertEqual(OPENAI.event(b'{"a":\n1}'), b'\n\ndata: {"a":\ndata: 1}\n\n')
        self.assertEqual(ANTHROPIC.event(b"{}"), b"\n\nevent: error\ndata: {}\n\n")

    def test_what_is_not_known_is_null(self) -> None:
        self.assertIsNone(json.loads(OPENAI.envelope(InternalError("Oh.")))["error"]["param"])
