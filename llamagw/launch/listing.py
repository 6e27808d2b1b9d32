"""
The devices that an engine finds on this machine, as its ``--list-devices`` prints them.

Only names and totals are taken from it: what it calls free is of one moment, and wrong where a GPU
shares the machine's memory (llama.cpp issues 17536, 18159, 24933). How much is in use is read by
gpus.py. The engine makes a context on each GPU to answer, so it is asked once.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from twisted.logger import Logger

from llamagw.apart import Commands
from llamagw.text import harmless

_log = Logger(namespace="llamagw.devices")

#: Seconds that it may take: a build for a GPU initialises that first.
LIST_TIMEOUT = 30

#: Devices beyond so many are not told apart, and the characters of a name that are.
_MOST_DEVICES, _NAME_LENGTH = 64, 64

#: More than any device has, in MiB: 1 PiB.
_MOST_MIB = 2**30

#: As common/arg.cpp prints it: ``  CUDA0: NVIDIA GeForce RTX 3090 (24135 MiB, 23500 MiB free)``.
_LISTED = re.compile(
    r"^  ([A-Za-z][\w.:\[\]-]*): (.*) \((\d{1,10}) MiB, \d{1,10} MiB free\)$", re.M
)

#: As ggml-vulkan.cpp prints it when it begins: ``ggml_vulkan: 0 = NAME (DRIVER) | uma: 1 | …``.
_VULKAN = re.compile(r"^ggml_vulkan: (\d{1,3}) = .* \| uma: ([01]) \|", re.M)

#: GPUs that share the machine's memory, by what their drivers call them.
_SHARING = re.compile(r"\b(Apple|GB10|Orin|Xavier|Tegra|Thor)\b")

#: Backends that compute in the machine's memory, and are no devices of their own.
_NO_DEVICES = frozenset({"BLAS", "CPU", "ACCEL"})


class Listed(NamedTuple):
    """
    A device.

    :ivar name: the engine's name for it, such as ``CUDA0``
    :ivar description: what its driver calls it
    :ivar total: bytes
    :ivar unified: whether its memory is the machine's own
    """

    name: str
    description: str
    total: int
    unified: bool = False


def listed(text: str) -> list[Listed]:
    """
    The devices in the output of ``--list-devices``; what is not understood is left out.

    :param text: stdout and stderr
    """
    shares = {f"Vulkan{number}" for number, uma in _VULKAN.findall(text) if uma == "1"}
    found: dict[str, Listed] = {}
    for name, description, mib in _LISTED.findall(text)[:_MOST_DEVICES]:
        total = min(int(mib), _MOST_MIB) * 2**20
        if name in _NO_DEVICES or not total or len(name) > _NAME_LENGTH:
            continue
        metal = name.startswith(("Metal", "MTL"))
        unified = metal or name in shares or bool(_SHARING.search(description))
        found.setdefault(name, Listed(name, harmless(description, 200), total, unified))
    return list(found.values())


def list_devices(binary: str, env: Mapping[str, str], commands: Commands) -> list[Listed] | None:
    """
    Ask an engine for the devices that it finds. Blocks: to be called before anything is served, or
    in a thread.

    :param binary: the path of llama-server
    :param env: the environment that it runs in
    :param commands: runs it
    :return: None, after a warning in the log, if it does not answer
    :raises Cancelled: when `commands` is cancelled
    """
    try:
        out, err, status = commands.run([binary, "--list-devices"], env, LIST_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        said: object = error
        status, out, err = -1, b"", b""
    else:
        said = (err or out).decode(errors="replace").strip().splitlines()[-1:] or f"status {status}"
    if status:
        _log.warn(
            "{binary} --list-devices failed, so no GPU is counted: {said}", binary=binary, said=said
        )
        return None
    return listed((out + b"\n" + err).decode(errors="replace"))
