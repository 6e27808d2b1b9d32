"""llamagw's benchmarks: `make bench`, or `python benchmarks/bench.py --help`.

The same loads are put on a fake backend alone ("direct"), on nginx before it and on llamagw before
it, in turn, so that every figure of llamagw is also a multiple of nginx's in the same run on the
same machine. The proxy under test has a core to itself; load generator and backend share another.
See docs/performance.md for the method.

Linux only (it reads /proc). Everything it starts listens on loopback and ends with it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import coldstart
import report
import targets
from loads import LOADS, Figures, Load, measure, medians, warm_up, with_ratios
from processes import HERE, BenchError, Processes, alone, build, find_nginx, pin
from targets import Cores, Target

SVG = HERE.parent / "docs" / "performance.svg"
FILES = 16384


def options() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    names = [load.name for load in LOADS]
    parser.add_argument("--rounds", type=int, default=3, help="medians are taken of them (3)")
    parser.add_argument("--quick", action="store_true", help="one short round, for a look")
    only = [*names, "cold"]
    help_only = f"of {', '.join(only)}; repeatable"
    parser.add_argument("--only", action="append", choices=only, metavar="NAME", help=help_only)
    parser.add_argument(
        "--targets",
        default="direct,nginx,llamagw",
        help="of direct,nginx,llamagw,llamagw-unix (all but the last, which has its backend on a"
        " UNIX socket)",
    )
    parser.add_argument(
        "--gateway",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "HOST:PORT", "PID"),
        help="also measure a gateway that runs already (it gets pinned to the proxy's core); let it"
        " use benchmarks/build/fakebackend for the model --model; repeatable",
    )
    parser.add_argument("--model", default="bench", help="the model to ask of --gateway (bench)")
    parser.add_argument("--engine", type=Path, help="llama-server for the cold start")
    parser.add_argument("--gguf", type=Path, help="the model for the cold start")
    parser.add_argument(
        "--json", type=Path, default=HERE / "results.json", help="the results' file"
    )
    parser.add_argument(
        "--svg", nargs="?", type=Path, const=SVG, help="also draw (docs/performance.svg)"
    )
    parser.add_argument("--show", action="store_true", help="only show what is in --json")
    chosen = parser.parse_args()
    if not 1 <= chosen.rounds <= 20:
        parser.error("--rounds must be 1 to 20")
    if chosen.quick:
        chosen.rounds = 1
    return chosen


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def stopped(signum: int, _frame: object) -> NoReturn:
    """SIGTERM ends the benchmark as Ctrl-C does: through every `with`."""
    sys.exit(128 + signum)


def version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    cores = len(os.sched_getaffinity(0))
    return {"cpu": model, "cores": cores, "memory_mb": memory, "kernel": platform.release()}


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    found |= {name: version(name) for name in ("twisted", "uvloop", "httptools", "msgspec")}
    nginx = find_nginx()
    if nginx is not None:
        said = subprocess.run([nginx, "-v"], capture_output=True, text=True, timeout=10, check=True)
        found["nginx"] = said.stderr.strip().rpartition("/")[2]
    return found


def running_gateway(name: str, address: str, pid: str, model: str, backend: Path) -> Target:
    host, _, port = address.removeprefix("http://").rstrip("/").rpartition(":")
    if not port.isdigit() or not pid.isdigit():
        raise BenchError(f"--gateway {name}: give HOST:PORT and the process id")
    host = host.replace("localhost", "127.0.0.1")
    return Target(name, host, int(port), model, int(pid), str(backend))


def start_targets(
    chosen: argparse.Namespace, running: Processes, backend: Path, seconds: int, notes: list[str]
) -> list[Target]:
    wanted = chosen.targets.split(",")
    direct = targets.start_direct(running, backend, seconds)
    found = [direct] if "direct" in wanted else []
    if "nginx" in wanted:
        nginx = targets.start_nginx(running, direct)
        if nginx is None:
            notes.append("no ratios without nginx: apt-get install nginx-light")
            say(notes[-1])
        else:
            found.append(nginx)
    if "llamagw" in wanted:
        found.append(targets.start_llamagw(running, backend, seconds))
    if "llamagw-unix" in wanted:
        unix = targets.start_llamagw(
            running, backend, seconds, "llamagw-unix", backend_socket="unix"
        )
        found.append(unix)
    for name, address, pid in chosen.gateway:
        found.append(running_gateway(name, address, pid, chosen.model, backend.resolve()))
    return found


def measure_loads(chosen: argparse.Namespace, loads: list[Load], results: dict[str, Any]) -> None:
    """All loads on all targets, round after round; the medians go into `results`."""
    backend, loadgen = build()
    cores = Cores.choose()
    if cores.proxy == cores.load:
        results["notes"].append("there is one core only: proxy, load and backend share it")
    every_core = os.sched_getaffinity(0)
    count = 4 + len(chosen.gateway)
    seconds = min(7200, 300 + chosen.rounds * count * sum(load.longest for load in loads))
    taken: dict[tuple[str, str], list[Figures]] = {}
    try:
        pin([os.getpid()], [cores.load])  # what is started from here begins on that core too
        with Processes() as running:
            chosen_targets = start_targets(chosen, running, backend, seconds, results["notes"])
            for target in chosen_targets:
                warm_up(loadgen, target, cores)
                if target.name == "llamagw":
                    results["versions"]["llamagw"] = targets.llamagw_version(target)
            for number in range(chosen.rounds):
                for load in loads:
                    for target in chosen_targets:
                        say(f"round {number + 1} of {chosen.rounds}: {load.title}: {target.name}")
                        figures = measure(load, loadgen, target, cores)
                        taken.setdefault((load.name, target.name), []).append(figures)
    finally:
        pin([os.getpid()], every_core)
    for load in loads:
        rounds = {target.name: taken[load.name, target.name] for target in chosen_targets}
        results["loads"][load.name] = {
            "title": load.title,
            "unit": load.unit,
            "connections": load.connections,
            "arguments": load.arguments(),
            "targets": with_ratios(
                {name: medians(of_target) for name, of_target in rounds.items()}
            ),
            "rounds": rounds,
        }
    note_disturbance(results)


def note_disturbance(results: dict[str, Any]) -> None:
    """A measurement during which others used the proxy's core says less: tell."""
    for load in results["loads"].values():
        for name, figures in load["targets"].items():
            if figures.get("others_on_core", 0) > 0.1:
                share = figures["others_on_core"]
                text = f"{load['title']}, {name}: others used {share:.0%} of the proxy's core"
                results["notes"].append(text)


def measure_cold_start(chosen: argparse.Namespace, results: dict[str, Any]) -> None:
    engine, model = chosen.engine, chosen.gguf
    if engine is None or model is None:
        found = coldstart.find_engine()
        if found is None:
            results["notes"].append("no engine found for the cold start: give --engine and --gguf")
            return
        engine, model = engine or found[0], model or found[1]
    repetitions = 1 if chosen.quick else coldstart.REPETITIONS
    results["cold_start"] = coldstart.measure(engine.resolve(), model.resolve(), repetitions, say)


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    results: dict[str, Any] = {
        "schema": 1,
        "machine": machine(),
        "versions": versions(),
        "rounds": chosen.rounds,
        "quick": chosen.quick,
        "loads": {},
        "cold_start": None,
        "notes": [],
    }
    loads = [load for load in LOADS if not chosen.only or load.name in chosen.only]
    if chosen.quick:
        loads = [load.shortened() for load in loads]
    if loads:
        measure_loads(chosen, loads, results)
    if "llamagw" in chosen.targets.split(",") and (not chosen.only or "cold" in chosen.only):
        try:
            measure_cold_start(chosen, results)
        except BenchError as error:  # what was measured before is not lost
            results["notes"].append(str(error))
    results["goals"] = report.goals(results)
    return results


def main() -> int:
    chosen = options()
    signal.signal(signal.SIGTERM, stopped)
    try:
        if chosen.show:
            results: dict[str, Any] = json.loads(chosen.json.read_text())
        else:
            with alone():
                results = run(chosen)
            chosen.json.write_text(json.dumps(results, indent=2) + "\n")
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
    print(report.table(results))
    print(report.summary(results))
    if not chosen.show:
        say(f"results are in {chosen.json}")
    if chosen.svg:
        chosen.svg.write_text(report.drawing(results))
        say(f"drawing is in {chosen.svg}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
