"""
What is run for a local model: its command line, its environment, and what the log shows of them.

Knows the flags of llama-server (tools/server/README.md of llama.cpp); starts nothing but the
engine's ``--help``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

from twisted.logger import Logger

from llamagw.apart import Asking
from llamagw.config import LocalModel
from llamagw.launch.ports import LOOPBACK

_log = Logger(namespace="llamagw.process")

#: Seconds that ``llama-server --help`` may take; a build for a GPU looks for one first.
HELP_TIMEOUT = 30

#: The variable by which an engine is told its key; a command line would show it to everybody.
KEY_VARIABLE = "LLAMA_API_KEY"

#: Where a model's own settings name the keys that the engine takes.
_KEY_FLAGS = {"--api-key", "--api-key-file"}
_KEY_VARIABLES = {KEY_VARIABLE, "LLAMA_ARG_API_KEY_FILE"}

# Run by Python in the child before it becomes the engine. A session of its own keeps the
# terminal's Ctrl-C from the engine, which must live on while the gateway drains. On Linux the
# kernel ends it when the gateway dies in whatever way (prctl(2), PR_SET_PDEATHSIG = 1); if that
# happened before the call, the parent has changed already. macOS has no such thing: there a
# second process waits for the end of either.
_BECOME_ENGINE = """
import os, sys
os.setsid()
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
if sys.platform == "darwin" and os.fork() == 0:
    import select
    os.closerange(0, 3)
    gateway, engine = int(sys.argv[1]), os.getppid()
    queue = select.kqueue()
    ends = [
        select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        for pid in (gateway, engine)
    ]
    try:
        first = queue.control(ends, 1)[0].ident
    except OSError:
        first = gateway
    if first == gateway:
        os.kill(engine, 9)
    os._exit(0)
name, _, value = sys.argv[2].partition("=")
os.environ[name] = value
try:
    os.execv(sys.argv[3], sys.argv[3:])
except OSError as error:
    print(f"cannot be executed: {error.strerror}", file=sys.stderr, flush=True)
    os._exit(127)
"""


def library_path(binary: str, inherited: Mapping[str, str], platform: str) -> tuple[str, str]:
    """
    The variable, and its value, by which a binary finds the libraries beside it first.

    llama.cpp's releases put the shared libraries beside the executable; a symbolic link that a
    user has made to it would not lead the linker there, so links are resolved.

    :param inherited: the gateway's own environment
    :param platform: as `sys.platform`
    """
    variable = "DYLD_LIBRARY_PATH" if platform == "darwin" else "LD_LIBRARY_PATH"
    folder = os.path.dirname(os.path.realpath(binary))
    return variable, os.pathsep.join(filter(None, (folder, inherited.get(variable))))


def command_line(binary: str, model: LocalModel, port: int, known: frozenset[str]) -> list[str]:
    """
    What is run for a model.

    :param known: the flags that this binary has, from `known_flags`; empty if nobody knows
    """
    context = model.context_size
    if known and "--kv-unified" not in known:
        # An engine from before the flag gives each slot its share of the context only.
        context *= model.parallel
    flags: list[tuple[str, str | None]] = [
        ("--model", model.model_path),
        ("--host", LOOPBACK),
        ("--port", str(port)),
        ("--alias", model.name),
        ("--ctx-size", str(context)),
        ("--threads", str(model.threads)),
        ("--batch-size", str(model.batch_size)),
        ("--parallel", str(model.parallel)),
        ("--kv-unified", None),
        # The engine's own -1 means "as many as seem to fit".
        ("--gpu-layers", "999" if model.gpu_layers == -1 else str(model.gpu_layers)),
    ]
    command = [binary]
    for flag, value in flags:
        if not known or flag in known:
            command += [flag] if value is None else [flag, value]
    return command + model.extra_args


def masked(command: Sequence[str]) -> str:
    """A command line for the log, without the secrets that are on it."""
    shown, secret = [], False
    for word in command:
        flag, equals, _ = word.partition("=")
        names_one = bool(re.fullmatch(r"-hft|-.*[-_](key|token)", flag, re.IGNORECASE))
        if secret:
            word = "***"
        elif names_one and equals:
            word = f"{flag}=***"
        shown.append(word)
        secret = names_one and not equals and not secret
    return " ".join(shown)


def has_own_key(model: LocalModel, inherited: Mapping[str, str]) -> bool:
    """Whether it was said which keys the model's engine takes: then clients bring theirs."""
    flags = {word.partition("=")[0].replace("_", "-") for word in model.extra_args}
    return bool(flags & _KEY_FLAGS or _KEY_VARIABLES & {*model.env, *inherited})


def known_flags(binary: str, env: Mapping[str, str], asking: Asking) -> frozenset[str]:
    """
    The flags named in the binary's ``--help``; empty, and a warning logged, if it has none.

    Waits for the binary: it is asked before anything is served, or in a thread.

    :raises TakenBack: when nobody wants to know any more
    """
    try:
        out, err, status = asking.run([binary, "--help"], env, HELP_TIMEOUT)
        said = (out + err).decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        said, status = str(error), -1
    flags = frozenset(re.findall(r"(?<!\S)-{1,2}[A-Za-z][\w-]*", said))
    if status != 0 or "--model" not in flags:
        _log.warn(
            "{binary} --help failed, so its flags are taken for granted: {said}",
            binary=binary,
            said=(said.strip().splitlines() or [f"status {status}"])[-1],
        )
        return frozenset()
    return flags


def become(
    engine: Sequence[str], extra: Mapping[str, str]
) -> tuple[list[str], dict[bytes, bytes] | None]:
    """
    How a process is started that becomes an engine.

    :param engine: the engine's command line
    :param extra: variables for it, beside those of the gateway
    :return: the command line to spawn, and its environment; None for the gateway's own
    """
    variable, folders = library_path(engine[0], {**os.environ, **extra}, sys.platform)
    # The library path is for the engine alone: its folder may hold what Python must not load.
    # The other variables may be secrets, which a command line would show to everybody.
    env = {os.fsencode(k): os.fsencode(v) for k, v in extra.items() if k != variable}
    argv = [sys.executable, "-I", "-S", "-c", _BECOME_ENGINE, str(os.getpid())]
    argv += [f"{variable}={folders}", *engine]
    return argv, {**os.environb, **env} if env else None
