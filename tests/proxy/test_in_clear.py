"""Promises of llamagw.proxy.in_clear: HTTP where TLS is spoken is told so; nothing is served."""

from __future__ import annotations

from llamagw.observe import Record
from llamagw.proxy.channel import LINGER_SEC
from tests.support.bench import BenchTestCase
from tests.support.messages import CHAT, Answer, answers
from tests.support.wire import Wire

PAGE = b"GET /ui/?a=b HTTP/1.1\r\nHost: llm.lan:8443\r\nAccept: text/html,*/*;q=0.8\r\n\r\n"


class InClearTests(BenchTestCase):
    def connect(self) -> Wire:
        wire = Wire(self.bench.reactor)
        wire.attach(self.bench.site.in_clear(wire.getPeer()))
        return wire

    def answer(self, *says: bytes) -> Answer:
        wire = self.connect()
        for data in says:
            wire.says(data)
        self.bench.settle()
        [answer] = answers(bytes(wire.heard))
        self.assertEqual(answer.headers["Connection"], "close")
        self.assertEqual(wire.ended, "half")
        self.bench.reactor.pump([1.0] * (LINGER_SEC + 1))
        self.assertFalse(wire.connected)
        self.assertEqual(len(self.bench.site.connections.open), 0)
        return answer

    def assert_refused(self, answer: Answer) -> None:
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (400, "application/json"))
        error = answer.json()["error"]
        self.assertEqual(error["code"], "https_required")
        self.assertIn("This port speaks https", error["message"])

    def test_a_program_gets_400(self) -> None:
        for head in (
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /v1/models HTTP/1.0\r\n\r\n",
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" % CHAT.encode(),
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n" % CHAT.encode(),
            b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            b"hello\r\n\r\n",
            PAGE.replace(b"GET", b"POST"),
        ):
            self.assert_refused(self.answer(head))
        self.assertEqual((self.bench.asked, self.bench.connects), ([], 0))

    def test_the_envelope_is_that_of_the_paths_api(self) -> None:
        answer = self.answer(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(answer.json()["type"], "error")

    def test_a_browser_is_sent_to_https(self) -> None:
        answer = self.answer(PAGE)
        self.assertEqual(answer.status, 308)
        self.assertEqual(answer.headers["Location"], "https://llm.lan:8443/ui/?a=b")
        self.assertEqual(answer.headers["Cache-Control"], "no-store")

    def test_it_is_sent_to_no_other_host(self) -> None:
        """Nor is anything sent back that a URL cannot have."""
        host = b"Host: llm.lan:8443"
        for bad in (
            b"X: y", b"Host: ", b"Host: a@evil", b"Host: evil/x", b"Host: a b", b"Host: a\xff",
            b"Host: a\r\nHost: b", b"Host: a:port", b"Host: [::1", b'Host: a"b',
        ):  # fmt: skip
            self.assert_refused(self.answer(PAGE.replace(host, bad)))
        for target, location in (
            (b"//evil/x", "https://llm.lan:8443//evil/x"),
            (b"/%0d%0aX:y", "https://llm.lan:8443/%0d%0aX:y"),
            (b'/"<>', "https://llm.lan:8443/%22%3C%3E"),
        ):
            answer = self.answer(PAGE.replace(b"/ui/?a=b", target))
            self.assertEqual(answer.headers["Location"], location)
        self.assert_refused(self.answer(PAGE.replace(b"/ui/?a=b", b"http://evil/")))

    def test_bit_by_bit_it_is_the_same(self) -> None:
        answer = self.answer(*[PAGE[n : n + 1] for n in range(len(PAGE))])
        self.assertEqual(answer.status, 308)

    def test_one_that_sends_slowly_is_cut_off(self) -> None:
        wire = self.connect()
        wire.says(b"GET / HT")
        self.bench.reactor.pump([1.0] * 61)
        [answer] = answers(bytes(wire.heard))
        self.assertEqual(answer.status, 408)
        self.bench.reactor.pump([1.0] * (LINGER_SEC + 1))
        self.assertFalse(wire.connected)

    def test_it_counts_as_a_connection(self) -> None:
        wire = self.connect()
        self.assertEqual(len(self.bench.site.connections.open), 1)
        wire.hangs_up()
        self.assertEqual(len(self.bench.site.connections.open), 0)

    def test_it_is_logged_as_refused(self) -> None:
        records: list[Record] = []
        self.bench.records.add(records.append)
        self.answer(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        [record] = records
        self.assertEqual((record.status, record.error), (400, "https_required"))
