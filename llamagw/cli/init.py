"""
The configuration that `llamagw init` makes of the models that scan.py has found.

The numbers are guesses, and the file says so: enough to begin with, commented so that they can be
corrected. Nothing is written here; main.py does that.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from llamagw import __version__
from llamagw.cli.scan import Model
from llamagw.cli.show import plain, size


@dataclass(frozen=True)
class Machine:
    """
    What is here to run models on.

    :param cores: physical ones that this process may use
    :param ram: bytes
    """

    cores: int
    ram: int

    @classmethod
    def this(cls) -> Machine:
        """The one that this runs on."""
        import psutil

        cores = psutil.cpu_count(logical=False) or os.cpu_count() or 4
        if hasattr(os, "sched_getaffinity"):
            cores = min(cores, len(os.sched_getaffinity(0)))
        return cls(cores, psutil.virtual_memory().total)


def at_once(models: list[Model], ram: int) -> tuple[int, int]:
    """How many of the largest fit into the memory together, and how many bytes those take."""
    taken = count = 0
    for memory in sorted((model.memory(ram) for model in models), reverse=True):
        # A fifth is for everything else.
        if count and taken + memory > ram * 0.8:
            break
        taken, count = taken + memory, count + 1
    return count, taken


def config_text(
    folder: str, models: list[Model], engine: str | None, machine: Machine, gpu_layers: int
) -> str:
    """
    The configuration.

    :param engine: the path of llama-server; None when it is not known
    """
    ram = machine.ram
    count, taken = at_once(models, ram)
    together = "The largest one takes" if count == 1 else f"The {count} largest ones take"
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
        f"# {machine.cores} cores and {size(ram)} of memory. Correct them as you like.",
        "# The README of llamagw has all keys.",
        "",
        "# The llama-server executable of llama.cpp. A bare name is looked for on PATH.",
        f"llama_server_path: {known}",
        "",
        "# Where to listen. There is no password: 127.0.0.1:8000 is for this machine only.",
        '#listen_addr: ":8000"',
        "",
        f"# How many models may be in memory at once. {together} about {size(taken)}",
        f"# of {size(ram)}. On a GPU, it is the GPU's memory that counts.",
        f"max_loaded_models: {count}",
        "",
        "models:",
    ]
    for model in models:
        lines += ["", *_entry(model, machine, gpu_layers)]
    return "\n".join(lines) + "\n"


def _entry(model: Model, machine: Machine, gpu_layers: int) -> Iterator[str]:
    context = model.context(machine.ram)
    what = {"text": "", "embeddings": "; for embeddings", "ranking": "; for ranking"}[model.kind]
    cache = f"; {size(context * model.kv_token)} of KV cache" if model.kv_token else ""
    yield f"  # {size(model.size)}, {plain(model.architecture)}{what}{cache}"
    yield f"  - name: {_scalar(model.name)}"
    yield f"    model_path: {_scalar(model.path)}"
    yield f"    {f'gpu_layers: {gpu_layers}':<22}# -1: all layers on the GPU, 0: CPU only"
    yield f"    {f'context_size: {context}':<22}# tokens; the model was trained for {model.trained}"
    yield f"    threads: {machine.cores}"
    if model.kind != "text":
        yield f"    {f'batch_size: {context}':<22}# an input must fit into one batch"
    if arguments := model.arguments(machine.ram):
        yield f"    extra_args: [{', '.join(map(_item, arguments))}]"


def _scalar(text: str) -> str:
    """A text as YAML, on one line, whatever characters it has."""
    return _dump(text)


def _item(text: str) -> str:
    """The same within brackets, where more characters have a meaning."""
    return _dump([text])[1:-1]


def _dump(value: str | list[str]) -> str:
    import yaml

    text = value if isinstance(value, str) else value[0]
    dumped: str = yaml.safe_dump(
        value,
        allow_unicode=True,
        default_flow_style=True,
        # A line break would be folded over several lines in any other style.
        default_style=None if text.isprintable() else '"',
        width=sys.maxsize,
    )
    return dumped.removesuffix("\n").removesuffix("\n...")


def find_engine(given: str | None) -> str | None:
    """
    The llama-server to write: as given, or the one on PATH.

    :raises ValueError: when the given one cannot be run; the message is for the user
    """
    found = shutil.which(given or "llama-server")
    if found is None:
        if given is not None:
            raise ValueError(f"{given} is not an executable file")
        return None
    # Not the bare name: a service has another PATH than this terminal.
    return os.path.abspath(found)
