"""
What the flags of an engine say of the memory that it will take.

Reads a command line as command.py makes it, with the ``extra_args`` at its end, and the variables
that llama-server takes for its flags. What follows from them is for models/estimate.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from llamagw.config import LocalModel
from llamagw.models import CACHE_TYPES, Estimate, Facts, Flags, beside, draft, estimate

#: The largest number that the engine takes, and more layers than any model has.
_MOST, _ALL = 2**31 - 1, 2**31 - 1

#: Devices beyond so many are not told apart.
_MOST_DEVICES = 16

#: The device that an engine is taken to have, where nobody knows which it has.
UNKNOWN_GPU = "GPU"

#: MiB of the engine's cache of earlier prompts, where nothing is said (its own ``--help``).
CACHE_MB = 8192

#: By what name here, the flags that take a value.
_VALUES = {
    "model": ("-m", "--model"),
    "context": ("-c", "--ctx-size"),
    "batch": ("-b", "--batch-size"),
    "ubatch": ("-ub", "--ubatch-size"),
    "parallel": ("-np", "--parallel"),
    "keys": ("-ctk", "--cache-type-k"),
    "values": ("-ctv", "--cache-type-v"),
    "flash": ("-fa", "--flash-attn"),
    "gpu_layers": ("-ngl", "--gpu-layers", "--n-gpu-layers"),
    "devices": ("-dev", "--device"),
    "split": ("-ts", "--tensor-split"),
    "mode": ("-sm", "--split-mode"),
    "main": ("-mg", "--main-gpu"),
    "cpu_moe": ("-ncmoe", "--n-cpu-moe"),
    "projector": ("-mm", "--mmproj"),
    "adapters": ("--lora",),
    "cache": ("-cram", "--cache-ram"),
    "rpc": ("--rpc",),
    "draft": ("-md", "--model-draft", "--spec-draft-model"),
    "draft_layers": ("-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft", "--spec-draft-ngl"),
    "draft_devices": ("-devd", "--device-draft", "--spec-draft-device"),
    "draft_keys": ("-ctkd", "--cache-type-k-draft", "--spec-draft-type-k"),
    "draft_values": ("-ctvd", "--cache-type-v-draft", "--spec-draft-type-v"),
    # Whatever these move or add is not known here.
    "rough": ("-ot", "--override-tensor", "--override-kv", "--control-vector", "--lora-scaled"),
}

#: Those that take none, and what they mean.
_SWITCHES: dict[str, tuple[str, str]] = {
    "-kvu": ("unified", "1"),
    "--kv-unified": ("unified", "1"),
    "-no-kvu": ("unified", ""),
    "--no-kv-unified": ("unified", ""),
    "-kvo": ("offload_kv", "1"),
    "--kv-offload": ("offload_kv", "1"),
    "-nkvo": ("offload_kv", ""),
    "--no-kv-offload": ("offload_kv", ""),
    "--repack": ("repack", "1"),
    "-nr": ("repack", ""),
    "--no-repack": ("repack", ""),
    "--swa-full": ("full_window", "1"),
    "--mmap": ("mapped", "1"),
    "--no-mmap": ("mapped", ""),
    "--mlock": ("locked", "1"),
    "-dio": ("direct", "1"),
    "--direct-io": ("direct", "1"),
    "-ndio": ("direct", ""),
    "--no-direct-io": ("direct", ""),
    "-cmoe": ("cpu_moe", str(_ALL)),
    "--cpu-moe": ("cpu_moe", str(_ALL)),
    "--embedding": ("embeddings", "1"),
    "--embeddings": ("embeddings", "1"),
    "--rerank": ("embeddings", "1"),
    "--reranking": ("embeddings", "1"),
    "--no-mmproj": ("projector", ""),
    "--mmproj-offload": ("projector_on_gpu", "1"),
    "--no-mmproj-offload": ("projector_on_gpu", ""),
}

#: The variables by which the engine takes the same; a flag wins.
_VARIABLES = {
    "LLAMA_ARG_CTX_SIZE": "context",
    "LLAMA_ARG_BATCH": "batch",
    "LLAMA_ARG_UBATCH": "ubatch",
    "LLAMA_ARG_N_PARALLEL": "parallel",
    "LLAMA_ARG_CACHE_TYPE_K": "keys",
    "LLAMA_ARG_CACHE_TYPE_V": "values",
    "LLAMA_ARG_FLASH_ATTN": "flash",
    "LLAMA_ARG_N_GPU_LAYERS": "gpu_layers",
    "LLAMA_ARG_DEVICE": "devices",
    "LLAMA_ARG_TENSOR_SPLIT": "split",
    "LLAMA_ARG_SPLIT_MODE": "mode",
    "LLAMA_ARG_MAIN_GPU": "main",
    "LLAMA_ARG_N_CPU_MOE": "cpu_moe",
    "LLAMA_ARG_MMPROJ": "projector",
    "LLAMA_ARG_CACHE_RAM": "cache",
    "LLAMA_ARG_OVERRIDE_TENSOR": "rough",
    "LLAMA_ARG_SPEC_DRAFT_MODEL": "draft",
    "LLAMA_ARG_N_GPU_LAYERS_DRAFT": "draft_layers",
    "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K": "draft_keys",
    "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V": "draft_values",
}

#: The same, of those without a value.
_SWITCH_VARIABLES = {
    "LLAMA_ARG_KV_UNIFIED": "unified",
    "LLAMA_ARG_KV_OFFLOAD": "offload_kv",
    "LLAMA_ARG_REPACK": "repack",
    "LLAMA_ARG_SWA_FULL": "full_window",
    "LLAMA_ARG_MMAP": "mapped",
    "LLAMA_ARG_MLOCK": "locked",
    "LLAMA_ARG_DIO": "direct",
    "LLAMA_ARG_EMBEDDINGS": "embeddings",
    "LLAMA_ARG_RERANKING": "embeddings",
    "LLAMA_ARG_MMPROJ_OFFLOAD": "projector_on_gpu",
}

_OFF = frozenset({"off", "0", "false", "disabled"})

_KEYS = {flag: key for key, flags in _VALUES.items() for flag in flags}


class Files(NamedTuple):
    """
    The files that an engine loads.

    :ivar model: its path
    :ivar projector: "" without one
    :ivar adapters: their paths
    :ivar draft: of the second model that drafts for the first; "" without one
    """

    model: str = ""
    projector: str = ""
    adapters: tuple[str, ...] = ()
    draft: str = ""

    @property
    def all(self) -> list[str]:
        """The paths of all of them."""
        return [path for path in (self.model, self.projector, *self.adapters, self.draft) if path]


class Asked(NamedTuple):
    """
    What a command line asks of memory.

    :ivar files: to be loaded
    :ivar flags: for the model
    :ivar draft: for the second model
    :ivar projector: for the projector
    :ivar cache: bytes that the engine may keep of earlier prompts; -1 for no limit
    :ivar told: what is said at all, by what name here
    :ivar others: flags whose effect is not known here, with their values
    """

    files: Files
    flags: Flags
    draft: Flags
    projector: Flags
    cache: int = 0
    told: frozenset[str] = frozenset()
    others: str = ""


def asked(
    command: Sequence[str],
    env: Mapping[str, str],
    known: Mapping[str, bool],
    gpus: Sequence[str] | None = None,
) -> Asked:
    """
    What a command line asks of memory. Words that are not understood are passed over.

    :param command: the engine's, its program first
    :param env: the variables that the engine has
    :param known: its flags, and whether each takes a value; empty if unknown
    :param gpus: the names of the GPUs that it uses if nothing else is said; None if unknown
    """
    told = _told(command, env, known)
    paths = [path for path in told.get("adapters", "").split(",") if path]
    files = Files(
        told.get("model", ""),
        told.get("projector", ""),
        tuple(paths[:_MOST_DEVICES]),
        told.get("draft", ""),
    )
    flags = _flags(told, gpus)
    draft = replace(
        flags,
        keys=_kind(told.get("draft_keys", "")),
        values=_kind(told.get("draft_values", "")),
        # By default as many as fit on a GPU; if nobody knows whether there is one, the model's own
        # layers tell.
        gpu_layers=_layers(told.get("draft_layers", "auto")) if flags.gpu_layers or gpus else 0,
        devices=_devices(told["draft_devices"]) if "draft_devices" in told else flags.devices,
        cpu_moe=0,
    )
    # The projector is on the first GPU of all, whichever the model is on (tools/mtmd/clip.cpp).
    first = (env.get("MTMD_BACKEND_DEVICE"), *(gpus or ()))
    projector = replace(
        flags,
        gpu_layers=flags.gpu_layers if told.get("projector_on_gpu", "1") else 0,
        devices=tuple(filter(None, first))[:1] or flags.devices,
    )
    return Asked(
        files,
        flags,
        draft,
        projector,
        _cache(told.get("cache"), flags, known),
        frozenset(told),
        told.get("rough", ""),
    )


def need(asks: Asked, facts: Mapping[str, Facts]) -> Estimate | None:
    """
    How much memory an engine takes.

    :param asks: what its command line says
    :param facts: of files, by path; where one is missing but of the model's, the result is rough
    :return: None if too little is known of the model
    """
    model = facts.get(asks.files.model)
    if model is None or model.shape is None:
        return None
    found = estimate(model.shape, asks.flags)
    mapped = {asks.files.model: found.host.mapped}
    others = [(path, asks.flags, False) for path in asks.files.adapters]
    if asks.files.projector:
        # What it computes with is not known.
        others.append((asks.files.projector, asks.projector, True))
    for path, flags, rough in others:
        other = facts.get(path)
        found += beside(other.size if other else 0, flags, rough or other is None)
    if asks.files.draft:
        second = facts.get(asks.files.draft)
        if second is not None and second.shape is not None:
            drafting = draft(second.shape, asks.draft)
            mapped[asks.files.draft] = max(drafting.host.mapped, mapped.get(asks.files.draft, 0))
            found += drafting
        else:
            found.rough = True
    found.files = {path: size for path, size in mapped.items() if size}
    return found


def slots_of(model: LocalModel) -> int | None:
    """
    How many requests a model's engine is sent at once, of those that take one of its slots.

    :return: as the model's configuration says, else as many as it has slots; None for all, also if
        it chooses their number itself
    """
    if model.max_in_flight is not None:
        return model.max_in_flight or None
    said = _told(["", *model.extra_args], {}, {}).get("parallel")
    if said is None:
        return model.parallel
    return int(said) if said.isdecimal() and int(said) > 0 else None


def _told(
    command: Sequence[str], env: Mapping[str, str], known: Mapping[str, bool]
) -> dict[str, str]:
    """By what name here, what is said last."""
    told = {key: env[name] for name, key in _VARIABLES.items() if name in env}
    for name, key in _SWITCH_VARIABLES.items():
        if name in env:
            told[key] = "" if env[name] in _OFF else "1"
        if name.replace("ARG_", "ARG_NO_") in env:
            told[key] = ""
    words = iter(command[1:])
    for word in words:
        flag = word.replace("_", "-") if word.startswith("--") else word
        if flag in _SWITCHES:
            key, value = _SWITCHES[flag]
            told[key] = value
        elif flag in _KEYS:
            key, value = _KEYS[flag], next(words, "")
            # Each of these counts, and not the last only.
            told[key] = f"{told.get(key, '')} {flag} {value}" if key == "rough" else value
        elif known.get(flag):
            # Its value may look like a flag.
            next(words, "")
    return told


def _cache(told: str | None, flags: Flags, known: Mapping[str, bool]) -> int:
    """Bytes of the cache of earlier prompts; only those of completions are kept there."""
    if flags.embeddings or (told is None and "--cache-ram" not in known):
        return 0
    if (told or "").startswith("-"):
        return -1
    return _number(told or "", CACHE_MB) * 2**20


def _flags(told: Mapping[str, str], gpus: Sequence[str] | None) -> Flags:
    usual = Flags()
    mode = told.get("mode", "layer")
    split = tuple(map(_share, re.split(r"[,/]", told["split"]))) if told.get("split") else ()
    split = split[:_MOST_DEVICES]
    if "devices" in told:
        devices = _devices(told["devices"])
    elif gpus is not None:
        # Those of other machines come first.
        servers = range(len(list(filter(None, told.get("rpc", "").split(",")))))
        devices = tuple(f"RPC{number}" for number in servers) + tuple(gpus)
        devices = devices[:_MOST_DEVICES]
    else:
        devices = tuple(f"GPU{number}" for number in range(len(split))) or (UNKNOWN_GPU,)
    if mode == "none" and devices:
        main = min(_number(told.get("main", ""), 0), len(devices) - 1)
        devices, split = devices[main : main + 1], ()
    return Flags(
        context=_number(told.get("context", ""), 0),
        batch=_number(told.get("batch", ""), usual.batch),
        ubatch=_number(told.get("ubatch", ""), usual.ubatch),
        parallel=_number(told.get("parallel", ""), 4),
        # An engine that chooses the number of slots shares the cache among them.
        unified=bool(told.get("unified", "" if "parallel" in told else "1")),
        keys=_kind(told.get("keys", "")),
        values=_kind(told.get("values", "")),
        flash=told.get("flash", "auto") not in _OFF,
        gpu_layers=_layers(told.get("gpu_layers", "auto")),
        devices=devices,
        split=split,
        cpu_moe=_number(told.get("cpu_moe", ""), 0),
        offload_kv=bool(told.get("offload_kv", "1")),
        full_window=bool(told.get("full_window")),
        embeddings=bool(told.get("embeddings")),
        repack=bool(told.get("repack", "1")),
        mapped=bool(told.get("mapped", "1")) and not (told.get("locked") or told.get("direct")),
        rough="rough" in told or mode not in ("layer", "none"),
    )


def _number(text: str, otherwise: int) -> int:
    """A count; what is none, or below zero, as the engine's own default is."""
    return min(int(text), _MOST) if re.fullmatch(r"[0-9]{1,12}", text) else otherwise


def _layers(text: str) -> int:
    """How many layers; ``auto``, ``all`` and -1 are as many as there are."""
    return _number(text, _ALL)


def _share(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?", text.strip()) else 0.0


def _kind(text: str) -> str:
    return text if text in CACHE_TYPES else "f16"


def _devices(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    return () if names == ["none"] else tuple(filter(None, names))[:_MOST_DEVICES]
