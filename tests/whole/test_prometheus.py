"""
What a real Prometheus makes of `GET /metrics`, of the alerts and of the dashboard in deploy/.

How the metrics are counted is for tests/api/test_metrics.py.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.parts import part
from tests.whole.harness import DEADLINE, ROOT, Gateway, free_port, model, wait_until

INSTALL = "apt-get install prometheus"

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "llamagw.json"

SERIES = re.compile(r"\b(?:llamagw_|llamacpp:|process_)\w+")
#: Seconds for a series to be there: a scrape may lack those of an engine that was slow to answer.
PATIENCE = 5.0
#: What the panels' variables of Grafana are here.
VARIABLES = {"$instance": "gateway", "$model": ".*", "$__rate_interval": "1m"}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """A gateway with some traffic behind it: answers, a swap, a failed load, and refusals."""
    small = {"parallel": 1, "context_size": 256}
    gateway = Gateway(
        [
            model("a", **small),
            model("b", **small),
            model("missing", model_path="none.gguf"),
        ],
        max_loaded_models=1,
        memory="auto",
    )
    try:
        gateway.start()
        for name, status in (("missing", 503), ("b", 200), ("a", 200), ("a", 200), ("no", 404)):
            assert gateway.chat(name, 8).status == status
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


class Prometheus:
    """A Prometheus that scrapes a gateway each second, and looks at the alerts as often."""

    def __init__(self, port: int) -> None:
        self._port = port

    def asks(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it starts
                raise
            raise AssertionError(f"{query}: {error.read().decode()}") from None

    def says(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The result of a query at this moment: the labels and the value of each series."""
        result = self.asks("query", query=query)["result"]
        return [(one["metric"], float(one["value"][1])) for one in result]

    def is_up(self) -> bool:
        try:
            # Two scrapes make a rate.
            return self.says('count_over_time(up{job="llamagw"}[1m]) > 2') != []
        except OSError:
            return False


@pytest.fixture(scope="module")
def program() -> str:
    """Before the gateway: without Prometheus none is started for it."""
    return part("prometheus", INSTALL)


@pytest.fixture(scope="module")
def prometheus(program: str, gateway: Gateway) -> Iterator[Prometheus]:
    port = free_port()
    target = {"targets": [f"127.0.0.1:{gateway.port}"], "labels": {"instance": "gateway"}}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [{"job_name": "llamagw", "static_configs": [target]}],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        with (path / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    program,
                    f"--config.file={path / 'prometheus.yml'}",
                    f"--storage.tsdb.path={path / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            found = Prometheus(port)

            def is_up() -> bool:
                assert process.poll() is None, (path / "log").read_text()
                return found.is_up()

            wait_until(is_up, "Prometheus has scraped")
            yield found
        finally:
            process.terminate()
            process.wait(DEADLINE)


def test_prometheus_answers_with_the_numbers_of_the_traffic(prometheus: Prometheus) -> None:
    def value(query: str) -> float:
        [(_, number)] = wait_until(lambda: prometheus.says(query), query, PATIENCE)
        return number

    assert value('sum(llamagw_requests_total{status="200"})') == 3
    assert value('llamagw_requests_total{model="a",route="/v1/chat/completions"}') == 2
    assert value('llamagw_tokens_total{model="a",kind="completion"}') == 16
    assert value('llamagw_model_unloads_total{model="b",reason="room"}') == 1
    assert value('llamagw_refusals_total{reason="model_not_found"}') == 1
    assert value('llamagw_model_state{model="a",state="loaded"}') == 1
    assert value('llamacpp:tokens_predicted_total{model="a"}') == 16
    first_byte = "sum by (le) (llamagw_time_to_first_byte_seconds_bucket)"
    assert 0 < value(f"histogram_quantile(0.5, {first_byte})") < DEADLINE


def test_each_panel_of_the_dashboard_shows_something(prometheus: Prometheus) -> None:
    """Rates need a change between two scrapes to be over 0, but are there without one."""
    for panel, expression in expressions():
        query = expression
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        assert "$" not in query
        wait_until(partial(prometheus.says, query), f"{panel}: {query}", PATIENCE)


def test_prometheus_evaluates_each_alert(prometheus: Prometheus) -> None:
    def rules() -> list[Any]:
        groups = prometheus.asks("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait_until(
        lambda: all(rule["health"] != "unknown" for rule in rules()), "all rules are evaluated"
    )
    assert [rule["name"] for rule in rules() if rule["health"] != "ok"] == []
    # The failed model is noticed at once, and told after five minutes.
    wait_until(
        lambda: prometheus.says('ALERTS{alertname="LlamagwModelFailed",alertstate="pending"}'),
        "the alert of the failed model is pending",
    )


def test_promtool_finds_no_fault_with_the_metrics(gateway: Gateway) -> None:
    """llama.cpp's names have a colon, which promtool would leave to recording rules."""
    text = scrape(gateway)
    own = [line for line in text.splitlines(keepends=True) if "llamacpp:" not in line]
    assert len(own) > 100
    told = promtool("check", "metrics", text="".join(own))
    assert (told.returncode, told.stdout) == (0, "")


def test_promtool_accepts_the_alerts_and_their_tests_pass() -> None:
    for command in (
        ("check", "rules", str(ALERTS)),
        ("test", "rules", str(ALERTS.with_name("alerts.test.yml"))),
    ):
        told = promtool(*command)
        assert told.returncode == 0, told.stdout


def test_the_alerts_and_the_dashboard_name_only_series_that_there_are(gateway: Gateway) -> None:
    there = set(SERIES.findall(scrape(gateway)))
    for path in (ALERTS, DASHBOARD):
        named = set(SERIES.findall(path.read_text()))
        assert len(named) > 5
        assert named - there == set(), path.name


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
    for one, other in itertools.combinations(panels, 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, (one["title"], other["title"])


def expressions() -> list[tuple[str, str]]:
    """The queries of the dashboard, each with its panel's title."""
    return [
        (panel["title"], target["expr"])
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]


def scrape(gateway: Gateway) -> str:
    reply = gateway.ask("GET", "/metrics")
    assert reply.status == 200
    return reply.body.decode()


def promtool(*command: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [part("promtool", INSTALL), *command],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
