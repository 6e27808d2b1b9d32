"""Promises of the count of what keys use: each request once, written soon, nothing lost."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from llamagw.gate import DAY, Tally, UsageFile, spent
from llamagw.gate.tally import WRITE_SEC
from llamagw.observe import Record, Usage

START = 20_000 * DAY + 80_000.0
CHAT = b"/v1/chat/completions"


def record(key: str = "alice", **more: Any) -> Record:
    values: dict[str, Any] = {
        **{"id": "1", "arrived": 0.0, "path": CHAT, "status": 200, "model": "small"},
        **{"admitted": 0.0, "usage": Usage(prompt=10, completion=20)},
    }
    return Record(key=key, **{**values, **more})


class SpentTests(SynchronousTestCase):
    def test_what_an_answer_tells(self) -> None:
        self.assertEqual(spent(record()), (10, 20))
        self.assertEqual(spent(record(usage=Usage(prompt=10))), (10, 0))

    def test_of_several_answers_llama_server_counts_the_first(self) -> None:
        usage = Usage(prompt=10, completion=20, completion_sec=1.0)
        self.assertEqual(spent(record(usage=usage, answers=3)), (10, 60))
        self.assertEqual(spent(record(answers=3)), (10, 20))

    def test_what_no_model_has_answered_is_free(self) -> None:
        self.assertEqual(spent(record(admitted=None)), (0, 0))
        self.assertEqual(spent(record(status=500, usage=None, bytes_in=400)), (0, 0))

    def test_an_estimate_where_an_answer_does_not_tell(self) -> None:
        untold: dict[str, Any] = {"usage": None, "bytes_in": 400, "bytes_out": 5000}
        self.assertEqual(spent(record(**untold)), (100, 1250))
        self.assertEqual(spent(record(**untold, stream=True)), (100, 50))
        self.assertEqual(spent(record(**untold, path=b"/v1/chat%2Fcompletions")), (100, 1250))
        self.assertEqual(spent(record(**untold, path=b"/v1/embeddings")), (100, 0))
        self.assertEqual(spent(record(**untold, path=b"/v1/audio/transcriptions")), (0, 0))
        self.assertEqual(spent(record(**untold, path=b"/tokenize")), (0, 0))


class TallyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.folder = self.mktemp()
        self.told: list[tuple[str, int, int]] = []
        self.tally = self.make()

    def make(self, file: Any = None) -> Tally:
        return Tally(
            file or UsageFile(self.folder),
            lambda *told: self.told.append(told),
            self.clock,
            maybeDeferred,
            lambda: START + self.clock.seconds(),
        )

    def begin(self, tally: Tally) -> None:
        self.successResultOf(Deferred.fromCoroutine(tally.begin()))

    def kept(self) -> list[Any]:
        return UsageFile(self.folder).rows(0, None, 100)

    def test_each_request_of_a_key_is_counted(self) -> None:
        for one in (record(), record(), record("bob"), record(""), record(admitted=None)):
            self.tally.count(one)
        self.assertEqual(self.tally.used("alice"), 60)
        self.assertEqual(self.tally.used("bob"), 30)
        self.assertEqual(self.tally.used("nobody"), 0)
        self.assertEqual(self.told, [("alice", 10, 20)] * 2 + [("bob", 10, 20)])

    def test_it_is_written_within_seconds_and_at_the_end(self) -> None:
        self.begin(self.tally)
        self.tally.count(record())
        self.assertEqual(self.kept(), [])
        self.clock.advance(WRITE_SEC)
        self.assertEqual(self.kept(), [(20_000, "alice", "small", 1, 10, 20)])
        self.tally.count(record())
        self.successResultOf(Deferred.fromCoroutine(self.tally.end()))
        self.assertEqual(self.kept(), [(20_000, "alice", "small", 2, 20, 40)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_next_gateway_knows_what_was_used_in_this_day(self) -> None:
        self.tally.count(record())
        self.tally.write()
        after = self.make()
        after.count(record())
        self.begin(after)
        self.assertEqual(after.used("alice"), 60)

    def test_a_day_begins_at_midnight(self) -> None:
        self.tally.count(record())
        self.clock.advance(DAY - 80_000)
        self.assertEqual(self.tally.used("alice"), 0)
        self.tally.count(record())
        self.tally.write()
        self.assertEqual([row.day for row in self.kept()], [20_001, 20_000])

    def test_who_asks_is_told_what_is_new_too(self) -> None:
        self.tally.count(record())
        told = self.successResultOf(Deferred.fromCoroutine(self.tally.rows(1, None, 10)))
        self.assertEqual(told, [(20_000, "alice", "small", 1, 10, 20)])
        self.clock.advance(DAY)
        told = self.successResultOf(Deferred.fromCoroutine(self.tally.rows(1, None, 10)))
        self.assertEqual(told, [])

    def test_what_cannot_be_written_is_tried_again(self) -> None:
        file = UsageFile(self.folder)
        tally = self.make(file)
        self.patch(file, "add", lambda new: False)
        tally.count(record())
        tally.write()

        def breaks(new: object) -> bool:
            raise ValueError("a bug")

        self.patch(file, "add", breaks)
        tally.write()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        tally.count(record())
        del file.add
        tally.write()
        self.assertEqual(self.kept(), [(20_000, "alice", "small", 2, 20, 40)])

    def test_one_write_at_a_time(self) -> None:
        begun: list[Deferred[bool]] = []
        file = UsageFile(self.folder)

        def in_thread(work: Any) -> Deferred[Any]:
            begun.append(Deferred())
            return begun[-1].addCallback(lambda _: work())

        tally = Tally(file, lambda *_: None, self.clock, in_thread, lambda: START)
        tally.count(record())
        tally.write()
        tally.count(record())
        second = tally.write()
        self.assertEqual(len(begun), 1)
        begun[0].callback(True)
        self.assertEqual(len(begun), 2)
        begun[1].callback(True)
        self.successResultOf(second)
        self.assertEqual(self.kept(), [(20_000, "alice", "small", 2, 20, 40)])
