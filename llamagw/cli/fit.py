"""
`llamagw fit`: with what context and how many slots a model fits beside what is loaded.

What a model takes is found as for `llamagw check`, from the head of its file; what there is room
for is asked of a running gateway, or else of this machine (beside.py). Here it becomes a table.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from llamagw.cli import places, show
from llamagw.cli.client import Client, Failed, configured_client
from llamagw.cli.remote import COMPLETION_PATIENCE, complete_name, json_option, print_json
from llamagw.text import amount

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from llamagw.cli.beside import Room, Verdict
    from llamagw.config import Config, LocalModel
    from llamagw.launch import Known, Need

#: The columns of the table, and the first row.
SLOTS = (1, 2, 4, 8)
_SHORTEST = 4096

#: Rows at most, and the last one where it is not known for what context a model was trained.
_MOST_ROWS, _LONGEST = 12, 32768

#: Seconds that the model's file may take.
_LOOK_SEC = 30.0

#: Characters of a line.
_WIDTH = 79

#: Flags of a model's own for what the table varies, each with a value.
_VARIED = ("-c", "--ctx-size", "-np", "--parallel")

#: The types of a KV cache that are offered.
_TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")


class Asked(NamedTuple):
    """
    What is asked.

    :ivar model: with what was given in place of its own settings
    :ivar config: where it is from, or would be
    """

    model: LocalModel
    config: Config


class Gateway(NamedTuple):
    """
    Where the room is.

    :ivar url: of the gateway that was asked; None where none runs
    :ivar why: what is to be said of that; "" for nothing
    """

    url: str | None
    room: Room
    why: str = ""


class Cell(NamedTuple):
    """What it takes with a context and a number of slots, and how it fits."""

    context: int
    slots: int
    verdict: Verdict


def _complete(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete files, and the names of the gateway's models."""
    from click.shell_completion import CompletionItem

    return [*complete_name(context, parameter, incomplete), CompletionItem(incomplete, type="file")]


@click.command(
    epilog="""\b
Examples:
  llamagw fit ~/models/qwen3-8b-q4_k_m.gguf
  llamagw fit my-model --cache-type q8_0
  llamagw fit my-model --gpu-layers -1 --url gpu-box:8000
  llamagw fit my-model --json | jq '.fits[] | select(.unload == [])'"""
)
@click.argument("model", metavar="MODEL", shell_complete=_complete)
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(exists=True, dir_okay=False),
    help="The configuration.  [default: ./config.yaml, else ~/.config/llamagw/config.yaml, if "
    "there is one]",
)
@click.option(
    "--url",
    envvar="LLAMAGW_URL",
    show_envvar=True,
    help="Where llamagw runs. Else the configuration's listen_addr, else http://localhost:8000.",
)
@click.option(
    "--gpu-layers", type=click.IntRange(min=-1), help="Layers on the GPU; -1 for all of them."
)
@click.option("--cache-type", type=click.Choice(_TYPES), help="The type of the KV cache.")
@json_option
def fit(
    model: str,
    path: str | None,
    url: str | None,
    gpu_layers: int | None,
    cache_type: str | None,
    as_json: bool,
) -> None:
    """
    Say what context and how many slots fit beside what is loaded.

    MODEL is a GGUF file, or the name of a model of the configuration. What it takes is estimated
    from its file, or learned from earlier loads; nothing is loaded. A gateway that runs is asked
    what it has loaded; without one, it is this machine that counts.
    """
    try:
        asked = _with(_asked(model, path), gpu_layers, cache_type)
        known = _read(asked)
        gateway = _gateway(asked, known, url, path)
        cells = _cells(asked, known, gateway.room)
    except Failed as failed:
        if as_json:
            print_json({"error": failed.error})
        raise click.ClickException(show.plain(str(failed))) from None
    if as_json:
        print_json(_told(asked, known, gateway, cells))
    else:
        click.echo("\n".join(_text(asked, known, gateway, cells)))


# ---- What is asked ------------------------------------------------------------------------------


def _asked(named: str, path: str | None) -> Asked:
    """
    The model that is meant, with its settings.

    :raises Failed: when there is none
    """
    from llamagw.config import ConfigError, load

    is_file = os.path.exists(named) or named.lower().endswith(".gguf") or os.sep in named
    if os.path.isdir(named) and is_file:
        raise Failed(f"{named} is a folder; name one of the GGUF files in it")
    found = path or places.find_config()
    config = None
    if found is not None:
        try:
            config = load(os.path.abspath(found))
        except ConfigError as error:
            if path or not is_file:
                raise Failed(str(error)) from None
            click.echo(f"{show.plain(found)} has faults, and is not used", err=True)
    if is_file:
        return _of_file(os.path.abspath(named), config or _no_config())
    if config is None:
        raise Failed(f"there is no file {named}, and no configuration that could have this model")
    for model in config.models:
        if named == model.name or named in model.aliases:
            if model.remote:
                raise Failed(f"{model.name} lives elsewhere: it takes no memory here")
            return Asked(model, config)
    raise Failed(f"{found} has no model {named}, and there is no such file")


def _of_file(path: str, config: Config) -> Asked:
    """A file, with the settings of the model that has it, or by default."""
    from llamagw.config import LocalModel, ModelEntry

    for model in config.models:
        if not model.remote and model.model_path == path:
            return Asked(model, config)
    return Asked(LocalModel.of(ModelEntry(name="", model_path=path)), config)


def _no_config() -> Config:
    from llamagw.cli.init import find_engine
    from llamagw.config import Config, ConfigFile

    engine = find_engine(None) or ""
    return Config.of("", ConfigFile(models=[], llama_server_path=engine, memory="auto"), [])


def _with(asked: Asked, gpu_layers: int | None, cache_type: str | None) -> Asked:
    """With the settings that were given; and none that would hide what is asked."""
    from msgspec.structs import replace

    model, config = asked
    extra = [*model.extra_args]
    for flag in _VARIED:
        while flag in extra:
            at = extra.index(flag)
            del extra[at : at + 2]
    if cache_type:
        extra += ["--cache-type-k", cache_type, "--cache-type-v", cache_type]
    layers = model.gpu_layers if gpu_layers is None else gpu_layers
    model = replace(model, extra_args=extra, gpu_layers=layers, memory=None)
    return Asked(model, replace(config, memory=config.memory or {}))


def _read(asked: Asked) -> Known:
    """
    Read the file's head, and what the engine says of itself.

    :raises Failed: when it is no model
    """
    from msgspec.structs import replace

    from llamagw.apart import Commands
    from llamagw.launch import Known
    from llamagw.models import Learned
    from llamagw.system import state_folder

    known = Known(Learned(state_folder()).of)
    known.read(replace(asked.config, models=[asked.model]), Commands(), seconds=_LOOK_SEC)
    problem = known.problem(asked.model.model_path)
    if problem:
        raise Failed(problem)
    return known


# ---- Where it is to fit -------------------------------------------------------------------------


def _gateway(asked: Asked, known: Known, url: str | None, path: str | None) -> Gateway:
    """
    Ask the gateway that runs, or else this machine.

    :raises Failed: when a gateway was named and does not answer
    """
    from llamagw.cli.beside import room

    try:
        # Without a name of its own it need not run: then it is not waited for long.
        client = Client(url) if url else configured_client(path, COMPLETION_PATIENCE)
        accounts, models = client.health().get("memory"), client.models()["data"]
    except ValueError as error:
        raise Failed(str(error)) from None
    except Failed:
        if url:
            raise
        return Gateway(None, _this_machine(asked, known))
    try:
        return Gateway(client.url, room(accounts, models, asked.model.name))
    except ValueError:
        why = f"The gateway at {client.url} does not count memory (memory: off)."
        return Gateway(None, _this_machine(asked, known), why)


def _this_machine(asked: Asked, known: Known) -> Room:
    """What this machine has room for, whoever uses the rest."""
    from llamagw.cli.beside import Device, Room
    from llamagw.launch import budgets
    from llamagw.models import HOST
    from llamagw.system import memory_in_use

    totals = known.totals(asked.config)
    budget = budgets(asked.config, totals)
    devices = {name: Device(size, size) for name, size in budget.items()}
    total, used = memory_in_use()
    others = max(used - max(total - budget[HOST], 0), 0)
    devices[HOST] = Device(budget[HOST], budget[HOST] - others)
    return Room(devices)


# ---- What it takes ------------------------------------------------------------------------------


def contexts(trained: int) -> list[int]:
    """
    The contexts of the rows.

    :param trained: for what the model was trained; 0 if that is not known
    """
    last = trained or _LONGEST
    found = [_SHORTEST << power for power in range(_MOST_ROWS - 1)]
    return [*(context for context in found if context < last), last]


def _cells(asked: Asked, known: Known, room: Room) -> list[Cell]:
    """
    :raises Failed: when too little is known of the file
    """
    from llamagw.cli.beside import verdict

    pairs = [(context, slots) for context in contexts(_trained(asked, known)) for slots in SLOTS]
    needs = _needs(asked, known, pairs)
    if not all(needs):
        raise Failed(f"{asked.model.model_path} does not tell enough for an estimate")
    return [
        Cell(context, slots, verdict(its, room))
        for (context, slots), its in zip(pairs, needs, strict=True)
    ]


def _needs(asked: Asked, known: Known, pairs: list[tuple[int, int]]) -> list[list[Need]]:
    """What it takes with each context and number of slots."""
    from msgspec.structs import replace

    models = [
        replace(asked.model, name=f"{context}/{slots}", context_size=context, parallel=slots)
        for context, slots in pairs
    ]
    found = known.places(replace(asked.config, models=models))
    return [found.get(model.name, []) for model in models]


def _trained(asked: Asked, known: Known) -> int:
    facts = known.facts(asked.model.model_path)
    return 0 if facts is None else facts.trained


def _weights_and_kv(asked: Asked, known: Known) -> tuple[int, int]:
    """Bytes of the weights, and of the KV cache for each 1000 tokens, on all devices."""
    from msgspec.structs import replace

    longest = contexts(_trained(asked, known))[-1]
    models = [
        replace(asked.model, name=str(context), context_size=context, parallel=1)
        for context in (longest, longest // 2)
    ]
    whole, half = known.needs(replace(asked.config, models=models)).values()
    assert whole is not None, "its needs were found"
    assert half is not None, "its needs were found"
    kv = [sum(parts.kv for parts in found.devices.values()) for found in (whole, half)]
    weights = sum(parts.weights for parts in whole.devices.values())
    return weights, (kv[0] - kv[1]) * 1000 // max(longest - longest // 2, 1)


# ---- The answer ---------------------------------------------------------------------------------


def _told(asked: Asked, known: Known, gateway: Gateway, cells: list[Cell]) -> dict[str, Any]:
    from llamagw.launch import taken

    weights, kv = _weights_and_kv(asked, known)
    return {
        "model_path": asked.model.model_path,
        "trained": _trained(asked, known) or None,
        "weights": weights,
        "kv_per_1000_tokens": kv,
        "gateway": gateway.url,
        "memory": {name: device._asdict() for name, device in gateway.room.devices.items()},
        "loaded": {model.name: dict(model.charge) for model in gateway.room.loaded},
        "fits": [
            {
                "context_size": cell.context,
                "parallel": cell.slots,
                "devices": taken([cell.verdict.need]),
                "from": cell.verdict.need.source,
                "rough": cell.verdict.need.rough,
                "unload": cell.verdict.unload,
            }
            for cell in cells
        ],
    }


def _text(asked: Asked, known: Known, gateway: Gateway, cells: list[Cell]) -> list[str]:
    from llamagw.launch import part_of, where

    weights, kv = _weights_and_kv(asked, known)
    trained = _trained(asked, known)
    for_what = f", trained for {trained} tokens" if trained else ""
    name = show.middle(show.plain(os.path.basename(asked.model.model_path)), _WIDTH)
    lines = [
        name,
        show.note(
            f"{amount(weights)} of weights, {amount(kv)} of KV cache for each 1000 tokens"
            f"{for_what}.",
            _WIDTH,
        ),
    ]
    if gateway.why:
        lines.append(show.note(show.plain(gateway.why), _WIDTH))
    devices = gateway.room.devices
    free = ", ".join(
        f"{part_of(max(device.free, 0), device.budget)} {where(name)}"
        for name, device in devices.items()
    )
    place = "on this machine" if gateway.url is None else f"for {show.plain(gateway.url)}"
    lines.append(show.note(f"Free {place}: {free}.", _WIDTH))
    if gateway.room.loaded:
        told = ", ".join(
            f"{show.plain(model.name)} ({amount(sum(model.charge.values()))}"
            f"{', pinned' if model.pinned else ''})"
            for model in gateway.room.loaded
        )
        lines.append(show.note(f"Loaded: {told}.", _WIDTH))
    lines += ["", *_table(cells)]
    unknown = {name for cell in cells for name in cell.verdict.need.devices} - {*devices}
    if unknown:
        told = ", ".join(show.plain(name) for name in sorted(unknown))
        lines.append(show.note(f"How much memory there is on {told} is not known.", _WIDTH))
    return lines


def _table(cells: list[Cell]) -> list[str]:
    from llamagw.launch import taken, where
    from llamagw.models import HOST

    sizes = [taken([cell.verdict.need]) for cell in cells]
    used = dict.fromkeys(name for size in sizes for name, count in size.items() if count)
    order = sorted(used, key=lambda name: name == HOST)
    unit, divisor = ("GiB", 2**30)
    if max(sum(size.values()) for size in sizes) < divisor:
        unit, divisor = ("MiB", 2**20)
    digits = 1 if unit == "GiB" else 0

    def amounts(size: dict[str, int]) -> str:
        counts = [size.get(name, 0) for name in order]
        shown = counts if len(order) <= 2 else [sum(counts)]
        return "+".join(f"{count / divisor:.{digits}f}" for count in shown)

    letters: dict[tuple[str, ...], str] = {}
    rows: list[list[str]] = []
    for cell, size in zip(cells, sizes, strict=True):
        if not rows or rows[-1][0] != str(cell.context):
            rows.append([str(cell.context)])
        rows[-1].append(f"{amounts(size)} {_word(cell.verdict, letters)}")
    heads = ["CONTEXT", *(f"{slots} SLOT{'S'[: slots != 1]}" for slots in SLOTS)]
    lines = [show.GAP.join(line).rstrip() for line in show.table(heads, rows, _WIDTH)]
    devices = " + ".join(where(name) for name in order) if len(order) <= 2 else "in all"
    lines += ["", f"In {unit}, {devices}."]
    for names, letter in letters.items():
        verb = "is" if len(names) == 1 else "are"
        told = " and ".join(map(show.plain, names))
        lines.append(show.note(f"if {letter}: it fits once {told} {verb} unloaded.", _WIDTH))
    if any(cell.verdict.need.rough for cell in cells):
        lines.append("A rough estimate: not all of this model is known.")
    return lines


def _word(verdict: Verdict, letters: dict[tuple[str, ...], str]) -> str:
    if verdict.unload is None:
        return "no"
    if not verdict.unload:
        return "fits"
    # There are fewer sets than letters: each row needs more than the one before.
    number = len(letters)
    letter = letters.setdefault(tuple(verdict.unload), chr(ord("A") + number % 26))
    return f"if {letter}"
