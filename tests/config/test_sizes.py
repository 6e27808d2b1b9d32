"""Promises of what a file says of memory: sizes, budgets by device, and what they need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from llamagw.config.sizes import MOST_DEVICES, size, spelt
from tests.config.support import GATEWAY, LEAST, MODEL, ConfigCase, local_models

HOST_AND_GPU = "expected auto, off, or sizes by device, such as {host: 48GB, CUDA0: 22GB}"
A_SIZE = "expected a size such as 8GB or 7.5GiB"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48GB", 48 * 10**9),
        ("7.5GiB", 15 * 2**29),
        ("512 MB", 512 * 10**6),
        ("0GB", 0),
        ("1.5TB", 15 * 10**11),
        ("999.999999TB", 999_999_999 * 10**6),
    ],
)
def test_a_size_is_a_number_with_its_unit(text: str, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("48 gb", "; write 48GB"),
        ("48g", "; write 48GB"),
        ("1.5gib", "; write 1.5GiB"),
        ("-1GB", ""),
        ("GB", ""),
        ("1e3GB", ""),
        ("1,5GB", ""),
        ("٤GB", ""),
        ("1GB\n", "; write 1GB"),
        ("9" * 10_000 + "GB", ""),
    ],
)
def test_what_is_none_is_told_with_what_would_be_right(text: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=A_SIZE) as raised:
        size(text)
    assert str(raised.value).endswith(remedy or ('"', "…")[len(text) > 60])
    assert len(str(raised.value)) < 200


def test_a_size_is_no_more_than_any_machine_has() -> None:
    with pytest.raises(ValueError, match="1000TB is more than any machine has"):
        size("1000TB")


@given(some.integers(0, 10**15 - 1))
def test_bytes_are_spelt_so_that_they_are_read_as_the_same(number: int) -> None:
    assert size(spelt(number)) == number


@pytest.mark.parametrize("text", ["48GB", "7.5GiB", "512MB", "1MiB", "0MB", "2TB"])
def test_bytes_are_spelt_as_people_write_them(text: str) -> None:
    assert spelt(size(text)) == text


class MemoryTests(ConfigCase):
    def test_memory_is_counted_where_the_file_says_so(self) -> None:
        for said, wanted in (
            ("", None),
            ("memory: off", None),
            ('memory: "off"', None),
            ("memory: false", None),
            ("memory: auto", {}),
            ("memory: {host: 48GB}", {"host": 48 * 10**9}),
            (
                "memory: {host: 1.5GiB, 'RPC0[10.0.0.5:50052]': 2 GB}",
                {"host": 3 * 2**29, "RPC0[10.0.0.5:50052]": 2 * 10**9},
            ),
        ):
            self.assertEqual(self.load(GATEWAY.format(said)).memory, wanted, said)

    def test_where_it_is_the_number_of_models_has_no_limit_of_its_own(self) -> None:
        config = self.load(GATEWAY.format("memory: auto"))
        self.assertIsNone(config.max_loaded_models)
        self.assertGreater(config.limit, 10**6)
        config = self.load(GATEWAY.format("memory: auto\nmax_loaded_models: 3"))
        self.assertEqual((config.max_loaded_models, config.limit), (3, 3))
        self.assertEqual(self.load(LEAST).limit, 2)

    def test_the_reserve_is_a_size_and_may_be_nothing(self) -> None:
        for said, wanted in (("2GiB", 2**31), ("0GB", 0)):
            config = self.load(GATEWAY.format(f"memory: auto\nmemory_reserve: {said}"))
            self.assertEqual(config.memory_reserve, wanted)
        self.assertEqual(
            self.fault(GATEWAY.format("memory: auto\nmemory_reserve: 2")),
            f"config.yaml:3: memory_reserve: {A_SIZE}, got 2; write 2GB",
        )

    def test_what_is_no_budget_is_told_with_what_would_be_right(self) -> None:
        for said, place, told in (
            ("true", "", f"{HOST_AND_GPU}, got true; write auto"),
            ("on", "", f"{HOST_AND_GPU}, got true; write auto"),
            ("", "", f"{HOST_AND_GPU}, got nothing"),
            ("48", "", f"{HOST_AND_GPU}, got 48"),
            ("[48GB]", "", f'{HOST_AND_GPU}, got ["48GB"]'),
            (
                "48GB",
                "",
                f'{HOST_AND_GPU}, got "48GB"; say of which device, such as {{host: 48GB}}',
            ),
            ("{}", "", "names no device; write a size for one, such as {CUDA0: 7GB}"),
            ("{host: 48}", ".host", f"{A_SIZE}, got 48; write 48GB"),
            ("{host: 48000000000}", ".host", f"{A_SIZE}, got 48000000000; write 48GB"),
            ("{host: .inf}", ".host", f"{A_SIZE}, got inf"),
            ("{host: true}", ".host", f"{A_SIZE}, got true"),
            ("{host: 48 gb}", ".host", f'{A_SIZE}, got "48 gb"; write 48GB'),
            ("{host: -1GB}", ".host", f'{A_SIZE}, got "-1GB"'),
            ("{host: 0GB}", ".host", 'expected a size of more than nothing, got "0GB"'),
            ("{RAM: 8GB}", ".RAM", "the machine's own memory is called host"),
            ("{Host: 8GB}", ".Host", "the machine's own memory is called host"),
            (
                "{0: 8GB}",
                "",
                "expected names of devices, such as host (the machine's memory) or CUDA0, got 0",
            ),
            (
                '{"CUDA 0": 8GB}',
                "",
                "expected names of devices, such as host (the machine's memory) or CUDA0, "
                'got "CUDA 0"',
            ),
        ):
            fault = self.fault(GATEWAY.format(f"memory: {said}"))
            self.assertEqual(fault, f"config.yaml:2: memory{place}: {told}")

    def test_names_of_devices_are_harmless_and_neither_long_nor_many(self) -> None:
        for name in ("x" * 65, "", "a\\u001bb", "é", "a\\nb"):
            fault = self.fault(GATEWAY.format(f'memory: {{"{name}": 8GB}}'))
            self.assertIn("memory: expected names of devices", fault)
            self.assertTrue(fault.isprintable())
        names = [f"D{number}: 1GB" for number in range(MOST_DEVICES + 1)]
        self.assertEqual(
            self.fault(GATEWAY.format(f"memory: {{{', '.join(names)}}}")),
            f"config.yaml:2: memory: names {MOST_DEVICES + 1} devices; "
            f"{MOST_DEVICES} at most are expected",
        )
        config = self.load(GATEWAY.format(f"memory: {{{', '.join(names[1:])}}}"))
        assert config.memory is not None
        self.assertEqual(len(config.memory), MOST_DEVICES)

    def test_a_wrong_budget_is_one_fault_whatever_depends_on_it(self) -> None:
        text = MODEL.format("memory: 7GB\n    gpu_layers: auto\nmemory_reserve: 1GB\nmemory: yes")
        self.assertIn("got true; write auto", self.fault(text))


class ModelTests(ConfigCase):
    def counted(self, keys: str) -> str:
        """A file in which memory is counted; the keys are in line 6."""
        return "memory: auto\n" + MODEL.format(keys)

    def test_a_model_says_what_it_takes_alone_or_by_device(self) -> None:
        for said, wanted in (
            ("7GB", {"": 7 * 10**9}),
            ("{CUDA0: 7GB, host: 500MB}", {"CUDA0": 7 * 10**9, "host": 5 * 10**8}),
            ("null", None),
        ):
            [model] = local_models(self.load(self.counted(f"memory: {said}")))
            self.assertEqual(model.memory, wanted)

    def test_what_is_no_size_is_told_with_what_would_be_right(self) -> None:
        for said, place, told in (
            ("7", "", f"{A_SIZE}, got 7; write 7GB"),
            ("7gb", "", f'{A_SIZE}, got "7gb"; write 7GB'),
            ("0GB", "", 'expected a size of more than nothing, got "0GB"'),
            ("auto", "", f'{A_SIZE}, got "auto"'),
            ("[7GB]", "", f'{A_SIZE}, got ["7GB"]'),
            ("{}", "", "names no device; write a size for one, such as {CUDA0: 7GB}"),
            ("{CUDA0: -7GB}", ".CUDA0", f'{A_SIZE}, got "-7GB"'),
        ):
            fault = self.fault(self.counted(f"memory: {said}"))
            self.assertEqual(fault, f"config.yaml:6: models[0].memory{place}: {told}")

    def test_keys_that_need_memory_to_be_counted_are_refused_where_it_is_not(self) -> None:
        for said, told in (
            (
                "memory: 7GB",
                "models[0].memory: is what it takes, and memory is not counted; "
                "write `memory: auto` at the top, or leave this out",
            ),
            (
                "gpu_layers: auto",
                "models[0].gpu_layers: auto is for as many layers as fit, and memory is not "
                "counted; write `memory: auto` at the top, or a number (-1 for all)",
            ),
        ):
            self.assertEqual(self.fault(MODEL.format(said)), f"config.yaml:5: {told}")
            off = MODEL.format(said) + "memory: off\n"
            self.assertEqual(self.fault(off), f"config.yaml:5: {told}")
            self.load(self.counted(said))
        self.assertEqual(
            self.fault(LEAST + "memory_reserve: 2GB\n"),
            "config.yaml:5: memory_reserve: is what is left to others, and memory is not counted; "
            "write `memory: auto` at the top, or leave this out",
        )

    def test_the_cache_of_prompts_and_the_idle_engine_need_no_counting(self) -> None:
        [model] = local_models(self.load(MODEL.format("prompt_cache_mb: 0")))
        self.assertEqual(model.prompt_cache_mb, 0)
        for said in ("idle_shrink_sec: 60", "idle_shrink_sec: 60\n    idle_unload_sec: 61"):
            [model] = local_models(self.load(MODEL.format(said)))
            self.assertEqual(model.idle_shrink_sec, 60)
        self.assertEqual(
            self.fault(MODEL.format("prompt_cache_mb: 1GB")),
            "config.yaml:5: models[0].prompt_cache_mb: expected a whole number of megabytes, "
            '0 (none) to 1048576, got "1GB"',
        )

    def test_a_model_is_not_unloaded_before_it_shrinks(self) -> None:
        for unload in (60, 5):
            self.assertEqual(
                self.fault(MODEL.format(f"idle_shrink_sec: 60\n    idle_unload_sec: {unload}")),
                f"config.yaml:5: models[0].idle_shrink_sec: is 60, and after {unload} seconds the "
                "model is unloaded (idle_unload_sec); lower this, or leave it out",
            )

    def test_a_model_that_lives_elsewhere_takes_no_memory_here(self) -> None:
        for key in ("memory: 7GB", "gpu_layers: auto"):
            text = LEAST.replace("model_path: tiny.gguf", f"url: http://far:8000\n    {key}")
            self.assertEqual(
                self.fault(text),
                f"config.yaml:5: models[0].{key.partition(':')[0]}: "
                "is for a model that llamagw starts itself, with model_path",
            )
