"""What an engine says of its memory while it loads, from its recorded output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamagw.launch.told import Told
from llamagw.models import HOST, MOST, Held
from tests.launch import engine_lines as recorded

MIB = 2**20


def told(text: bytes) -> dict[str, Held]:
    """What is heard of some lines."""
    listener = Told()
    for line in recorded.lines(text):
        listener.line(line)
    return listener.devices()


def held(model: float, kv: float, compute: float) -> Held:
    """So many MiB."""
    return Held(*(round(mib * MIB) for mib in (model, kv, compute)))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (recorded.PLAIN, held(0, 90.19, 17.51)),
        (recorded.UNMAPPED, held(92.10, 90.19, 17.51)),
        (recorded.DRAFT, held(0, 180.38, 35.02)),
        (recorded.DRY_RUN, held(0, 90.19, 17.51)),
        (recorded.WINDOWS, held(12.66, 28, 22.77)),
    ],
    ids=["plain", "without mmap", "with a draft model", "after a dry run", "windows, repacked"],
)
def test_the_host_s_own_is_told_by_part_without_what_is_mapped(said: bytes, expected: Held) -> None:
    [(device, found)] = told(said).items()
    assert device == HOST
    for part in ("model", "kv", "compute"):
        assert getattr(found, part) == pytest.approx(getattr(expected, part), abs=3), part


def test_devices_of_other_machines_are_told_apart_by_their_place() -> None:
    found = told(recorded.TWO_DEVICES)
    assert {name: round(each.total / MIB, 2) for name, each in found.items()} == {
        HOST: 6.45,
        "RPC0": 139.11,
        "RPC1": 75.75,
    }


def test_names_of_gpus_stay_and_pinned_memory_is_the_host_s() -> None:
    said = b"""\
load_tensors:        CUDA0 model buffer size =  4000.00 MiB
load_tensors:    CUDA_Host model buffer size =   100.00 MiB
load_tensors:  MTL0_Mapped model buffer size =    50.00 MiB
llama_kv_cache:      MTL0 KV buffer size =     7.00 MiB
"""
    sizes = {name: each.total // MIB for name, each in told(said).items()}
    assert sizes == {"CUDA0": 4000, HOST: 107}


def test_a_buffer_that_is_made_anew_within_a_context_counts_once() -> None:
    again = b"0.1 I sched_reserve:        CPU compute buffer size =    19.00 MiB\n"
    assert told(recorded.PLAIN + again)[HOST].compute == 19 * MIB


def test_without_these_lines_nothing_is_known() -> None:
    assert told(recorded.LEVEL_3) == {}


@pytest.mark.parametrize(
    "line",
    [
        b"load_tensors: CPU model buffer size = 9999999999999999 MiB",
        b"load_tensors: CPU model buffer size = -5.00 MiB",
        b"load_tensors: CPU model buffer size = 1e99 MiB",
        b"load_tensors: CPU model buffer size = nan MiB",
        b"load_tensors: " + b"x" * 10_000 + b" model buffer size = 1.00 MiB",
        b"load_tensors: \x1b[31mCPU model buffer size = 1.00 MiB",
        b"load_tensors: \xff\xfe model buffer size = 1.00 MiB",
        b"x" * 10_000 + b"load_tensors: CPU model buffer size = 1.00 MiB",
        b"using device " + b"A" * 10_000 + b" (" + b"b" * 10_000 + b")",
        b" buffer size = ",
    ],
)
def test_hostile_lines_are_passed_over(line: bytes) -> None:
    assert told(line + b"\n") == {}


def test_no_figure_is_larger_than_any_machine_and_devices_are_few() -> None:
    much = b"load_tensors: CPU model buffer size = 999999999.00 MiB\n" * 3
    many = b"".join(b"load_tensors: G%d model buffer size = 1.00 MiB\n" % n for n in range(1000))
    found = told(much + many)
    assert found[HOST].model <= 3 * MOST
    assert len(found) <= 32


@given(st.lists(st.binary(max_size=200) | st.sampled_from(recorded.lines(recorded.TWO_DEVICES))))
def test_no_line_whatever_is_a_failure(lines: list[bytes]) -> None:
    listener = Told()
    for line in lines:
        listener.line(line)
    assert all(each.total >= 0 for each in listener.devices().values())
