"""Promises of llamagw.announce: which models fit into memory together, in words."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from twisted.logger import LogEvent, formatEvent

from llamagw.announce import log_notes, new_notes, summary
from llamagw.launch import Note, Together
from llamagw.launch.together import Set
from llamagw.models import HOST
from tests.support.configs import configuration, local_model
from tests.support.logs import observe

GIB = 2**30
BUDGET = {HOST: 16 * GIB}


def said(found: Together | None) -> list[str]:
    """The lines below the models."""
    lines = summary("c.yaml", configuration(local_model("a")), [], {}, found).splitlines()
    return lines[6:]


def test_each_set_is_told_with_what_it_takes() -> None:
    sets = [Set(["a", "b"], {HOST: 14 * GIB, "CUDA0": 0}), Set(["c"], {"GPU": GIB})]
    assert said(Together(BUDGET, sets, most=2, least=1, of=3)) == [
        "These fit into memory together:",
        "  a + b (14.0 of 16.0 GiB in RAM)",
        "  c",
    ]


def test_lines_fit_a_terminal_and_many_sets_are_counted() -> None:
    names = [f"a-model-with-a-long-name-{number}" for number in range(12)]
    sets = [Set(names, {HOST: GIB})] * 30
    lines = said(Together(BUDGET, sets, most=12, least=1, of=13))
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "  and 22 more sets"


def test_of_many_models_it_is_told_how_many_fit() -> None:
    assert said(Together(BUDGET, [], most=9, least=2, of=30)) == [
        "2 to 9 of 30 fit into memory together, the fewer the larger they are."
    ]
    assert said(Together(BUDGET, [], most=30, least=30, of=30)) == [
        "30 of 30 fit into memory together."
    ]


def test_nothing_is_told_where_nothing_is_counted_or_there_is_one() -> None:
    assert said(None) == []
    assert said(Together(BUDGET, [Set(["a"], {HOST: GIB})], most=1, least=1, of=1)) == []


def test_what_is_said_of_the_engine_is_no_model_s(request: pytest.FixtureRequest) -> None:
    note = Note("warning", "", "llama_server_path", "knows nothing")
    logged: list[LogEvent] = []
    request.addfinalizer(observe(logged.append))
    log_notes([note, Note("warning", "a", "models[0].threads", "are many")])
    told = [formatEvent(event) for event in logged]
    assert told == ["llama_server_path knows nothing", "model a: threads are many"]
    lines = summary("c.yaml", configuration(local_model("a")), [note], {}).splitlines()
    assert lines[3] == "    warning: llama_server_path knows nothing"
    assert lines.count(lines[3]) == 1


def test_a_reload_says_of_the_engine_only_what_is_new() -> None:
    note = Note("warning", "", "llama_server_path", "knows nothing")
    old = configuration(local_model("a"))
    assert new_notes([note], old, replace(old, max_queue=7)) == []
    assert new_notes([note], old, replace(old, llama_server_path="/other")) == [note]
