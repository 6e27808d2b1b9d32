"""
What is to be said of a configuration's local models before any of them is started.

Judges only: the flags of the engine and the heads of the files were read by known.py. Nothing here
keeps a model from being launched but flags that its engine does not have.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias

from msgspec.structs import replace

from llamagw.config import Config, Fault, LocalModel
from llamagw.launch.command import Flags, has_own_key, unknown_flags
from llamagw.launch.listing import Listed
from llamagw.launch.socketfiles import problem
from llamagw.models import HOST, Estimate, Facts

#: A ``fault`` is one for ``llamagw check``; a ``hint`` is of interest there only.
Grade: TypeAlias = Literal["fault", "warning", "hint"]

#: Faults of flags that are looked for: each takes a comparison with all flags of the engine.
MOST_FAULTS = 100

#: With so many times the machine's memory, a model cannot be loaded, whatever swaps.
BY_FAR = 2

#: How much memory a model's engine takes; None if too little is known.
Need: TypeAlias = Callable[[LocalModel], Estimate | None]

#: What a context that would fit is a multiple of.
_STEP = 1024

#: Flags that stretch the context beyond what a model was trained for.
_STRETCH = ("--rope-", "--yarn-")

#: By which flags and which variable an engine is told what a model is for; the first is advised.
_USES = {
    "embeddings": (("--embeddings", "--embedding"), "LLAMA_ARG_EMBEDDINGS"),
    "ranking": (("--reranking", "--rerank"), "LLAMA_ARG_RERANKING"),
}


class Note(NamedTuple):
    """
    What is to be said of a model, or of the engine of all local ones.

    :ivar grade: how grave it is
    :ivar model: its name; "" for what is about the engine
    :ivar place: in the configuration, such as ``models[1].model_path``
    :ivar message: what is wrong and what would be right
    """

    grade: Grade
    model: str
    place: str
    message: str

    @property
    def key(self) -> str:
        """The key of the model that it is about, such as ``model_path``."""
        return self.place.rpartition(".")[2]


def device_faults(config: Config, devices: Sequence[Listed] | None) -> list[Fault]:
    """
    The devices in ``memory`` that there are not.

    :param config: has it
    :param devices: as the engine lists them; None if that is not known
    """
    names = [device.name for device in devices or () if not device.unified]
    known = " and ".join([HOST, *names])
    return [
        Fault(
            config.path,
            None,
            f"memory.{name}",
            f"there is no such device; llama-server --list-devices has {known}",
        )
        for name in config.memory or ()
        if devices is not None and name not in (HOST, *names)
    ]


def socket_faults(config: Config, known: Flags, folder: str) -> list[Fault]:
    """
    Why engines cannot listen on UNIX sockets, where they are to.

    :param config: says so
    :param known: the engine's flags; empty if unknown
    :param folder: of the sockets
    :return: one at most
    """
    if config.backend_socket != "unix" or all(model.remote for model in config.models):
        return []
    if known and not known.sockets:
        why = "this llama-server cannot listen on UNIX sockets (see --host in its --help)"
        why += "; take a newer one, or tcp"
    else:
        why = problem(folder)
    return [Fault(config.path, None, "backend_socket", why)] if why else []


def flag_faults(config: Config, known: Mapping[str, bool]) -> list[Fault]:
    """
    The flags in ``extra_args`` that the engine does not have.

    :param config: has the models
    :param known: the engine's flags; empty if unknown
    :return: `MOST_FAULTS` at most
    """
    found = (
        Fault(config.path, None, f"models[{index}].extra_args[{number}]", f"{flag} {why}")
        for index, model in enumerate(config.models)
        if known and not model.remote
        for number, flag, why in unknown_flags(model.extra_args, known)
    )
    return [*islice(found, MOST_FAULTS)]


def key_notes(config: Config, known: Collection[str]) -> list[Note]:
    """
    That the engine knows no API keys, so that not only the gateway can use it.

    :param config: has the models
    :param known: the engine's flags; empty if unknown
    :return: one at most
    """
    local = [model for model in config.models if not model.remote]
    # What listens on a socket nobody else reaches.
    safe = config.backend_socket == "unix"
    if safe or not known or "--api-key" in known or all(has_own_key(m, os.environ) for m in local):
        return []
    why = (
        "knows no API keys (--api-key): other users of this machine and web pages may use the "
        "ports of its engines; take a newer one"
    )
    return [Note("warning", "", "llama_server_path", why)]


def notes(config: Config, facts: Mapping[str, Facts], memory: int, need: Need) -> list[Note]:
    """
    What is to be said of the models' files, in the order of the configuration.

    :param config: has the models
    :param facts: by path; models whose files were not read have none
    :param memory: of this machine, in bytes; looked at where memory is not counted, as together.py
        judges otherwise
    :param need: how much of it each takes
    """
    return [
        Note(grade, model.name, f"models[{index}].{key}", message)
        for index, model in enumerate(config.models)
        if not model.remote and model.model_path in facts
        for grade, key, message in _of(
            model, facts[model.model_path], memory if config.memory is None else None, need
        )
    ]


def _of(
    model: LocalModel, facts: Facts, memory: int | None, need: Need
) -> Iterator[tuple[Grade, str, str]]:
    if facts.problem:
        yield "fault", "model_path", facts.problem
        return
    if 0 < facts.trained < model.context_size and not _has(model, *_STRETCH):
        yield (
            "warning",
            "context_size",
            f"is {model.context_size}, and the model was trained for {facts.trained}; what it "
            f"writes beyond that may make no sense",
        )
    if memory is not None:
        yield from _memory(model, facts, memory, need)
    yield from _use(model, facts)


def _memory(
    model: LocalModel, facts: Facts, memory: int, need: Need
) -> Iterator[tuple[Grade, str, str]]:
    found = need(model)
    if found is None:
        return
    has = f"this machine has {_size(memory)} of memory"
    if found.host.weights > BY_FAR * memory:
        yield "warning", "model_path", f"has {_size(found.host.weights)} of weights, and {has}"
    elif found.host.total > BY_FAR * memory and not found.rough:
        takes = (
            f"whose KV cache takes {_size(found.host.kv)} beside {_size(found.host.weights)} of "
            f"weights, and {has}"
        )
        if _on_host(need, model, _STEP) == found.host.total:
            yield "fault", "extra_args", f"or variables give it a context {takes}"
            return
        most = min(model.context_size, facts.trained or model.context_size) // _STEP
        steps = range(1, most + 1)
        fitting = bisect_right(steps, memory, key=lambda n: _on_host(need, model, n * _STEP))
        remedy = f"; {fitting * _STEP} would fit" if fitting else ""
        yield "fault", "context_size", f"is {model.context_size}, {takes}{remedy}"


def _on_host(need: Need, model: LocalModel, context: int) -> int:
    """Bytes that a model takes in the machine's memory with another context."""
    found = need(replace(model, context_size=context))
    return found.host.total if found else 0


def _use(model: LocalModel, facts: Facts) -> Iterator[tuple[Grade, str, str]]:
    told = [
        use
        for use, (flags, variable) in _USES.items()
        if {*flags} & {*model.extra_args} or variable in model.env
    ]
    if facts.kind != "text" and not told:
        flag = _USES[facts.kind][0][0]
        yield (
            "hint",
            "extra_args",
            f"have no {flag}: the model is for {facts.kind}, and does that only with it",
        )
    elif facts.kind == "text" and told:
        flag = _USES[told[0]][0][0]
        yield (
            "hint",
            "extra_args",
            f"have {flag}, and nothing in its file says that the model is made for {told[0]}",
        )


def _has(model: LocalModel, *begins: str) -> bool:
    """Whether the ``extra_args`` have a flag that begins so."""
    return any(word.replace("_", "-").startswith(begins) for word in model.extra_args)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
