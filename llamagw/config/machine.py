"""
What a configuration refers to on this machine: the engine, certificates, environment variables; and
how many cores it has.

Checks that they exist, and finds them; nothing is run or changed. A model's file is not checked: it
may be added later.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from functools import cache

from llamagw.config.document import Report

#: Bytes of a file of certificates that are read; a system's whole store has about 0.2 MB.
MOST_CERTIFICATES = 16 << 20

#: Where Linux tells of CPUs, of this process's control group, and of all groups.
_CPUS, _OWN_GROUP = "/sys/devices/system/cpu", "/proc/self/cgroup"
_GROUPS = "/sys/fs/cgroup"

#: More than any machine has.
_MOST_CORES = 2**16


def find_engine(fault: Report, given: str, path: str) -> str:
    """
    Find the engine to run; if it cannot be run, that becomes a fault.

    :param fault: reports a fault
    :param given: as configured; a bare name that is no file is looked up on PATH, as by a shell
    :param path: the same, absolute
    :return: its absolute path
    """
    remedy = "give the path of the llama-server executable of llama.cpp"
    if os.path.basename(given) == given and not os.path.exists(path):
        found = shutil.which(given)
        if found is None:
            folder = os.path.dirname(path)
            fault("llama_server_path", f"{given} is neither on PATH nor in {folder}; {remedy}")
        return found or path
    if not os.path.exists(path):
        fault("llama_server_path", f"there is no file {path}; {remedy}")
    elif not os.path.isfile(path):
        fault("llama_server_path", f"{path} is not a file; {remedy}")
    elif not os.access(path, os.X_OK):
        fault("llama_server_path", f"{path} is not executable; chmod +x it, or {remedy}")
    return path


@cache
def physical_cores() -> int:
    """
    How many physical cores this process may use, by its affinity and its group's quota of CPU time.

    :return: at least 1
    """
    cores = len(set(map(_core, os.sched_getaffinity(0)))) if sys.platform == "linux" else _counted()
    return max(min(cores, *_quotas(), _MOST_CORES), 1)


def _core(cpu: int) -> str:
    """The core of a logical CPU, as the list of the CPUs that share it."""
    topology = f"{_CPUS}/cpu{cpu}/topology"
    for name in ("core_cpus_list", "thread_siblings_list"):
        with contextlib.suppress(OSError), open(f"{topology}/{name}", encoding="ascii") as file:
            return file.read()
    # A machine without hyperthreads, or one that does not say.
    return str(cpu)


def _counted() -> int:
    import psutil

    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def _quotas() -> Iterator[int]:
    """The whole CPUs that each control group around this process allows it (cgroup v2)."""
    try:
        with open(_OWN_GROUP, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, ValueError):
        return
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    parts = [part for part in own.split("/") if part]
    for depth in range(len(parts) + 1):
        path = "/".join([_GROUPS, *parts[:depth], "cpu.max"])
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            quota, period = file.read().split()
            # "max": there is no limit.
            yield int(quota) // int(period) if quota != "max" else _MOST_CORES


def certificates(fault: Report, path: str, place: str) -> None:
    """
    Check that a file has certificates in it.

    :param fault: reports a fault
    :param path: of the file, absolute
    :param place: in the configuration
    """
    if os.path.exists(path) and not os.path.isfile(path):
        # Reading a pipe or /dev/zero might never end.
        return fault(place, f"{path} is not a file; give a PEM file of certificates")
    try:
        with open(path, "rb") as file:
            if b"-----BEGIN CERTIFICATE-----" not in file.read(MOST_CERTIFICATES):
                fault(place, f"{path} has no certificate in it (PEM is expected)")
    except OSError as error:
        fault(place, f"{path} cannot be read: {error.strerror}")


def variable(name: str) -> str:
    """
    The value of an environment variable.

    :param name: of the variable
    :return: "" if it is not set
    """
    return os.environ.get(name, "")
