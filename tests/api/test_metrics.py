"""Promises of `GET /metrics`: one scrape tells of the whole gateway, and loads nothing.

The real Api in memory (support/bench.py), on the real fleet.
"""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred

from llamagw.api.metrics import FRESH_SEC
from llamagw.config import Replica
from llamagw.observe import MOST_MODELS, Record
from llamagw.observe.counts import MOST_ANSWERS, MOST_PAIRS
from tests.api.test_api import GIB, counting_bench
from tests.support.bench import Bench, BenchTestCase
from tests.support.configs import remote_model
from tests.support.messages import Answer, answers, event, request, response

USAGE = (
    b'{"usage":{"completion_tokens":5,"prompt_tokens":32,"prompt_tokens_details":'
    b'{"cached_tokens":31}},"timings":{"prompt_ms":1.0,"predicted_n":5,"predicted_ms":500.0}}'
)


class MetricsTests(BenchTestCase):
    def scrape(self, accept: str = "", **labels: str) -> dict[str, float]:
        """The samples with these labels, by name and other labels."""
        headers = [("Accept", accept)] if accept else []
        self.bench.metrics._told.clear()
        [answer] = self.bench.asks(request(path="/metrics", headers=headers))
        self.assertEqual(answer.status, 200)
        return samples(answer, labels)

    def ask(self, body: bytes = USAGE) -> None:
        self.bench.client(request({"model": "small"}))
        self.bench.backend().says(response(body))
        self.bench.settle()

    def test_a_request_is_counted_with_its_model_route_and_tokens(self) -> None:
        self.ask()
        found = self.scrape(model="small")
        route = "route=/v1/chat/completions"
        self.assertEqual(found[f"llamagw_requests_total {route} status=200"], 1)
        self.assertEqual(found[f"llamagw_request_duration_seconds_count {route}"], 1)
        self.assertEqual(found["llamagw_tokens_total kind=prompt"], 32)
        self.assertEqual(found["llamagw_tokens_total kind=cached"], 31)
        self.assertEqual(found["llamagw_tokens_total kind=completion"], 5)
        self.assertEqual(found["llamagw_time_per_output_token_seconds_sum"], 0.1)
        self.assertEqual(found["llamagw_time_to_first_byte_seconds_count"], 1)

    def test_names_that_are_not_configured_are_counted_as_one(self) -> None:
        for name in ("nope", "x" * 200, "other"):
            self.bench.asks(request({"model": name}))
        found = self.scrape(model="other")
        self.assertEqual(found["llamagw_requests_total route=/v1/chat/completions status=404"], 3)
        self.assertEqual(self.scrape(reason="model_not_found")["llamagw_refusals_total"], 3)

    def test_thousands_of_models_make_a_scrape_of_bounded_size(self) -> None:
        names = [f"m{number}" for number in range(MOST_MODELS + 5)]
        self.bench = Bench(names, loaded=False)
        for name in names:
            for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
                record = Record(id="x", arrived=0.0, path=path.encode(), asked=name, model=name)
                for status in (200, 400, 404, 500, 501, 502, 503):
                    record.status = status
                    self.bench.metrics.counts.count(record)
        found = self.scrape()
        counted = [name for name in found if name.startswith("llamagw_requests_total")]
        self.assertLessEqual(len(counted), MOST_ANSWERS + 1)
        self.assertEqual(sum(found[name] for name in counted), len(names) * 21)
        durations = [n for n in found if n.startswith("llamagw_request_duration_seconds_count")]
        self.assertLessEqual(len(durations), MOST_PAIRS + 1)
        self.assertEqual(sum(found[name] for name in durations), len(names) * 21)
        self.assertNotIn(f"model={names[-1]}", " ".join(found))

    def test_a_path_that_does_not_exist_makes_no_series(self) -> None:
        before = self.scrape()
        self.bench.asks(request(path="/x/y"))
        names = {name for name in self.scrape() if name.startswith("llamagw_requests_total")}
        self.assertEqual(names, {n for n in before if n.startswith("llamagw_requests_total")})

    def test_loads_waits_and_unloads_are_counted_with_their_reasons(self) -> None:
        self.bench = Bench(["a", "b"], max_loaded_models=1, swap_after_sec=0, loaded=False)
        self.bench.hold_loads()
        self.bench.client(request({"model": "a"}))
        self.assertEqual(self.scrape(model="a")["llamagw_requests_waiting"], 1)
        self.assertEqual(self.scrape(model="a", state="loading")["llamagw_model_state"], 1)
        self.bench.reactor.advance(3)
        self.bench.ready()
        self.bench.backend().says(response(b"{}"))
        self.bench.settle()
        found = self.scrape(model="a")
        self.assertEqual(found["llamagw_model_loads_total outcome=loaded"], 1)
        self.assertEqual(found["llamagw_load_seconds_sum"], 3)
        self.assertEqual(found["llamagw_queue_seconds_sum"], 3)
        self.bench.client(request({"model": "b"}))
        self.bench.go_on()
        self.assertEqual(self.scrape(model="a", reason="room")["llamagw_model_unloads_total"], 1)

    def test_loads_and_unloads_are_counted_from_0_on(self) -> None:
        self.bench = Bench(["a", remote_model("far", Replica(url="http://far"))], loaded=False)
        found = self.scrape(model="a")
        self.assertEqual(found["llamagw_model_loads_total outcome=failed"], 0)
        self.assertEqual(found["llamagw_model_unloads_total reason=crash"], 0)
        self.assertNotIn("llamagw_model_loads_total outcome=failed", self.scrape(model="far"))
        self.bench.load("a")
        self.assertEqual(self.scrape(model="a")["llamagw_model_loads_total outcome=loaded"], 1)

    def test_however_often_the_names_change_those_counters_are_few(self) -> None:
        for number in range(3):
            self.bench.reload(*(f"m{number}-{n}" for n in range(MOST_MODELS - 10)))
            found = self.scrape(outcome="loaded")
        loads = [name for name in found if name.startswith("llamagw_model_loads_total")]
        self.assertLessEqual(len(loads), 2 * (MOST_MODELS + 1))

    def test_a_second_load_is_counted_with_its_own_time(self) -> None:
        self.bench = Bench(["a"], loaded=False)
        for seconds in (3, 5):
            self.bench.hold()
            self.bench.client(request({"model": "a"}, "/models/load"))
            self.bench.reactor.advance(seconds)
            self.bench.ready()
        self.assertEqual(self.scrape(model="a")["llamagw_load_seconds_sum"], 8)

    def test_a_crash_is_an_unload_for_that_reason(self) -> None:
        self.bench.crash("small")
        found = self.scrape(model="small", reason="crash")
        self.assertEqual(found["llamagw_model_unloads_total"], 1)

    def test_an_answer_that_broke_off_is_counted(self) -> None:
        client, backend = self.bench.streaming()
        backend.says(event(b"data: 1\n\n"))
        backend.hangs_up()
        self.bench.settle()
        self.assertEqual(self.scrape(model="small")["llamagw_streams_broken_total"], 1)
        client.hangs_up()

    def test_the_series_of_loaded_engines_have_their_model_as_a_label(self) -> None:
        self.bench.probe.series = (
            b"# HELP llamacpp:n_decode_total Calls.\n# TYPE llamacpp:n_decode_total counter\n"
            b"llamacpp:n_decode_total 7\nprocess_x 1\n"
            b"# TYPE llamacpp:n_tokens_max counter\nllamacpp:n_tokens_max 9\n"
        )
        found = self.scrape(model="small")
        self.assertEqual(found["llamacpp:n_decode_total"], 7)
        self.assertEqual(found["llamacpp:n_tokens_max"], 9)
        self.assertNotIn("process_x", self.scrape())

    def test_the_series_of_engines_have_the_same_names_in_both_formats(self) -> None:
        self.bench.probe.series = b"# TYPE llamacpp:x_total counter\nllamacpp:x_total 7\n"
        for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
            [answer] = self.bench.asks(request(path="/metrics", headers=[("Accept", accept)]))
            self.assertIn(b'\nllamacpp:x_total{model="small"} 7.0\n', answer.body, accept)

    def test_what_an_engine_tells_beside_the_point_is_left_out(self) -> None:
        for series in (b"llamacpp:x{ 1\n", b"\xff", b"llamacpp:x 1\n" * 10_000, b""):
            self.bench.probe.series = series
            self.assertFalse([name for name in self.scrape() if name.startswith("llamacpp")])

    def test_the_memory_of_each_device_is_told_where_it_is_counted(self) -> None:
        self.assertNotIn("llamagw_memory_bytes kind=charged", self.scrape(device="host"))
        self.bench = counting_bench()
        self.bench.load("small")
        self.assertEqual(
            self.scrape(device="CUDA0"),
            {
                "llamagw_memory_bytes kind=total": 8 * GIB,
                "llamagw_memory_bytes kind=budget": 7 * GIB,
                "llamagw_memory_bytes kind=reserved": GIB,
                "llamagw_memory_bytes kind=charged": 5 * GIB,
                "llamagw_memory_bytes kind=others": 0,
                "llamagw_memory_bytes kind=free": 2 * GIB,
                "llamagw_model_memory_bytes kind=estimated model=small": 5 * GIB,
            },
        )
        host = self.scrape(device="host")
        self.assertEqual(host["llamagw_memory_bytes kind=free"], 7 * GIB)
        self.assertEqual(host["llamagw_model_memory_bytes kind=estimated model=small"], 3 * GIB)

    def test_a_scrape_loads_nothing(self) -> None:
        self.bench = Bench(loaded=False)
        self.scrape()
        self.assertEqual(self.bench.asked, [])
        self.assertEqual([r.status for r in self.bench.dispatcher.report()], ["unloaded"] * 2)

    def test_many_at_once_get_one_text_that_is_made_once(self) -> None:
        made = self.bench.probe.series_asked
        later = self.bench.probe.series_later = Deferred()
        clients = [self.bench.client(request(path="/metrics")) for _ in range(5)]
        clients[0].hangs_up()
        self.bench.settle()
        later.callback(None)
        bodies = {answers(bytes(client.heard))[0].body for client in clients[1:]}
        self.assertEqual(len(bodies), 1)
        self.assertEqual(self.bench.probe.series_asked - made, len(self.bench.config.models))
        self.scraped_at(0)
        self.assertEqual(self.bench.probe.series_asked - made, len(self.bench.config.models))
        self.scraped_at(FRESH_SEC)
        self.assertEqual(self.bench.probe.series_asked - made, 2 * len(self.bench.config.models))

    def scraped_at(self, later: float) -> bytes:
        self.bench.reactor.advance(later)
        [answer] = self.bench.asks(request(path="/metrics"))
        return answer.body

    def test_openmetrics_comes_when_it_is_asked_for(self) -> None:
        for accept, kind in (
            ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
            ("text/plain", "text/plain"),
        ):
            [answer] = self.bench.asks(request(path="/metrics", headers=[("Accept", accept)]))
            self.assertTrue(str(answer.headers["Content-Type"]).startswith(kind), accept)

    def test_with_a_model_it_is_the_engines_own(self) -> None:
        client = self.bench.client(request(path="/metrics?model=small"))
        self.bench.backend().says(response(b"llamacpp:x 1\n"))
        self.assertIn(b"llamacpp:x 1", bytes(client.heard))


def samples(answer: Answer, labels: dict[str, str]) -> dict[str, float]:
    """The samples that have these labels, by name and the other labels."""
    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            if labels.items() <= sample.labels.items():
                rest = {k: v for k, v in sorted(sample.labels.items()) if k not in labels}
                found[" ".join([sample.name, *(f"{k}={v}" for k, v in rest.items())])] = (
                    sample.value
                )
    return found
