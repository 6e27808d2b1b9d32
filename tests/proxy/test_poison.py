"""Promises of llamagw.proxy.poison: a request that has killed two backends reaches no third."""

from __future__ import annotations

from twisted.internet.error import ConnectionRefusedError

from llamagw.config import Replica
from llamagw.proxy.connections import LARGE
from llamagw.proxy.poison import MOST_POISONED
from tests.support.bench import Bench, BenchTestCase
from tests.support.configs import remote_model
from tests.support.messages import (
    CHAT,
    Answer,
    answers,
    request,
    response,
)

ASK = request({"model": "small", "messages": []})


class PoisonedTests(BenchTestCase):
    """A request that has killed two backends is kept from a third, for a while."""

    POISON = 60.0

    def setUp(self) -> None:
        super().setUp()
        self.bench = Bench(poison=self.POISON)
        #: Whether the processes of backends that break off have died of it.
        self.dead = True

    def crash(self) -> None:
        if self.dead:
            self.bench.crash()

    def kills(self, ask: bytes = ASK, backends: int = 2) -> Answer:
        """What a client is answered whose request breaks off one backend after the other."""
        client = self.bench.client(ask)
        for _ in range(backends):
            self.bench.settle()
            self.crash()
            self.bench.backend().hangs_up(reset=True)
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        return answer

    def assert_refused(self, ask: bytes) -> None:
        connects = self.bench.connects
        [answer] = self.bench.asks(ask)
        error = self.assert_envelope(answer, 502)
        self.assertEqual(error["code"], "poisoned_request")
        self.assertIn("poison_sec", error["message"])
        self.assertEqual(self.bench.connects, connects, "no backend has seen it")

    def assert_answered(self, ask: bytes) -> None:
        client = self.bench.client(ask)
        self.bench.settle()
        for _ in range(5):
            # An engine that has died again and again is left for a while.
            if not self.bench.wanted():
                self.bench.reactor.advance(1)
                self.bench.settle()
        self.bench.backend().says(response(b"well", headers=[("Connection", "close")]))
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual((answer.status, answer.body), (200, b"well"))

    def test_the_same_request_is_refused_and_reaches_no_backend(self) -> None:
        self.assertEqual(self.assert_envelope(self.kills(), 502)["code"], "backend_lost")
        self.assert_refused(ASK)
        self.assert_refused(ASK.replace(b"Host: gateway", b"Host: other"))

    def test_other_requests_are_answered_also_those_of_the_same_length(self) -> None:
        self.kills()
        self.assert_answered(ASK.replace(b"messages", b"messagez"))
        self.assert_answered(request({"model": "small", "messages": [], "more": 1}))
        self.assert_answered(ASK.replace(CHAT.encode(), b"/v1/completions"))

    def test_it_is_over_after_its_time(self) -> None:
        self.kills()
        self.bench.reactor.advance(self.POISON - 1)
        self.assert_refused(ASK)
        self.bench.reactor.advance(1)
        self.assert_answered(ASK)
        self.assertEqual(self.bench.relay.poisoned.known, [], "and nothing is looked up any more")

    def test_one_that_broke_off_a_backend_once_is_not_poisoned(self) -> None:
        client = self.bench.client(ASK)
        self.crash()
        self.bench.backend().hangs_up(reset=True)
        self.bench.settle()
        self.bench.backend().says(response(b"second", headers=[("Connection", "close")]))
        self.bench.settle()
        self.assertEqual(answers(bytes(client.heard), "POST")[0].body, b"second")
        self.assert_answered(ASK)

    def test_a_backend_that_lives_on_was_not_killed(self) -> None:
        self.dead = False
        self.kills()
        self.assert_answered(ASK)

    def test_a_request_that_never_was_sent_has_killed_nothing(self) -> None:
        self.bench.client(ASK)
        for _ in range(2):
            self.bench.settle()
            self.crash()
            self.bench.refuse(ConnectionRefusedError())
        self.bench.settle()
        self.assert_answered(ASK)

    def test_an_answer_that_had_begun_does_not_count(self) -> None:
        self.bench.client(ASK)
        for _ in range(2):
            self.bench.settle()
            backend = self.bench.backend()
            backend.says(b"HTTP/1.1 200 OK\r\n")
            self.crash()
            backend.hangs_up(reset=True)
        self.bench.settle()
        self.assert_answered(ASK)

    def test_a_backend_that_dies_of_it_over_an_idle_connection_counts(self) -> None:
        client = self.bench.client(ASK)
        warm = self.bench.backend()
        warm.says(response(b"{}"))
        self.bench.settle()
        client.says(ASK.replace(b"messages", b"killing!"))
        self.crash()
        warm.hangs_up(reset=True)
        self.bench.settle()
        self.bench.refuse(ConnectionRefusedError())
        self.bench.settle()
        self.crash()
        self.bench.backend().hangs_up(reset=True)
        self.bench.settle()
        self.assert_refused(ASK.replace(b"messages", b"killing!"))

    def test_two_remote_servers_that_break_off_count(self) -> None:
        far = remote_model("small", Replica(url="http://a"), Replica(url="http://b"))
        self.bench = Bench([far], poison=self.POISON)
        self.dead = False  # for all that the test knows
        self.kills()
        self.assertEqual(sorted(self.bench.probe.diagnosed), ["a", "a", "b", "b"], "once more")
        self.assert_refused(ASK)

    def test_a_large_body_is_known_again(self) -> None:
        large = Bench(max_body=4 * LARGE, poison=self.POISON)
        self.bench = large
        ask = request({"model": "small", "x": "y" * LARGE})
        self.kills(ask)
        self.assert_refused(ask)

    def test_so_many_are_remembered_and_no_more(self) -> None:
        for number in range(MOST_POISONED + 1):
            self.kills(request({"model": "small", "n": number}))
            self.assert_answered(ASK)  # so that the engine is loaded anew at once
        self.assertEqual(len(self.bench.relay.poisoned.known), MOST_POISONED)
        self.assert_refused(request({"model": "small", "n": MOST_POISONED}))
        self.assert_answered(request({"model": "small", "n": 0}))

    def test_nothing_is_refused_where_that_is_not_wanted(self) -> None:
        self.kills()
        self.bench.relay.poisoned.refuse_for(0)
        self.assert_answered(ASK)
        self.kills()
        self.assert_answered(ASK)
