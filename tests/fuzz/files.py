"""Fuzz targets of the files that are read: GGUF heads, and configurations.

What `llamagw init` writes of whatever it found, `llamagw check` must take.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
from contextlib import suppress
from functools import cache

from llamagw.announce import summary
from llamagw.cli.init import Machine, config_text
from llamagw.cli.scan import scan
from llamagw.config import ConfigError, Fault, load
from llamagw.models import Flags, estimate, gguf, look_at

MACHINE = Machine(cores=4, ram=16 * 2**30)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that is gone when this process is."""
    return tempfile.TemporaryDirectory(prefix="llamagw-fuzz-")


def _write(name: str, data: bytes) -> str:
    folder = os.path.join(_folder().name, name)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def gguf_head(data: bytes) -> None:
    """A GGUF file; one that ends with ~~ goes on with zeros, for 10 GB."""
    sparse = data.endswith(b"~~")
    path = _write("model.gguf", data.removesuffix(b"~~"))
    if sparse:
        os.truncate(path, 10 * 2**30)
    with suppress(gguf.Unreadable):
        gguf.read(path)
    [facts] = look_at([path], 1).values()
    assert facts.problem.isprintable(), facts.problem
    assert min(facts.size, facts.trained) >= 0, facts
    if facts.shape is not None:
        needed = estimate(facts.shape, Flags(context=0, gpu_layers=3))
        assert all(parts.total >= 0 for parts in needed.devices.values()), needed
    found = scan(os.path.dirname(path))
    for _, why in found.left_out:
        assert why.isprintable(), why
    if found.models:
        written = config_text("/models", found.models, sys.executable, MACHINE, -1)
        faults = _load(written.encode())
        assert not faults, f"check refuses what init has written: {faults[0]}"


def config(data: bytes) -> None:
    """A configuration file."""
    for fault in _load(data):
        for line in (str(fault), *fault.excerpt):
            assert line.isprintable(), line
            assert len(line) < 2000, f"a line of {len(line)} characters"


def _load(data: bytes) -> list[Fault]:
    path = _write("config.yaml", data)
    try:
        loaded = load(path)
    except ConfigError as error:
        return error.faults
    assert summary(path, loaded, [], {}).encode()
    return []


def head(pairs: dict[str, tuple[int, bytes]], tensors: dict[str, int], version: int = 3) -> bytes:
    """
    The head of a GGUF file.

    :param pairs: the number of its type and the bytes of each value
    :param tensors: the place of each
    """
    found = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    for key, (kind, value) in pairs.items():
        found += text(key) + struct.pack("<I", kind) + value
    for name, place in tensors.items():
        found += text(name) + struct.pack("<IQIQ", 1, 8, 0, place)
    return found


def text(value: str) -> bytes:
    """A text as GGUF has it."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


GGUF_WORDS = [
    b"GGUF\3\0\0\0", struct.pack("<Q", 1), struct.pack("<Q", 2**63), struct.pack("<I", 2**31),
    *(struct.pack("<I", number) for number in range(13)), struct.pack("<q", -1), b"~~",
    text("general.architecture"), text("llama"), text("llama.block_count"), text("a.weight"),
    text("llama.context_length"), text("llama.attention.head_count"), text("general.alignment"),
    text("general.type"), text("llama.embedding_length"), struct.pack("<IQ", 8, 2**20),
    text("llama.attention.head_count_kv"), text("llama.pooling_type"), text("clip"), b"\0" * 16,
]  # fmt: skip
CONFIG_WORDS = [
    b"llama_server_path: /bin/sh\n", b"models:\n", b"  - name: a\n", b"    model_path: a.gguf\n",
    b"models: [{name: a, model_path: a}]\n", b"    url: http://127.0.0.1:1\n", b"    replicas:\n",
    b"      - url: https://x/v1\n", b"    aliases: [b, 'c*', \"d?\"]\n", b"    env: {A: 1}\n",
    b"    set_params: {a: 1}\n", b"    extra_args: []\n", b"listen_addr: ", b'":8000"\n', b"unix:",
    b"max_queue: ", b"default_model: a\n", b"&a ", b"*a", b"<<: ", b"!!int ", b"!!binary ",
    b"!!set ",
    b"!!timestamp ", b"!!omap ", b"!!pairs ", b"!!float ", b"!!bool ", b"!!null ",
    b"!!python/none ",
    b"? ", b"- ", b": ", b"[", b"]", b"{", b"}", b"|\n", b">\n", b"'", b'"', b"#", b"%", b"---\n",
    b"...\n", b"0x", b"1:30", b"1e999", b".nan", b".inf", b"2001-01-01", b"\\ud800", b"\t", b"\n  ",
    b"\0", b"\xef\xbb\xbf", b"\xff", b"preload: true\n", b"pinned: true\n", b"api_key_env: X\n",
    b"~",
    b"access_log: yes\n", b"[" * 200, b"= ", b"0o7", b"0b1", b"1_0", b"drain_sec: ",
    b"tcp:1:interface=",
]  # fmt: skip
