"""
How near what was learned from one load comes to what the next one takes.

    PYTHONPATH=. python benchmarks/learned.py [--write]

A model is loaded, learned from as the gateway does when it is ready, asked with a prompt of some
1500 words, and learned from again as it ends. Both figures are compared with the memory of its own
that /proc says a second engine has, once it has answered the same. Without the cache of earlier
prompts, which is counted beside it, in full. With ``--write``, the table of docs/memory.md; the
models are those of benchmarks/memory.py.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from coldstart import find_engine
from memory import DOC, MIB, Engine, models
from processes import BenchError

from llamagw.launch import Memory
from llamagw.launch.lesson import Lesson
from llamagw.models import HOST, Learned

PLACE = re.compile(r"(<!-- made by benchmarks/learned\.py -->\n)(?:\|.*\n)*")

SETTINGS = [
    "-c 4096 -np 1",
    "-c 4096 -np 4",
    "-c 4096 -np 1 -fa off",
    "-c 4096 -np 1 -ub 128",
    "-c 4096 -np 1 --no-mmap",
    "-c 16384 -np 2 -ctk q8_0 -ctv q8_0",
]
ALWAYS = "-b 512 --cache-ram 0 --fit off -ngl 0"

#: What an engine logs when it takes requests, with its address.
READY = r"listening on (http://[\d.:]+)"

PROMPT = "the sea was calm and the ship sailed on " * 170


class Case(NamedTuple):
    """
    One setting of a model, in MiB of its own.

    :ivar ready: learned from the first load, when it was ready
    :ivar used: learned from it when it had ended
    :ivar seen: at the second
    """

    model: str
    settings: str
    ready: float
    used: float
    seen: float

    def error(self, learned: float) -> str:
        """In percent of what was seen; negative for too little."""
        return f"{round(100 * (learned - self.seen) / self.seen, 1) + 0.0:+.1f} %"


def in_use(engine: Engine) -> Memory:
    """What /proc says of an engine, as launch/memory.py reads it."""
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    rss, file = (
        int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) * 1024 for name in ("VmRSS", "RssFile")
    )
    return Memory(rss, rss - file, file)


def compare(binary: Path, name: str, path: Path, settings: str, folder: Path) -> Case:
    """Load twice."""
    learned = Learned()
    lesson = Lesson(learned, "key")
    told = lesson.begin()
    words = [*settings.split(), *ALWAYS.split()]
    with Engine(binary, path, words, folder) as engine:
        said = engine.until(READY)
        for line in said.encode().split(b"\n"):
            told.line(line)
        lesson.ready(in_use(engine))
        ready = known(learned, said)
        ask(said)
        lesson.seen(in_use(engine))
    lesson.over()
    with Engine(binary, path, words, folder) as engine:
        ask(engine.until(READY))
        seen = in_use(engine).anon or 0
    return Case(name, settings, ready, known(learned, said), seen / MIB)


def known(learned: Learned, said: str) -> float:
    """MiB of the host that the next load is counted with."""
    figure = learned.of("key")
    if figure is None:
        raise BenchError(f"nothing was learned from {said[-2000:]}")
    return figure.need(0)[HOST] / MIB


def ask(said: str) -> None:
    """Have a long prompt answered by the engine that has logged that."""
    found = re.search(READY, said)
    assert found is not None
    body = json.dumps({"prompt": PROMPT, "n_predict": 4}).encode()
    request = urllib.request.Request(
        f"{found[1]}/completion", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()


def table(cases: Sequence[Case]) -> str:
    """A row for each."""
    rows = [
        "| model | settings | taken | when ready | when it had ended |",
        "|---|---|---|---|---|",
    ]
    for case in cases:
        ready, used = (f"{figure:.0f} ({case.error(figure)})" for figure in (case.ready, case.used))
        rows.append(f"| {case.model} | `{case.settings}` | {case.seen:.0f} | {ready} | {used} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Compare, print, and write."""
    parser = argparse.ArgumentParser(description="What is learned of memory, against the engine.")
    parser.add_argument("--write", action="store_true", help="write the table of docs/memory.md")
    options = parser.parse_args()
    engine = find_engine()
    if engine is None:
        sys.exit("the real engine is needed: make test installs it")
    binary, small = engine
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [
            compare(binary, model, path, settings, folder)
            for model, path in models(small, folder).items()
            if "zeros" not in model
            for settings in SETTINGS
        ]
    print(table(cases))
    if options.write:
        text = DOC.read_text()
        DOC.write_text(PLACE.sub(lambda found: found[1] + table(cases), text))


if __name__ == "__main__":
    main()
