"""Promises of llamagw.config.mistakes: what is no YAML is told in plain words, and shown."""

from __future__ import annotations

import pytest
import yaml

from llamagw.config.mistakes import Mistake, explain


def mistake(text: str) -> Mistake:
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return explain(caught.value, text)


MODELS = "models:\n  - name: a\n    model_path: b\n"


@pytest.mark.parametrize(
    ("text", "line", "said", "excerpt"),
    [
        (
            MODELS + "\tthreads: 4\n",
            4,
            "a tab; indent with spaces only",
            ("    →threads: 4", "    ^"),
        ),
        ("models:\n\t- name: a\n", 2, "a tab; indent", ("    →- name: a", "    ^")),
        (
            MODELS + "      threads: 4\n",
            4,
            "a key and its value may not begin here; is the line indented too far",
            ("          threads: 4", "                 ^"),
        ),
        (
            MODELS + "   threads: 4\n",
            4,
            "the line is indented less than the keys of the item above",
            ("       threads: 4", "       ^"),
        ),
        (
            "models:\n  - name: a\n  threads: 4\n",
            3,
            'and does not begin with "- "',
            ("      threads: 4", "      ^"),
        ),
        (
            "a: 1\n  b: 2\n c: 3\n",
            2,
            "a key and its value may not begin here",
            ("      b: 2", "       ^"),
        ),
        (
            "a:\n    b: 2\n  c: 3\n",
            3,
            "the line is indented otherwise than those that it belongs to",
            ("      c: 3", "      ^"),
        ),
        (
            "name: a: b\n",
            1,
            'does a text with ": " in it lack quotes?',
            ("    name: a: b", "           ^"),
        ),
        (
            "max_queue: 1\nthreads:4\nmax: 2\n",
            2,
            'a key without its ": "',
            ("    threads:4", "    ^"),
        ),
        ("a: 'b\nc: d\n", 1, "a quote is opened here and never closed", ("    a: 'b", "       ^")),
        ("a: [b, c\nd: e\n", 1, "a bracket is opened here", ("    a: [b, c", "       ^")),
        ("a: @b\n", 1, "begins with this character needs quotes", ("    a: @b", "       ^")),
        ("a: *\n", 1, "needs quotes", ("    a: *", "        ^")),
    ],
)
def test_each_slip_is_told_with_its_line_and_a_mark(
    text: str, line: int, said: str, excerpt: tuple[str, ...]
) -> None:
    found = mistake(text)
    assert said in found.message
    assert (found.line, found.excerpt) == (line, excerpt)


def test_of_a_long_line_the_part_around_the_mark_is_shown() -> None:
    found = mistake(f"a: {'b' * 1000}: {'c' * 1000}\n")
    assert found.excerpt == (
        f"    …{'b' * 50}: {'c' * 28}…",
        f"    {' ' * 51}^",
    )


def test_a_line_with_a_secret_is_not_shown() -> None:
    assert mistake("api_key: s3cret: x\n").excerpt == ()


def test_what_no_terminal_can_show_is_not_sent_to_it() -> None:
    assert mistake("a: \u202eb: c\n").excerpt[0] == "    a: ?b: c"
