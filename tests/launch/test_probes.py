"""The probes: when a loading backend is ready, when a ready one hangs."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from llamagw.launch.httpprobe import MAX_ANSWER, PROBE_TIMEOUT, HttpProbe
from llamagw.launch.probes import Health, Readiness
from llamagw.net import Address, Connector
from tests.support.fleet import FakeProbe

HERE = Address("127.0.0.1", 8081)
ELSEWHERE = Address("127.0.0.1", 8082)


class ReadinessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.probe = FakeProbe()
        self.address = HERE
        self.work = 0
        self.ours = True
        self.told: list[str] = []

    def readiness(self, timeout: float = 60) -> Readiness:
        return Readiness(
            self.clock,
            self.probe,
            address=lambda: self.address,
            progress=lambda: self.work,
            confirm=lambda: self.ours,
            timeout=timeout,
            healthy=lambda: self.told.append("healthy"),
            give_up=lambda: self.told.append("give up"),
        )

    def test_it_asks_every_50_ms(self) -> None:
        self.readiness()
        self.assertEqual(len(self.probe.asked), 0)
        self.clock.pump([0.05] * 20)
        self.assertEqual(len(self.probe.asked), 20)

    def test_ok_is_told_once_and_ends_the_asking(self) -> None:
        self.readiness()
        self.clock.pump([0.05] * 3)
        self.probe.well = True
        self.clock.pump([0.05] * 100)
        self.assertEqual(self.told, ["healthy"])
        self.assertEqual(len(self.probe.asked), 4)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_answer_of_another_process_is_none(self) -> None:
        self.probe.well, self.ours = True, False
        self.readiness(timeout=5)
        self.clock.pump([0.05] * 60)
        self.assertEqual(self.told, [])
        self.ours = True
        self.clock.advance(0.05)
        self.assertEqual(self.told, ["healthy"])

    def test_answers_of_another_process_are_no_progress(self) -> None:
        self.probe.well, self.ours = True, False
        self.readiness(timeout=5)
        self.clock.pump([0.05] * 130)
        self.assertEqual(self.told, ["give up"])

    def test_who_it_was_is_asked_only_when_it_is_well(self) -> None:
        asked: list[int] = []

        def confirm() -> bool:
            asked.append(1)
            return False

        readiness = self.readiness()
        readiness._confirm = confirm
        self.clock.pump([0.05] * 20)
        self.assertEqual(asked, [])
        self.probe.well = True
        self.clock.advance(0.05)
        self.assertEqual(asked, [1])
        readiness.stop()

    def test_the_address_may_move(self) -> None:
        self.readiness()
        self.clock.advance(0.05)
        self.address = ELSEWHERE
        self.clock.advance(0.05)
        self.assertEqual(self.probe.asked, [HERE, ELSEWHERE])

    def test_it_gives_up_after_the_timeout_without_progress(self) -> None:
        self.readiness(timeout=60)
        self.clock.pump([0.05] * 1190)
        self.assertEqual(self.told, [])
        self.clock.pump([0.05] * 50)
        self.assertEqual(self.told, ["give up"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_slow_load_that_gets_on_is_never_given_up(self) -> None:
        self.readiness(timeout=5)
        for _ in range(100):
            self.work += 1
            self.clock.pump([0.05] * 80)
        self.assertEqual(self.told, [])

    def test_progress_begins_the_timeout_anew(self) -> None:
        self.readiness(timeout=5)
        self.clock.pump([0.05] * 80)
        self.work += 1
        self.clock.pump([0.05] * 100)
        self.assertEqual(self.told, [])
        self.clock.pump([0.05] * 50)
        self.assertEqual(self.told, ["give up"])

    def test_progress_is_not_looked_at_twenty_times_a_second(self) -> None:
        looks = []
        Readiness(
            self.clock,
            self.probe,
            address=lambda: HERE,
            progress=lambda: looks.append(1),
            confirm=self.fail,
            timeout=60,
            healthy=self.fail,
            give_up=self.fail,
        )
        self.clock.pump([0.05] * 210)
        self.assertLessEqual(len(looks), 11)

    def test_one_probe_at_a_time(self) -> None:
        self.probe.later = True
        self.readiness()
        self.clock.pump([0.05] * 30)
        self.assertEqual(len(self.probe.asked), 1)
        self.probe.waiting.popleft().callback(False)
        self.clock.advance(0.05)
        self.assertEqual(len(self.probe.asked), 2)

    def test_stop_silences_it(self) -> None:
        readiness = self.readiness()
        readiness.stop()
        self.probe.well = True
        self.clock.pump([0.05] * 100)
        self.assertEqual((self.told, self.probe.asked), ([], []))
        readiness.stop()

    def test_stop_forgets_a_probe_under_way(self) -> None:
        self.probe.later = True
        readiness = self.readiness()
        self.clock.advance(0.05)
        readiness.stop()
        self.assertEqual(self.probe.cancelled, 1)
        self.clock.pump([0.05] * 100)
        self.assertEqual(self.told, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_may_be_stopped_from_within_what_it_tells(self) -> None:
        for later in (False, True):
            for well in (False, True):
                self.probe = FakeProbe(well)
                self.probe.later = later
                self.told = []

                def told(what: str) -> None:
                    self.told.append(what)
                    readiness.stop()  # noqa: B023

                readiness = Readiness(
                    self.clock,
                    self.probe,
                    address=lambda: HERE,
                    progress=lambda: 0,
                    confirm=lambda: True,
                    timeout=1,
                    healthy=partial(told, "healthy"),
                    give_up=partial(told, "give up"),
                )
                for _ in range(50):
                    self.clock.advance(0.05)
                    if self.probe.waiting:
                        self.probe.waiting.popleft().callback(well)
                self.assertEqual(self.told, ["healthy" if well else "give up"])
                self.assertEqual(self.clock.getDelayedCalls(), [])


class HealthTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.probe = FakeProbe(well=True)
        self.moved = 0
        self.told: list[str] = []
        self.health = Health(
            self.clock,
            self.probe,
            HERE,
            interval=30,
            progress=lambda: self.moved,
            hung=lambda: self.told.append("hung"),
        )

    def test_it_asks_at_the_interval(self) -> None:
        self.clock.advance(29.9)
        self.assertEqual(self.probe.asked, [])
        self.clock.advance(0.1)
        self.assertEqual(self.probe.asked, [HERE])
        self.clock.pump([30] * 5)
        self.assertEqual(len(self.probe.asked), 6)
        self.assertEqual(self.told, [])

    def test_three_failures_a_second_apart_are_a_hang(self) -> None:
        self.probe.well = False
        self.clock.advance(30)
        self.assertEqual(len(self.probe.asked), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.probe.asked), 2)
        self.assertEqual(self.told, [])
        self.clock.advance(1)
        self.assertEqual(len(self.probe.asked), 3)
        self.assertEqual(self.told, ["hung"])

    def test_a_hang_is_told_once(self) -> None:
        self.probe.well = False
        self.clock.pump([1] * 200)
        self.assertEqual(self.told, ["hung"])
        self.assertEqual(len(self.probe.asked), 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_answer_in_between_makes_failures_forgotten(self) -> None:
        for _ in range(5):
            self.probe.well = False
            self.clock.advance(30 - self.clock.seconds() % 30)
            self.clock.advance(1)
            self.probe.well = True
            self.clock.advance(1)
        self.assertEqual(len(self.probe.asked), 15)
        self.assertEqual(self.told, [])

    def test_a_backend_that_works_for_its_clients_is_not_hung(self) -> None:
        self.probe.well = False
        for _ in range(10):
            self.clock.advance(29)
            # The probe fails, and bytes come before the next one does.
            self.clock.advance(1)
            self.moved += 1
            self.clock.advance(1)
        self.assertEqual(self.told, [])

    def test_what_moved_before_the_first_failure_does_not_count(self) -> None:
        self.moved += 1
        self.probe.well = False
        self.clock.pump([30, 1, 1])
        self.assertEqual(self.told, ["hung"])

    def test_stop_silences_it(self) -> None:
        self.probe.well = False
        self.clock.pump([30, 1])
        self.health.stop()
        self.clock.pump([1] * 100)
        self.assertEqual(self.told, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_forgets_a_probe_under_way(self) -> None:
        self.probe.later = True
        self.clock.advance(30)
        self.health.stop()
        self.health.stop()
        self.assertEqual(self.probe.cancelled, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_may_be_stopped_from_within_what_it_tells(self) -> None:
        self.health.stop()
        self.probe.later = True

        def hung() -> None:
            self.told.append("hung")
            health.stop()

        health = Health(self.clock, self.probe, HERE, interval=30, progress=lambda: 0, hung=hung)
        self.clock.advance(30)
        for _ in range(3):
            self.probe.waiting.popleft().callback(False)
            self.clock.advance(1)
        self.assertEqual(self.told, ["hung"])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class HTTPProbeTests(SynchronousTestCase):
    protocol: Any

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.answer = HttpProbe(self.reactor, Connector(self.reactor))(HERE)

    def connect(self) -> StringTransportWithDisconnection:
        [(host, port, factory, _, _)] = self.reactor.tcpClients
        self.assertEqual(Address(host, port), HERE)
        self.protocol = factory.buildProtocol(IPv4Address("TCP", host, port))
        transport = StringTransportWithDisconnection()
        transport.protocol = self.protocol
        self.protocol.makeConnection(transport)
        return transport

    def test_it_asks_for_health(self) -> None:
        sent = self.connect().value()
        self.assertTrue(sent.startswith(b"GET /health HTTP/1.1\r\n"), sent)
        self.assertNoResult(self.answer)
        self.answer.cancel()
        self.assertFalse(self.successResultOf(self.answer))

    def test_200_is_well(self) -> None:
        self.connect()
        self.protocol.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        self.assertTrue(self.successResultOf(self.answer))

    def test_503_is_not(self) -> None:
        self.connect()
        self.protocol.dataReceived(b"HTTP/1.1 503 Loading\r\nContent-Length: 0\r\n\r\n")
        self.assertFalse(self.successResultOf(self.answer))

    def test_one_that_wants_a_key_from_its_clients_is_well(self) -> None:
        self.connect()
        self.protocol.dataReceived(b"HTTP/1.1 401 Key\r\nContent-Length: 0\r\n\r\n")
        self.assertTrue(self.successResultOf(self.answer))

    def test_falling_silent_within_the_answer_is_not_and_costs_the_connection(self) -> None:
        transport = self.connect()
        self.protocol.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        self.reactor.advance(PROBE_TIMEOUT)
        self.assertFalse(self.successResultOf(self.answer))
        self.assertFalse(transport.connected)

    def test_a_refused_connection_is_not(self) -> None:
        [(_, _, factory, _, _)] = self.reactor.tcpClients
        factory.clientConnectionFailed(
            self.reactor.connectors[0], Failure(ConnectionRefusedError())
        )
        self.assertFalse(self.successResultOf(self.answer))

    def test_what_is_not_http_is_not(self) -> None:
        self.connect()
        self.protocol.dataReceived(b"220 mail.example.com\r\n")
        self.assertFalse(self.successResultOf(self.answer))

    def test_silence_is_not(self) -> None:
        self.connect()
        self.reactor.advance(PROBE_TIMEOUT - 0.1)
        self.assertNoResult(self.answer)
        self.reactor.advance(0.2)
        self.assertFalse(self.successResultOf(self.answer))
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class DiagnosisTests(SynchronousTestCase):
    """What is said of a server elsewhere, by what it answers to one question after the other."""

    def said(self, *answers: bytes, key: str | None = None) -> tuple[list[str], str | None]:
        """The paths that are asked for, and what is found."""
        reactor = MemoryReactorClock()
        address = Address("127.0.0.1", 8081, api_key=key, prefix="/x")
        found = HttpProbe(reactor, Connector(reactor)).diagnose(address)
        paths = []
        for number, answer in enumerate(answers):
            factory = reactor.tcpClients[number][2]
            protocol: Any = factory.buildProtocol(IPv4Address("TCP", address.host, address.port))
            transport = StringTransportWithDisconnection()
            transport.protocol = protocol
            self.protocol, self.transport = protocol, transport
            protocol.makeConnection(transport)
            paths.append(transport.value().split()[1].decode())
            for at in range(0, len(answer), 65536):
                if transport.connected:
                    protocol.dataReceived(answer[at : at + 65536])
        self.assertEqual(len(reactor.tcpClients), len(answers))
        return paths, self.successResultOf(found)

    def test_one_that_is_well_is_asked_whether_the_key_is_right(self) -> None:
        ok, no = answer(200), answer(401)
        llama = answer(200, "Server: llama.cpp")
        self.assertEqual(self.said(ok, ok, key="k"), (["/x/health", "/x/v1/models"], None))
        self.assertEqual(self.said(llama, llama, key="k"), (["/x/health", "/x/props"], None))
        for answers in ((ok, no), (llama, no), (no,), (answer(404), no)):
            told = self.said(*answers, key="k")[1]
            self.assertEqual(told, "it wants another api_key (it answers 401)")

    def test_what_else_it_answers_there_is_its_own_affair(self) -> None:
        for status in (301, 403, 404, 409, 500):
            self.assertIsNone(self.said(answer(200), answer(status), key="k")[1])

    def test_without_a_key_one_that_wants_one_may_get_it_from_its_clients(self) -> None:
        self.assertEqual(self.said(answer(200)), (["/x/health"], None))
        self.assertEqual(self.said(answer(401)), (["/x/health"], None))
        self.assertEqual(self.said(answer(404), answer(403))[1], None)

    def test_one_without_health_is_asked_for_its_models(self) -> None:
        missing, ok = answer(404), answer(200)
        paths = ["/x/health", "/x/v1/models"]
        self.assertEqual(self.said(missing, ok), (paths, None))
        self.assertIn("it has neither /health nor /v1/models", self.said(missing, missing)[1] or "")

    def test_a_redirection_is_told_and_not_followed(self) -> None:
        moved = answer(301, "Location: https://elsewhere/health")
        self.assertEqual(
            self.said(moved)[1], "it answers 301 and points to https://elsewhere/health"
        )

    def test_a_redirection_is_told_in_harmless_words_and_not_many(self) -> None:
        moved = b"HTTP/1.1 301 So\r\nLocation: " + b"\x1b[2J" + b"x" * 9000
        told = self.said(moved + b"\r\nContent-Length: 0\r\n\r\n")[1] or ""
        self.assertIn("points to \\x1b[2Jxxx", told)
        self.assertLess(len(told), 350)

    def test_what_is_not_http_is_told_in_harmless_words_and_not_many(self) -> None:
        for wrong in (
            b"HTTP/1.1 \x1b[2Jno number\r\n\r\n",
            b"HTTP/1.1 2\x1b" + b"x" * 9000 + b"\r\n\r\n",
        ):
            told = self.said(wrong)[1] or ""
            self.assertNotIn("\x1b", told)
            self.assertTrue(0 < len(told) < 350, told)

    def test_an_answer_that_is_too_long_is_broken_off(self) -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for sent, said in (
            (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * MAX_ANSWER, "more than 1,000,000 bytes"),
            (b"HTTP/1.1 200 OK\r\n" + b"X-More: and more\r\n" * 10_000, "or headers"),
            (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, "or headers"),
            (chunked + b"1\r\nx\r\n" * 10_000, "too many small chunks"),
        ):
            self.assertIn(said, self.said(sent)[1] or "")
            self.assertFalse(self.transport.connected)

    def test_what_comes_after_that_is_not_kept(self) -> None:
        self.said(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * MAX_ANSWER)
        self.protocol.dataReceived(b"x" * 1000)

    def test_compressed_answers_are_not_asked_for(self) -> None:
        self.said(answer(200))
        self.assertNotIn(b"accept-encoding", self.transport.value().lower())

    def test_a_web_page_is_no_health(self) -> None:
        self.assertIn("web page", self.said(answer(200, "Content-Type: text/html"))[1] or "")

    def test_any_other_status_is_told(self) -> None:
        self.assertEqual(self.said(answer(500))[1], "it answers 500")


def answer(status: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} So", *headers, "Content-Length: 0", "", ""]
    return "\r\n".join(lines).encode()


class EraseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        probe = HttpProbe(self.reactor, Connector(self.reactor))
        self.erased = probe.erase(HERE)

    def answer(self, body: bytes, status: bytes = b"200 OK") -> bytes:
        """Answer the latest request; returns its first line."""
        (_, _, factory, _, _) = self.reactor.tcpClients[-1]
        protocol: Any = factory.buildProtocol(IPv4Address("TCP", HERE.host, HERE.port))
        transport = StringTransportWithDisconnection()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        protocol.dataReceived(head + body)
        sent: bytes = transport.value()
        return sent.partition(b"\r\n")[0]

    def test_each_idle_slot_is_erased_and_no_other(self) -> None:
        slots = b'[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]'
        self.assertEqual(self.answer(slots), b"GET /slots HTTP/1.1")
        asked = self.answer(b'{"id_slot":1,"n_erased":602}')
        self.assertEqual(asked, b"POST /slots/1?action=erase HTTP/1.1")
        self.assertEqual(self.successResultOf(self.erased), 602)
        self.assertEqual(len(self.reactor.tcpClients), 2)

    def test_an_engine_that_cannot_is_left_alone(self) -> None:
        self.answer(b'{"error":{"code":501}}', b"501 Not Implemented")
        self.assertEqual(self.successResultOf(self.erased), 0)

    def test_one_that_does_not_answer_is_left_alone(self) -> None:
        self.reactor.advance(60)
        self.assertEqual(self.successResultOf(self.erased), 0)
