"""
What keys of clients cost: a request and an event of a stream, the start, and a wrong key.

    PYTHONPATH=. python benchmarks/keys.py [--rounds N] [--seconds N]

Four gateways, each before a fake backend, are loaded in turn: without keys, with one, with 100,000,
and with 100,000 of which the one that is used is for a model, and has an end. See bench.py for the
method.

Whether a wrong key takes longer the more of it is right is a question of statistics, which CI is
too unsteady for; here the answer is printed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import statistics
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from loads import Load, measure, medians, warm_up
from processes import BenchError, Processes, alone, build, pin
from targets import Cores, Target, start_llamagw

from llamagw.config import read_keys
from llamagw.errors import Unauthorized
from llamagw.gate import Keyring, digest_of, new_secret

MANY = 100_000

#: What the load generator sends as its key.
SECRET = b"none"

#: Wrong keys that are tried together, and how often.
BATCH, BATCHES = 500, 400


def entry(number: int) -> dict[str, Any]:
    hashed = f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}"
    return {"name": f"k{number}", "hash": hashed, "models": ["*"], "scopes": ["infer"]}


def write_keys(path: Path, count: int, **more: Any) -> str:
    """A file of so many keys, as `llamagw keys` writes it; the last one is the load generator's."""
    ours = {**entry(count), "name": "bench", "hash": digest_of(SECRET), **more}
    with path.open("w") as file:
        file.write("keys:\n")
        for number in range(count - 1):
            file.write(f"- {json.dumps(entry(number))}\n")
        file.write(f"- {json.dumps(ours)}\n")
    path.chmod(0o600)
    return str(path)


def loaded(rounds: int, seconds: int) -> None:
    """CPU of a request, and of an event."""
    backend, loadgen = build()
    cores = Cores.choose()
    loads = [
        Load("c32", "CPU per request, 32 connections, µs", 32, seconds=seconds),
        Load("s50", "CPU per event, 50 streams × 100/s, µs", 50, 100, seconds, ramp_seconds=1),
    ]
    every_core = os.sched_getaffinity(0)
    figures: dict[tuple[str, str], list[dict[str, float]]] = {}
    with Processes() as running:
        folder = running.folder
        limited = {"models": ["bench*"], "expires": "2999-12-31"}
        files = {
            "no keys": {},
            "1 key": {"keys_file": write_keys(folder / "one.yaml", 1)},
            "100,000": {"keys_file": write_keys(folder / "many.yaml", MANY)},
            "for a model": {"keys_file": write_keys(folder / "limited.yaml", MANY, **limited)},
        }
        longest = 300 + rounds * len(files) * sum(load.longest for load in loads)
        try:
            pin([os.getpid()], [cores.load])
            found: list[Target] = []
            for name, keys in files.items():
                target = start_llamagw(running, backend, longest, name.replace(" ", "-"), **keys)
                warm_up(loadgen, target, cores)
                found.append(target)
            pairs = list(zip(files, found, strict=True))
            for number in range(rounds):
                # In another order each time, so that none is always measured last.
                turn = number % len(pairs)
                for load in loads:
                    for name, target in pairs[turn:] + pairs[:turn]:
                        one = measure(load, loadgen, target, cores)
                        if one["errors"]:
                            raise BenchError(f"{name}: {one['errors']:.0f} errors")
                        figures.setdefault((load.name, name), []).append(one)
        finally:
            pin([os.getpid()], every_core)
    print(f"{'':40}" + "".join(f"{name:>13}" for name in files))
    for load in loads:
        costs = {name: medians(figures[load.name, name])["cpu_us"] for name in files}
        print(f"{load.title:40}" + "".join(f"{cost:13.1f}" for cost in costs.values()))
        base = costs["no keys"]
        print(
            f"{'  of that without keys':40}" + "".join(f"{c / base:12.0%} " for c in costs.values())
        )
    memory = [medians(figures["c32", name])["rss_mb"] for name in files]
    print(f"{'peak memory, MB':40}" + "".join(f"{one:13.0f}" for one in memory))


def read(folder: Path) -> None:
    """How long it takes to read a file of keys."""
    path = write_keys(folder / "keys.yaml", MANY)
    took = []
    for _ in range(5):
        began = time.process_time()
        Keyring(read_keys(path))
        took.append(time.process_time() - began)
    size = os.path.getsize(path) / 2**20
    print(f"{MANY:,} keys, {size:.0f} MB, are read in {min(took):.2f} s of CPU")


def guessed() -> None:
    """How long a wrong key takes, by how much of it is right."""
    secrets = [new_secret() for _ in range(1000)]
    entries = [{**entry(n), "hash": digest_of(s.encode())} for n, s in enumerate(secrets)]
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"llamagw-bench-{os.getpid()}.yaml"
    path.write_text("keys:\n" + "".join(f"- {json.dumps(one)}\n" for one in entries))
    path.chmod(0o600)
    try:
        keyring = Keyring(read_keys(str(path)))
    finally:
        path.unlink()

    def wrong(right: int) -> list[bytes]:
        """Keys of which the first so many random characters are a valid one's; their sum fits."""
        made = []
        for secret in secrets[:BATCH]:
            other = "A" if secret[4 + right] != "A" else "B"
            random = (secret[4 : 4 + right] + other + new_secret()[5 + right : 47]).encode()
            summed = base64.urlsafe_b64encode(zlib.crc32(random).to_bytes(4, "big"))
            made.append(b"lgw_" + random + summed.rstrip(b"="))
        return made

    kinds = {f"{right} of 43": wrong(right) for right in (0, 10, 20, 30, 42)}
    kinds["another's"] = [new_secret().encode() for _ in range(BATCH)]
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    order = list(kinds)
    for number in range(BATCHES):
        # In another order each time, so that none is always first.
        for kind in order[number % len(order) :] + order[: number % len(order)]:
            began = time.perf_counter_ns()
            for secret in kinds[kind]:
                try:
                    keyring.find(secret, 0.0)
                except Unauthorized:
                    continue
            took[kind].append((time.perf_counter_ns() - began) / BATCH)
    base = took["0 of 43"]
    print(f"\n{'characters that are right':28}{'median, ns':>12}{'t against 0 of 43':>20}")
    for kind, times in took.items():
        print(f"{kind:28}{statistics.median(times):12.0f}{welch(times, base):20.1f}")


def welch(one: list[float], other: list[float]) -> float:
    """Welch's t of the faster nine tenths of two samples: beyond ±4.5 they are told apart."""
    one, other = sorted(one)[: len(one) * 9 // 10], sorted(other)[: len(other) * 9 // 10]
    spread = statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    return float((statistics.mean(one) - statistics.mean(other)) / spread**0.5)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8, help="medians are taken of them (8)")
    parser.add_argument("--seconds", type=int, default=3, help="of each load (3)")
    chosen = parser.parse_args()
    try:
        with alone(), Processes() as running:
            read(running.folder)
            guessed()
            print()
            loaded(chosen.rounds, chosen.seconds)
    except BenchError as error:
        print(f"keys: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
