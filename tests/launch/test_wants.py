"""Promises of llamagw.launch.wants: when an engine is held to have run out of memory."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from llamagw import system
from llamagw.launch import wants
from llamagw.launch.base import Need
from llamagw.launch.wants import Wants

GIB = 2**30
SMALL, LARGE = Need(devices={"host": GIB}), Need(devices={"host": 5 * GIB}, files={"f": 2 * GIB})


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the kernel counts; 8 GiB of memory are left."""
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("pgfault 12\noom_kill 3\n")
    monkeypatch.setattr(system, "_VMSTAT", str(vmstat))
    monkeypatch.setattr(system, "_CGROUP", str(tmp_path / "none"))
    monkeypatch.setattr(wants, "memory_in_use", lambda: (16 * GIB, 8 * GIB))
    return vmstat


@pytest.mark.parametrize(
    "line",
    [
        "0.01.2 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4096.00 MiB on device 0: "
        "cudaMalloc failed: out of memory",
        "ggml_vulkan: Device memory allocation of size 1073741824 failed.\n"
        "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
        "E alloc_tensor_range: failed to allocate CPU buffer of size 4294967296",
        "E llama_model_load: error loading model: unable to allocate CUDA0 buffer",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "E mmap failed: Cannot allocate memory",
        "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    ],
)
def test_an_engine_that_loads_may_say_so_itself(line: str, kernel: Path) -> None:
    assert Wants(None).why("exited with status 1", ["hello", line], loading=True) == ""


def test_memory_that_could_not_be_locked_ends_no_engine(kernel: Path) -> None:
    line = "W warning: failed to mlock 92-byte buffer (after 0 bytes): Cannot allocate memory"
    assert Wants(None).why("exited with status 1", [line, "bad file"], loading=True) is None


def test_what_it_prints_while_clients_use_it_is_no_sign(kernel: Path) -> None:
    lines = ["a client says: out of memory"]
    assert Wants(LARGE).why("exited with status 1", lines, loading=False) is None
    assert Wants(LARGE).why("was killed by SIGSEGV", lines, loading=False) is None


@pytest.mark.parametrize("loading", [True, False])
def test_the_kernel_counts_whom_it_kills(loading: bool, kernel: Path) -> None:
    run = Wants(None)
    assert run.why("was killed by SIGKILL", [], loading) is None
    kernel.write_text("oom_kill 4\n")
    why = run.why("was killed by SIGKILL", [], loading)
    assert why is not None
    assert "kernel" in why
    assert run.why("exited with status 1", [], loading) is None, "it was another one"
    assert Wants(None).why("was killed by SIGKILL", [], loading) is None, "that was before"


@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS"])
def test_a_silent_end_of_a_load_that_takes_most_of_what_is_left_is_one(
    signal: str, kernel: Path
) -> None:
    how = f"was killed by {signal}"
    assert Wants(LARGE).why(how, [], loading=True)
    assert Wants(SMALL).why(how, [], loading=True) is None
    assert Wants(None).why(how, [], loading=True) is None
    assert Wants(LARGE).why("exited with status 1", [], loading=True) is None


def test_a_limit_of_the_address_space_counts_as_well(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of ``ulimit -v``: the engine then dies of a SIGSEGV, without a word."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (GIB, GIB))
    assert Wants(SMALL).why("was killed by SIGSEGV", [], loading=True)


@pytest.mark.parametrize("content", [b"", b"\xff", b"oom_kill x\n", None])
def test_a_kernel_that_does_not_count_is_no_sign(content: bytes | None, kernel: Path) -> None:
    kernel.unlink()
    if content is not None:
        kernel.write_bytes(content)
    assert Wants(None).why("was killed by SIGKILL", [], loading=True) is None
