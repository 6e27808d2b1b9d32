"""
What a relayed request and a relayed chunk cost, in Python function calls.

Time is a poor judge on a machine that does other things as well; the number of calls is the same
on every run. The benchmarks (docs/performance.md) say what they cost in microseconds. When a budget
here is exceeded for a good reason, raise it in the same commit and say why.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from llamagw.config import LimitsEntry
from llamagw.dialects import OPERATIONS, ROUTE_OF
from llamagw.fleet import Dispatcher
from llamagw.observe import Export, Names, log
from llamagw.observe.otel import Exporting
from tests.support.bench import Bench
from tests.support.keys import Secrets
from tests.support.messages import STREAM_HEAD, request, response

#: Calls for one request on a warm connection to a warm backend, answered in one read, and for one
#: event of a stream: what they took when this was written, with Python 3.11 and the versions of
#: tests/requirements.txt. Other versions of Python take up to a few calls less. 12 of a request's
#: are for its record: id, counters, tokens.
REQUEST, CHUNK = 171, 6

#: What a request's spans cost on top, where they are exported: its ids at its head, what its bodies
#: tell of it, a place in the SDK's queue. They are made and sent in another thread.
SPANS = 55

#: What a key costs a request on top, of all models or of one: less than a tenth of it.
KEY, KEY_OF_MODEL = 15, 18

#: What it costs to count what a key uses, and what all kinds of limits cost on top: the look into
#: the body, which is changed for `max_tokens`, and the headers.
USED, LIMITED = 3, 60

#: The test's own parts: the peers, the Clock in place of the reactor's.
NOT_OURS = (f"{Path(__file__).parent}/", "twisted/internet/task.py", "twisted/internet/base.py")

EVENT = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'


class CostTests(SynchronousTestCase):
    """The hot path stays as short as it is."""

    def setUp(self) -> None:
        self.bench = Bench(names=["small"])
        # What the bench keeps count of is no part of the cost.
        fleet = self.bench.dispatcher
        self.patch(fleet, "acquire", partial(Dispatcher.acquire, fleet))
        # One request by hand makes both connections warm.
        self.client = self.bench.client(request({"model": "small"}))
        self.backend = self.bench.backend()
        self.bench.settle()
        self.backend.says(response(b"{}"))
        self.bench.settle()

    def calls(self, work: Callable[[], object]) -> int:
        """How many Python functions outside of the tests are called by some work."""
        seen: Counter[str] = Counter()

        def profile(frame: FrameType, event: str, _: object) -> None:
            code = frame.f_code
            if event == "call" and not any(place in code.co_filename for place in NOT_OURS):
                seen[f"{code.co_filename}:{code.co_name}"] += 1

        sys.setprofile(profile)
        try:
            work()
        finally:
            sys.setprofile(None)
        self.seen = seen
        return sum(seen.values())

    def one_request(self, *headers: tuple[str, str]) -> None:
        self.client.says(request({"model": "small", "messages": []}, headers=headers))
        self.backend.says(response(b'{"answer": 42}'))

    def test_a_request_stays_within_its_budget(self) -> None:
        heard = len(self.client.heard)
        calls = self.calls(self.one_request)
        self.assertIn(b'{"answer": 42}', bytes(self.client.heard[heard:]))
        self.assertEqual(self.bench.connects, 1, "the connection was warm")
        self.assertLessEqual(calls, REQUEST * 1.1, self.seen.most_common(20))
        self.assertGreater(calls, REQUEST * 0.7, "cheaper by far: lower the budget")

    def test_a_chunk_stays_within_its_budget(self) -> None:
        self.client.says(request({"model": "small", "stream": True}))
        chunk = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
        self.backend.says(STREAM_HEAD + chunk)
        heard = len(self.client.heard)
        calls = self.calls(lambda: self.backend.says(chunk))
        self.assertEqual(bytes(self.client.heard[heard:]), chunk)
        self.assertLessEqual(calls, CHUNK * 1.1, self.seen.most_common(20))
        self.assertGreater(calls, CHUNK * 0.7, "cheaper by far: lower the budget")

    def test_a_key_is_looked_up_within_its_budget(self) -> None:
        made = Secrets()
        keys = {
            made.make("all", expires="2999-01-01"): KEY,
            made.make("small", models=["s*"]): KEY_OF_MODEL,
        }
        gate = made.gate()
        for secret, budget in keys.items():
            ask = partial(self.one_request, ("Authorization", f"Bearer {secret}"))
            self.bench.site.connections.gate = None
            ask()  # the first one makes the header's name known
            plain = self.calls(ask)
            self.bench.site.connections.gate = gate
            ask()  # the first one makes its caller
            calls = self.calls(ask) - plain
            self.assertEqual(self.bench.connects, 1, "it was let in")
            self.assertLessEqual(calls, budget, self.seen)
            self.assertGreater(calls, budget * 0.7, "cheaper by far: lower the budget")

    def test_what_a_key_uses_is_counted_and_limited_within_the_budget(self) -> None:
        made = Secrets()
        all_of_them = LimitsEntry(
            requests_per_min=1000,
            tokens_per_min=10**6,
            tokens_per_day=10**9,
            parallel=5,
            max_body_mb=1,
            max_tokens=100,
        )
        free, limited = made.make("free"), made.make("limited", limits=all_of_them)
        self.bench.site.connections.gate = gate = made.gate()
        gate.meters.used = self.bench.tally.used
        costs: list[int] = []
        for secret, counted in ((free, False), (free, True), (limited, True)):
            if counted and len(costs) == 1:
                self.bench.records.add(self.bench.tally.count)
            ask = partial(self.one_request, ("Authorization", f"Bearer {secret}"))
            ask()
            costs.append(self.calls(ask))
        self.assertEqual(self.bench.connects, 1, "it was let in")
        for budget, more in zip(
            (USED, LIMITED), (costs[1] - costs[0], costs[2] - costs[1]), strict=True
        ):
            self.assertLessEqual(more, budget, self.seen)
            self.assertGreater(more, budget * 0.7, "cheaper by far: lower the budget")

    def test_spans_are_begun_and_ended_within_their_budget(self) -> None:
        plain = self.calls(self.one_request)
        names = Names(routes=ROUTE_OF, operations=OPERATIONS, known="small".__eq__)
        exporting = Exporting(
            Export(endpoint="http://127.0.0.1:1"),
            names,
            self.bench.metrics.counts,
            lambda: (),
            "1",
            self.bench.reactor,
        )
        # Not started: there is no other thread, and the queue is a list.
        told: list[object] = []
        self.patch(exporting, "_processor", SimpleNamespace(on_end=told.append))
        self.bench.site.trace = exporting.begin
        self.bench.records.add(exporting.tell)
        calls = self.calls(self.one_request) - plain
        self.assertEqual(len(told), 1)
        self.assertLessEqual(calls, SPANS, self.seen)
        self.assertGreater(calls, SPANS * 0.7, "cheaper by far: lower the budget")

    def test_the_access_log_costs_a_chunk_nothing(self) -> None:
        self.bench.records.add(log)
        self.test_a_chunk_stays_within_its_budget()
