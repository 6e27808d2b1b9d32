"""Processes: how an engine is called, found a port for, listened to and ended."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from msgspec.structs import replace
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.logger import formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from llamagw.apart import Commands
from llamagw.config import LocalModel
from llamagw.launch import Exit, Processes
from llamagw.launch import command as command_module
from llamagw.launch import known as known_module
from llamagw.launch import ports as ports_module
from llamagw.launch import wants as wants_module
from llamagw.launch.base import Need
from llamagw.launch.command import (
    KEY_VARIABLE,
    command_line,
    known_flags,
    library_path,
    masked,
)
from llamagw.launch.durations import Durations
from llamagw.launch.launchers import Launchers
from llamagw.launch.leftovers import Leftovers
from llamagw.launch.local import LOOK_AGAIN_SEC, LocalLauncher, LocalRun
from llamagw.launch.output import KEPT_LINES, LINE_BYTES, LINES_A_TURN, Log, Output
from llamagw.launch.pipes import PIPE_GRACE_SEC, PIPE_GRACES
from llamagw.launch.ports import LOOPBACK, Ports
from llamagw.launch.slots import SAVE_FLAG, save_folder
from llamagw.launch.sockets import Listener
from llamagw.models import HOST, Figure, Learned, look_at
from tests.models.support import gguf_bytes
from tests.support.configs import configuration, local_model
from tests.support.fake_llama_server import GGUF_HEAD
from tests.support.fleet import FakeProbe
from tests.support.logs import events_of

ALL = frozenset(
    {
        *("--model", "--host", "--port", "--alias", "--ctx-size", "--threads", "--batch-size"),
        *("--parallel", "--kv-unified", "--metrics", "--gpu-layers"),
    }
)
CANNOT_BIND = b"0.00.021 E srv  start: couldn't bind HTTP server socket, hostname: 127.0.0.1\n"


def model(**more: Any) -> LocalModel:
    return local_model("tiny", **more)


def value(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


class CommandLineTests(SynchronousTestCase):
    def test_every_key_becomes_a_flag(self) -> None:
        command = command_line(
            "/opt/llama-server",
            model(gpu_layers=20, context_size=8192, threads=6, batch_size=256, parallel=3),
            8081,
            ALL,
        )
        self.assertEqual(
            command,
            [
                *("/opt/llama-server", "--model", "/models/tiny.gguf", "--host", "127.0.0.1"),
                *("--port", "8081", "--alias", "tiny", "--ctx-size", "8192", "--threads", "6"),
                *("--batch-size", "256", "--parallel", "3", "--kv-unified", "--metrics"),
                *("--gpu-layers", "20"),
            ],
        )

    def test_all_layers_are_999(self) -> None:
        for layers, said in [(-1, "999"), (0, "0"), (7, "7")]:
            command = command_line("x", model(gpu_layers=layers), 1, ALL)
            self.assertEqual(value(command, "--gpu-layers"), said)

    def test_a_flag_that_the_binary_does_not_know_is_left_out_with_its_value(self) -> None:
        command = command_line("x", model(), 8081, ALL - {"--alias", "--threads"})
        for absent in ("--alias", "tiny", "--threads", "4"):
            self.assertNotIn(absent, command)

    def test_automatic_threads_are_left_to_the_engine(self) -> None:
        self.assertNotIn("--threads", command_line("x", model(threads=0), 8081, ALL))

    def test_the_engine_does_not_try_out_what_fits_unless_it_is_told_to(self) -> None:
        known = ALL | {"--fit"}
        self.assertEqual(value(command_line("x", model(), 1, known), "--fit"), "off")
        for told in (
            model(extra_args=["--fit", "on"]),
            model(extra_args=["-fitt", "512"]),
            model(extra_args=["--fit_ctx", "512"]),
            model(env={"LLAMA_ARG_FIT": "on"}),
        ):
            self.assertNotIn("off", command_line("x", told, 1, known))
        for unknown in (ALL, frozenset()):
            self.assertNotIn("--fit", command_line("x", model(), 1, unknown))

    def test_when_nobody_knows_all_flags_are_given(self) -> None:
        self.assertEqual(
            command_line("x", model(), 8081, frozenset()), command_line("x", model(), 8081, ALL)
        )

    def test_one_request_may_fill_the_context_with_and_without_a_unified_buffer(self) -> None:
        made = model(context_size=1000, parallel=3)
        self.assertEqual(value(command_line("x", made, 1, ALL), "--ctx-size"), "1000")
        older = command_line("x", made, 1, ALL - {"--kv-unified"})
        self.assertEqual(value(older, "--ctx-size"), "3000")
        self.assertNotIn("--kv-unified", older)

    def test_an_engine_that_is_to_forget_can_erase_its_slots(self) -> None:
        known = ALL | {SAVE_FLAG}
        self.assertNotIn(SAVE_FLAG, command_line("x", model(), 1, known))
        shrinks = model(idle_shrink_sec=60)
        self.assertEqual(value(command_line("x", shrinks, 1, known), SAVE_FLAG), save_folder())
        self.assertNotIn(SAVE_FLAG, command_line("x", shrinks, 1, ALL))
        own = model(idle_shrink_sec=60, extra_args=["--slot_save-path", "/kv"])
        self.assertNotIn(SAVE_FLAG, command_line("x", own, 1, known))

    def test_the_cache_of_prompts_is_limited_as_the_model_says(self) -> None:
        known = ALL | {"--cache-ram"}
        self.assertNotIn("--cache-ram", command_line("x", model(), 1, known))
        for counted in (False, True):
            told = command_line("x", model(prompt_cache_mb=0), 1, known, counted=counted)
            self.assertEqual(value(told, "--cache-ram"), "0")
        for unknown in (ALL, frozenset()):
            told = command_line("x", model(prompt_cache_mb=64), 1, unknown, counted=True)
            self.assertNotIn("--cache-ram", told)

    def test_where_memory_is_counted_it_is_limited_unless_the_environment_says_how(self) -> None:
        known = ALL | {"--cache-ram"}
        told = command_line("x", model(), 1, known, counted=True)
        self.assertEqual(value(told, "--cache-ram"), "256")
        environment = {"LLAMA_ARG_CACHE_RAM": "512"}
        told = command_line("x", model(env=environment), 1, known, counted=True)
        self.assertNotIn("--cache-ram", told)
        with mock.patch.dict(os.environ, environment):
            told = command_line("x", model(), 1, known, counted=True)
            self.assertNotIn("--cache-ram", told)
            told = command_line("x", model(prompt_cache_mb=64), 1, known, counted=True)
            self.assertEqual(value(told, "--cache-ram"), "64")

    def test_an_engine_says_what_it_takes_where_that_is_counted(self) -> None:
        known = ALL | {"-lv", "--verbosity", "--log-verbosity"}
        self.assertEqual(command_line("x", model(), 1, known), command_line("x", model(), 1, ALL))
        for one in ("-lv", "--verbosity", "--log-verbosity"):
            told = command_line("x", model(), 1, ALL | {one}, counted=True)
            self.assertEqual(value(told, one), "4")
        told = command_line("x", model(threads=1), 1, known, counted=True)
        self.assertEqual(told.count("4"), 1, "once")
        for unknown in (ALL, frozenset()):
            self.assertNotIn("4", command_line("x", model(threads=1), 1, unknown, counted=True))
        for variable in ("LLAMA_ARG_LOG_VERBOSITY", "LLAMA_LOG_VERBOSITY"):
            told = command_line("x", model(env={variable: "5"}), 1, known, counted=True)
            self.assertNotIn("--verbosity", told)

    def test_the_flags_of_the_place_that_it_is_started_in_come_before_extra_args(self) -> None:
        need = Need(devices={}, flags=("--device", "CUDA1"))
        extra = ["--device", "CUDA0"]
        told = command_line("x", model(extra_args=extra), 1, ALL, need=need)
        self.assertEqual(told[-4:], ["--device", "CUDA1", *extra])

    def test_automatic_layers_are_those_of_the_place(self) -> None:
        need = Need(devices={}, flags=("--gpu-layers", "12"))
        told = command_line("x", model(gpu_layers="auto"), 1, ALL, counted=True, need=need)
        self.assertEqual(told.count("--gpu-layers"), 1)
        self.assertEqual(value(told, "--gpu-layers"), "12")
        told = command_line("x", model(gpu_layers="auto"), 1, ALL, counted=True)
        self.assertNotIn("--gpu-layers", told)

    def test_extra_args_come_last(self) -> None:
        extra = ["--ctx-size", "1", "--no-such-flag"]
        command = command_line("x", model(extra_args=extra), 8081, ALL)
        self.assertEqual(command[-3:], extra)


class MaskedTests(SynchronousTestCase):
    def test_secrets_on_a_command_line_are_not_shown(self) -> None:
        for flag in ("--api-key", "--hf-token", "-hft", "--api_key", "--some-new-token"):
            said = masked(["x", flag, "s3cret", "--port", "1"])
            self.assertEqual(said, f"x {flag} *** --port 1")
            self.assertEqual(masked(["x", f"{flag}=s3cret=", "y"]), f"x {flag}=*** y")

    def test_a_secret_may_look_like_a_flag(self) -> None:
        said = masked(["x", "--api-key", "--hf-token", "--port", "1"])
        self.assertEqual(said, "x --api-key *** --port 1")

    def test_all_else_is(self) -> None:
        command = ["/my-key", "--api-key-file", "keys", "--ssl-key-file", "a", "--override-kv", "b"]
        self.assertEqual(masked(command), " ".join(command))
        self.assertEqual(masked(["x", "--api-key"]), "x --api-key")


class LibraryPathTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(os.path.realpath(folder.name))
        self.binary = self.folder / "release" / "llama-server"
        self.binary.parent.mkdir()
        self.binary.touch()
        self.link = self.folder / "llama-server"
        self.link.symlink_to(self.binary)

    def test_each_platform_has_its_variable(self) -> None:
        folder = str(self.binary.parent)
        self.assertEqual(library_path(str(self.binary), {}, "linux"), ("LD_LIBRARY_PATH", folder))
        self.assertEqual(
            library_path(str(self.binary), {}, "darwin"), ("DYLD_LIBRARY_PATH", folder)
        )

    def test_symbolic_links_are_resolved(self) -> None:
        self.assertEqual(library_path(str(self.link), {}, "linux")[1], str(self.binary.parent))

    def test_what_is_set_already_stays_behind(self) -> None:
        for platform, variable in [("linux", "LD_LIBRARY_PATH"), ("darwin", "DYLD_LIBRARY_PATH")]:
            inherited = {variable: "/cuda/lib:/other"}
            said = library_path(str(self.binary), inherited, platform)
            self.assertEqual(said, (variable, f"{self.binary.parent}:/cuda/lib:/other"))

    def test_an_empty_value_adds_no_empty_folder(self) -> None:
        # An empty entry would be the current folder.
        said = library_path(str(self.binary), {"LD_LIBRARY_PATH": ""}, "linux")
        self.assertEqual(said[1], str(self.binary.parent))


class KnownFlagsTests(SynchronousTestCase):
    def binary(self, script: str) -> str:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / "llama-server"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    def test_the_flags_of_the_help(self) -> None:
        script = (
            "cat <<'E'\n"
            "-m,    --model FNAME           model path, such as a/--b (env: LLAMA_ARG_MODEL)\n"
            "-ngl,  --gpu-layers, --n-gpu-layers N\n"
            "-kvu,  --kv-unified            use single unified KV buffer\n"
            "E"
        )
        self.assertEqual(
            known_flags(self.binary(script), os.environ, Commands()),
            {
                **dict.fromkeys(("-m", "--model", "-ngl", "--gpu-layers", "--n-gpu-layers"), True),
                **dict.fromkeys(("-kvu", "--kv-unified"), False),
            },
        )

    def test_whether_it_listens_on_sockets(self) -> None:
        first = "--host HOST                ip address to listen, or bind to an UNIX socket if"
        for rest, listens in (
            ("                           the address ends with .sock (default: 127.0.0.1)", True),
            (" the address ends with .sock", True),
            ("--port PORT                port to listen", False),
            ("", False),
        ):
            script = f"cat <<'E'\n--model FNAME   path\n{first}\n{rest}\nE"
            told = known_flags(self.binary(script), os.environ, Commands())
            self.assertEqual(told.sockets, listens, rest)

    def test_help_on_stderr_is_help(self) -> None:
        flags = known_flags(self.binary("echo '--model FNAME' >&2"), os.environ, Commands())
        self.assertEqual(flags, {"--model": True})

    def test_the_environment_is_handed_on(self) -> None:
        flags = known_flags(self.binary('echo "--model $FLAG"'), {"FLAG": "--other"}, Commands())
        self.assertEqual(set(flags), {"--model", "--other"})

    def test_a_binary_that_fails_is_believed_to_know_all_and_a_warning_says_so(self) -> None:
        logged = events_of(self)
        for script in ("echo --model; exit 1", "echo usage unknown", "exit 127"):
            self.assertEqual(known_flags(self.binary(script), os.environ, Commands()), {})
        self.assertEqual(known_flags("/no/such/binary", os.environ, Commands()), {})
        said = [event["said"] for event in logged if "said" in event]
        self.assertEqual(said[:3], ["--model", "usage unknown", "status 127"])
        self.assertIn("No such file", said[3])

    def test_a_binary_that_never_answers(self) -> None:
        # A child of its own holds its pipes open, and is not to be waited for either.
        with mock.patch.object(command_module, "HELP_TIMEOUT", 0.1):
            script = "sleep 600 & echo --model; sleep 600"
            self.assertEqual(known_flags(self.binary(script), os.environ, Commands()), {})


class PortsTests(SynchronousTestCase):
    def bound(self, listening: bool) -> int:
        taken = socket.socket()
        self.addCleanup(taken.close)
        taken.bind((LOOPBACK, 0))
        if listening:
            taken.listen()
        port: int = taken.getsockname()[1]
        return port

    def test_ports_go_upward(self) -> None:
        with mock.patch.object(ports_module, "_can_bind", return_value=True):
            ports = Ports(8081)
            self.assertEqual([ports.take(), ports.take(), ports.take()], [8081, 8082, 8083])

    def test_a_port_in_use_by_somebody_else_is_skipped(self) -> None:
        for listening in (True, False):
            port = self.bound(listening)
            self.assertGreater(Ports(port).take(), port)

    def test_a_port_is_given_once_until_it_is_given_back(self) -> None:
        with mock.patch.object(ports_module, "_can_bind", return_value=True):
            ports = Ports(8081)
            ports.take()
            ports.take()
            ports.give_back(8081)
            self.assertEqual([ports.take(), ports.take()], [8081, 8083])

    def test_no_port_left(self) -> None:
        with mock.patch.object(ports_module, "_can_bind", lambda port: port < 65535):
            ports = Ports(65534)
            self.assertEqual(ports.take(), 65534)
            error = self.assertRaises(OSError, ports.take)
        self.assertEqual(str(error), "no free port from 65534 to 65535")


class OutputTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = Log("tiny")
        self.engine_log: Literal["warn", "all", "none"] = "all"
        self.output = self.make()

    def make(self) -> Output:
        return Output(self.log, lambda: self.engine_log)

    @property
    def kept(self) -> list[str]:
        """The lines that are kept, without their times."""
        return [line[9:] for line in self.log.lines]

    def received(self, fd: int, data: bytes) -> None:
        self.output.received(fd, data)
        while self.output.pass_on():
            pass

    def closed(self) -> None:
        self.output.closed()
        self.output.pass_on()

    def test_the_last_200_lines_are_kept(self) -> None:
        self.received(1, b"".join(b"line %d\n" % n for n in range(1000)))
        self.assertEqual(len(self.log.lines), KEPT_LINES)
        self.assertEqual((self.kept[0], self.kept[-1]), ("line 800", "line 999"))
        self.assertEqual(self.output.count, 1000)

    def test_a_line_may_come_in_pieces(self) -> None:
        for piece in (b"load", b"ing ", b"model\nnext"):
            self.received(2, piece)
        self.assertEqual(self.kept, ["loading model"])

    def test_the_pieces_of_stdout_and_stderr_are_kept_apart(self) -> None:
        self.received(1, b"out")
        self.received(2, b"err\n")
        self.received(1, b"put\n")
        self.assertEqual(self.kept, ["err", "output"])

    def test_what_has_no_end_of_line_counts_when_the_pipes_close(self) -> None:
        self.received(2, b"its last gasp")
        self.closed()
        self.closed()
        self.assertEqual(self.kept, ["its last gasp"])

    def test_long_lines_are_cut(self) -> None:
        self.received(1, b"x" * 3 * LINE_BYTES + b"\nshort\n")
        self.assertEqual([len(line) for line in self.kept], [LINE_BYTES, 5])

    def test_a_line_without_end_does_not_grow_for_ever(self) -> None:
        for _ in range(1000):
            self.received(1, b"x" * 1000)
        held = sum(map(len, self.kept)) + len(self.output._partial[1])
        self.assertLessEqual(held, (KEPT_LINES + 1) * LINE_BYTES)

    def test_binary_and_windows_line_ends(self) -> None:
        self.received(1, b"\xff\x00\xfe\r\nwords\r\n")
        self.assertEqual(self.kept, ["\ufffd\\x00\ufffd", "words"])

    def test_what_would_act_on_a_terminal_is_written_out(self) -> None:
        logged = events_of(self)
        heard: list[str] = []
        self.log.follow(heard.extend)
        self.received(1, "\x1b]0;t\x07\x9b2J\rforged \u2028line\ttab\n".encode())
        plain = "\\x1b]0;t\\x07\\x9b2J\\x0dforged \\u2028line\ttab"
        self.assertEqual([*self.kept, heard[0][9:], *self.output.recent], [plain] * 3)
        self.assertEqual([event["line"] for event in logged], [plain])
        self.assertEqual(self.output.last_words(), plain)

    def test_so_many_lines_are_handed_on_at_a_time(self) -> None:
        heard: list[Sequence[str]] = []
        self.log.follow(heard.append)
        self.output.received(1, b"".join(b"%d\n" % n for n in range(2 * LINES_A_TURN + 1)))
        self.assertEqual(self.output.count, 0)
        more = [self.output.pass_on() for _ in range(3)]
        self.assertEqual(more, [True, True, False])
        self.assertEqual([len(lines) for lines in heard], [LINES_A_TURN, LINES_A_TURN, 1])
        told = [int(line[9:]) for lines in heard for line in lines]
        self.assertEqual(told, [*range(2 * LINES_A_TURN + 1)])
        self.assertFalse(self.output.pass_on())
        self.assertEqual(len(heard), 3, "nobody is told of nothing")

    def test_the_log_goes_on_with_the_next_engine_which_is_judged_by_its_own_words(self) -> None:
        self.received(2, b"0.00.1 E srv: out of memory\n")
        second = self.make()
        second.received(2, b"unterminated")
        second.pass_on()
        self.assertEqual((second.count, second.last_words()), (0, ""))
        second.closed()
        second.pass_on()
        self.assertEqual((second.count, second.last_words()), (1, "unterminated"))
        self.assertEqual(self.kept, ["0.00.1 E srv: out of memory", "unterminated"])

    def test_a_log_can_be_followed(self) -> None:
        heard: list[Sequence[str]] = []
        self.received(1, b"before\n")
        stop = self.log.follow(heard.append)
        self.received(1, b"one\ntwo\nthr")
        told = [line[9:] for line in heard[0]]
        self.assertEqual((len(heard), told), (1, ["one", "two"]), "those that come together")
        stop()
        stop()
        self.received(1, b"ee\n")
        self.assertEqual(len(heard), 1)

    def test_each_line_has_its_time_and_each_run_begins_with_a_line_of_its_own(self) -> None:
        seconds = time.mktime((2026, 11, 24, 14, 3, 7, 0, 0, -1))
        log = Log("tiny", lambda: seconds)
        log.begin(1234, "llama-server --port 1")
        log.add("loading")
        log.begin(1235, "llama-server --port 2")
        self.assertEqual(
            list(log.lines),
            [
                "── run 1, started 2026-11-24 14:03:07, pid 1234 ──",
                "14:03:07 llama-server --port 1",
                "14:03:07 loading",
                "── run 2, started 2026-11-24 14:03:07, pid 1235 ──",
                "14:03:07 llama-server --port 2",
            ],
        )

    def repeated(self, engine_log: Literal["warn", "all", "none"]) -> list[tuple[str, str]]:
        """What the gateway's log has of an engine that prints a line of each level."""
        self.engine_log = engine_log
        logged = events_of(self)
        for line in (b"plain", b"0.00.1 I srv  info", b"0.00.2 W srv  warn", b"0.1 E srv  error"):
            self.received(2, line + b"\n")
        return [(event["log_level"].name, event["line"]) for event in logged]

    def test_from_a_warning_up_a_line_is_logged_at_the_engines_level(self) -> None:
        wanted = [("warn", "srv  warn"), ("error", "srv  error")]
        self.assertEqual(self.repeated("warn"), wanted)
        self.assertEqual(len(self.kept), 4, "all are kept")

    def test_all_lines_are_logged_if_asked_for(self) -> None:
        wanted = [("info", "plain"), ("info", "srv  info")]
        wanted += [("warn", "srv  warn"), ("error", "srv  error")]
        self.assertEqual(self.repeated("all"), wanted)

    def test_the_box_of_warnings_at_each_start_is_kept_and_not_logged(self) -> None:
        box = b"""\
0.00.004.667 W srv  llama_server: -----------------
0.00.016.227 W srv  llama_server: CORS is set to allow all origins ('*') and no API key is set
0.00.016.228 W srv  llama_server: this can be a security risk (cross-origin attacks)
0.00.016.229 W srv  llama_server: more info: https://github.com/ggml-org/llama.cpp/pull/25655
0.00.016.229 W srv  llama_server: -----------------
0.00.016.230 E srv  llama_server: exiting due to HTTP server error
"""
        logged = events_of(self)
        for self.engine_log in ("warn", "all"):
            self.received(2, box)
        said = [event["line"] for event in logged]
        self.assertEqual(said, ["srv  llama_server: exiting due to HTTP server error"] * 2)
        self.assertEqual(len(self.kept), 12)

    def test_none_is_logged_if_asked_for(self) -> None:
        self.assertEqual(self.repeated("none"), [])

    def test_each_line_is_logged_under_the_models_name(self) -> None:
        logged = events_of(self)
        self.received(1, b"a {brace} and 100%\n")
        [event] = logged
        self.assertEqual(event["log_namespace"], "backend.tiny")
        self.assertEqual(event["line"], "a {brace} and 100%")
        self.assertEqual(event["log_format"], "{line}")


class LastWordsTests(SynchronousTestCase):
    def words(self, text: str) -> str:
        output = Output(Log("tiny"), lambda: "none")
        output.received(2, text.encode())
        output.closed()
        while output.pass_on():
            pass
        return output.last_words()

    def test_cause_and_consequence_of_a_broken_file(self) -> None:
        self.assertEqual(
            self.words(
                "0.00.012.345 I srv    load_model: loading model '/models/tiny.gguf'\n"
                "0.00.012.431 E gguf_init_from_reader:   invalid magic characters: 'oops'\n"
                "0.00.012.440 E llama_model_load: error loading model: failed to load\n"
                "0.00.012.450 E srv    load_model: failed to load model\n"
                "0.00.013.000 I srv    operator(): cleaning up before exit...\n"
                "0.00.013.100 E srv  llama_server: exiting due to model loading error\n"
            ),
            "gguf_init_from_reader: invalid magic characters: 'oops'; "
            "srv llama_server: exiting due to model loading error",
        )

    def test_a_single_error(self) -> None:
        self.assertEqual(
            self.words(
                "0.00.020.900 I srv  llama_server: starting\n" + CANNOT_BIND.decode().rstrip()
            ),
            "srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1",
        )

    def test_without_a_marked_error_the_last_line(self) -> None:
        self.assertEqual(
            self.words("loading\nerror while loading shared libraries: libllama.so\n\n  \n"),
            "error while loading shared libraries: libllama.so",
        )

    def test_an_error_from_long_ago_is_not_the_cause(self) -> None:
        text = "0.00.001 E common: harmless\n" + "0.00.002 I tick\n" * 30 + "Killed\n"
        self.assertEqual(self.words(text), "Killed")

    def test_silence(self) -> None:
        self.assertEqual(self.words(""), "")
        self.assertEqual(self.words("\n\n"), "")


class FakeTransport:
    """A process's transport: writes down what is sent to it."""

    def __init__(self, pid: int, protocol: ProcessProtocol, args: Sequence[str]) -> None:
        self.pid = pid
        self.protocol = protocol
        self.args = list(args)
        self.signals: list[object] = []
        self.gone = self.closed = False
        self.reading = True

    def closeStdin(self) -> None:
        self.signals.append("stdin")

    def loseConnection(self) -> None:
        self.closed = True

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        assert not self.closed
        self.reading = True

    def signalProcess(self, number: object) -> None:
        if self.gone:
            raise ProcessExitedAlready()
        self.signals.append(number)

    def say(self, data: bytes) -> None:
        self.protocol.childDataReceived(2, data)

    def exit(self, status: int | None = 1, by: int | None = None) -> Failure:
        """It is gone; its pipes may still be open."""
        self.gone = True
        done = ProcessDone(0) if status == 0 else ProcessTerminated(status, by)
        self.protocol.processExited(Failure(done))
        return Failure(done)

    def end(self, status: int | None = 1, by: int | None = None) -> None:
        """It is gone, and all is read."""
        self.protocol.processEnded(self.exit(status, by))


class FakeReactor(Clock):
    """
    A Clock that spawns `FakeTransport`\\ s.

    :ivar environments: what they were given; None for the gateway's own
    """

    def __init__(self) -> None:
        super().__init__()
        self.spawned: list[FakeTransport] = []
        self.environments: list[Any] = []
        self.error: OSError | None = None

    def spawnProcess(
        self, protocol: ProcessProtocol, executable: str, args: Sequence[str], env: Any
    ) -> FakeTransport:
        if self.error is not None:
            raise self.error
        self.environments.append(env)
        transport = FakeTransport(1000 + len(self.spawned), protocol, args)
        self.spawned.append(transport)
        protocol.makeConnection(transport)
        return transport


class Mourner:
    """Hears of the end."""

    def __init__(self) -> None:
        self.exits: list[Exit] = []

    def ended(self, exit: Exit) -> None:
        self.exits.append(exit)


class EngineCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / "tiny.gguf"
        path.write_bytes(GGUF_HEAD)
        self.model = local_model("tiny", str(path))
        self.reactor = FakeReactor()
        config = configuration(self.model, stop_timeout_sec=10)
        self.probe = FakeProbe()
        self.learned = Learned()
        self.launcher = Processes(
            self.reactor,  # type: ignore[arg-type]
            config,
            Leftovers(self.mktemp()),
            self.probe,
            Durations(),
            self.learned,
        )
        self.groups: list[tuple[int, int]] = []
        self.no_group: OSError | None = None
        self.launcher.kill_group = self.kill_group
        #: Who has the engines' ports, and who was asked for.
        self.listener: Listener | OSError = Listener.NOBODY
        self.looked: list[tuple[int, int]] = []
        self.launcher.who_listens = self.who_listens
        self.patch(ports_module, "_can_bind", lambda port: True)
        self.backend = Mourner()
        self.log = Log("tiny")

    def kill_group(self, pid: int, number: int) -> None:
        if self.no_group is not None:
            raise self.no_group
        self.groups.append((pid, number))

    def who_listens(self, port: int, leader: int) -> Listener:
        self.looked.append((port, leader))
        if isinstance(self.listener, OSError):
            raise self.listener
        return self.listener

    def launch(self) -> LocalRun:
        run = LocalLauncher(self.launcher, self.model, self.log).launch(self.backend.ended)
        self.reactor.advance(0)
        return run

    @property
    def library_path(self) -> tuple[str, str]:
        return library_path(self.launcher.config.llama_server_path, os.environ, sys.platform)

    @property
    def child(self) -> FakeTransport:
        return self.reactor.spawned[-1]


class NeedsTests(EngineCase):
    def setUp(self) -> None:
        super().setUp()
        self.known = self.launcher.known
        self.counted = configuration(self.model, memory="auto")
        self.head = Path(self.model.model_path)
        self.head.write_bytes(gguf_bytes())
        self.patch(known_module, "look_apart", lambda paths, *_: look_at(paths, 60))
        self.patch(known_module, "known_flags", lambda *_: {})
        self.starts = LocalLauncher(self.launcher, self.model, self.log)
        self.logged = events_of(self)

    def read(self) -> None:
        self.known.read(self.counted, Commands())
        self.launcher.apply(self.counted)

    def test_nothing_is_counted_unless_memory_is(self) -> None:
        self.known.read(self.counted, Commands())
        self.assertEqual(self.starts.needs(), ())

    def test_a_model_needs_what_its_file_tells(self) -> None:
        self.read()
        [need] = self.starts.needs()
        self.assertEqual([*need.devices], [HOST])
        self.assertEqual(need.source, "estimate")

    def test_its_needs_are_made_anew_only_when_something_else_is_known(self) -> None:
        self.read()
        before = self.starts.needs()
        with mock.patch.object(self.known, "placement", side_effect=AssertionError):
            self.assertIs(self.starts.needs(), before)
        self.read()
        self.assertIsNot(self.starts.needs(), before)

    def test_what_was_learned_counts_at_once(self) -> None:
        self.read()
        [before] = self.starts.needs()
        learned: dict[str, Figure] = {}
        self.known.learned = learned.get
        learned[before.key] = Figure({HOST: 2**30}, frozenset(), {}, when=0, loads=1)
        [now] = self.starts.needs()
        self.assertEqual(now.source, "learned")
        self.assertEqual(now.key, before.key)

    def test_a_file_that_tells_nothing_is_said_once(self) -> None:
        self.head.write_bytes(GGUF_HEAD)
        self.read()
        for _ in range(3):
            self.read()
            self.assertEqual(self.starts.needs(), [])
        [event] = [one for one in self.logged if "not counted" in one["log_format"]]
        self.assertEqual(event["name"], "tiny")

    def test_a_file_that_is_not_there_is_said_by_others(self) -> None:
        self.head.unlink()
        self.read()
        self.assertEqual(self.starts.needs(), [])
        self.assertEqual([one for one in self.logged if "not counted" in one["log_format"]], [])


class SpawnTests(EngineCase):
    def test_the_engine_runs_with_its_flags_on_a_port_of_its_own(self) -> None:
        engines = [self.launch(), self.launch()]
        self.assertEqual([engine.address.port for engine in engines], [8081, 8082])
        for engine, child in zip(engines, self.reactor.spawned, strict=True):
            flags = command_line("/opt/llama-server", self.model, engine.address.port, frozenset())
            self.assertEqual(child.args[-len(flags) :], flags)
            self.assertEqual(child.args[0], sys.executable)
            self.assertEqual(engine.pid, child.pid)

    def test_it_is_started_in_the_place_that_there_is_room_for(self) -> None:
        need = Need(devices={"CUDA1": 1}, flags=("--device", "CUDA1"))
        starts = LocalLauncher(self.launcher, self.model, self.log)
        logged = events_of(self)
        starts.launch(self.backend.ended, need)
        self.assertEqual(tuple(self.child.args[-2:]), need.flags)
        said = [formatEvent(event) for event in logged]
        self.assertIn("starting tiny on port 8081 (--device CUDA1)", said)

    def test_where_memory_is_counted_the_engine_is_told_so(self) -> None:
        self.launch()
        self.assertNotIn("--verbosity", self.child.args)
        config = configuration(self.model, memory="auto")
        with (
            mock.patch.object(Processes, "flags", {"--verbosity": True, "--cache-ram": True}),
            mock.patch.object(self.launcher, "config", config),
        ):
            self.launch()
        self.assertEqual(self.child.args[-4:], ["--cache-ram", "256", "--verbosity", "4"])

    def test_it_is_started_anew_when_memory_is_counted_from_now_on(self) -> None:
        launchers = Launchers(self.launcher, self.probe, self.reactor)
        depends = [
            launchers.depends_on(self.model, configuration(self.model, memory=memory))
            for memory in ("off", "auto", {"host": "8GB"})
        ]
        self.assertNotEqual(depends[0], depends[1])
        self.assertEqual(depends[1], depends[2])

    def test_the_engines_libraries_are_the_engines_affair(self) -> None:
        self.launch()
        self.assertIn("=".join(self.library_path), self.child.args)

    def test_the_gateways_own_environment_is_handed_on(self) -> None:
        with mock.patch.dict(os.environ, {"FROM_OUTSIDE": "1"}):
            self.launch()
            inherited = dict(os.environb)
        [env] = self.reactor.environments
        del env[KEY_VARIABLE.encode()]
        self.assertEqual(env, inherited)

    def test_a_models_variables_are_added_where_nobody_else_sees_them(self) -> None:
        # What is no UTF-8 in the gateway's environment must not get in the way.
        with mock.patch.dict(os.environ, {"FROM_OUTSIDE": "\udcff", "HF_TOKEN": "old"}):
            self.model = replace(self.model, env={"HF_TOKEN": "secrét", "OMP_NUM_THREADS": "2"})
            self.launch()
        [env] = self.reactor.environments
        self.assertEqual(env[b"HF_TOKEN"], os.fsencode("secrét"))
        self.assertEqual(env[b"OMP_NUM_THREADS"], b"2")
        self.assertEqual(env[b"FROM_OUTSIDE"], b"\xff")
        self.assertEqual(env[b"PATH"], os.environb[b"PATH"])
        self.assertNotIn("secr", " ".join(self.child.args))

    def test_a_models_library_path_comes_after_the_engines_folder(self) -> None:
        variable, folders = self.library_path
        folder = folders.split(os.pathsep)[0]
        self.model = replace(self.model, env={variable: "/cuda/lib", "A": "1"})
        self.launch()
        self.assertIn(f"{variable}={folder}:/cuda/lib", self.child.args)
        [env] = self.reactor.environments
        self.assertNotEqual(env.get(variable.encode()), b"/cuda/lib", "Python must not load them")

    def test_an_engine_gets_its_variables_indeed(self) -> None:
        script = Path(self.mktemp())
        script.write_text('#!/bin/sh\nexec >"$2"; echo "$HF_TOKEN $LD_LIBRARY_PATH"\n')
        script.chmod(0o755)
        told = self.mktemp()
        become: list[str] = []

        def spawn(protocol: object, executable: str, args: list[str], env: Any) -> None:
            become.extend(args)
            # Its parent is who says so on its command line.
            subprocess.run(args, executable=executable, env=env, check=True)

        self.patch(self.reactor, "spawnProcess", spawn)
        extra = {"HF_TOKEN": "x=y z", "LD_LIBRARY_PATH": "/more"}
        self.patch(sys, "platform", "linux")
        self.launcher.spawn(ProcessProtocol(), [str(script), "to", told], extra)
        folder = os.path.dirname(os.path.realpath(script))
        self.assertEqual(Path(told).read_text(), f"x=y z {folder}:/more\n")

    def test_stdin_is_closed(self) -> None:
        self.launch()
        self.assertEqual(self.child.signals, ["stdin"])

    def test_a_missing_model_file_is_a_start_that_failed(self) -> None:
        os.unlink(self.model.model_path)
        engine = self.launch()
        there_is = f"there is no file {self.model.model_path}"
        self.assertEqual(self.backend.exits, [Exit("was not started", there_is)])
        [line] = self.log.lines
        self.assertEqual(line[9:], f"llama-server was not started: {there_is}")
        self.assertEqual(self.reactor.spawned, [])
        engine.stop()
        engine.kill("")
        self.assertEqual(self.groups, [])

    def test_a_file_that_is_known_to_be_no_model_is_not_tried(self) -> None:
        path = Path(self.model.model_path)
        path.write_bytes(b"<html>")
        self.launcher.prepare(self.launcher.config, Commands())
        self.launch()
        [exit] = self.backend.exits
        self.assertEqual(exit.how, "was not started")
        self.assertIn(f"{path} is a web page", exit.last_words)
        path.write_bytes(GGUF_HEAD)
        self.launch()
        self.assertEqual(len(self.reactor.spawned), 1, "it was replaced")

    def test_a_spawn_that_fails_gives_its_port_back(self) -> None:
        self.reactor.error = OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self.launch()
        [exit] = self.backend.exits
        self.assertEqual(exit.how, "was not started")
        self.assertIn("Resource temporarily unavailable", exit.last_words)
        self.assertEqual(self.launcher.ports.take(), 8081)

    def test_no_port_left(self) -> None:
        self.patch(ports_module, "_can_bind", lambda port: False)
        self.launch()
        self.assertEqual(
            self.backend.exits, [Exit("was not started", "no free port from 8081 to 65535")]
        )

    def test_the_binary_is_asked_for_its_flags_before(self) -> None:
        asked = []

        def known_flags(binary: str, env: dict[str, str], _: object) -> dict[str, bool]:
            asked.append((binary, env[self.library_path[0]]))
            return {"--model": True}

        self.patch(known_module, "known_flags", known_flags)
        self.launcher.prepare(self.launcher.config, Commands())
        self.assertEqual(asked, [("/opt/llama-server", self.library_path[1])])
        self.launch()
        self.assertNotIn("--port", self.child.args)


class EndTests(EngineCase):
    def test_an_end_is_told_once_with_how_and_why(self) -> None:
        self.launch()
        self.child.say(b"0.00.1 E srv: out of memory\n")
        self.child.end(1)
        self.assertEqual(
            self.backend.exits,
            [Exit("exited with status 1", "srv: out of memory", 1, out_of_memory=True)],
        )
        self.reactor.advance(60)
        self.assertEqual(len(self.backend.exits), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_one_that_the_kernel_killed_for_want_of_memory_is_told_as_such(self) -> None:
        kills = 7
        self.patch(wants_module, "oom_kills", lambda: kills)
        self.launch()
        self.child.say(b"0.00.1 I slot: a request went by\n")
        kills += 1
        self.child.end(None, 9)
        how = "was killed by SIGKILL: the kernel ran out of memory"
        self.assertEqual(self.backend.exits, [Exit(how, "", None, out_of_memory=True)])
        engine = self.launch()
        kills += 1
        engine.kill("it was asked for")
        self.child.end(None, 9)
        self.assertEqual(self.backend.exits[-1].how, "was killed by SIGKILL")
        self.assertFalse(self.backend.exits[-1].out_of_memory)

    def test_how_it_ended(self) -> None:
        for status, by, how in [
            (0, None, "exited with status 0"),
            (127, None, "exited with status 127"),
            (None, 9, "was killed by SIGKILL"),
            (None, 11, "was killed by SIGSEGV"),
            (None, 250, "was killed by signal 250"),
        ]:
            self.launch()
            self.child.end(status, by)
            self.assertEqual(self.backend.exits[-1].how, how)
            self.assertEqual(self.backend.exits[-1].code, status)

    def test_an_end_is_noticed_although_the_pipes_stay_open(self) -> None:
        self.launch()
        self.child.say(b"half a line")
        reason = self.child.exit(None, 9)
        self.assertEqual(self.backend.exits, [])
        self.reactor.advance(PIPE_GRACE_SEC)
        self.assertEqual(self.backend.exits, [Exit("was killed by SIGKILL", "half a line")])
        self.assertTrue(self.child.closed)
        self.child.protocol.processEnded(reason)
        self.assertEqual(len(self.backend.exits), 1)

    def test_what_is_still_in_the_pipes_is_heard(self) -> None:
        self.launch()
        reason = self.child.exit(1)
        self.child.say(b"why it ended\n")
        self.child.protocol.processEnded(reason)
        self.assertEqual(self.backend.exits[0].last_words, "why it ended")

    def test_the_port_is_given_back(self) -> None:
        self.launch()
        self.child.end()
        self.assertEqual(self.launch().address.port, 8081)


class BindTests(EngineCase):
    def test_an_engine_that_cannot_bind_is_started_on_the_next_port(self) -> None:
        engine = self.launch()
        for port in (8082, 8083):
            self.child.say(CANNOT_BIND)
            self.child.end(1)
            self.assertEqual(engine.address.port, port)
            self.assertEqual(value(self.child.args, "--port"), str(port))
            self.assertEqual(engine.pid, self.child.pid)
        self.assertEqual(self.backend.exits, [])

    def test_all_its_ports_are_given_back_in_the_end(self) -> None:
        self.launch()
        self.child.say(CANNOT_BIND)
        self.child.end(1)
        self.child.end(1)
        self.assertEqual(len(self.backend.exits), 1)
        self.assertEqual([self.launcher.ports.take() for _ in range(2)], [8081, 8082])

    def test_words_of_an_earlier_attempt_are_not_taken_for_its_own(self) -> None:
        self.launch()
        self.child.say(CANNOT_BIND)
        self.child.end(1)
        self.child.end(None, 9)
        self.assertEqual(len(self.reactor.spawned), 2)
        self.assertEqual([exit.how for exit in self.backend.exits], ["was killed by SIGKILL"])

    def test_it_is_not_tried_for_ever(self) -> None:
        self.launch()
        while not self.backend.exits:
            self.child.say(CANNOT_BIND)
            self.child.end(1)
        self.assertEqual(len(self.reactor.spawned), 20)
        self.assertIn("couldn't bind", self.backend.exits[0].last_words)

    def test_an_engine_that_is_being_stopped_is_not_started_again(self) -> None:
        engine = self.launch()
        engine.stop()
        self.child.say(CANNOT_BIND)
        self.child.end(1)
        self.assertEqual(len(self.reactor.spawned), 1)
        self.assertEqual(len(self.backend.exits), 1)

    def test_an_engine_that_another_process_has_the_port_of_is_too(self) -> None:
        engine = self.launch()
        self.listener = Listener.OTHER
        self.child.say(b"error in words that nobody knows\n")
        self.child.end(1)
        self.assertEqual((len(self.reactor.spawned), engine.address.port), (2, 8082))
        self.assertEqual(self.looked, [(8081, 1000)])
        for whose in (Listener.NOBODY, Listener.OURS, PermissionError()):
            self.listener = whose
            self.launch()
            self.child.end(1)
        self.assertEqual(len(self.backend.exits), 3)

    def test_once_it_was_ready_its_words_are_anybodys(self) -> None:
        engine = self.launch()
        self.listener = Listener.OURS
        self.assertTrue(engine.has_its_port())
        self.listener = Listener.OTHER
        self.child.say(b"parse: " + CANNOT_BIND)
        self.child.end(None, 9)
        self.assertEqual(len(self.reactor.spawned), 1)
        self.assertEqual([exit.how for exit in self.backend.exits], ["was killed by SIGKILL"])


class PortTests(EngineCase):
    """Whose the port is at which something answered that it is well."""

    def test_an_engine_that_listens_itself_is_trusted(self) -> None:
        engine = self.launch()
        self.listener = Listener.OURS
        self.assertTrue(engine.has_its_port())
        self.assertEqual(self.looked, [(8081, 1000)])
        self.assertEqual((self.groups, self.backend.exits), ([], []))

    def test_another_process_is_not_and_is_looked_at_once_a_second(self) -> None:
        engine = self.launch()
        self.listener = Listener.OTHER
        for _ in range(20):
            self.assertFalse(engine.has_its_port())
            self.reactor.advance(0.04)
        self.assertEqual(len(self.looked), 1)
        self.reactor.advance(LOOK_AGAIN_SEC - 0.8)
        self.listener = Listener.OURS
        self.assertTrue(engine.has_its_port())
        self.assertEqual(self.groups, [], "it is not for the other's sake that it is killed")

    def test_on_its_next_port_it_is_looked_at_anew(self) -> None:
        engine = self.launch()
        self.listener = Listener.OTHER
        self.assertFalse(engine.has_its_port())
        self.child.end(1)
        self.listener = Listener.OURS
        self.assertTrue(engine.has_its_port())
        self.assertEqual(self.looked[-1], (8082, 1001))

    def test_when_nobody_is_there_any_more_it_is_looked_at_again(self) -> None:
        engine = self.launch()
        self.assertFalse(engine.has_its_port())
        self.listener = Listener.OURS
        self.assertTrue(engine.has_its_port())

    def test_from_a_port_that_is_shared_it_is_moved_unseen(self) -> None:
        engine = self.launch()
        first = engine.address
        self.listener = Listener.SHARED
        self.assertFalse(engine.has_its_port())
        self.assertFalse(engine.has_its_port(), "it is being killed")
        self.assertEqual(self.groups, [(1000, signal.SIGKILL)])
        self.child.end(None, 9)
        self.assertEqual((engine.pid, engine.address.port), (1001, 8082))
        self.assertNotEqual(engine.address.api_key, first.api_key)
        self.listener = Listener.OURS
        self.assertTrue(engine.has_its_port())
        self.assertEqual(self.backend.exits, [])

    def test_it_is_not_moved_for_ever(self) -> None:
        engine = self.launch()
        self.listener = Listener.SHARED
        while not self.backend.exits:
            self.assertFalse(engine.has_its_port())
            self.child.end(None, 9)
        self.assertEqual(len(self.reactor.spawned), 20)
        self.assertEqual(
            self.backend.exits,
            [Exit("was killed by SIGKILL", "another process shares port 8100")],
        )

    def test_one_that_is_being_stopped_is_not_moved(self) -> None:
        engine = self.launch()
        self.listener = Listener.SHARED
        engine.has_its_port()
        engine.stop()
        self.child.end(None, 9)
        self.assertEqual((len(self.reactor.spawned), len(self.backend.exits)), (1, 1))

    def test_what_cannot_be_seen_is_not_trusted(self) -> None:
        engine = self.launch()
        self.listener = PermissionError(errno.EACCES, "Permission denied", "/proc/1000/fd")
        self.assertFalse(engine.has_its_port())
        self.assertFalse(engine.has_its_port())
        self.assertEqual(self.groups, [(1000, signal.SIGKILL)])
        self.child.end(None, 9)
        [exit] = self.backend.exits
        self.assertEqual(exit.how, "was killed by SIGKILL")
        self.assertIn("whether it is what listens on port 8081 cannot be seen", exit.last_words)
        self.assertIn("Permission denied", exit.last_words)

    def test_what_has_ended_has_no_port(self) -> None:
        engine = self.launch()
        self.child.end(1)
        self.listener, self.looked = Listener.OURS, []
        self.assertFalse(engine.has_its_port())
        self.assertEqual(self.looked, [])


class SocketTests(EngineCase):
    """``backend_socket: unix``."""

    def setUp(self) -> None:
        super().setUp()
        self.launcher.apply(configuration(self.model, backend_socket="unix"))
        self.folder = self.launcher.leftovers.folder

    def path(self, number: int = 1) -> str:
        return os.path.join(self.folder, f"{os.getpid()}-{number}.sock")

    def test_each_engine_has_a_socket_of_its_own_and_no_port(self) -> None:
        logged = events_of(self)
        for number in (1, 2):
            engine, path = self.launch(), self.path(number)
            self.assertEqual((engine.port, engine.address.socket), (None, path))
            self.assertEqual(value(self.child.args, "--host"), path)
            self.assertNotIn("--port", self.child.args)
            self.assertIn(f"starting tiny on {path}", [formatEvent(event) for event in logged])
        self.assertEqual(os.stat(self.folder).st_mode & 0o777, 0o700)

    def test_a_folder_that_others_can_look_into_is_closed_to_them(self) -> None:
        os.mkdir(self.folder, 0o755)
        self.launch()
        self.assertEqual(os.stat(self.folder).st_mode & 0o777, 0o700)

    def test_what_answers_on_it_is_the_engine(self) -> None:
        engine = self.launch()
        self.assertTrue(engine.has_its_port())
        self.assertEqual(self.looked, [])
        engine.stop()
        self.assertFalse(engine.has_its_port())

    def test_the_socket_goes_with_the_engine(self) -> None:
        self.launch()
        Path(self.path()).touch()
        self.child.end(1)
        self.assertEqual(os.listdir(self.folder), [])

    def test_an_engine_that_cannot_bind_it_is_not_tried_again(self) -> None:
        self.launch()
        self.child.say(CANNOT_BIND)
        self.child.end(1)
        self.assertEqual(len(self.reactor.spawned), 1)
        self.assertIn("couldn't bind", self.backend.exits[0].last_words)

    def test_in_a_folder_of_others_none_is_started_and_it_is_said_why(self) -> None:
        os.mkdir(self.folder)
        os.chmod(self.folder, 0o777)
        self.launch()
        [exit] = self.backend.exits
        self.assertIn(f"{self.folder} is not ours alone", exit.last_words)
        self.assertEqual(self.reactor.spawned, [])

    def test_engines_are_started_anew_when_it_changes(self) -> None:
        launchers = Launchers(self.launcher, self.probe, self.reactor)
        depends = [
            launchers.depends_on(self.model, configuration(self.model, backend_socket=kind))
            for kind in ("tcp", "unix")
        ]
        self.assertNotEqual(*depends)


class KeyTests(EngineCase):
    def test_each_start_has_a_key_of_its_own_which_no_command_line_shows(self) -> None:
        keys = []
        for number in range(2):
            key = self.launch().address.api_key
            assert key is not None
            keys.append(key)
            self.assertEqual(self.reactor.environments[number][b"LLAMA_API_KEY"], key.encode())
            self.assertNotIn(key, " ".join(self.child.args))
        self.assertNotEqual(*keys)
        self.assertGreaterEqual(len(keys[0]), 32)

    def test_what_the_engine_prints_of_its_key_tells_nothing(self) -> None:
        # "api_keys: ****" and the last four characters.
        keys = [self.launch().address.api_key or "" for _ in range(2)]
        self.assertEqual(*[key[-4:] for key in keys])

    def test_where_the_settings_name_a_key_the_clients_bring_it(self) -> None:
        own: list[dict[str, Any]] = [
            {"extra_args": ["--api-key", "k"]},
            {"extra_args": ["--api_key=k"]},
            {"extra_args": ["--api-key-file", "/keys"]},
            {"env": {"LLAMA_API_KEY": "k"}},
            {"env": {"LLAMA_ARG_API_KEY_FILE": "/keys"}},
        ]
        for settings in own:
            self.model = replace(self.model, **{"extra_args": [], "env": {}, **settings})
            self.assertIsNone(self.launch().address.api_key)
            env = self.reactor.environments[-1] or {}
            self.assertEqual(env.get(b"LLAMA_API_KEY"), b"k" if env.get(b"LLAMA_API_KEY") else None)

    def test_so_they_do_where_the_gateways_environment_has_one(self) -> None:
        with mock.patch.dict(os.environ, {"LLAMA_API_KEY": "theirs"}):
            self.assertIsNone(self.launch().address.api_key)
        self.assertEqual(self.reactor.environments, [None])

    def test_the_start_is_logged_without_secrets(self) -> None:
        logged = events_of(self)
        self.model = replace(self.model, extra_args=["--api-key", "s3cret"])
        self.launch()
        self.assertIn("s3cret", self.child.args)
        said = [event["command"] for event in logged if "command" in event]
        self.assertEqual([line.endswith("--api-key ***") for line in said], [True])


class FloodTests(EngineCase):
    """An engine that prints more than can be handed on in one turn."""

    LINES = 3 * LINES_A_TURN

    def setUp(self) -> None:
        super().setUp()
        self.flood = b"".join(b"%d\n" % n for n in range(self.LINES))
        self.heard: list[str] = []
        self.log.follow(self.heard.extend)
        #: Seconds until the next turn; a Clock would take all turns at once.
        self.turn = 0.001
        call_later = self.reactor.callLater
        self.patch(
            self.reactor, "callLater", lambda sec, *call: call_later(sec or self.turn, *call)
        )

    def launch(self) -> LocalRun:
        run = super().launch()
        self.heard.clear()  # where the run begins
        return run

    def assert_all_is_heard(self, *last: str) -> None:
        self.assertEqual([line[9:] for line in self.heard], [*map(str, range(self.LINES)), *last])

    def test_its_pipes_are_not_read_until_all_is_handed_on(self) -> None:
        self.launch()
        self.child.say(self.flood)
        for turns in (1, 2):
            self.assertEqual(len(self.heard), turns * LINES_A_TURN)
            self.assertFalse(self.child.reading)
            self.reactor.advance(self.turn)
        self.assertTrue(self.child.reading)
        self.assert_all_is_heard()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.child.say(b"one more\n")
        self.assert_all_is_heard("one more")

    def test_what_comes_meanwhile_waits_for_its_turn(self) -> None:
        self.launch()
        self.child.say(self.flood)
        self.child.say(b"one more\n")
        self.assertEqual(len(self.heard), LINES_A_TURN)
        self.reactor.pump([self.turn] * 4)
        self.assert_all_is_heard("one more")

    def test_its_end_is_told_when_its_last_words_have_been_heard(self) -> None:
        self.launch()
        self.child.say(self.flood + b"last words")
        self.child.end(1)
        self.assertEqual(self.backend.exits, [])
        self.reactor.pump([self.turn] * 4)
        self.assertEqual(self.backend.exits, [Exit("exited with status 1", "last words", 1)])
        self.assert_all_is_heard("last words")
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_pipes_that_stay_open_are_read_on_while_there_is_much(self) -> None:
        self.turn = PIPE_GRACE_SEC * 0.7
        self.launch()
        self.child.say(self.flood)
        self.child.exit(None, 9)
        self.reactor.pump([self.turn] * 2)
        self.assertEqual((self.backend.exits, self.child.closed), ([], False))
        self.child.say(b"last words\n")
        self.reactor.advance(PIPE_GRACE_SEC)
        self.assertEqual([exit.last_words for exit in self.backend.exits], ["last words"])
        self.assert_all_is_heard("last words")

    def test_one_who_never_stops_printing_does_not_put_the_end_off_for_ever(self) -> None:
        self.turn = PIPE_GRACE_SEC * 0.7
        self.launch()
        self.child.exit(None, 9)
        for _ in range(PIPE_GRACES + 1):
            if not self.child.closed:
                self.child.say(self.flood * 2)
            self.reactor.advance(PIPE_GRACE_SEC)
        self.assertTrue(self.child.closed)
        self.reactor.pump([self.turn] * 10 * PIPE_GRACES)
        self.assertEqual(len(self.backend.exits), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class StopTests(EngineCase):
    def test_term_then_kill_after_the_timeout(self) -> None:
        engine = self.launch()
        engine.stop()
        self.assertEqual(self.child.signals[1:], [signal.SIGTERM])
        self.reactor.advance(9.9)
        self.assertEqual(self.groups, [])
        self.reactor.advance(0.1)
        self.assertEqual(self.groups, [(1000, signal.SIGKILL)])
        self.child.end(None, 9)
        self.assertEqual(len(self.backend.exits), 1)

    def test_no_kill_when_it_ends_in_time(self) -> None:
        self.launch().stop()
        self.child.end(0)
        self.reactor.advance(60)
        self.assertEqual(self.groups, [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_kill_is_at_once_and_once(self) -> None:
        engine = self.launch()
        engine.stop()
        engine.kill("")
        self.reactor.advance(60)
        self.assertEqual(self.groups, [(1000, signal.SIGKILL)])

    def test_a_child_that_leads_no_group_yet_is_killed_itself(self) -> None:
        for number in (errno.ESRCH, errno.EPERM):
            self.no_group = OSError(number, "")
            self.launch().kill("")
            self.assertEqual(self.child.signals[1:], [signal.SIGKILL])

    def test_stop_and_kill_of_what_has_just_ended_do_nothing(self) -> None:
        engine = self.launch()
        reason = self.child.exit(1)
        engine.stop()
        self.no_group = ProcessLookupError()
        engine.kill("")
        self.child.protocol.processEnded(reason)
        engine.kill("")
        self.assertEqual(len(self.backend.exits), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class ProgressTests(EngineCase):
    def test_output_is_progress(self) -> None:
        self.patch(self.launcher, "effort", lambda pid: 0)
        engine = self.launch()
        before = engine.progress()
        self.assertEqual(engine.progress(), before)
        self.child.say(b"loading\n")
        self.assertNotEqual(engine.progress(), before)

    def test_work_is_progress(self) -> None:
        done = iter(range(10))
        self.patch(self.launcher, "effort", lambda pid: next(done))
        engine = self.launch()
        self.assertNotEqual(engine.progress(), engine.progress())

    def test_the_effort_of_a_process_is_seen(self) -> None:
        self.assertIsNotNone(self.launcher.effort(os.getpid()))

    def test_no_process_makes_no_effort(self) -> None:
        self.assertIsNone(self.launcher.effort(None))
        self.assertIsNone(self.launcher.effort(2**22 + 1))
