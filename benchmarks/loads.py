"""The loads, and one measurement of one of them."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import BenchError, core_busy_seconds, cpu_seconds, peak_mb, reset_peak
from targets import Cores, Target

Figures = dict[str, float]


@dataclass(frozen=True)
class Load:
    name: str
    title: str
    connections: int
    rate: int = 0  # events per second of each stream; 0: not streamed
    seconds: int = 5
    ramp_seconds: int = 0
    requests: int = 0
    body_bytes: int = 0

    @property
    def unit(self) -> str:
        return "event" if self.rate else "request"

    def shortened(self) -> Load:
        """The same load for a quick look."""
        return Load(
            self.name,
            self.title,
            self.connections,
            self.rate,
            min(self.seconds, 3),
            min(self.ramp_seconds, 3),
            min(self.requests, 20),
            self.body_bytes,
        )

    def arguments(self) -> list[str]:
        args = {"connections": self.connections}
        if self.rate:
            args |= {"rate": self.rate, "events": self.rate * self.seconds}
            args |= {"ramp-ms": self.ramp_seconds * 1000}
        else:
            args |= {"seconds": 60 if self.requests else self.seconds}
        if self.requests:
            args |= {"requests": self.requests}
        if self.body_bytes:
            args |= {"body-bytes": self.body_bytes}
        flags = [text for key, value in args.items() for text in (f"--{key}", str(value))]
        return [*flags, "--streams"] if self.rate else flags

    @property
    def longest(self) -> int:
        """Seconds after which the load generator has given up by itself."""
        return (60 if self.requests else self.seconds + self.ramp_seconds) + 20


LOADS = (
    Load("c1", "1 connection, 600-byte answers", 1),
    Load("c32", "32 connections, 600-byte answers", 32),
    Load("s50", "50 streams × 100 events/s", 50, 100, seconds=10, ramp_seconds=1),
    Load("s200", "200 streams × 100 events/s", 200, 100, seconds=10, ramp_seconds=1),
    Load("s2000", "2,000 streams × 10 events/s", 2000, 10, seconds=15, ramp_seconds=5),
    Load("body", "10 MB request bodies, one at a time", 1, requests=100, body_bytes=10_000_000),
)


@dataclass(frozen=True)
class Goal:
    """What llamagw is to reach: a figure of a load, and the most that it may be."""

    load: str
    figure: str
    most: float
    title: str


GOALS = (
    Goal("c1", "p50_ratio", 1.7, "p50 of one connection, whole path, × nginx"),
    Goal("c32", "cpu_ratio", 8.0, "CPU per request, 32 connections, × nginx"),
    Goal("s50", "cpu_ratio", 2.0, "CPU per event, 50 streams × 100/s, × nginx"),
    Goal("s200", "cpu_ratio", 1.6, "CPU per event, 200 streams × 100/s, × nginx"),
    Goal("s2000", "lost", 0, "2,000 streams × 10/s: streams lost"),
    Goal("s2000", "late_p99_ms", 250, "2,000 streams × 10/s: lateness p99, ms"),
    Goal("s2000", "rss_mb", 250, "2,000 streams × 10/s: peak memory, MB"),
)


def generate(loadgen: Path, target: Target, arguments: list[str], longest: int) -> dict[str, Any]:
    """Run the load generator (it stays on the core of this process) and return what it reports."""
    where = ["--host", target.host, "--port", str(target.port), "--model", target.model]
    command = [str(loadgen), *where, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=longest + 30, check=False)
    if ran.returncode != 0:
        raise BenchError(f"the load generator failed at {target.name}: {ran.stderr.strip()}")
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


def warm_up(loadgen: Path, target: Target, cores: Cores) -> None:
    """Both paths once, so that the model is loaded and code and memory are warm; then pin."""
    requests = generate(loadgen, target, ["--connections", "8", "--seconds", "1"], 40)
    streams = ["--streams", "--connections", "20", "--events", "50", "--rate", "50"]
    events = generate(loadgen, target, streams, 40)
    if not requests["done"] or not events["done"]:
        why = requests.get("first_error") or events.get("first_error")
        raise BenchError(f"{target.name} does not answer: {why}")
    target.pin(cores)


def measure(load: Load, loadgen: Path, target: Target, cores: Cores) -> Figures:
    """One run of one load on one target."""
    target.pin(cores)
    pids = target.processes()
    reset_peak(pids)
    cpu, busy, began = cpu_seconds(pids), core_busy_seconds(cores.proxy), time.monotonic()
    report = generate(loadgen, target, load.arguments(), load.longest)
    wall = time.monotonic() - began
    cpu = cpu_seconds(pids) - cpu
    busy = core_busy_seconds(cores.proxy) - busy
    count = report["events"] if load.rate else report["done"]
    figures: Figures = {
        "count": count,
        "errors": report["errors"],
        "per_second": count / report["seconds"],
        "loadgen_cpu_share": report["cpu_s"] / report["seconds"],
    }
    if pids:
        figures["cpu_us"] = cpu * 1e6 / max(count, 1)
        figures["cpu_share"] = cpu / wall
        figures["rss_mb"] = peak_mb(pids)
        figures["others_on_core"] = max(0.0, busy - cpu) / wall
    if load.rate:
        figures["lost"] = report["lost"]
        figures["disordered"] = report["disordered"] + report["broken"]
        figures["missing"] = report["expected"] - report["events"]
        figures |= _milliseconds("late", report["late_us"])
        figures |= _milliseconds("first", report["first_us"])
    else:
        figures |= _milliseconds("latency", report["latency_us"])
    return figures


def _milliseconds(name: str, microseconds: dict[str, float] | None) -> Figures:
    return {f"{name}_{key}_ms": value / 1000 for key, value in (microseconds or {}).items()}


def medians(rounds: list[Figures]) -> Figures:
    """Figure by figure; what counts faults is the worst round's, not the middle one's."""
    worst = {"errors", "lost", "disordered", "missing"}
    keys = [key for key in rounds[0] if all(key in one for one in rounds)]
    return {
        key: (max if key in worst else statistics.median)(one[key] for one in rounds)
        for key in keys
    }


def with_ratios(by_target: dict[str, Figures]) -> dict[str, Figures]:
    """The medians of one load with what they are of nginx's in the same run."""
    base = by_target.get("nginx", {})
    for figures in by_target.values():
        for ratio, figure in (("cpu_ratio", "cpu_us"), ("p50_ratio", "latency_p50_ms")):
            if base.get(figure) and figure in figures:
                figures[ratio] = figures[figure] / base[figure]
    return by_target
