"""
The command line and the environment of a local model's engine, and how the log shows them.

Knows the flags of llama-server (tools/server/README.md of llama.cpp); starts nothing but the
engine's ``--help``.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence

from twisted.logger import Logger

from llamagw.apart import Commands
from llamagw.config import CACHE_MB, LocalModel, masked_arguments
from llamagw.launch.base import Need
from llamagw.launch.ports import LOOPBACK
from llamagw.launch.slots import SAVE_FLAG, save_folder

_log = Logger(namespace="llamagw.process")

#: Seconds that ``llama-server --help`` may take; a build for a GPU initialises that first.
HELP_TIMEOUT = 30

#: The variable with an engine's API key; a command line would show the key to all users.
KEY_VARIABLE = "LLAMA_API_KEY"

#: How the random keys end. llama-server 10068 logs the last four characters of its keys
#: ("api_keys: ****…"), so that these are to tell nothing.
_KEY_END = "-run"

#: The flags and variables by which a model's own settings give the engine its keys.
_KEY_FLAGS = {"--api-key", "--api-key-file"}
_KEY_VARIABLES = {KEY_VARIABLE, "LLAMA_ARG_API_KEY_FILE"}

#: The flags of which an engine has one, by which it prints more, and the level at which it tells
#: what it takes in memory.
_VERBOSITY = ("--verbosity", "--log-verbosity", "-lv")
_TELLS_OF_MEMORY = "4"

#: Variables that set what the gateway would set only by default: its flags would overrule them.
_VERBOSITY_VARIABLES = ("LLAMA_ARG_LOG_VERBOSITY", "LLAMA_LOG_VERBOSITY")
_CACHE_VARIABLES = ("LLAMA_ARG_CACHE_RAM",)

#: A flag; and those at the beginning of a line of ``--help``, with a value if one space follows.
_FLAG = r"-{1,2}[A-Za-z][\w-]*"
_FLAGS_AND_VALUE = re.compile(rf"^({_FLAG}(?:,\s+{_FLAG})*)( \S)?", re.MULTILINE)

#: How llama-server 10068 says that it listens on UNIX sockets: "bind to an UNIX socket if the
#: address ends with .sock".
_SOCKETS = re.compile(r"^--host \S.*\n?.*\.sock\b", re.MULTILINE)

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


class Flags(dict[str, bool]):
    """
    The flags of a binary, and whether each takes a value; empty if unknown.

    :ivar sockets: whether ``--host`` takes the path of a UNIX socket
    """

    sockets = False


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


def command_line(
    binary: str,
    model: LocalModel,
    where: int | str,
    known: Collection[str],
    *,
    counted: bool = False,
    need: Need | None = None,
) -> list[str]:
    """
    The command line of a model's engine.

    :param binary: the path of llama-server
    :param model: the model, with its settings
    :param where: the port to listen on, or the path of the UNIX socket
    :param known: the flags that this binary has, from `known_flags`; empty if unknown
    :param counted: whether memory is counted: then the engine's cache of prompts is limited, and it
        prints what it takes
    :param need: of the places where it can be started, that which there is room for
    """
    context = model.context_size
    if known and "--kv-unified" not in known:
        # An engine older than the flag divides the context among its slots.
        context *= model.parallel
    flags: list[tuple[str, str | None]] = [
        ("--model", model.model_path),
        *_listening(where),
        ("--alias", model.name),
        ("--ctx-size", str(context)),
        *([("--threads", str(model.threads))] if model.threads else []),
        ("--batch-size", str(model.batch_size)),
        ("--parallel", str(model.parallel)),
        ("--kv-unified", None),
        ("--metrics", None),
    ]
    if model.gpu_layers != "auto":  # else the need's flags say how many
        # The engine's own -1 means "as many as seem to fit".
        layers = "999" if model.gpu_layers == -1 else str(model.gpu_layers)
        flags.append(("--gpu-layers", layers))
    if "--fit" in known and not _tells_of_fit(model):
        # The engine would try out how much fits, for settings that all are given: it takes half of
        # the time to ready.
        flags.append(("--fit", "off"))
    cache = model.prompt_cache_mb
    if cache is None and counted and not _in_environment(model, _CACHE_VARIABLES):
        cache = CACHE_MB
    if cache is not None and "--cache-ram" in known:
        flags.append(("--cache-ram", str(cache)))
    if counted and not _in_environment(model, _VERBOSITY_VARIABLES):
        verbosity = [flag for flag in _VERBOSITY if flag in known]
        flags += [(flag, _TELLS_OF_MEMORY) for flag in verbosity[:1]]
    if model.idle_shrink_sec and not _saves_slots(model):
        # Without it, the engine erases no slot.
        flags.append((SAVE_FLAG, save_folder()))
    command = [binary]
    for flag, value in flags:
        if not known or flag in known:
            command += [flag] if value is None else [flag, value]
    return [*command, *(need.flags if need else ()), *model.extra_args]


def _listening(where: int | str) -> list[tuple[str, str | None]]:
    """The flags for a port, or for the path of a UNIX socket."""
    if isinstance(where, str):
        return [("--host", where)]
    return [("--host", LOOPBACK), ("--port", str(where))]


def _in_environment(model: LocalModel, variables: Collection[str]) -> bool:
    """Whether an engine has one of these variables, from its model or from the gateway."""
    return any(name in model.env or name in os.environ for name in variables)


def _saves_slots(model: LocalModel) -> bool:
    """Whether a model's own settings say where its slots are saved."""
    return any(word.replace("_", "-") == SAVE_FLAG for word in model.extra_args)


def _tells_of_fit(model: LocalModel) -> bool:
    """Whether a model's own settings tell the engine how to fit it into memory."""
    told = any(word.startswith(("--fit", "-fit")) for word in model.extra_args)
    return told or any(name.startswith("LLAMA_ARG_FIT") for name in model.env)


def unknown_flags(
    arguments: Sequence[str], known: Mapping[str, bool]
) -> Iterator[tuple[int, str, str]]:
    """
    The flags among a model's ``extra_args`` that its engine does not have.

    :param arguments: the ``extra_args``
    :param known: the flags that the binary has, from `known_flags`; not empty
    :return: of each its index, the flag, and what is wrong with it and would be right
    """
    is_value = False
    for number, word in enumerate(arguments):
        # As the engine reads it: a flag's value may look like a flag.
        flag = word.replace("_", "-") if word.startswith("--") else word
        if is_value or not re.match(r"--?[A-Za-z]", word):
            is_value = False
        elif flag in known:
            is_value = known[flag]
        else:
            # What follows may be a secret.
            name, *joined = re.split(r"[=\s]", flag, maxsplit=1)
            near = _nearest(name, known)
            if joined and name in known:
                yield number, name, f"takes its value as a text of its own: [{name}, …]"
            elif near:
                yield number, name, f"is no flag of this llama-server; did you mean {near}?"
            else:
                yield number, name, "is no flag of this llama-server; leave it out"


def _nearest(flag: str, known: Collection[str]) -> str | None:
    """The flag that is meant: the shortest that begins so, else the most similar one."""
    longer = [one for one in known if one.startswith(flag)]
    if longer:
        return min(longer, key=len)
    alike = [one for one in known if one.startswith("--") == flag.startswith("--")]
    return next(iter(difflib.get_close_matches(flag, alike, n=1, cutoff=0.5)), None)


def masked(command: Sequence[str]) -> str:
    """
    A command line for the log, with ``***`` in place of keys and tokens.

    :param command: the program and its arguments
    :return: joined by spaces
    """
    return " ".join(masked_arguments(command))


def has_own_key(model: LocalModel, inherited: Mapping[str, str]) -> bool:
    """
    Whether a model's own settings give its engine keys, so that clients send theirs.

    :param model: a model, with its ``extra_args`` and ``env``
    :param inherited: the gateway's own environment
    """
    flags = {word.partition("=")[0].replace("_", "-") for word in model.extra_args}
    return bool(flags & _KEY_FLAGS or _KEY_VARIABLES & {*model.env, *inherited})


def random_key() -> str:
    """A key for one run of an engine: 256 random bits, and an end that tells nothing."""
    return secrets.token_urlsafe(32) + _KEY_END


def known_flags(binary: str, env: Mapping[str, str], commands: Commands) -> Flags:
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
    flags = Flags(dict.fromkeys(re.findall(rf"(?<!\S){_FLAG}", text), False))
    if status != 0 or "--model" not in flags:
        _log.warn(
            "{binary} --help failed, so its flags are taken for granted: {said}",
            binary=binary,
            said=(text.strip().splitlines() or [f"status {status}"])[-1],
        )
        return Flags()
    flags.sockets = bool(_SOCKETS.search(text))
    for names, value in _FLAGS_AND_VALUE.findall(text):
        flags.update(dict.fromkeys(re.findall(_FLAG, names), bool(value)))
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
