"""
Slow questions, answered by another process: what a configuration says and where, what the files of
the models are, which flags an engine has.

The caller blocks, in a thread or before anything is served, and can be cancelled. A file is loaded
in a process of its own rather than in a thread of the gateway: PyYAML makes hundreds of thousands
of objects of a large one, and collecting those alone stops all threads for over a second. The heads
of models are read there too: a disk that does not answer can be left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from twisted.logger import Logger

from llamagw.config import Config, ConfigError, Fault, described, load, with_lines
from llamagw.models import Facts, look_at

_log = Logger(namespace="llamagw")

#: Seconds that reading a file may take; one of 5,000 models takes some ten.
READ_TIMEOUT = 120

#: Seconds that looking at models' files may take beyond those that are given: for the start of the
#: process, and for the file that it reads then.
LOOK_GRACE_SEC = 10

#: Run by Python in the other process; its modules come from where the gateway's do.
_ASKED = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from llamagw.apart import answer
answer()
"""


class Cancelled(Exception):
    """The result of a command is no longer needed."""


class Commands:
    """Runs commands in other processes, until it is cancelled by another thread."""

    def __init__(self) -> None:
        self._cancelled = False
        self._running: set[subprocess.Popen[bytes]] = set()

    def __repr__(self) -> str:
        return f"<Commands{' cancelled' if self._cancelled else ''}>"

    def run(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        stdin: bytes = b"",
    ) -> tuple[bytes, bytes, int]:
        """
        Run a command to its end.

        :param command: the program and its arguments
        :param env: its environment; None for the gateway's own
        :param timeout: seconds; None for no limit
        :param stdin: what it reads there
        :return: its stdout, its stderr, and its exit status as `subprocess` reports it
        :raises Cancelled: when `cancel` was called, before or meanwhile
        :raises OSError: when it cannot be run
        :raises subprocess.TimeoutExpired: when it takes longer
        """
        # In a group of its own: a terminal's SIGHUP must not reach it.
        with subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            self._running.add(process)
            try:
                if self._cancelled:
                    raise Cancelled
                out, err = process.communicate(stdin, timeout=timeout)
            except BaseException:
                _kill(process)
                raise
            finally:
                self._running.discard(process)
        if self._cancelled:
            raise Cancelled
        return out, err, process.returncode

    def cancel(self) -> None:
        """Kill the commands that run; they and every later `run` raise `Cancelled`."""
        self._cancelled = True
        for process in list(self._running):
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # It leads a group: the engine's path may be that of a script.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def load_apart(path: str, commands: Commands, text: bytes | None = None) -> Config:
    """
    As `llamagw.config.load`, in another process.

    :param path: the YAML file
    :param commands: runs the process
    :param text: checked as if the file said that; None to read it
    :raises ConfigError: as there, and when that process fails or takes longer than `READ_TIMEOUT`
    :raises Cancelled: when `commands` is cancelled
    """
    try:
        result: Config | list[Fault] = _ask("load", (path, text), READ_TIMEOUT, commands)
    except _Unanswered as error:
        raise ConfigError([Fault(path, None, "", str(error))]) from error
    if isinstance(result, list):
        raise ConfigError(result)
    return result


def describe_apart(
    config: Config, derived: Mapping[str, Any], only: str | None, commands: Commands
) -> bytes:
    """
    As `llamagw.config.described`, in another process.

    :param commands: runs the process
    :return: as JSON
    :raises ConfigError: when that process fails, or takes longer than `READ_TIMEOUT`
    :raises Cancelled: when `commands` is cancelled
    """
    try:
        told: bytes = _ask("describe", (config, derived, only), READ_TIMEOUT, commands)
    except _Unanswered as error:
        raise ConfigError([Fault(config.path, None, "", str(error))]) from error
    return told


def lines_apart(
    faults: Sequence[Fault], commands: Commands, text: bytes | None = None
) -> list[Fault]:
    """
    As `llamagw.config.with_lines`, in another process.

    :param commands: runs the process
    :return: as they are if that process fails
    :raises Cancelled: when `commands` is cancelled
    """
    try:
        found: list[Fault] = _ask("lines", (faults, text), READ_TIMEOUT, commands)
    except _Unanswered:
        return list(faults)
    return found


def look_apart(paths: Sequence[str], seconds: float, commands: Commands) -> dict[str, Facts]:
    """
    As `llamagw.models.look_at`, in another process.

    :param paths: of the models' files
    :param seconds: after which no further one is read
    :param commands: runs the process
    :return: by path; without those that were not reached, and empty, after a warning in the log,
        if that process fails or a disk does not answer
    :raises Cancelled: when `commands` is cancelled
    """
    if not paths:
        return {}
    try:
        asked = (paths, seconds)
        found: dict[str, Facts] = _ask("look", asked, seconds + LOOK_GRACE_SEC, commands)
    except _Unanswered as error:
        _log.warn("the files of the models were not looked at: {why}", why=str(error))
        return {}
    return found


class _Unanswered(Exception):
    """A question without an answer; the message says why, as a predicate."""


def _ask(question: str, about: tuple[object, ...], timeout: float, commands: Commands) -> Any:
    command = [sys.executable, "-c", _ASKED, json.dumps(sys.path)]
    asked = pickle.dumps((question, about))
    try:
        out, err, status = commands.run(command, timeout=timeout, stdin=asked)
    except subprocess.TimeoutExpired as error:
        raise _Unanswered(f"took over {timeout:g} s to read") from error
    except OSError as error:
        why = f"no process can be started to read it: {error.strerror}"
        raise _Unanswered(why) from error
    if status != 0:
        last = (err.decode(errors="replace").strip().splitlines() or [f"status {status}"])[-1]
        raise _Unanswered(f"the process that read it broke down: {last}")
    return pickle.loads(out)


def answer() -> None:
    """Answer the question on stdin on stdout, both pickled. Called in the other process."""
    question, about = pickle.load(sys.stdin.buffer)
    answers: dict[str, Callable[..., object]] = {
        "load": _load,
        "describe": _describe,
        "lines": with_lines,
        "look": look_at,
    }
    sys.stdout.buffer.write(pickle.dumps(answers[question](*about)))


def _load(path: str, text: bytes | None) -> Config | list[Fault]:
    try:
        return load(path, text)
    except ConfigError as error:
        return error.faults


def _describe(config: Config, derived: Mapping[str, Any], only: str | None) -> bytes:
    # YAML knows dates, JSON does not.
    return msgspec.json.encode(described(config, derived, only), enc_hook=str)
