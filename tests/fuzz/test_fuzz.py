"""Every input that is kept, and random ones, keep the promises of their target."""

from __future__ import annotations

import os
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Target, corpus

KEPT = [(name, path) for name in TARGETS for path in corpus(name)]

#: How long each target is tried, where `make fuzz` has no fuzzer. Without it, a hundred inputs that
#: are always the same, so that a red test is a change's doing.
SECONDS = float(os.environ.get("FUZZ_SECONDS_EACH", 0))
RANDOM = settings(
    max_examples=100,
    derandomize=not SECONDS,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize(
    ("name", "path"), KEPT, ids=[f"{name}-{os.path.basename(path)}" for name, path in KEPT]
)
def test_an_input_that_is_kept(name: str, path: str) -> None:
    with open(path, "rb") as file:
        TARGETS[name].run(file.read())


def broken(whole: bytes, words: list[bytes], seed: int) -> bytes:
    """Something that is kept, with a few pieces changed, gone or doubled."""
    chance, data = random.Random(seed), bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        piece = chance.choice([b"", b"\r", b"\n", b"\0", bytes(data[at : at + 20]), *words])
        data[at : at + chance.choice([0, 0, 1, 3, 20])] = piece
    return bytes(data)


def inputs(name: str, target: Target) -> st.SearchStrategy[bytes]:
    kept = []
    for path in corpus(name):
        with open(path, "rb") as file:
            kept.append(file.read())
    made = st.lists(st.sampled_from(target.words) | st.binary(max_size=8), max_size=14)
    seeds = st.integers(0, 2**32)
    found = made.map(b"".join) | st.builds(
        broken, st.sampled_from(kept), st.just(target.words), seeds
    )
    return found.map(lambda data: data[: target.most])


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_it_is_given(name: str) -> None:
    target = TARGETS[name]

    @RANDOM
    @given(inputs(name, target))
    def run(data: bytes) -> None:
        target.run(data)

    end = time.monotonic() + SECONDS
    run()
    while time.monotonic() < end:
        run()
