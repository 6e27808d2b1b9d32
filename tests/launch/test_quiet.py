"""What people see of an engine that runs at -lv 4: what they would at -lv 3."""

from __future__ import annotations

import re

from llamagw.launch.quiet import Quiet, is_wanted
from tests.launch import engine_lines as recorded


def shown(text: bytes) -> list[bytes]:
    return Quiet().of(recorded.lines(text))


def without_figures(lines: list[bytes]) -> list[bytes]:
    return [re.sub(rb"[\d.]+", b"N", line) for line in lines]


def test_level_4_shows_what_level_3_does_line_by_line() -> None:
    expected = without_figures(recorded.lines(recorded.LEVEL_3))
    # The padding of a figure is none of the line.
    squeeze = [b" ".join(line.split()) for line in expected]
    assert [b" ".join(line.split()) for line in without_figures(shown(recorded.LEVEL_4))] == squeeze


def test_level_3_is_shown_whole() -> None:
    assert shown(recorded.LEVEL_3) == recorded.lines(recorded.LEVEL_3)


def test_no_part_of_a_key_of_a_template_or_of_a_request_is_shown() -> None:
    named = recorded.LEVEL_4.replace(b"conv_id= (empty=1)", b"conv_id=of a client (empty=0)")
    text = b"\n".join(shown(named))
    assert b"cdef" not in text
    assert b"of a client" not in text
    assert b"helpful" not in text


def test_warnings_and_errors_are_shown_whoever_says_them() -> None:
    said = b"0.1 W llama_context: n_ctx_seq is large\n0.2 E ggml_vulkan: no memory\n"
    assert shown(said) == recorded.lines(said)


def test_a_warning_is_shown_after_a_line_that_goes_on() -> None:
    warning = b"0.2 W srv  send_error: something is wrong"
    assert shown(
        b"0.1 I slot launch_slot_: sampler params: \n\ttop_k = 40\n" + warning + b"\n"
    ) == [warning]


def test_lines_of_level_4_that_look_like_those_of_level_3_are_left_out() -> None:
    assert (
        shown(b"""\
0.1 I srv  llama_server: n_parallel is set to auto, using n_parallel = 4 and kv_unified = true
0.1 I slot print_timing: id  0 | task 0 |      acc per pos = (0.9)
0.1 I slot launch_slot_: id  0 | task 0 |  - copying state to child 1
0.1 I srv    load_model: context checkpoints disabled
""")
        == []
    )


def test_an_engine_s_last_words_are_shown_though_they_have_no_mark() -> None:
    said = b"0.1 I srv  update_slots: all slots are idle\nterminate called without an exception\n"
    assert shown(said) == [b"terminate called without an exception"]


def test_lines_may_come_one_by_one() -> None:
    quiet, all_at_once = Quiet(), shown(recorded.LEVEL_4)
    assert [
        line for each in recorded.lines(recorded.LEVEL_4) for line in quiet.of([each])
    ] == all_at_once


def test_the_rest_of_a_very_long_line_is_left_out_with_it() -> None:
    said = b"0.1 I slot launch_slot_: id  0 | task -1 | sampler chain: " + b"x" * 4097
    assert shown(said + b"\n" + b"x" * 10 + b"\n") == []


def test_what_the_user_asks_for_is_shown() -> None:
    ours = ["llama-server", "--model", "x", "-lv", "4"]
    assert is_wanted(ours, [])
    assert is_wanted([*ours, "--no-mmap"], ["--no-mmap"])
    for own in (["-lv", "4"], ["--log_verbosity", "5"], ["--verbosity=3"], ["-v"]):
        assert not is_wanted([*ours, *own], own), own
    assert not is_wanted(["llama-server", "--model", "x"], [])
