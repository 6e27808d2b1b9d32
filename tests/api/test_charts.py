"""
Promises of `GET /history` and of the memory in `GET /health` and `GET /metrics`.

The real Api in memory (support/bench.py), on the real fleet. How samples are put together is for
tests/observe/test_history.py.
"""

from __future__ import annotations

from typing import Any

from llamagw.api import charts, devices
from llamagw.launch import Memory
from llamagw.observe import STEP
from tests.support.bench import BenchTestCase
from tests.support.messages import request, response


class ChartsTests(BenchTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.bench.charts.begin()

    def told(self, query: str = "") -> dict[str, Any]:
        [answer] = self.bench.asks(request(path=f"/history{query}"))
        self.assertEqual(answer.status, 200, answer.body)
        found: dict[str, Any] = answer.json()
        return found

    def test_what_went_on_is_told_in_steps_of_ten_seconds(self) -> None:
        usage = b'{"usage":{"prompt_tokens":30,"completion_tokens":50}}'
        self.bench.client(request({"model": "small"}))
        self.bench.client(request({"model": "org/big"}))
        self.bench.backend().says(response(usage))
        self.bench.settle()
        self.bench.reactor.advance(STEP)
        told = self.told()
        self.assertEqual((told["step"], told["end"]), (STEP, self.bench.wall()))
        self.assertEqual(told["series"]["requests"], [1])
        self.assertEqual(told["series"]["in_flight"], [1])
        self.assertEqual(told["series"]["loaded"], [2])
        self.assertEqual(told["series"]["prompt_tokens_per_sec"], [3.0])
        [model] = told["models"].values()
        self.assertEqual(model, {"requests": [1], "tokens_per_sec": [5.0]})
        self.bench.reactor.advance(STEP)
        self.assertEqual(self.told("?minutes=1")["series"]["requests"], [1, 0])

    def test_minutes_that_there_cannot_be_are_refused(self) -> None:
        for minutes in ("0", "1441", "-1", "x", "", "1.5", "9" * 5000, "%c2%b2"):
            [answer] = self.bench.asks(request(path=f"/history?minutes={minutes}"))
            error = self.assert_envelope(answer, 400, open_to_all=False)
            self.assertEqual((error["code"], error["param"]), ("bad_request", "minutes"))
        self.assertEqual(self.told("?minutes=1440")["step"], 240)

    def test_a_page_of_another_origin_gets_none(self) -> None:
        headers = [("Origin", "https://evil.example")]
        [answer] = self.bench.asks(request(path="/history", headers=headers))
        self.assertEqual(answer.status, 403)

    def test_many_questions_at_once_are_worked_out_once(self) -> None:
        asked: list[int] = []
        tell = self.bench.history.told

        def told(minutes: int) -> dict[str, Any]:
            asked.append(minutes)
            return tell(minutes)

        self.patch(self.bench.history, "told", told)
        for _ in range(3):
            self.told()
        self.assertEqual(asked, [15])
        self.bench.reactor.advance(STEP)
        self.told()
        self.assertEqual(asked, [15, 15])
        for minutes in range(1, 30):
            self.told(f"?minutes={minutes}")
        self.assertLessEqual(len(self.bench.charts._told), charts.MOST_KEPT)

    def test_a_sample_that_fails_is_logged_once_and_the_next_ones_are_taken(self) -> None:
        sample = self.bench.history.sample
        self.patch(self.bench.history, "sample", lambda at: 1 / 0)
        self.bench.reactor.pump([STEP] * 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.patch(self.bench.history, "sample", sample)
        self.bench.reactor.advance(STEP)
        self.assertEqual(len(self.told()["series"]["requests"]), 1)


class DevicesTests(BenchTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.available = 50 * 2**20
        total = 100 * 2**20
        self.patch(devices, "memory_in_use", lambda: (total, total - self.available))
        self.bench.engines.last("small").in_use = Memory(30 * 2**20, 10 * 2**20, 20 * 2**20)
        self.bench.reactor.advance(devices.AGE_SEC)

    def host(self) -> dict[str, Any]:
        [answer] = self.bench.asks(request(path="/health"))
        [host] = answer.json()["devices"]
        found: dict[str, Any] = host
        return found

    def test_what_loaded_models_have_mapped_is_not_free(self) -> None:
        """The system would take it from them."""
        self.assertEqual(
            self.host(),
            {
                "device": "host",
                "total": 100 * 2**20,
                "free": 30 * 2**20,
                "used_by_models": 30 * 2**20,
            },
        )

    def test_there_is_never_less_than_nothing(self) -> None:
        self.available = 1
        self.assertEqual(self.host()["free"], 0)

    def test_it_is_read_once_a_second_however_many_ask(self) -> None:
        self.host()
        self.available = 60 * 2**20
        self.assertEqual(self.host()["free"], 30 * 2**20)
        self.bench.reactor.advance(devices.AGE_SEC)
        self.assertEqual(self.host()["free"], 40 * 2**20)

    def test_a_scrape_has_it_too(self) -> None:
        [answer] = self.bench.asks(request(path="/metrics"))
        for line in (
            b'llamagw_memory_bytes{device="host",kind="free"} 3.145728e+07\n',
            b'llamagw_memory_bytes{device="host",kind="total"} 1.048576e+08\n',
            b'llamagw_memory_bytes{device="host",kind="used_by_models"} 3.145728e+07\n',
        ):
            self.assertIn(line, answer.body)
