"""Promises of captured content: so much and no more, without keys, and harmless to look at."""

from __future__ import annotations

import tracemalloc
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from llamagw.observe import Capture, Captured
from llamagw.observe.capture import HEAD
from llamagw.text import harmless_lines


def captured(
    body: bytes = b"",
    target: bytes = b"/",
    limit: int = 1024,
    headers: dict[str, str] | None = None,
) -> Any:
    """What is told of a request with this content."""
    pairs = [(name.encode(), text.encode()) for name, text in (headers or {}).items()]
    return Captured(target, pairs, body, limit).told()["request"]


class ScrubTests(SynchronousTestCase):
    def test_headers_with_keys_have_none(self) -> None:
        names = ["Authorization", "Proxy-Authorization", "X-Api-Key", "Api-Key", "Cookie"]
        names += ["X-Auth-Token", "X-Client-Secret", "X-Password", "X-Amz-Security-Token"]
        names += ["Sec-WebSocket-Key", "X-Session-Id"]
        sent = {**dict.fromkeys(names, "s3cret"), "Content-Type": "application/json"}
        told = captured(headers=sent)
        self.assertEqual(set(told["headers"].values()), {"***", "application/json"})
        self.assertEqual(len(told["headers"]), len(names) + 1)

    def test_queries_have_none_in_the_target_and_in_headers(self) -> None:
        secret = "api_key=s3cret&Key=s3cret&a=1&access_token=s3cret;sig=s3cret&%6B%65y=s3cret"
        told = captured(
            target=f"/x?{secret}".encode(),
            headers={"Referer": f"https://a.example/?{secret}#b"},
        )
        for text in (told["target"], told["headers"]["referer"]):
            self.assertNotIn("s3cret", text)
            self.assertIn("&a=1&", text)
        self.assertEqual(captured(target=b"/x?api_key")["target"], "/x?api_key")

    def test_texts_in_json_whose_names_say_so_have_none(self) -> None:
        for member in (
            '"api_key":"s3cret"',
            '"OPENAI_API_KEY" : "s3cret\\"s3cret"',
            '"apiKey":"s3cret',
            '"password":"s3cret\\\\"',
            '"client_secret":\n"s3cret"',
            '"access_token":"s3cret","x":"y"',
        ):
            body = captured(b'{"a":1,' + member.encode() + b',"b":2}')["body"]
            self.assertNotIn("s3cret", body, member)
            self.assertIn('"***', body)

    def test_what_is_no_key_stays(self) -> None:
        body = (
            '{"max_tokens":5,"logprobs":[{"token":"hi"}],"keyboard":"us","messages":[{"role":"a"}]}'
        )
        told = captured(
            body.encode(), b"/v1/x?model=a&autoload=true", headers={"User-Agent": "me; a=b"}
        )
        self.assertEqual(told["body"], body)
        self.assertEqual(told["target"], "/v1/x?model=a&autoload=true")
        self.assertEqual(told["headers"], {"user-agent": "me; a=b"})

    def test_a_key_at_the_edge_of_what_is_kept_is_none(self) -> None:
        body = b'{"api_key":"s3cret-and-more"}'
        for limit in range(len(body)):
            self.assertNotIn("s3c", captured(body, limit=limit)["body"])


class BoundTests(SynchronousTestCase):
    def keep(self, *models: str, requests: int = 2, limit: int = 10) -> Capture:
        capture = Capture()
        capture.keep(models, requests, limit)
        return capture

    def begin(self, capture: Capture, name: str = "small", body: bytes = b"") -> Any:
        return capture.begin((name,), b"/", [], body)

    def test_of_either_body_the_beginning_is_kept(self) -> None:
        for body, kept, truncated in ((b"x" * 10, 10, False), (b"x" * 11, 10, True)):
            one = self.begin(self.keep("*"), body=body)
            for at in range(0, len(body), 4):
                one.answer.add(body[at : at + 4])
            told = one.told()
            for part in (told["request"], told["response"]):
                self.assertEqual((len(part["body"]), part["truncated"]), (kept, truncated))

    def test_of_so_many_requests_the_last_even_if_all_are_under_way(self) -> None:
        capture = self.keep("*")
        all_of_them = [self.begin(capture, body=b"x") for _ in range(5)]
        for one in all_of_them:
            one.answer.add(b"y" * 10)
        kept = [one.number in capture for one in all_of_them]
        self.assertEqual(kept, [False] * 3 + [True] * 2)
        for part, body in (("request", "x"), ("response", "y" * 10)):
            bodies = [one.told()[part]["body"] for one in all_of_them]
            self.assertEqual(bodies, [""] * 3 + [body] * 2)

    def test_of_models_by_name_and_by_pattern(self) -> None:
        capture = self.keep("small", "org/*")
        for name, is_kept in (("small", True), ("org/big", True), ("Small", False), ("big", False)):
            self.assertEqual(self.begin(capture, name) is not None, is_kept, name)
        self.assertIsNotNone(capture.begin(("alias", "small"), b"/", [], b""))

    def test_a_change_drops_what_was_kept_and_none_does_not(self) -> None:
        capture = self.keep("*")
        one = self.begin(capture, body=b"x")
        capture.keep(["*"], 2, 10)
        self.assertIs(capture.get(one.number), one)
        for change in (((), 2, 10), (("*",), 2, 10), (("*",), 3, 10), (("*",), 3, 20)):
            one = self.begin(capture)
            capture.keep(*change)
            if one is not None:
                self.assertIsNone(capture.get(one.number))
                one.answer.add(b"more")
                self.assertEqual(one.told()["response"]["body"], "")
        self.assertEqual(self.keep("*", requests=0).models, ())

    def test_of_the_target_and_the_headers_the_beginning_is_kept(self) -> None:
        long, many = [(b"a", b"x" * 9000)], [(b"h%d" % n, b"x" * 30) for n in range(500)]
        for headers in (long, many):
            told = Captured(b"/" + b"x" * 9000, headers, b"", 10).told()["request"]
            self.assertLessEqual(len(told["target"]), HEAD)
            self.assertIn("more", told["headers"].pop("…"))
            self.assertLessEqual(sum(map(len, told["headers"].values())), HEAD)
        self.assertNotIn("…", Captured(b"/", [(b"a", b"b")], b"", 10).told()["request"]["headers"])

    def test_thousands_of_headers_take_no_more_memory_than_that(self) -> None:
        capture = self.keep("*", requests=100)
        headers = [(b"h%d" % number, b"x") for number in range(500)]
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(100):
            capture.begin(("small",), b"/", headers, b"")
        after, _ = tracemalloc.get_traced_memory()
        self.assertLess((after - before) / 100, 2 * HEAD)

    def test_a_hostile_body_takes_no_long_time(self) -> None:
        for piece in (b'"', b'"a', b'"api', b'"api_key":"', b'"api_key" ', b"\\", b'"' + b"a" * 51):
            body = piece * (2**20 // len(piece))
            told = captured(body, limit=2**20)
            self.assertLessEqual(len(told["body"]), 2**20)


class TextTests(SynchronousTestCase):
    def test_lines_stay_and_what_a_terminal_acts_upon_is_written_out(self) -> None:
        body = captured(b'{\r\n\t"a": 1\n}\x1b[2J\xff\xe2\x80\xae')["body"]
        self.assertEqual(body, '{\n\t"a": 1\n}\\x1b[2J\ufffd\\u202e')
        self.assertEqual(harmless_lines("a\u2028b\x0bc\rd"), "a\\u2028b\\x0bc\\x0dd")

    def test_a_character_that_was_cut_in_two_is_left_out(self) -> None:
        self.assertEqual(captured("aä".encode(), limit=2)["body"], "a")
        self.assertEqual(captured("aä".encode()[:2])["body"], "a\ufffd")

    def test_a_header_that_was_sent_twice_is_a_list(self) -> None:
        told = Captured(b"/", [(b"A", b"1"), (b"a", b"2")], b"", 10).told()
        self.assertEqual(told["request"]["headers"], {"a": "1, 2"})
