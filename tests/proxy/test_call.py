"""Promises of llamagw.proxy.call: what the gateway finds in a request, wherever it stands."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from llamagw.config import Names
from llamagw.errors import BadRequest, GatewayError, Moved, PathNotFound
from llamagw.proxy.call import LACKING, Call, by_form, by_path, by_query, peek
from tests.support.requests import fake


class PeekTests(SynchronousTestCase):
    """What the gateway reads of a JSON body, and what it says when it cannot."""

    def test_the_model_is_found_wherever_it_stands(self) -> None:
        for body in (
            b'{"model":"m"}',
            b' {"a": [{"model": "no"}], "model" : "m" } ',
            b'{"model":"\\u006d"}',
            b'{"model":"no","model":"m"}',  # as json.loads and the engine read it
        ):
            self.assertEqual(peek(body)[0], "m", body)

    def test_a_model_that_is_not_there_or_null_is_none(self) -> None:
        for body in (b"{}", b'{"models": "m"}', b'{"model": null}'):
            self.assertIsNone(peek(body)[0], body)

    def test_a_stream_is_asked_for_by_true_and_by_nothing_else(self) -> None:
        for value, stream in (
            (b"true", True),
            (b" true ", True),
            (b"false", False),
            (b"1", False),
            (b'"true"', False),
            (b"[[], {}]", False),
        ):
            self.assertEqual(peek(b'{"stream": %b}' % value), (None, stream), value)

    def test_a_value_of_model_is_read_only_if_it_can_be_a_name(self) -> None:
        with self.assertRaises(BadRequest) as caught:
            peek(b'{"model": "%b"}' % (b"x" * 1_000_000))
        self.assertLess(len(caught.exception.message), 200)
        longest = "\U0001f600" * 256
        self.assertEqual(peek(json.dumps({"model": longest}).encode())[0], longest)

    def test_what_is_wrong_is_said(self) -> None:
        for body, said, param in (
            (b"", "empty", None),
            (b"{", "JSON", None),
            (b"model=m", "JSON", None),
            (b'{"model": "m"} x', "JSON", None),
            (b'{"model": "\xff"}', "JSON", None),
            (b"[]", "object", None),
            (b'"m"', "object", None),
            (b"null", "object", None),
            (b'{"model": 1}', "string", "model"),
            (b'{"model": ["m"]}', "string", "model"),
        ):
            with self.assertRaises(BadRequest) as caught:
                peek(body)
            self.assertIn(said, caught.exception.message, body)
            self.assertEqual(caught.exception.param, param, body)

    @settings(deadline=None, max_examples=200)
    @given(body=st.binary(max_size=60) | st.text(alphabet='{}[]":,\\model01 \n', max_size=40))
    def test_whatever_comes_it_is_a_name_or_none_or_a_bad_request(self, body: bytes | str) -> None:
        try:
            name, _ = peek(body.encode() if isinstance(body, str) else body)
        except BadRequest:
            return
        self.assertIsInstance(name, str | None)

    def test_a_body_nested_without_end_is_a_bad_request(self) -> None:
        with self.assertRaises(BadRequest):
            peek(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"model":"m"}')


class FormTests(SynchronousTestCase):
    """The field `model` of a form is found, whatever else is in it."""

    KIND = "multipart/form-data; boundary=xyz"

    def ask(self, *parts: tuple[str, bytes], kind: str | None = None) -> Call:
        body = b"".join(
            b"--xyz\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (name.encode(), data)
            for name, data in parts
        )
        headers = {"Content-Type": [kind or self.KIND]}
        return by_form(fake(body=body + b"--xyz--\r\n", headers=headers))

    def test_it_is_found_before_and_behind_a_file(self) -> None:
        sound = ('name="file"; filename="a.wav"', bytes(range(256)) * 1000)
        field = ('name="model"', b"org/whisper")
        for parts in ((sound, field), (field, sound)):
            self.assertEqual(self.ask(*parts).model, "org/whisper")

    def test_a_form_without_it_names_none(self) -> None:
        call = self.ask(('name="models"', b"x"))
        self.assertIsNone(call.model)
        self.assertIn("`model`", LACKING[call.where])

    def test_what_is_no_form_is_a_bad_request_that_says_what_would_be(self) -> None:
        for kind in ("application/json", "multipart/form-data", "", "multipart/mixed; boundary=x"):
            with self.assertRaises(BadRequest) as caught:
                by_form(fake(body=b"{}", headers={"Content-Type": [kind]}))
            self.assertIn("multipart/form-data; boundary", caught.exception.message)
        form = b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--xyz--\r\n'
        for kinds in (
            ["multipart/form-data; boundary=" + "x" * 71],
            ["multipart/form-data; boundary=x; boundary=y"],
            [self.KIND, "multipart/form-data; boundary=y"],
        ):
            with self.assertRaises(BadRequest) as caught:
                by_form(fake(body=form, headers={"Content-Type": kinds}))
            self.assertIn("boundary", caught.exception.message)
        for body in (b"", b"--xyz", b"{}", b"--xyz\r\nnonsense\r\n\r\nx\r\n--xyz--"):
            with self.assertRaises(BadRequest):
                by_form(fake(body=body, headers={"Content-Type": [self.KIND]}))

    @settings(deadline=None, max_examples=200)
    @given(body=st.binary(max_size=80) | st.text(alphabet="-xyz\r\n:;=model", max_size=80))
    def test_whatever_comes_it_is_read_or_a_bad_request(self, body: bytes | str) -> None:
        data = body.encode() if isinstance(body, str) else body
        try:
            by_form(fake(body=b"--xyz\r\n" + data, headers={"Content-Type": [self.KIND]}))
        except BadRequest:
            return


class QueryTests(SynchronousTestCase):
    def test_the_model_is_found_unquoted(self) -> None:
        for target in (
            "/props?model=org/big",
            "/props?x=1&model=org%2Fbig",
            "/slots/0?model=org/big",
        ):
            self.assertEqual(by_query(fake(target)).model, "org/big")

    def test_without_one_it_is_none(self) -> None:
        self.assertIsNone(by_query(fake("/props?mode=x")).model)

    def test_only_what_looks_loads_nothing_unless_it_says_so(self) -> None:
        for method, query, load in (
            ("GET", "", False),
            ("HEAD", "", False),
            ("GET", "&autoload=true", True),
            ("GET", "&autoload=1", True),
            ("GET", "&autoload=false", False),
            ("GET", "&autoload", False),
            ("POST", "", True),
        ):
            call = by_query(fake(f"/slots?model=m{query}", method))
            self.assertEqual(call.load, load, (method, query))

    def test_one_that_is_no_text_is_a_bad_request(self) -> None:
        with self.assertRaises(BadRequest):
            by_query(fake("/props?model=%ff"))


class PathTests(SynchronousTestCase):
    """What follows /upstream/."""

    NAMES = Names(
        [("small", ["tiny", "t/1"]), ("org/big", ["gpt-*"]), ("org", []), ("a b", ["o1/*"])]
    )

    def ask(self, target: str, method: str = "POST", **headers: list[str]) -> Call:
        return by_path(fake(target, method, headers=headers), self.NAMES)

    def test_the_name_ends_where_a_model_s_name_does_and_the_rest_goes_on_as_it_is(self) -> None:
        for target, model, rest in (
            ("/upstream/small/v1/models", "small", "/v1/models"),
            ("/upstream/org/big/v1/x?a=%20b&c", "org/big", "/v1/x?a=%20b&c"),
            ("/upstream/org%2Fbig/x%2Fy//z", "org/big", "/x%2Fy//z"),
            ("/upstream/org%2fbig/", "org/big", "/"),
            ("/upstream/org/bigger/x", "org", "/bigger/x"),
            ("/upstream/a%20b/?q", "a b", "/?q"),
            ("/upstream/tiny/x", "tiny", "/x"),
            ("/upstream/t/1/x", "t/1", "/x"),
            ("/upstream/gpt-4o/x", "gpt-4o", "/x"),
            ("/upstream/o1/mini/x/y", "o1/mini", "/x/y"),
            ("/upstream/nothing/x/y", "nothing", "/x/y"),
        ):
            call = self.ask(target)
            self.assertEqual((call.model, call.target), (model, rest.encode()), target)

    def test_a_name_alone_is_moved_to_where_a_page_s_links_work(self) -> None:
        with self.assertRaises(Moved) as caught:
            self.ask("/upstream/org/big?x=1", "GET")
        self.assertEqual(caught.exception.location, b"/upstream/org/big/?x=1")
        self.assertEqual(self.ask("/upstream/small").target, b"/")

    def test_no_name_is_told(self) -> None:
        with self.assertRaises(PathNotFound):
            self.ask("/upstream//x")

    def test_an_upgrade_loads_and_another_get_does_not(self) -> None:
        upgrade = {"Connection": ["keep-alive, Upgrade"], "Upgrade": ["websocket"]}
        call = self.ask("/upstream/small/ws", "GET", **upgrade)
        self.assertEqual((call.upgrade, call.load), (b"websocket", True))
        for headers in ({}, {"Upgrade": ["h2c"]}, {"Connection": ["upgrade"]}):
            call = self.ask("/upstream/small/ws", "GET", **headers)
            self.assertEqual((call.upgrade, call.load), (None, False))
        self.assertTrue(self.ask("/upstream/small/ws?autoload=true", "GET").load)

    def test_a_path_of_slashes_costs_no_more_than_its_length(self) -> None:
        call = self.ask("/upstream/x" + "/" * 15_000)
        self.assertEqual(len(call.target or b""), 15_000)

    @settings(deadline=None, max_examples=200)
    @given(rest=st.text(alphabet="/%2Fsmaltinyorgb?=-*", max_size=30))
    def test_no_byte_of_the_path_is_lost(self, rest: str) -> None:
        target = f"/upstream/{rest}"
        try:
            call = self.ask(target)
        except (GatewayError, UnicodeDecodeError):  # the server refuses what is no text before
            return
        left = call.target or b""
        self.assertTrue(target.encode().endswith(left.removeprefix(b"/")), call)
