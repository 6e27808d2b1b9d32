"""Promises of llamagw.proxy.rewrite: an engine gets what the client sent, but for what is meant."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from llamagw.config import ModelConfig, Replica
from llamagw.dialects import Where
from llamagw.errors import BadRequest
from llamagw.proxy.call import Call, by_body, by_form
from llamagw.proxy.rewrite import (
    LONGEST_KEY,
    MOST_COLONS,
    MOST_ESCAPES,
    MOST_LOOKED_AT,
    check_large,
    outgoing,
    reshape,
)
from tests.support.configs import local_model, remote_model
from tests.support.requests import fake


class ReshapeTests(SynchronousTestCase):
    BODY = b'{ "model":"m", "messages" : [ {"content": "\xc3\xa9 \\u00e9"} ],"top_p":1.50, "n":1}'

    def test_keys_are_put_given_by_default_and_taken_out(self) -> None:
        done = json.loads(
            reshape(
                self.BODY,
                {"top_p": 0.5, "think": {"on": False}},
                {"top_k": 7, "n": 2},
                ["messages", "x"],
            )
        )
        wanted = {"model": "m", "top_p": 0.5, "think": {"on": False}, "top_k": 7, "n": 1}
        self.assertEqual(done, wanted)

    def test_what_is_put_is_there_also_when_it_is_stripped(self) -> None:
        self.assertEqual(json.loads(reshape(b'{"a":1}', {"a": 2}, {}, ["a"])), {"a": 2})
        self.assertEqual(json.loads(reshape(b'{"a":1}', {}, {"a": 3}, ["a"])), {"a": 3})

    def test_values_that_are_not_touched_stay_as_they_are(self) -> None:
        done = reshape(self.BODY, {"x": 1}, {}, [])
        for kept in (b'[ {"content": "\xc3\xa9 \\u00e9"} ]', b"1.50"):
            self.assertIn(kept, done)

    @settings(deadline=None, max_examples=100)
    @given(
        fields=st.dictionaries(
            st.text(max_size=8), st.none() | st.integers(-(2**63), 2**63) | st.text(max_size=20)
        )
    )
    def test_nothing_else_changes(self, fields: dict[str, Any]) -> None:
        done = json.loads(reshape(json.dumps(fields).encode(), {"put!": 1}, {}, []))
        self.assertEqual(done, {**fields, "put!": 1})

    def test_keys_that_are_no_text_are_a_bad_request(self) -> None:
        self.assertRaises(BadRequest, reshape, b'{"model":"m","\xff":1}', {"x": 1}, {}, [])

    def test_a_very_long_key_is_refused(self) -> None:
        for key in (b"x" * (LONGEST_KEY + 1), b"\\u00e9" * (LONGEST_KEY + 1)):
            with self.assertRaises(BadRequest) as caught:
                reshape(b'{"%b":1}' % key, {"a": 1}, {}, [])
            self.assertIn(f"a key of over {LONGEST_KEY} characters", caught.exception.message)
        reshape(b'{"%b":1}' % (b"x" * LONGEST_KEY), {"a": 1}, {}, [])


class JsonObjectTests(SynchronousTestCase):
    """``json_object: strict``."""

    STRICT = local_model("m", json_object="strict")
    ASKED = b'{"model": "m", "response_format": {"type": "json_object"}, "top_p": 1.50}'

    def sent(self, body: bytes, model: ModelConfig = STRICT, shaped: bool = True) -> bytes:
        call = Call("m", Where.BODY, shaped=shaped)
        return outgoing(fake(body=body), call, model, None)[1]

    def test_a_format_without_a_schema_gets_one_and_all_else_stays(self) -> None:
        self.assertEqual(
            self.sent(self.ASKED),
            b'{"model":"m","response_format":{"type":"json_object","schema":{"type":"object"}},'
            b'"top_p":1.50}',
        )

    def test_any_other_format_stays_as_it_is(self) -> None:
        for other in (
            b'{ "type": "json_object", "schema": {"type": "array"} }',
            b'{"type": "json_schema", "json_schema": {"schema": {}}}',
            b'{"type": "text"}',
            b'{"type": ["json_object"]}',
            b"{}",
            b"null",
            b'"json_object"',
            b'["json_object"]',
        ):
            self.assertIn(other, self.sent(b'{"response_format": %b, "n": 1}' % other))

    def test_a_body_without_one_is_not_touched(self) -> None:
        body = b'{ "model" : "m" }'
        self.assertEqual(self.sent(body), body)

    def test_only_requests_for_text_of_a_model_that_is_strict_are_changed(self) -> None:
        self.assertEqual(self.sent(self.ASKED, local_model("m")), self.ASKED)
        self.assertEqual(self.sent(self.ASKED, shaped=False), self.ASKED)

    def test_a_format_that_the_configuration_sets_is_made_strict_too(self) -> None:
        asked: dict[str, Any] = {"response_format": {"type": "json_object"}}
        schema = {"type": "json_object", "schema": {"type": "object"}}
        for keys in ({"set_params": asked}, {"default_params": asked}):
            model = local_model("m", json_object="strict", **keys)  # type: ignore[arg-type]
            self.assertEqual(json.loads(self.sent(b"{}", model)), {"response_format": schema})

    def test_a_key_in_it_may_not_be_too_long_either(self) -> None:
        body = b'{"response_format": {"%b": 1}}' % (b"x" * (LONGEST_KEY + 1))
        self.assertRaises(BadRequest, self.sent, body)


class CheckLargeTests(SynchronousTestCase):
    """What would take the gateway long to change is refused before it is read."""

    def refused(self, mark: bytes, count: int, model: ModelConfig, name: str | None) -> bool:
        call = Call("m", Where.BODY, shaped=True)
        try:
            check_large(call, mark * count, model, name)
        except BadRequest as error:
            self.assertIn(f"over {count - 1} times `{mark.decode()}`", error.message)
            return True
        return False

    def test_the_limits_are_those_of_what_is_done_with_the_body(self) -> None:
        plain, shaped = local_model("m"), local_model("m", set_params={"n": 2})
        strict = local_model("m", json_object="strict")
        self.assertFalse(self.refused(b":", MOST_COLONS + 1, strict, None))
        asked = b'"response_format"' + b":" * (MOST_COLONS + 1)
        with self.assertRaises(BadRequest):
            check_large(Call("m", Where.BODY, shaped=True), asked, strict, None)
        for model, name, mark, most in (
            (shaped, None, b":", MOST_COLONS),
            (shaped, None, b"\\", MOST_ESCAPES),
            (plain, "theirs", b":", MOST_COLONS),
            (plain, "theirs", b"\\", MOST_ESCAPES),
            (plain, "m", b":", MOST_LOOKED_AT),
        ):
            self.assertTrue(self.refused(mark, most + 1, model, name), (name, mark))
            self.assertFalse(self.refused(mark, most, model, name), (name, mark))

    def test_what_is_sent_as_it_came_has_none(self) -> None:
        plain = local_model("m")
        self.assertFalse(self.refused(b":", MOST_LOOKED_AT + 1, plain, None))
        self.assertFalse(self.refused(b"\\", MOST_ESCAPES + 1, plain, "m"))
        form = Call("m", Where.FORM)
        check_large(form, b":" * (MOST_LOOKED_AT + 1), plain, "theirs")


class OutgoingTests(SynchronousTestCase):
    """The request as a server gets it that calls the model by another name."""

    PLAIN = local_model("m")

    def form(self, *parts: bytes) -> bytes:
        return b"".join(b"--xyz\r\n" + part + b"\r\n" for part in parts) + b"--xyz--\r\n"

    def renamed(self, *parts: bytes, model: str | None = "m") -> bytes:
        headers = {"Content-Type": ["multipart/form-data; boundary=xyz"]}
        request = fake(body=self.form(*parts), headers=headers)
        call = by_form(request)
        self.assertEqual(call.model, model)
        return outgoing(request, call, self.PLAIN, "their name")[1]

    FILE = b'Content-Disposition: form-data; name="file"; filename="name=model"\r\n\r\nname="model"'

    def test_a_form_is_not_read_again_to_be_changed(self) -> None:
        headers = {"Content-Type": ["multipart/form-data; boundary=xyz"]}
        call = by_form(fake(body=self.form(self.FILE), headers=headers))
        body = outgoing(fake(body=self.form(self.FILE)), call, self.PLAIN, "their name")[1]
        self.assertEqual(body, self.renamed(self.FILE, model=None))

    def test_a_form_s_field_is_another_and_the_rest_as_it_was(self) -> None:
        for disposition in (
            b'Content-Disposition: form-data; name="model"\r\nX-Y: z\r\n\r\n',
            b"content-disposition:form-data; name=model\r\n\r\n",
        ):
            done = self.renamed(self.FILE, disposition + b"m")
            self.assertEqual(done, self.form(self.FILE, disposition + b"their name"))

    def test_a_form_without_one_gets_one(self) -> None:
        done = self.renamed(self.FILE, model=None)
        field = b'Content-Disposition: form-data; name="model"\r\n\r\ntheir name'
        self.assertEqual(done, self.form(field, self.FILE))
        headers = {"Content-Type": ["multipart/form-data; boundary=xyz"]}
        self.assertEqual(by_form(fake(body=done, headers=headers)).model, "their name")

    def test_a_query_without_one_gets_one(self) -> None:
        for target, done in (
            ("/props", b"/props?model=their%20name"),
            ("/props?x=1", b"/props?x=1&model=their%20name"),
            ("/props?model=m&model=n&x", b"/props?x&model=their%20name"),
        ):
            call = Call(None, Where.QUERY)
            self.assertEqual(outgoing(fake(target), call, self.PLAIN, "their name")[0], done)

    def test_a_body_gets_the_name_and_what_is_set_at_once(self) -> None:
        model = local_model("m", set_params={"n": 2}, strip_params=["user"])
        request = fake(body=b'{"user": 1, "x": 1.50}')
        _, body = outgoing(request, Call(None, Where.BODY, shaped=True), model, "their name")
        self.assertEqual(body, b'{"x":1.50,"model":"their name","n":2}')

    def test_model_in_capitals_goes_to_no_remote_server_since_some_read_it(self) -> None:
        remote = remote_model("m", Replica(url="http://far"))
        local = local_model("m")
        for key in (b"Model", b"MODEL", b"modeL", b"\\u004dodel"):
            body = b'{"model": "m", "%b": "n"}' % key
            call = by_body(fake(body=body))
            with self.assertRaises(BadRequest) as caught:
                outgoing(fake(body=body), call, remote, "m")
            self.assertIn("lower case", caught.exception.message, body)
            with self.assertRaises(BadRequest) as caught:
                outgoing(fake(body=body), call, remote, "their name")
            self.assertIn("lower case", caught.exception.message, body)
            # llama-server tells them apart.
            self.assertEqual(outgoing(fake(body=body), call, local, None)[1], body)
        body = b'{"model": "m", "models": 1, "mode": 2}'
        self.assertEqual(outgoing(fake(body=body), by_body(fake(body=body)), remote, "m")[1], body)
