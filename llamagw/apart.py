"""
What takes its time is asked of another process: what a configuration file says, what flags an
engine has.

The caller waits, in a thread or before anything is served, and the wait can be taken back. A file
is loaded in that process, not in a thread of the gateway: PyYAML makes hundreds of
thousands of objects of a large one, whose collection alone stops all threads for over a second.
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

#: Seconds that a file may take to be read; one of 5,000 models takes some ten.
READ_TIMEOUT = 120

#: Run by Python in the other process; its modules come from where the gateway's do.
_READ = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from llamagw.apart import answer
answer(sys.argv[2])
"""


class TakenBack(Exception):
    """Nobody wants to know any more."""


class Asking:
    """Asks other processes, one at a time, until it is taken back by another thread."""

    def __init__(self) -> None:
        self._over = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> tuple[bytes, bytes, int]:
        """
        Run a command to its end.

        :param env: its environment; None for the gateway's own
        :param timeout: seconds
        :return: what it printed to stdout, and to stderr; its exit status, as `subprocess` tells it
        :raises TakenBack: when nobody wants to know any more
        :raises OSError: when it cannot be run
        :raises subprocess.TimeoutExpired: when it takes longer
        """
        # Not in the gateway's group: a terminal that hangs up does not mean it.
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
                if self._over:
                    raise TakenBack
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                self._kill()
                raise
        if self._over:
            raise TakenBack
        return out, err, process.returncode

    def take_back(self) -> None:
        """Nobody wants to know any more, now or later."""
        self._over = True
        self._kill()

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            # It leads a group: what stands in for an engine may be a script.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def load_apart(path: str, asking: Asking) -> Config:
    """
    As `llamagw.config.load`, in another process.

    :raises ConfigError: as there, and when that process breaks down or takes too long
    :raises TakenBack: when nobody wants to know any more
    """
    command = [sys.executable, "-c", _READ, json.dumps(sys.path), path]
    try:
        out, err, status = asking.run(command, timeout=READ_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        why = f"took over {READ_TIMEOUT} s to read"
        raise ConfigError([Fault(path, None, "", why)]) from error
    except OSError as error:
        why = f"no process can be started to read it: {error.strerror}"
        raise ConfigError([Fault(path, None, "", why)]) from error
    if status != 0:
        last = (err.decode(errors="replace").strip().splitlines() or [f"status {status}"])[-1]
        raise ConfigError([Fault(path, None, "", f"the process that read it broke down: {last}")])
    said: Config | list[Fault] = pickle.loads(out)
    if isinstance(said, list):
        raise ConfigError(said)
    return said


def answer(path: str) -> None:
    """Print what `load_apart` is to hear. Called in the other process."""
    said: Config | list[Fault]
    try:
        said = load(path)
    except ConfigError as error:
        said = error.faults
    sys.stdout.buffer.write(pickle.dumps(said))
