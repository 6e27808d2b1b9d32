"""`make fuzz`: all targets, one after another, for FUZZ_SECONDS in all.

    python -m tests.fuzz [--seconds=600] [target …]    a run; new inputs are kept in .fuzz/
    python -m tests.fuzz client .fuzz/client/crash-…    one input again, without a fuzzer

An input that breaks a promise belongs into corpus/, under a name that says what it is, together
with the mend: test_fuzz.py runs all that is there.

The fuzzer is atheris: libFuzzer, guided by the branches that an input takes in the Python code of
llamagw, Twisted's HTTP, multipart and PyYAML. What is in C (llhttp, msgspec) is not seen by it. The
alternatives are abandoned (python-afl, pythonfuzz), or need what is tested to be a Hypothesis test
and a licence (HypoFuzz). Where atheris does not exist (macOS, ARM), Hypothesis alone makes inputs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec

#: Everything that a run leaves; ignored by git.
OUT = ".fuzz"

#: Whose branches guide the fuzzer.
GUIDED = [
    "llamagw",
    "multipart",
    "twisted.protocols.basic",
    "twisted.web.http",
    "twisted.web.http_headers",
    "urllib.parse",
    "yaml",
]


def main() -> int:
    """Run what the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together")
    parser.add_argument("--fuzz", help=argparse.SUPPRESS)
    parser.add_argument("what", nargs="*", help="targets, or one target and a file")
    given, more = parser.parse_known_args()
    if given.fuzz:
        return _fuzz(given.fuzz, [*more, *given.what])
    if len(given.what) == 2 and os.path.isfile(given.what[1]):
        return _repeat(*given.what)
    return _all(given.what, given.seconds)


def _all(names: list[str], seconds: float) -> int:
    from tests.fuzz.targets import TARGETS

    names = names or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        print(f"no target {unknown[0]}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    if find_spec("atheris") is None:
        print("atheris is not installed (it exists for Linux on x86-64): Hypothesis alone is used")
        os.environ["FUZZ_SECONDS_EACH"] = str(seconds / len(names))
        where = os.path.join(os.path.dirname(__file__), "test_fuzz.py")
        command = [sys.executable, "-m", "pytest", "-q", where, "-k", " or ".join(names)]
        return subprocess.run(command, check=False).returncode
    failed = [name for name in names if not _one(name, seconds / len(names))]
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


def _one(name: str, seconds: float) -> bool:
    """Fuzz one target in a process of its own; whether all promises were kept."""
    from tests.fuzz.targets import CORPUS, TARGETS

    out = os.path.join(OUT, name)
    os.makedirs(os.path.join(out, "new"), exist_ok=True)
    with open(os.path.join(out, "words"), "w", encoding="ascii") as file:
        for word in TARGETS[name].words:
            file.write('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n')
    command = [
        *(sys.executable, "-m", "tests.fuzz", "--fuzz", name),
        f"-max_total_time={max(int(seconds), 1)}",
        f"-max_len={TARGETS[name].most}",
        f"-dict={out}/words",
        f"-artifact_prefix={out}/",
        *("-timeout=25", "-rss_limit_mb=2048", "-print_final_stats=1", "-use_value_profile=0"),
        *(f"{out}/new", os.path.join(CORPUS, name)),
    ]
    started = time.monotonic()
    log = os.path.join(out, "log")
    with open(log, "wb") as file:
        status = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
    with open(log, encoding="utf-8", errors="replace") as file:
        said = file.read()
    runs = re.findall(r"number_of_executed_units: *(\d+)", said) or ["?"]
    print(f"{name:10} {runs[0]:>9} inputs in {time.monotonic() - started:.0f} s", flush=True)
    if status == 0:
        return True
    found = re.findall(r"Test unit written to (\S+)", said)
    reason = re.findall(r"Uncaught Python exception: ===\s*(.*)|(ERROR: libFuzzer: .*)", said)
    print(f"  {' '.join(filter(None, reason[0])) if reason else said[-2000:]}")
    for path in found:
        print(f"  the input: {path}\n  again:     {sys.executable} -m tests.fuzz {name} {path}")
    print(f"  the log:   {log}", flush=True)
    return False


def _fuzz(name: str, arguments: list[str]) -> int:
    import atheris
    from twisted.logger import globalLogBeginner

    with atheris.instrument_imports(include=GUIDED):
        from tests.fuzz.targets import TARGETS
    # Until logging begins, Twisted keeps what is logged.
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name].run)
    atheris.Fuzz()
    return 0


def _repeat(name: str, path: str) -> int:
    from tests.fuzz.targets import TARGETS

    with open(path, "rb") as file:
        TARGETS[name].run(file.read())
    print("no promise is broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
