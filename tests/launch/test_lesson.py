"""What one run teaches about the memory of the next."""

from __future__ import annotations

import pytest

from llamagw.launch import Memory
from llamagw.launch.lesson import Lesson
from llamagw.models import HOST, Learned
from tests.launch import engine_lines as recorded

MIB = 2**20

#: What /proc said of SmolLM2 when it was ready, with the output that was recorded.
READY = Memory(rss=230 * MIB, anon=111 * MIB, file=119 * MIB)


def mib(sizes: dict[str, int]) -> dict[str, float]:
    return {name: round(size / MIB, 2) for name, size in sizes.items()}


class TestLesson:
    def setup_method(self) -> None:
        self.learned = Learned()
        self.lesson = Lesson(self.learned, "key")

    def load(self, said: bytes, memory: Memory | None = READY) -> None:
        """A process starts, says that, and is ready."""
        told = self.lesson.begin()
        for line in recorded.lines(said):
            told.line(line)
        self.lesson.ready(memory)

    def known(self, cache: int = 0) -> dict[str, float]:
        figure = self.learned.of("key")
        return {} if figure is None else mib(figure.need(cache))

    def test_the_host_s_is_what_the_kernel_says_and_what_it_has_not_touched_yet(self) -> None:
        self.load(recorded.PLAIN)
        assert self.known() == {HOST: 111 + 17.51}

    def test_of_gpus_what_the_engine_says_is_known(self) -> None:
        self.load(recorded.TWO_DEVICES)
        assert self.known() == {HOST: 117.26, "RPC0": 139.11, "RPC1": 75.75}
        figure = self.learned.of("key")
        assert figure is not None
        assert figure.partial == {"RPC0", "RPC1"}

    @pytest.mark.parametrize("memory", [None, Memory(rss=230 * MIB)])
    def test_where_the_kernel_does_not_tell_it_is_what_the_engine_says(
        self, memory: Memory | None
    ) -> None:
        self.load(recorded.PLAIN, memory)
        assert self.known() == {HOST: 107.7}
        figure = self.learned.of("key")
        assert figure is not None
        assert figure.partial == {HOST}

    def test_without_the_engine_s_lines_nothing_is_learned(self) -> None:
        self.load(recorded.LEVEL_3)
        self.lesson.seen(Memory(rss=500 * MIB, anon=400 * MIB))
        self.lesson.over()
        assert self.known() == {}

    def test_nor_when_it_is_not_said_which_gpu_has_what(self) -> None:
        self.load(recorded.PLAIN + b"load_tensors: CUDA0_Split model buffer size = 900.00 MiB\n")
        assert self.known() == {}

    def test_a_run_that_never_was_ready_teaches_nothing(self) -> None:
        self.lesson.begin()
        self.lesson.seen(READY)
        self.lesson.over()
        assert self.known() == {}

    def test_what_an_attempt_on_another_port_has_said_does_not_count(self) -> None:
        for line in recorded.lines(recorded.PLAIN):
            self.lesson.begin().line(line)
        self.load(recorded.PLAIN)
        assert self.known() == {HOST: 128.51}

    def test_the_most_that_was_in_use_is_learned_at_the_end(self) -> None:
        self.load(recorded.PLAIN)
        for anon in (150, 700, 300):
            self.lesson.seen(Memory(rss=900 * MIB, anon=anon * MIB))
        assert self.known() == {HOST: 128.51}
        self.lesson.over()
        assert self.known() == {HOST: 700}
        assert self.known(cache=600 * MIB) == {HOST: 728.51}, "the cache's growth counts once"
