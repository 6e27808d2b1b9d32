"""
The text of the configuration that `llamagw init` makes of the models that scan.py has found.

Chooses how long their contexts are and how many requests each answers, so that they fit this
machine. The numbers are estimates to start from; the file says so in comments, for the user to
correct them. The file is written by main.py.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llamagw import __version__
from llamagw.cli.places import packaged_engine
from llamagw.cli.scan import Model
from llamagw.cli.show import plain, size
from llamagw.config import CACHE_MB, DEFAULTS, ModelEntry, physical_cores, size_of
from llamagw.models import Flags, estimate
from llamagw.system import machine_memory

#: The contexts to choose from, in tokens.
CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768)

#: The longest of models on a GPU, whose memory is not known here.
GPU_CONTEXT = 8192

#: The longest of embeddings and rankings: a whole input must fit into one batch.
SHORT_CONTEXT = 2048

#: What a model takes beside its file, in bytes, if its file does not tell.
OVERHEAD = 2**30

_ALL_LAYERS = 2**31 - 1


@dataclass(frozen=True)
class Machine:
    """
    The resources of a machine.

    :param cores: physical cores that this process may use
    :param ram: bytes of memory that it may use
    """

    cores: int
    ram: int

    @classmethod
    def this(cls) -> Machine:
        """The machine that this process runs on."""
        return cls(physical_cores(), machine_memory())

    @property
    def budget(self) -> int:
        """Bytes for models: all but what is reserved for others."""
        return max(self.ram - size_of(DEFAULTS.memory_reserve), 0)


class Choice(NamedTuple):
    """
    How a model is to be run.

    :ivar context: tokens
    :ivar parallel: requests at the same time
    :ivar takes: bytes, on all devices together
    :ivar kv: bytes of them for the KV cache; 0 if that is not known
    """

    context: int
    parallel: int
    takes: int
    kv: int


def choose(model: Model, machine: Machine, gpu_layers: int) -> Choice:
    """
    The longest context with which a model takes no more than half of the memory, and how many
    requests share it: 8 if the model takes no more than an eighth, else 4.

    :param model: the model
    :param machine: that it is to run on
    :param gpu_layers: as configured; -1 for all
    """
    most = CONTEXTS[-1] if not gpu_layers else GPU_CONTEXT
    most = min(model.trained, most if model.kind == "text" else SHORT_CONTEXT)
    choices = [
        _with(model, context, 4, gpu_layers)
        for context in [*(each for each in CONTEXTS if each < most), most]
    ]
    fitting = [one for one in choices if one.takes <= machine.budget / 2]
    chosen = fitting[-1] if fitting else choices[0]
    more = _with(model, chosen.context, 8, gpu_layers)
    return more if more.takes <= machine.budget / 8 else chosen


def _with(model: Model, context: int, parallel: int, gpu_layers: int) -> Choice:
    kv, takes = 0, model.size + OVERHEAD
    if model.shape is not None:
        whole = model.kind != "text"
        flags = Flags(
            context=context,
            batch=context if whole else ModelEntry(name="").batch_size,
            ubatch=context if whole else Flags().ubatch,
            parallel=parallel,
            gpu_layers=_ALL_LAYERS if gpu_layers == -1 else gpu_layers,
            embeddings=whole,
        )
        devices = estimate(model.shape, flags).devices.values()
        kv, takes = sum(each.kv for each in devices), sum(each.total for each in devices)
    if model.mmproj:
        takes += os.path.getsize(model.mmproj)
    if not gpu_layers:
        takes += CACHE_MB * 2**20
    return Choice(context, parallel, takes, kv)


def too_large(
    models: Sequence[Model], machine: Machine, gpu_layers: int
) -> Iterator[tuple[Model, str]]:
    """
    The models that this machine has no memory for.

    :param models: all models
    :param machine: the machine
    :param gpu_layers: as configured; with some, nothing is known against any model
    :return: of each why, as a predicate
    """
    for model in models if not gpu_layers else ():
        chosen = choose(model, machine, gpu_layers)
        if chosen.takes > machine.budget:
            yield (
                model,
                f"takes {size(chosen.takes)} with a context of {chosen.context}, and this machine "
                f"has {size(machine.budget)} for models",
            )


def at_once(taken: Sequence[int], ram: int) -> tuple[int, int]:
    """
    How many models fit into the memory together, the largest first.

    :param taken: bytes of each model
    :param ram: bytes of memory
    :return: how many, at least one if there are any, and how many bytes those take
    """
    total = count = 0
    for each in sorted(taken, reverse=True):
        # A fifth of the memory is kept for everything else.
        if count and total + each > ram * 0.8:
            break
        total, count = total + each, count + 1
    return count, total


def config_text(
    folder: str, models: list[Model], engine: str | None, machine: Machine, gpu_layers: int
) -> str:
    """
    The configuration file.

    :param folder: that was scanned, for a comment
    :param models: the models found
    :param engine: the path of llama-server; None if unknown, then its line is marked with CHANGE
    :param machine: that the numbers are for
    :param gpu_layers: of each model; -1 for all
    :return: YAML
    """
    chosen = [choose(model, machine, gpu_layers) for model in models]
    known = _scalar(engine or "llama-server")
    if engine is None:
        known += "      # CHANGE: it is not on PATH; its path, please"
    lines = [
        f"# Made by llamagw {__version__} from the GGUF files in {plain(folder)}",
        "#",
        "#     llamagw check      is it right?",
        "#     llamagw run        serve",
        "#",
        "# The numbers are guesses, from what the files say and from this machine, which has",
        f"# {machine.cores} cores and {size(machine.ram)} of memory. Correct them as you like.",
        "# All keys: docs/configuration.md of llamagw.",
        "",
        "# The llama-server executable of llama.cpp. A bare name is looked for on PATH.",
        f"llama_server_path: {known}",
        "",
        "# Where to listen: 127.0.0.1:8000 is for this machine only. Where others can come, let",
        "# each have a key: keys_file, and `llamagw keys new NAME`.",
        '#listen_addr: ":8000"',
        "#keys_file: keys.yaml",
        "",
        *(_by_count(chosen, machine) if gpu_layers else _by_bytes(machine)),
        "",
        "models:",
    ]
    for model, choice in zip(models, chosen, strict=True):
        lines += ["", *_entry(model, choice, machine, gpu_layers)]
    return "\n".join(lines) + "\n"


def _by_bytes(machine: Machine) -> list[str]:
    return [
        "# Models are loaded while there is room for what they take; for more room, the least",
        "# recently used ones are unloaded. They may have all memory of this machine but",
        f"# {DEFAULTS.memory_reserve} (memory_reserve): {size(machine.budget)}.",
        "memory: auto",
    ]


def _by_count(chosen: Sequence[Choice], machine: Machine) -> list[str]:
    count, taken = at_once([choice.takes for choice in chosen], machine.ram)
    together = "The largest one takes" if count == 1 else f"The {count} largest ones take"
    return [
        f"# How many models may be in memory at once. {together} about {size(taken)}",
        f"# of {size(machine.ram)}. On a GPU, it is the GPU's memory that counts.",
        f"max_loaded_models: {count}",
        "",
        "# Or have what they take counted, on each GPU: then as many are loaded as fit.",
        "#memory: auto",
    ]


def _entry(model: Model, choice: Choice, machine: Machine, gpu_layers: int) -> Iterator[str]:
    what = {"text": "", "embeddings": "; for embeddings", "ranking": "; for ranking"}[model.kind]
    parts = [f"KV cache {size(choice.kv)}"] if choice.kv else []
    parts += [f"earlier prompts {CACHE_MB} MiB at most"] if not gpu_layers else []
    yield f"  # {size(model.size)}, {plain(model.architecture)}{what}"
    yield f"  # takes about {size(choice.takes)}" + (f": {', '.join(parts)}" if parts else "")
    yield f"  - name: {_scalar(model.name)}"
    yield f"    model_path: {_scalar(model.path)}"
    yield f"    {f'gpu_layers: {gpu_layers}':<22}# -1: all layers on the GPU, 0: CPU only"
    context = f"context_size: {choice.context}"
    yield f"    {context:<22}# tokens; the model was trained for {model.trained}"
    yield f"    {f'parallel: {choice.parallel}':<22}# requests at the same time share them"
    yield f"    threads: {machine.cores}"
    if model.kind != "text":
        batch = f"batch_size: {choice.context}"
        yield f"    {batch:<22}# an input must fit into one batch"
    if arguments := _arguments(model, choice):
        yield f"    extra_args: [{', '.join(map(_item, arguments))}]"


def _arguments(model: Model, choice: Choice) -> list[str]:
    """The ``extra_args`` of a model."""
    found = []
    if model.kind != "text":
        found = ["--reranking" if model.kind == "ranking" else "--embeddings"]
        if not model.pooled:
            found += ["--pooling", "mean"]
        found += ["--ubatch-size", str(choice.context)]
    return found + (["--mmproj", model.mmproj] if model.mmproj else [])


def _scalar(text: str) -> str:
    """A text as YAML, on one line, quoted if it has to be."""
    return _dump(text)


def _item(text: str) -> str:
    """As `_scalar`, for an item within brackets, where more characters need quotes."""
    return _dump([text])[1:-1]


def _dump(value: str | list[str]) -> str:
    import yaml

    text = value if isinstance(value, str) else value[0]
    dumped: str = yaml.safe_dump(
        value,
        allow_unicode=True,
        default_flow_style=True,
        # In any other style a line break would make several lines.
        default_style=None if text.isprintable() else '"',
        width=sys.maxsize,
    )
    return dumped.removesuffix("\n").removesuffix("\n...")


def find_engine(given: str | None) -> str | None:
    """
    The llama-server to write into the file.

    :param given: its path or name; None to look for llama-server on PATH, then for the engine of
        `make run`
    :return: its absolute path; None if none was given and there is none
    :raises ValueError: when the given one is not executable; the message is for the user
    """
    found = shutil.which(given or "llama-server")
    if found is None:
        if given is not None:
            raise ValueError(f"{given} is not an executable file")
        return packaged_engine()
    # Absolute: a service has another PATH than this terminal.
    return os.path.abspath(found)
