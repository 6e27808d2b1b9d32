"""
Slow questions, answered by another process: what a configuration file says, which flags an engine
has.

The caller blocks, in a thread or before anything is served, and can be cancelled. A file is loaded
in a process of its own rather than in a thread of the gateway: PyYAML makes hundreds of thousands
of objects of a large one, and collecting those alone stops all threads for over a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from llamagw.config import Config, ConfigError, Fault, load

#: Seconds that reading a file may take; one of 5,000 models takes some ten.
READ_TIMEOUT = 120

#: Run by Python in the other process; its modules come from where the gateway's do.
_READ = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from llamagw.apart import answer
answer(sys.argv[2])
"""


class Cancelled(Exception):
    """The result of a command is no longer needed."""


class Commands:
    """Runs commands in other processes, one at a time, until it is cancelled by another thread."""

    def __init__(self) -> None:
        self._cancelled = False
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Commands{' cancelled' if self._cancelled else ''}>"

    def run(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> tuple[bytes, bytes, int]:
        """
        Run a command to its end.

        :param command: the program and its arguments
        :param env: its environment; None for the gateway's own
        :param timeout: seconds; None for no limit
        :return: its stdout, its stderr, and its exit status as `subprocess` reports it
        :raises Cancelled: when `cancel` was called, before or meanwhile
        :raises OSError: when it cannot be run
        :raises subprocess.TimeoutExpired: when it takes longer
        """
        # In a group of its own: a terminal's SIGHUP must not reach it.
        with subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            self._process = process
            try:
                if self._cancelled:
                    raise Cancelled
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                self._kill()
                raise
        if self._cancelled:
            raise Cancelled
        return out, err, process.returncode

    def cancel(self) -> None:
        """Kill the command that runs, if any; it and every later `run` raise `Cancelled`."""
        self._cancelled = True
        self._kill()

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            # It leads a group: the engine's path may be that of a script.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def load_apart(path: str, commands: Commands) -> Config:
    """
    As `llamagw.config.load`, in another process.

    :param path: the YAML file
    :param commands: runs the process
    :raises ConfigError: as there, and when that process fails or takes longer than `READ_TIMEOUT`
    :raises Cancelled: when `commands` is cancelled
    """
    command = [sys.executable, "-c", _READ, json.dumps(sys.path), path]
    try:
        out, err, status = commands.run(command, timeout=READ_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        why = f"took over {READ_TIMEOUT} s to read"
        raise ConfigError([Fault(path, None, "", why)]) from error
    except OSError as error:
        why = f"no process can be started to read it: {error.strerror}"
        raise ConfigError([Fault(path, None, "", why)]) from error
    if status != 0:
        last = (err.decode(errors="replace").strip().splitlines() or [f"status {status}"])[-1]
        raise ConfigError([Fault(path, None, "", f"the process that read it broke down: {last}")])
    result: Config | list[Fault] = pickle.loads(out)
    if isinstance(result, list):
        raise ConfigError(result)
    return result


def answer(path: str) -> None:
    """
    Print, pickled, the configuration or its faults for `load_apart`. Called in the other process.

    :param path: the YAML file
    """
    result: Config | list[Fault]
    try:
        result = load(path)
    except ConfigError as error:
        result = error.faults
    sys.stdout.buffer.write(pickle.dumps(result))
