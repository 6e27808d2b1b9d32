"""Reloads that are asked for in bad moments: many at once, while one is read, while it stops.

The thread in which a file is read is one of the test's own: it has begun when it is asked for, and
its end comes when the test says so. What it finds is what the file says when it ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from llamagw import apart, service, tap
from llamagw.announce import changes
from llamagw.apart import Cancelled, Commands, describe_apart, lines_apart, load_apart
from llamagw.config import Config, ConfigError, Fault, described, load
from llamagw.errors import ShuttingDown
from llamagw.launch import known
from llamagw.service import Gateway
from tests.faults.support import is_gone
from tests.support.configs import configuration, local_model
from tests.test_tap import ConfigTestCase, ServiceTestCase
from tests.whole.harness import wait_until


class Thread:
    """Calls what it is given when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, call: Callable[[], Any]) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        self.calls.append((call, deferred))
        return deferred

    def end(self) -> None:
        """The oldest call comes to its end."""
        call, deferred = self.calls.pop(0)
        maybeDeferred(call).chainDeferred(deferred)


class ReloadTests(ServiceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.thread = Thread()
        self.path = str(self.write())
        self.gateway = self.start()

    def make(self) -> Gateway:
        return tap.make_gateway(load(self.write()), self.reactor, self.thread, False)

    def says(self, **values: Any) -> None:
        """The file says something else from now on."""
        self.values.update(values)
        self.write()

    def said(self, what: str) -> int:
        return sum(what in line for line in self.logged)

    def test_a_file_is_read_in_a_thread_and_gone_by_when_it_has_been(self) -> None:
        self.says(access_log=True)
        self.gateway.reload()
        self.assertFalse(self.gateway._site.access_log)
        self.thread.end()
        self.assertTrue(self.gateway._site.access_log)
        self.assertEqual(self.thread.calls, [])

    def test_five_hundred_at_once_are_two(self) -> None:
        for _ in range(500):
            self.gateway.reload()
        self.assertEqual(len(self.thread.calls), 1)
        self.thread.end()
        self.assertEqual(len(self.thread.calls), 1)
        self.thread.end()
        self.assertEqual(self.thread.calls, [])
        self.assertEqual(self.said("the configuration was reloaded"), 2)

    def test_what_the_file_says_last_holds(self) -> None:
        self.gateway.reload()
        call, deferred = self.thread.calls.pop()
        early = call()  # it has read the file, and is not back yet
        self.says(access_log=True)
        self.gateway.reload()
        deferred.callback(early)
        self.thread.end()
        self.assertTrue(self.gateway._site.access_log)

    def test_after_one_that_was_refused_the_next_is_read(self) -> None:
        self.says(max_queue=-1)
        self.gateway.reload()
        self.thread.end()
        self.assertEqual(self.said("not reloaded; all goes on as before"), 1)
        self.says(max_queue=7)
        self.gateway.reload()
        self.thread.end()
        self.assertEqual(self.gateway._config.max_queue, 7)

    def test_after_one_that_failed_in_an_unforeseen_way_the_next_is_read(self) -> None:
        self.gateway.reload()
        _, deferred = self.thread.calls.pop()
        deferred.errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.gateway.reload()
        self.thread.end()
        self.assertEqual(self.said("the configuration was reloaded"), 1)

    def test_a_gateway_that_stops_reads_nothing_and_listens_nowhere_again(self) -> None:
        self.gateway.stopService()
        self.says(listen_addr="127.0.0.1:8007")
        self.gateway.reload()
        self.assertEqual(self.thread.calls, [])
        self.assertEqual(self.said("is not reloaded: the gateway is stopping"), 1)
        self.assertEqual(len(self.reactor.tcpServers), 1)

    def test_a_stop_while_a_file_is_read_cancels_the_reload(self) -> None:
        self.says(listen_addr="127.0.0.1:8007", access_log=True)
        self.gateway.reload()
        self.gateway.reload()
        call, deferred = self.thread.calls.pop()
        found = call()
        self.gateway.stopService()
        deferred.callback(found)
        self.assertEqual(self.thread.calls, [])
        self.assertEqual(len(self.reactor.tcpServers), 1)
        self.assertFalse(self.gateway._site.access_log)
        self.assertEqual(self.said("is not reloaded: the gateway is stopping"), 1)

    def test_a_stop_takes_back_what_another_process_is_asked(self) -> None:
        self.patch(service, "load_apart", load_apart)
        self.gateway.reload()
        self.gateway.stopService()
        self.thread.end()
        self.assertEqual(self.said("is not reloaded: the gateway is stopping"), 1)
        self.assertEqual([line for line in self.warned if "reload" in line], [])

    def test_another_binary_is_asked_in_the_thread_and_used_after_it(self) -> None:
        asked = []

        def known_flags(binary: str, *_: object) -> dict[str, bool]:
            asked.append(binary)
            return {"--model": True, "--new": False}

        self.patch(known, "known_flags", known_flags)
        other = self.folder / "other-server"
        other.touch(mode=0o755)
        self.says(llama_server_path=str(other))
        self.gateway.reload()
        self.assertEqual(asked, [])
        self.thread.end()
        self.assertEqual(asked, [str(other)])
        self.gateway.reload()
        self.thread.end()
        self.assertEqual(asked, [str(other)], "it is asked once")

    def test_a_reload_says_what_it_changes_and_not_all_there_is(self) -> None:
        before = len(self.logged)
        self.values["models"].append({"name": "third", "model_path": "small.gguf"})
        self.says(max_queue=7)
        self.gateway.reload()
        self.thread.end()
        self.assertEqual(
            self.logged[before:],
            ["the configuration was reloaded: new: third; other keys: max_queue"],
        )

    def test_a_reload_warns_of_missing_files_of_the_models_that_it_changes(self) -> None:
        before = len(self.warned)
        self.values["models"].append({"name": "third", "model_path": "none.gguf"})
        self.says()
        self.gateway.reload()
        self.thread.end()
        [warning] = self.warned[before:]
        self.assertIn("model third cannot be served: there is no file", warning)

    def test_who_waits_for_a_reload_is_told_what_was_applied(self) -> None:
        self.says(max_queue=7)
        waiting = self.gateway.reloaded()
        self.assertNoResult(waiting)
        self.thread.end()
        self.assertEqual(self.successResultOf(waiting).changes, "other keys: max_queue")

    def test_who_waits_for_one_that_is_refused_gets_its_faults_with_their_lines(self) -> None:
        self.says(max_queue=-1)
        waiting = self.gateway.reloaded()
        self.thread.end()
        [fault] = self.failureResultOf(waiting, ConfigError).value.faults
        self.assertEqual((fault.place, fault.line), ("max_queue", 1))
        self.patch(known, "known_flags", lambda *_: {"--model": True})
        self.values["models"][1]["extra_args"] = ["--nonsense"]
        self.says(max_queue=7, llama_server_path="/bin/sh")
        waiting = self.gateway.reloaded()
        self.thread.end()
        [fault] = self.failureResultOf(waiting, ConfigError).value.faults
        self.assertEqual((fault.place, fault.line), ("models[1].extra_args[0]", 1))
        self.assertEqual(self.gateway._config.max_queue, 512)

    def test_who_waits_for_an_address_that_is_taken_is_told(self) -> None:
        def listen(port: int, factory: object, backlog: int = 50, interface: str = "") -> None:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))

        self.patch(self.reactor, "listenTCP", listen)
        self.says(listen_addr="127.0.0.1:8007")
        waiting = self.gateway.reloaded()
        self.thread.end()
        [fault] = self.failureResultOf(waiting, ConfigError).value.faults
        self.assertIn("cannot listen on 127.0.0.1:8007", fault.message)

    def test_all_who_ask_while_a_file_is_read_share_one_further_reload(self) -> None:
        first = self.gateway.reloaded()
        others = [self.gateway.reloaded() for _ in range(100)]
        self.gateway.reload()
        self.thread.end()
        self.successResultOf(first)
        for waiting in others:
            self.assertNoResult(waiting)
        self.thread.end()
        for waiting in others:
            self.successResultOf(waiting)
        self.assertEqual(self.thread.calls, [])

    def test_who_waits_when_it_stops_or_asks_later_is_told_so(self) -> None:
        waiting = [self.gateway.reloaded(), self.gateway.reloaded()]
        call, deferred = self.thread.calls.pop()
        found = call()
        self.gateway.stopService()
        deferred.callback(found)
        for one in (*waiting, self.gateway.reloaded()):
            self.failureResultOf(one, ShuttingDown)
        self.assertEqual(self.thread.calls, [])


class CheckTests(ServiceTestCase):
    """A text that is looked at, and never applied."""

    def setUp(self) -> None:
        super().setUp()
        self.values["models"].append(
            {"name": "far", "url": "http://10.0.0.5:8000", "api_key": "sk-1"}
        )
        self.values["models"][0]["env"] = {"HF_TOKEN": "sk-2"}
        self.gateway = self.start()
        self.before = self.gateway._config

    def check(self, **values: Any) -> Deferred[Any]:
        self.values.update(values)
        text = json.dumps(self.values).encode()  # JSON is YAML
        return Deferred.fromCoroutine(self.gateway.check(text))

    def tearDown(self) -> None:
        self.assertIs(self.gateway._config, self.before)

    def faults(self, checked: Deferred[Any]) -> list[tuple[str, int | None]]:
        faults = self.failureResultOf(checked, ConfigError).value.faults
        return [(fault.place, fault.line) for fault in faults]

    def test_what_it_would_change_is_told(self) -> None:
        self.values["models"][1]["threads"] = 3
        reading = self.successResultOf(self.check(max_queue=7))
        self.assertEqual(reading.changes, "changed: org/big; other keys: max_queue")
        [note] = reading.notes
        self.assertEqual((note.model, note.key), ("org/big", "model_path"))

    def test_relative_paths_count_from_the_folder_of_the_file(self) -> None:
        (self.folder / "other").touch(mode=0o755)
        self.values["models"][0]["model_path"] = "./small.gguf"
        reading = self.successResultOf(self.check(llama_server_path="./other"))
        self.assertEqual(reading.config.llama_server_path, str(self.folder / "other"))
        self.assertEqual(reading.changes, "other keys: llama_server_path")

    def test_its_faults_are_told_with_their_lines(self) -> None:
        self.assertEqual(self.faults(self.check(max_queue=-1)), [("max_queue", 1)])

    def test_masked_secrets_are_those_of_the_file(self) -> None:
        self.values["models"][0]["env"] = {"HF_TOKEN": "***"}
        self.values["models"][2]["api_key"] = "***"
        reading = self.successResultOf(self.check())
        self.assertEqual(reading.changes, "nothing has changed")

    def test_a_binary_that_it_names_is_not_run_and_nothing_of_it_is_kept(self) -> None:
        self.patch(known, "known_flags", lambda *_: self.fail("it is run"))
        self.values["models"][1]["extra_args"] = ["--anything"]
        self.values["models"][1]["model_path"] = "small.gguf"
        self.successResultOf(self.check(llama_server_path="/bin/sh"))
        facts = self.gateway._prepare.__self__._processes.known._facts  # type: ignore[attr-defined]
        self.assertIn(str(self.folder / "big.gguf"), facts)

    def test_flags_that_the_engine_in_use_does_not_have_are_faults(self) -> None:
        processes = self.gateway._prepare.__self__._processes  # type: ignore[attr-defined]
        processes.known._flags = {sys.executable: {"--model": True}}
        self.values["models"][1]["extra_args"] = ["--nonsense"]
        self.assertEqual(self.faults(self.check()), [("models[1].extra_args[0]", 1)])

    def test_an_address_that_twisted_does_not_know_is_a_fault_and_none_is_bound(self) -> None:
        self.assertEqual(self.faults(self.check(listen_addr="frob:x=1")), [("listen_addr", None)])
        self.successResultOf(self.check(listen_addr="127.0.0.1:8007"))
        self.assertEqual(len(self.reactor.tcpServers), 1)

    def test_a_certificate_is_not_read(self) -> None:
        """Its path may be anybody's, and /dev/zero does not end."""
        self.patch(service, "has_tls", lambda: True)
        self.patch(service, "read_tls", lambda *_: self.fail("it is read"))
        address = "ssl:8443:privateKey=/dev/zero:certKey=/dev/zero"
        reading = self.successResultOf(self.check(listen_addr=address))
        self.assertEqual(reading.changes, "other keys: listen_addr")

    def test_a_gateway_that_stops_says_so(self) -> None:
        def cancelled(*_: object) -> None:
            raise Cancelled

        self.patch(service, "load_apart", cancelled)
        self.patch(service, "describe_apart", cancelled)
        self.failureResultOf(self.check(), ShuttingDown)
        self.failureResultOf(Deferred.fromCoroutine(self.gateway.described(None)), ShuttingDown)


class ChangesTests(SynchronousTestCase):
    def config(self, *names: str, threads: int = 4) -> Config:
        return configuration(*(local_model(name, threads=threads) for name in names))

    def test_each_kind_of_change_is_named(self) -> None:
        said = changes(self.config("a", "b"), self.config("b", "c", threads=2))
        self.assertEqual(said, "new: c; changed: b; removed: a")

    def test_keys_of_the_gateway_are_named_and_their_values_are_not(self) -> None:
        old = self.config("a")
        new = replace(old, listen_addr="127.0.0.1:9999", engine_log="all")
        self.assertEqual(changes(old, new), "other keys: listen_addr, engine_log")

    def test_that_nothing_has_changed_is_said(self) -> None:
        self.assertEqual(changes(self.config("a"), self.config("a")), "nothing has changed")

    def test_of_thousands_some_are_named(self) -> None:
        said = changes(self.config("a"), self.config("a", *map(str, range(5000))))
        self.assertIn("new: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 4990 more", said)


class HangupTests(ConfigTestCase):
    """SIGHUP between the first moment of `twistd llamagw` and the first turn of its reactor."""

    def setUp(self) -> None:
        super().setUp()
        before = signal.getsignal(signal.SIGHUP)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        self.addCleanup(signal.pthread_sigmask, signal.SIG_UNBLOCK, {signal.SIGHUP})
        signal.signal(signal.SIGHUP, lambda *_: self.fail("nobody has heard it"))
        self.patch(tap, "install_reactor", lambda daemon: None)
        self.patch(tap, "leave_out_tls", lambda: None)

    def options(self, *more: str) -> tap.Options:
        options = tap.Options()
        options.parent = usage.Options()
        options.parent["nodaemon"] = True
        options.parseOptions(["--config", str(self.write()), *more])
        return options

    def test_it_is_noted_and_becomes_a_reload_when_the_gateway_runs(self) -> None:
        options = self.options()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertTrue(options.hung_up)
        reactor, gateway = mock.Mock(), mock.Mock()
        with mock.patch.object(signal, "signal"):
            tap._handle_signals(reactor, gateway, options)
        gateway.reload.assert_called_once_with()

    def test_without_one_nothing_is_reloaded(self) -> None:
        gateway = mock.Mock()
        with mock.patch.object(signal, "signal"):
            tap._handle_signals(mock.Mock(), gateway, self.options())
        gateway.reload.assert_not_called()

    def test_one_that_was_held_back_is_heard(self) -> None:
        """As `llamagw run` does until twistd has come so far."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        # To this thread: another one, if there is one, does not hold it back.
        signal.pthread_kill(threading.get_ident(), signal.SIGHUP)
        self.assertTrue(self.options().hung_up)

    def test_it_is_not_ignored_which_the_engines_would_inherit(self) -> None:
        self.options()
        self.assertNotIn(signal.getsignal(signal.SIGHUP), (signal.SIG_IGN, signal.SIG_DFL))


class ApartTests(ConfigTestCase):
    """Another process is asked."""

    def test_a_file_says_the_same_there_as_here(self) -> None:
        path = str(self.write())
        self.assertEqual(load_apart(path, Commands()), load(path))
        text = json.dumps({**self.values, "max_queue": 7}).encode()
        self.assertEqual(load_apart(path, Commands(), text), load(path, text))

    def test_what_is_told_of_a_configuration_is_the_same_there(self) -> None:
        config = load(self.write())
        told = json.loads(describe_apart(config, {}, "small", Commands()))
        self.assertEqual(told, msgspec.to_builtins(described(config, {}, "small")))
        with (
            mock.patch.object(Commands, "run", return_value=(b"", b"Killed\n", -9)),
            self.assertRaises(ConfigError),
        ):
            describe_apart(config, {}, None, Commands())

    def test_the_lines_of_faults_are_found_there(self) -> None:
        fault = Fault(self.write(), None, "max_queue", "is wrong")
        [found] = lines_apart([fault], Commands(), b"a: 1\nmax_queue: 2\n")
        self.assertEqual(found.line, 2)
        with mock.patch.object(Commands, "run", return_value=(b"", b"Killed\n", -9)):
            self.assertEqual(lines_apart([fault], Commands()), [fault])

    def test_its_faults_are_the_same_too(self) -> None:
        self.values.update(max_queue=-1, nonsense="\udcff")
        path = str(self.write())
        with self.assertRaises(ConfigError) as here:
            load(path)
        with self.assertRaises(ConfigError) as there:
            load_apart(path, Commands())
        self.assertEqual(there.exception.faults, here.exception.faults)

    def test_a_process_that_breaks_down_is_a_fault_of_the_file(self) -> None:
        """The gateway goes on, whatever a file does to who reads it."""
        path = str(self.write())
        with (
            mock.patch.object(Commands, "run", return_value=(b"", b"Killed\n", -9)),
            self.assertRaises(ConfigError) as caught,
        ):
            load_apart(path, Commands())
        self.assertEqual(
            str(caught.exception), f"{path}: the process that read it broke down: Killed"
        )

    def test_a_file_that_never_ends_is_given_up(self) -> None:
        path = self.mktemp()
        os.mkfifo(path)
        self.patch(apart, "READ_TIMEOUT", 0.5)
        with self.assertRaises(ConfigError) as caught:
            load_apart(path, Commands())
        self.assertEqual(str(caught.exception), f"{path}: took over 0.5 s to read")

    def test_a_question_that_is_taken_back_ends_at_once_with_all_who_work_on_it(self) -> None:
        pids = Path(self.mktemp())
        asking = Commands()

        def take_back() -> None:
            wait_until(lambda: pids.exists() and pids.read_text(), "it has a child")
            asking.cancel()

        thread = threading.Thread(target=take_back)
        thread.start()
        script = f"sleep 600 & echo $! > {pids}; wait"
        self.assertRaises(Cancelled, asking.run, ["sh", "-c", script])
        thread.join()
        wait_until(lambda: is_gone(int(pids.read_text())), "its child is gone too")
        self.assertRaises(Cancelled, asking.run, ["sleep", "600"])
