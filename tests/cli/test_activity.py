"""Promises of `llamagw activity` and `llamagw cancel`: what they ask, and what they print."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from llamagw.cli import entries, follow
from llamagw.cli.client import Client, Failed
from llamagw.cli.main import cli
from llamagw.cli.values import Moment
from tests.support.scripted_gateway import END, ScriptedGateway
from tests.whole.harness import DEADLINE, wait_until

ROOT = Path(__file__).resolve().parents[2]

#: What a terminal would act upon, and words that Textual or click might.
HOSTILE = "\x1b]0;x\x07\x9b2J\u202e\n[bold]"


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedGateway]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    gateway = ScriptedGateway()
    monkeypatch.setenv("LLAMAGW_URL", gateway.url)
    yield gateway
    gateway.down()
    monkeypatch.undo()
    time.tzset()


def an_entry(id: str, **more: Any) -> dict[str, Any]:
    """A request that has ended, as `GET /activity` tells it."""
    return {
        **{"id": id, "time": 1_795_615_387.5, "client": "127.0.0.1", "method": "POST"},
        **{"path": "/v1/chat/completions", "asked": "small", "model": "smollm2", "stream": True},
        **{"status": 200, "outcome": "ok", "error": None, "reason": None, "tries": 1},
        **{"bytes_in": 103, "bytes_out": 2868, "waited_sec": 2.0, "load_sec": 1.5},
        **{"first_byte_sec": 2.1, "total_sec": 4.0},
        **{"tokens": {"prompt": 31, "cached": 7, "completion": 8}},
        **{"prompt_sec": 0.5, "completion_sec": 1.0, "captured": False},
        **more,
    }


REFUSED = an_entry(
    "x-2",
    **{"model": None, "status": 504, "outcome": "timeout", "error": "queue_timeout"},
    **{"tokens": None, "prompt_sec": None, "completion_sec": None, "first_byte_sec": None},
)


def a_live(id: str, state: str = "answering", **more: Any) -> dict[str, Any]:
    """A request that is under way, as `GET /activity/sse` tells it."""
    return {
        **{"id": id, "time": 1_795_615_387.5, "client": "127.0.0.1", "method": "POST"},
        **{"path": "/v1/chat/completions", "asked": "small", "model": "smollm2", "stream": True},
        **{"state": state, "position": None, "waiting_for": None, "waited_sec": 2.0},
        **{"usual_sec": 12.0, "first_byte_sec": None, "bytes_out": 0, "elapsed_sec": 3.0},
        **more,
    }


def llamagw(*words: str, status: int = 0) -> Result:
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == status, done.output
    return done


# ---- The last requests --------------------------------------------------------------------------


def test_the_last_requests_are_a_table_the_newest_last(
    gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "localtime", lambda at=1_795_615_400.0: time.gmtime(at))
    gateway.last = [REFUSED, an_entry("x-1")]
    assert llamagw("activity").stdout == (
        "TIME      MODEL    STATUS             WAITED  FIRST  TOTAL  PROMPT  TOKENS  TOK/S  "
        "PATH                  CLIENT     ID\n"
        "14:03:07  smollm2  200                  2.00   2.10   4.00      31       8      8  "
        "/v1/chat/completions  127.0.0.1  x-1\n"
        "14:03:07  small    504 queue_timeout    2.00      -   4.00       -       -      -  "
        "/v1/chat/completions  127.0.0.1  x-2\n"
    )
    assert gateway.asked == [("GET", "/activity?limit=20", None)]


def test_filters_are_asked_for(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    llamagw("activity", "--model", "a&b", "--status", "503", "--since", "10s", "-n", "7")
    llamagw("activity", "--status", "refused")
    assert [path for _, path, _ in gateway.asked] == [
        "/activity?limit=7&model=a%26b&status=503&since=990.0",
        "/activity?limit=20&outcome=refused",
    ]


def test_no_requests_are_told_on_stderr(gateway: ScriptedGateway) -> None:
    done = llamagw("activity")
    assert (done.stdout, done.stderr) == ("", "no requests\n")


def test_in_json_it_is_what_the_gateway_said(gateway: ScriptedGateway) -> None:
    gateway.last = [REFUSED, an_entry("x-1")]
    assert json.loads(llamagw("activity", "--json").stdout) == {"data": gateway.last}


def test_nothing_is_printed_that_a_terminal_would_act_upon(gateway: ScriptedGateway) -> None:
    words = ("client", "method", "path", "asked", "model", "outcome", "error", "reason")
    entry = an_entry(HOSTILE, **dict.fromkeys(words, HOSTILE))
    kept = {"headers": {HOSTILE: HOSTILE}, "body": HOSTILE, "truncated": True}
    gateway.last = [entry]
    gateway.answers["/activity/x"] = 200, {**entry, "request": kept, "response": kept}
    for said in (llamagw("activity").stdout, llamagw("activity", "x").stdout):
        assert not set(said) & set("\x1b\x07\x9b\u202e")
        assert "[bold]" in said


@pytest.mark.parametrize("value", [None, "x", [], {}, True, 10**400, float("nan"), -1, 1e300])
def test_values_of_another_kind_are_no_traceback(gateway: ScriptedGateway, value: Any) -> None:
    entry = {**dict.fromkeys(an_entry("x"), value), "id": "x"}
    gateway.last = [entry]
    gateway.answers["/activity/x"] = 200, {**entry, "request": value, "response": {"body": value}}
    assert len(llamagw("activity").stdout.splitlines()) == 2
    assert "in all" in llamagw("activity", "x").stdout or value != -1


@pytest.mark.parametrize("answer", [{}, {"data": 1}, {"data": [1]}, {"data": [{"id": 1}]}])
def test_an_answer_of_another_kind_is_told(gateway: ScriptedGateway, answer: Any) -> None:
    gateway.answers["/activity"] = 200, answer
    said = llamagw("activity", status=1).stderr
    assert "/activity did not answer as llamagw does" in said
    assert len(said.splitlines()) == 1


def on_a_terminal(columns: int, *words: str) -> str:
    import pty

    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from llamagw.cli.main import main; main()", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns)},
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    said = b""
    try:
        while data := os.read(main, 4096):
            said += data
    except OSError:
        pass  # Linux: the other end is closed
    finally:
        os.close(main)
    assert process.wait(DEADLINE) == 0, said
    return said.decode()


@pytest.mark.parametrize(("columns", "has", "lacks"), [(80, "TOK/S", "PATH"), (120, "PATH", "")])
def test_it_fits_the_terminal(gateway: ScriptedGateway, columns: int, has: str, lacks: str) -> None:
    long = an_entry("8a4be1f0c2d7-1", model="Qwen2.5-Coder-32B-Instruct-Q4_K_M")
    gateway.last = [REFUSED, long]
    said = on_a_terminal(columns, "activity")
    assert "\x1b[31m504 queue_timeout" in said
    lines = re.sub(r"\x1b\[\d*m", "", said).splitlines()
    assert max(map(len, lines)) <= columns
    assert has in lines[0]
    assert not lacks or lacks not in lines[0]
    assert "Qwen" in lines[1]


NOW = datetime.datetime(2026, 11, 24, 14, 3, 7)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("90s", NOW - datetime.timedelta(seconds=90)),
        ("10m", NOW - datetime.timedelta(minutes=10)),
        ("1.5h", NOW - datetime.timedelta(hours=1.5)),
        ("1d", NOW - datetime.timedelta(days=1)),
        ("14:03", NOW.replace(second=0)),
        ("9:15:30", NOW.replace(hour=9, minute=15, second=30)),
        ("23:00", NOW.replace(hour=23, minute=0, second=0) - datetime.timedelta(days=1)),
        ("2026-11-20 08:00", datetime.datetime(2026, 11, 20, 8)),
        ("2026-11-20", datetime.datetime(2026, 11, 20)),
        ("1795525387.5", datetime.datetime.fromtimestamp(1795525387.5)),
    ],
)
def test_since_takes_spans_and_times(
    said: str, meant: datetime.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", NOW.timestamp)
    assert Moment().convert(said, None, None) == meant.timestamp()


@pytest.mark.parametrize(
    "words",
    [
        *("--since soon", "--since 25:00", "--since 9999999d9", "--status 99", "--status bad"),
        *("x -f", "x --model a", "-n -1", "x y"),
    ],
)
def test_a_wrong_call_is_told(words: str) -> None:
    assert llamagw("activity", *words.split(), status=2).stderr.splitlines()[-1].startswith("Error")


# ---- One request --------------------------------------------------------------------------------


def test_one_request_is_told_in_full_with_where_its_time_went(gateway: ScriptedGateway) -> None:
    kept = {
        "request": {"headers": {"Host": "x"}, "body": '{"model":"small"}', "truncated": False},
        "response": {"body": "data: 1\n\ndata: 2", "truncated": True},
    }
    gateway.answers["/activity/a%2Fb"] = 200, an_entry("a/b", **kept)
    assert llamagw("activity", "a/b").stdout == (
        "id          a/b\n"
        "arrived     2026-11-25 14:03:07\n"
        "client      127.0.0.1\n"
        "request     POST /v1/chat/completions\n"
        "model       smollm2, asked for as small, a stream\n"
        "status      200\n"
        "tries       1\n"
        "bytes       103 in, 2868 out\n"
        "tokens      31 of the prompt (7 cached), 8 generated, 8.0 a second\n"
        "\n"
        "queue       █████                                        0.500 s\n"
        "load             ███████████████                         1.500 s\n"
        "prefill                              █████               0.500 s\n"
        "generation                                ██████████     1.000 s\n"
        "in all      first byte after 2.100 s                     4.000 s\n"
        "\n"
        "── request ──\n"
        "Host: x\n"
        "\n"
        "{\n"
        '  "model": "small"\n'
        "}\n"
        "\n"
        "── response ──\n"
        "data: 1\n"
        "\n"
        "data: 2\n"
        "[the rest was not kept]\n"
    )


def test_a_body_that_is_nested_deeply_is_told_as_it_is() -> None:
    deep = "[" * 60_000
    assert entries.described({"id": "x", "request": {"body": deep}})[-1] == deep


def test_where_the_engine_tells_no_times_the_first_byte_parts_it() -> None:
    entry = an_entry("x", prompt_sec=None, completion_sec=None)
    assert [phase.name for phase in entries.phases(entry)] == [
        *("queue", "load", "first byte", "answer")
    ]


@given(
    st.fixed_dictionaries(
        {
            key: st.none() | st.floats(-5, 20)
            for key in (
                *("total_sec", "waited_sec", "load_sec", "first_byte_sec"),
                *("prompt_sec", "completion_sec"),
            )
        }
    )
)
def test_phases_follow_each_other_within_the_request(times: dict[str, float | None]) -> None:
    found = entries.phases({"id": "x", **times})
    assert all(phase.begin < phase.end for phase in found)
    assert all(a.end <= b.begin for a, b in itertools.pairwise(found))
    if found:
        assert found[0].begin >= 0
        assert found[-1].end <= max(times["total_sec"] or 0, 0)
    assert all(len(line) <= 80 for line in entries.described({"id": "x", **times}))


def test_one_request_in_json_is_what_the_gateway_said(gateway: ScriptedGateway) -> None:
    gateway.answers["/activity/x-1"] = 200, an_entry("x-1")
    assert json.loads(llamagw("activity", "x-1", "--json").stdout) == an_entry("x-1")


def test_an_id_that_nobody_knows_is_the_gateway_s_error(gateway: ScriptedGateway) -> None:
    done = llamagw("activity", "x-9", status=1)
    assert (done.stdout, done.stderr) == ("", "Error: there is no /activity/x-9\n")


def test_a_request_is_cancelled(gateway: ScriptedGateway) -> None:
    gateway.answers["/activity/x%2F1/cancel"] = 200, {"success": True}
    assert llamagw("cancel", "x/1").stdout == "x/1 is cancelled\n"
    assert gateway.asked == [("POST", "/activity/x%2F1/cancel", {})]
    assert llamagw("cancel", "x-2", status=1).stderr.startswith("Error: there is no")


# ---- Going on -----------------------------------------------------------------------------------


def followed(
    monkeypatch: pytest.MonkeyPatch, last: list[dict[str, Any]], *streams: Any, words: str = ""
) -> Result:
    """
    What `llamagw activity -f` prints; after the last stream there is Ctrl-C.

    :param last: what `GET /activity` tells
    """
    coming = iter(streams)

    def events(self: Client) -> Iterator[dict[str, Any]]:
        stream = next(coming, None)
        if stream is None:
            raise KeyboardInterrupt
        if isinstance(stream, Failed):
            raise stream
        yield from stream

    def activity(self: Client, filters: dict[str, Any]) -> dict[str, Any]:
        return {"data": last[: filters["limit"]]}

    monkeypatch.setattr(Client, "events", events)
    monkeypatch.setattr(Client, "activity", activity)
    monkeypatch.setattr(follow, "PAUSE", 0)
    return CliRunner().invoke(cli, ["activity", "-f", *words.split()])


def snapshot(*last: dict[str, Any], now: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"event": "snapshot", "now": list(now), "last": list(last)}


def moved(live: dict[str, Any]) -> dict[str, Any]:
    return {"event": "moved", "request": live}


def ended(entry: dict[str, Any]) -> dict[str, Any]:
    return {"event": "ended", "request": entry}


def ids(done: Result) -> list[str]:
    """Of the lines that were printed: the id, and whether the request went on."""
    lines = done.stdout.splitlines()[1:]
    return [line.split()[-1] + ("…" if " … " in line else "") for line in lines]


def entries_to(count: int) -> list[dict[str, Any]]:
    """x-1 and its successors, a second after each other; the newest first."""
    return [an_entry(f"x-{n}", time=1_795_615_000.0 + n) for n in range(count, 0, -1)]


def test_what_goes_on_and_what_ends_is_printed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    three, two, one = entries_to(3)
    live = a_live("x-3", "waiting", position=2)
    done = followed(
        monkeypatch,
        [one],
        [
            snapshot(two, one, now=(live,)),
            *({"event": "begun", "request": live}, moved(live), ended(three)),
            *({"event": "begun", "request": a_live("x-4")}, ended(an_entry("x-4"))),
            *(moved(a_live("x-5")), moved(a_live("x-5")), {"event": "of a later version"}),
            snapshot(three, two, one),
        ],
    )
    assert ids(done) == ["x-1", "x-2", "x-3…", "x-3", "x-4", "x-5…"]
    assert "… waiting (2)" in done.stdout


def test_at_first_only_as_many_are_printed_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    last = entries_to(5)
    for count, printed in ((2, ["x-4", "x-5"]), (0, []), (9, [f"x-{n}" for n in range(1, 6)])):
        events = [snapshot(*last), ended(an_entry("y-1")), snapshot(*last)]
        done = followed(monkeypatch, last, events, words=f"-n {count}")
        assert ids(done) == [*printed, "y-1"]


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("--model small", ["a", "b", "c…"]),
        ("--model big", ["d"]),
        ("--status 504", ["b"]),
        ("--status timeout", ["b"]),
        ("--since 2026-11-26", ["c…"]),
    ],
)
def test_filters_hold_for_what_comes(
    words: str, printed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [
        snapshot(),
        *(ended(an_entry("a")), ended({**REFUSED, "id": "b"}), moved(a_live("c"))),
        ended(an_entry("d", asked="", model="big")),
    ]
    assert ids(followed(monkeypatch, [], events, words=words)) == printed


def test_when_the_gateway_comes_back_it_goes_on_with_what_was_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two, one = entries_to(2)
    again = an_entry("x-1", time=1_795_615_400.0)
    streams = [snapshot(one)], Failed("refused"), Failed("refused"), [snapshot(again, two, one)]
    done = followed(monkeypatch, [one], *streams)
    assert ids(done) == ["x-1", "x-2", "x-1"]
    first = done.stderr.splitlines()[0]
    assert first == "the gateway has ended; trying again … it is back after 0.0 s"
    assert "refused" not in done.stderr


def test_a_gateway_that_is_not_there_at_first_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = followed(monkeypatch, [], Failed("cannot reach it"))
    assert (done.exit_code, done.stderr) == (1, "Error: cannot reach it\n")


def test_going_on_in_json_is_an_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = an_entry("x-1"), an_entry("x-2")
    events = [snapshot(one), moved(a_live("x-2")), ended(two)]
    done = followed(monkeypatch, [one], events, words="--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [one, two]


def test_it_follows_over_a_restart_and_ctrl_c_ends_it_with_130(gateway: ScriptedGateway) -> None:
    two, one = entries_to(2)
    gateway.last = [one]
    process = subprocess.Popen(
        [sys.executable, "-c", "from llamagw.cli.main import main; main()", "activity", "-f"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    watchdog = threading.Timer(DEADLINE, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("TIME")
        assert process.stdout.readline().endswith("x-1\n")
        gateway.finish(two)
        assert process.stdout.readline().endswith("x-2\n")
        gateway.down()
        wait_until(lambda: not gateway.streams, "the stream is broken off")
        gateway.last = []
        gateway.up()
        wait_until(lambda: gateway.streams, "it listens again")
        gateway.tell(ended(an_entry("y-1")))
        assert process.stdout.readline().endswith("y-1\n")
        gateway.tell(END)
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        watchdog.cancel()
    assert (process.returncode, rest) == (130, "")
    assert "broke off" in said.splitlines()[0]
    assert "it is back after" in said.splitlines()[0]
    assert "Traceback" not in said


# ---- The client ---------------------------------------------------------------------------------


def test_a_stream_that_says_nothing_counts_as_lost(gateway: ScriptedGateway) -> None:
    with pytest.raises(Failed, match=r"no answer .* for 0\.05 s"):
        list(Client(gateway.url).events(0.05))


def test_a_stream_of_something_else_is_told(
    gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.answers["/activity/sse"] = 200, "data"
    assert list(Client(gateway.url).events()) == []
    monkeypatch.setattr("llamagw.cli.client.LONGEST_LINE", 100)
    gateway.answers["/activity/sse"] = 200, "x" * 200
    with pytest.raises(Failed, match="did not answer as llamagw does"):
        list(Client(gateway.url).events())


# ---- Completion ---------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COMP_WORDS": "\n".join(("llamagw", *words))}
    environ |= {"COMP_CWORD": str(len(words)), "_LLAMAGW_COMPLETE": "bash_complete"}
    code = "import sys; sys.argv = ['llamagw']; from llamagw.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.stderr == ""
    return [line.split(",", 1)[1] for line in done.stdout.splitlines() if line]


def test_ids_and_outcomes_are_completed(gateway: ScriptedGateway) -> None:
    gateway.last = [an_entry("x-2"), an_entry("y-1")]
    gateway.now = [a_live("x-3"), a_live("z-4")]
    assert completed("activity", "x") == ["x-2"]
    assert completed("cancel", "") == ["x-3", "z-4"]
    assert completed("activity", "--status", "re") == ["refused"]
    gateway.down()
    assert completed("activity", "x") == completed("cancel", "") == []
