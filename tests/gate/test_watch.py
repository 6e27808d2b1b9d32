"""Promises of llamagw.gate.watch: a changed file is read again; a faulty one is not taken."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from llamagw.config import Config
from llamagw.gate import Keyring, Watch
from llamagw.gate.watch import LOOK_SEC
from tests.support.configs import configuration


class WatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "keys.yaml"
        self.write("alice")
        self.clock = Clock()
        self.kept: list[Keyring | None] = []
        #: What is to be done in threads, while these are held up.
        self.held: list[Callable[[], object]] | None = None
        self.watch = Watch(self.kept.append, self.clock, self.in_thread)
        self.events: list[dict[str, Any]] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def in_thread(self, function: Callable[[], Any]) -> Deferred[Any]:
        if self.held is None:
            return maybeDeferred(function)
        done: Deferred[Any] = Deferred()
        self.held.append(lambda: maybeDeferred(function).chainDeferred(done))
        return done

    def write(self, *names: str) -> None:
        lines = [f"- {{name: {n}, hash: 'sha256:{n.encode().hex().zfill(64)}'}}\n" for n in names]
        self.put("keys:\n" + "".join(lines))

    def put(self, text: str) -> None:
        """Replace the file, as the command does."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o600)
        os.replace(new, self.path)

    def config(self, **keys: Any) -> Config:
        return configuration(**{"keys_file": str(self.path), **keys})

    def look(self, times: int = 1) -> None:
        self.clock.pump([LOOK_SEC] * times)

    def sizes(self) -> list[int]:
        """How many keys each keyring has that was taken."""
        return [len(keyring or ()) for keyring in self.kept]

    def said(self, level: LogLevel) -> list[str]:
        return [
            event["log_format"].format(**event)
            for event in self.events
            if event.get("log_level") is level and event.get("log_namespace") == "llamagw"
        ]

    def test_a_file_that_has_not_changed_is_not_read(self) -> None:
        self.watch.apply(self.config())
        self.look(10)
        self.assertEqual(self.kept, [])

    def test_a_change_is_taken_at_the_next_look_and_once(self) -> None:
        self.watch.apply(self.config())
        self.write("alice", "bob")
        self.look(5)
        self.assertEqual(self.sizes(), [2])
        self.write("bob")
        self.look(5)
        self.assertEqual(self.sizes(), [2, 1])
        self.assertEqual(
            self.said(LogLevel.info),
            ["the file of keys was read again: 2 keys", "the file of keys was read again: 1 key"],
        )

    def test_keys_of_the_configuration_stay(self) -> None:
        from llamagw.config import KeyEntry

        carol = KeyEntry(name="carol", hash=f"sha256:{'c' * 64}")
        self.watch.apply(self.config(keys=[carol]))
        self.write("alice", "bob")
        self.look()
        self.assertEqual(self.sizes(), [3])

    def test_a_faulty_file_changes_nothing_and_is_told_once(self) -> None:
        self.watch.apply(self.config())
        self.put("keys: yes\n")
        self.look(5)
        self.assertEqual(self.kept, [])
        [fault, stays] = self.said(LogLevel.error)
        self.assertIn("keys.yaml:1: keys: expected a list of keys", fault)
        self.assertEqual(stays, "the file of keys was not read again; the keys stay as they were")
        self.write("alice", "bob")
        self.look()
        self.assertEqual(self.sizes(), [2])

    def test_a_file_that_is_gone_or_that_others_can_read_changes_nothing(self) -> None:
        self.watch.apply(self.config())
        self.path.chmod(0o644)
        self.look(3)
        self.path.unlink()
        self.look(3)
        self.assertEqual(self.kept, [])
        said = self.said(LogLevel.error)
        self.assertEqual(len(said), 4)
        self.assertIn("chmod 600", said[0])
        self.assertIn("there is no such file", said[2])
        self.write("alice")
        self.look()
        self.assertEqual(self.sizes(), [1])

    def test_a_reload_that_was_quicker_counts(self) -> None:
        self.watch.apply(self.config())
        self.write("alice", "bob")
        self.held = []
        self.look()
        self.assertEqual(len(self.held), 1)
        self.watch.apply(self.config(ui=False))
        self.held.pop()()
        self.assertEqual(self.kept, [])

    def test_a_look_waits_for_the_one_before_it(self) -> None:
        self.watch.apply(self.config())
        self.write("bob")
        self.held = []
        self.look(5)
        self.assertEqual(len(self.held), 1)
        self.held.pop()()
        self.assertEqual(self.sizes(), [1])

    def test_without_a_file_nothing_is_looked_at(self) -> None:
        self.watch.apply(configuration())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.watch.apply(self.config())
        self.watch.apply(self.config())
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.watch.apply(configuration())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_cannot_be_foreseen_does_not_end_the_looking(self) -> None:
        self.watch.apply(self.config())
        self.patch(os, "stat", lambda *_, **__: 1 / 0)
        self.look()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
