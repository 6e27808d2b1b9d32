"""
The text of the configuration that `llamagw init` makes of the models that scan.py has found.

Its numbers are estimates to start from; the file says so in comments, for the user to correct them.
The file is written by main.py.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from llamagw import __version__
from llamagw.cli.places import packaged_engine
from llamagw.cli.scan import Model
from llamagw.cli.show import plain, size
from llamagw.config import physical_cores


@dataclass(frozen=True)
class Machine:
    """
    The resources of a machine.

    :param cores: physical cores that this process may use
    :param ram: bytes of memory
    """

    cores: int
    ram: int

    @classmethod
    def this(cls) -> Machine:
        """The machine that this process runs on."""
        import psutil

        return cls(physical_cores(), psutil.virtual_memory().total)


def at_once(models: list[Model], ram: int) -> tuple[int, int]:
    """
    How many models fit into the memory together, the largest first.

    :param models: all models
    :param ram: bytes of memory
    :return: how many, at least one if there are any, and how many bytes those take
    """
    taken = count = 0
    for memory in sorted((model.memory(ram) for model in models), reverse=True):
        # A fifth of the memory is kept for everything else.
        if count and taken + memory > ram * 0.8:
            break
        taken, count = taken + memory, count + 1
    return count, taken


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
        "# All keys: docs/configuration.md of llamagw.",
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
    kv = model.kv(context)
    cache = f"; {size(kv)} of KV cache" if kv else ""
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
