"""
The command line and the environment of a local model's engine, and how the log shows them.

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

from llamagw.apart import Commands
from llamagw.config import LocalModel
from llamagw.launch.ports import LOOPBACK

_log = Logger(namespace="llamagw.process")

#: Seconds that ``llama-server --help`` may take; a build for a GPU initialises that first.
HELP_TIMEOUT = 30

#: The variable with an engine's API key; a command line would show the key to all users.
KEY_VARIABLE = "LLAMA_API_KEY"

#: The flags and variables by which a model's own settings give the engine its keys.
_KEY_FLAGS = {"--api-key", "--api-key-file"}
_KEY_VARIABLES = {KEY_VARIABLE, "LLAMA_ARG_API_KEY_FILE"}

# Run by Python in the child before it becomes the engine. A session of its own keeps the
# terminal's Ctrl-C from the engine, which must run on while the gateway drains. On Linux the
# kernel kills it when the gateway dies for any reason (prctl(2), PR_SET_PDEATHSIG = 1); if the
# gateway died before the call, the parent has changed already. macOS has no equivalent: there a
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
    The variable that has a binary search its own folder for shared libraries first.

    llama.cpp's releases put the shared libraries beside the executable; the linker would not find
    them through a user's symbolic link to it, so links are resolved.

    :param binary: the path of the executable
    :param inherited: the gateway's own environment
    :param platform: as `sys.platform`
    :return: the name of the variable, and its value
    """
    variable = "DYLD_LIBRARY_PATH" if platform == "darwin" else "LD_LIBRARY_PATH"
    folder = os.path.dirname(os.path.realpath(binary))
    return variable, os.pathsep.join(filter(None, (folder, inherited.get(variable))))


def command_line(binary: str, model: LocalModel, port: int, known: frozenset[str]) -> list[str]:
    """
    The command line of a model's engine.

    :param binary: the path of llama-server
    :param model: the model, with its settings
    :param port: the port to listen on
    :param known: the flags that this binary has, from `known_flags`; empty if unknown
    """
    context = model.context_size
    if known and "--kv-unified" not in known:
        # An engine older than the flag divides the context among its slots.
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
    """
    A command line for the log, with ``***`` in place of keys and tokens.

    :param command: the program and its arguments
    :return: joined by spaces
    """
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
    """
    Whether a model's own settings give its engine keys, so that clients send theirs.

    :param model: a model, with its ``extra_args`` and ``env``
    :param inherited: the gateway's own environment
    """
    flags = {word.partition("=")[0].replace("_", "-") for word in model.extra_args}
    return bool(flags & _KEY_FLAGS or _KEY_VARIABLES & {*model.env, *inherited})


def known_flags(binary: str, env: Mapping[str, str], commands: Commands) -> frozenset[str]:
    """
    The flags named in the binary's ``--help``.

    Blocks: to be called before anything is served, or in a thread.

    :param binary: the path of llama-server
    :param env: the environment that it runs in
    :param commands: runs it
    :return: empty, after a warning in the log, if it fails or prints none
    :raises Cancelled: when `commands` is cancelled
    """
    try:
        out, err, status = commands.run([binary, "--help"], env, HELP_TIMEOUT)
        text = (out + err).decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        text, status = str(error), -1
    flags = frozenset(re.findall(r"(?<!\S)-{1,2}[A-Za-z][\w-]*", text))
    if status != 0 or "--model" not in flags:
        _log.warn(
            "{binary} --help failed, so its flags are taken for granted: {said}",
            binary=binary,
            said=(text.strip().splitlines() or [f"status {status}"])[-1],
        )
        return frozenset()
    return flags


def become(
    engine: Sequence[str], extra: Mapping[str, str]
) -> tuple[list[str], dict[bytes, bytes] | None]:
    """
    The command that starts a process which becomes an engine (`_BECOME_ENGINE`).

    :param engine: the engine's command line
    :param extra: variables for it, beside those of the gateway
    :return: the command line to spawn, and its environment; None for the gateway's own
    """
    variable, folders = library_path(engine[0], {**os.environ, **extra}, sys.platform)
    # The library path is set for the engine only: its folder may have libraries that Python must
    # not load. The other variables may be secrets, which a command line would show to all users.
    env = {os.fsencode(k): os.fsencode(v) for k, v in extra.items() if k != variable}
    argv = [sys.executable, "-I", "-S", "-c", _BECOME_ENGINE, str(os.getpid())]
    argv += [f"{variable}={folders}", *engine]
    return argv, {**os.environb, **env} if env else None
