"""Promises of llamagw.document: a file made to take all time or memory is one clear fault."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llamagw import document
from llamagw.config import ConfigError, Fault, load

SOUND = "llama_server_path: /bin/sh\nmodels: [{name: a, model_path: a}]\n"


def faults(path: Path, text: str) -> list[Fault]:
    file = path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    return caught.value.faults


def doubled(line: str) -> str:
    """Thirty values, each with the one before it twice."""
    first = "a0: &a0 {a: 1, b: 2}\n"
    return first + "".join(line.format(n=n, before=n - 1) for n in range(1, 31))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (doubled("a{n}: &a{n} [*a{before}, *a{before}]\n"), "its aliases make too much of it"),
        (doubled("a{n}: &a{n} {{<<: [*a{before}, *a{before}]}}\n"), "its aliases make too much"),
        # The second one of them is a fault, but would be merged all the same.
        (doubled("a{n}: &a{n} {{<<: *a{before}, <<: *a{before}}}\n"), "its aliases make too much"),
        (
            "? [&a0 x,"
            + ",".join(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 31))
            + "]\n: 1",
            "its aliases make too much of it",
        ),
        ("a: &a [*a]\n", "an alias stands inside of what it repeats"),
        ("[" * 100_000, "it is nested too deeply"),
        ("- " * 100_000, "it is nested too deeply"),
        ("{a: " * 100_000, "it is nested too deeply"),
        ("a: [" + "x," * 200_000 + "]\n", "it has over 200000 keys and values"),
        (
            "\n".join(" " * n + "k" * 1000 + ":" for n in range(200))
            + f"\n{' ' * 200}[{'x,' * 5000}]\n",
            "its keys are too long, and nested too deeply",
        ),
        ("max_queue: 0x" + "f" * 5000, "a number has over 100 digits"),
        ("max_queue: 1" + ":59" * 100_000, "a number has over 100 digits"),
        ("max_queue: 1" + ":59" * 100_000 + ".5", "a number has over 100 digits"),
        ("? 0x" + "f" * 5000 + "\n: 1", "a number has over 100 digits"),
    ],
)
def test_what_would_make_too_much_is_refused_before_it_is_made(
    tmp_path: Path, text: str, said: str
) -> None:
    [fault] = faults(tmp_path, text)
    assert said in fault.message


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SOUND, encoding="utf-8")
    os.truncate(path, 10 * 2**30)
    for one in (str(path), "/dev/zero"):
        with pytest.raises(ConfigError, match="is no configuration: it is over 4 MB"):
            load(one)


def test_of_many_faults_the_first_are_told_and_that_there_are_more(tmp_path: Path) -> None:
    found = faults(tmp_path, SOUND + "".join(f"k{n}: 1\n" for n in range(5000)))
    assert len(found) == document.MOST_FAULTS + 1
    assert "has more faults" in str(found[-1])
    assert "k0: unknown key" in str(found[0])


def test_a_fault_is_short_however_long_what_it_is_about(tmp_path: Path) -> None:
    for text in (
        f"? {'k' * 100_000}\n: 1\n{SOUND}",
        f"default_model: {'x' * 100_000}\n{SOUND}",
        f"a: !<{'x' * 100_000}> b\n",
    ):
        for fault in faults(tmp_path, text):
            assert len(str(fault)) < 1500


def test_a_file_that_is_large_and_right_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    models = "".join(f"- {{name: m{n}, model_path: m, aliases: [a{n}]}}\n" for n in range(2000))
    comments = ("#" + "x" * 98 + "\n") * 10_000
    path.write_text(f"{comments}llama_server_path: /bin/sh\nmodels:\n{models}", encoding="utf-8")
    assert len(load(str(path)).models) == 2000
