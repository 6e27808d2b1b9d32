"""What a launcher learns of the memory that its runs take."""

from __future__ import annotations

from unittest import mock

from msgspec.structs import replace

from llamagw.launch import Memory, Need
from llamagw.launch.known import Known
from llamagw.launch.local import LocalLauncher, LocalRun
from llamagw.launch.sockets import Listener
from llamagw.models import HOST
from tests.launch import engine_lines as recorded
from tests.launch.test_local import CANNOT_BIND, EngineCase

MIB = 2**20
NEED = Need(devices={HOST: 300 * MIB}, key="as it was started")


class LearningTests(EngineCase):
    def setUp(self) -> None:
        super().setUp()
        self.listener = Listener.OURS
        self.probe.well = True
        self.anon = 111
        #: Whether the system was asked for a figure of that moment.
        self.asked_now: list[bool] = []
        self.patch(self.launcher, "memory", self.memory)
        self.model_launcher = LocalLauncher(self.launcher, self.model, self.log)

    def memory(self, pid: int | None, fresh: bool = False) -> Memory | None:
        self.asked_now.append(fresh)
        return None if pid is None else Memory(400 * MIB, self.anon * MIB, 119 * MIB)

    def start(self, need: Need | None = NEED) -> LocalRun:
        run = self.model_launcher.launch(self.backend.ended, need)
        self.reactor.advance(0)
        return run

    def load(self, need: Need | None = NEED, said: bytes = recorded.PLAIN) -> LocalRun:
        """A run, until it is ready."""
        run = self.start(need)
        self.becomes_ready(run, said)
        return run

    def becomes_ready(self, run: LocalRun, said: bytes = recorded.PLAIN) -> None:
        ready = mock.Mock()
        self.child.say(said)
        run.await_ready(ready, mock.Mock())
        self.reactor.advance(1)
        ready.assert_called_once_with()

    def known(self, key: str = NEED.key) -> dict[str, int] | None:
        figure = self.learned.of(key)
        return None if figure is None else {k: v // MIB for k, v in figure.need(0).items()}

    def test_a_run_that_is_ready_was_learned_from(self) -> None:
        self.load()
        self.assertEqual(self.known(), {HOST: 128})
        self.assertEqual(self.asked_now, [True])

    def test_lines_that_come_later_are_not_believed(self) -> None:
        run = self.load()
        self.assertIsNone(run.output.told)
        self.child.say(b"0.1 I load_tensors: CPU model buffer size = 99999.00 MiB\n" * 3)
        self.child.end()
        self.assertEqual(self.known(), {HOST: 128})

    def test_the_most_in_use_is_known_when_it_has_ended(self) -> None:
        run = self.load()
        self.anon = 700
        self.assertEqual(run.memory(), Memory(400 * MIB, 700 * MIB, 119 * MIB))
        self.anon = 200
        run.memory()
        run.stop()
        self.child.end(0)
        self.assertEqual(self.known(), {HOST: 700})

    def test_an_engine_that_moves_to_another_port_is_learned_once(self) -> None:
        run = self.start()
        self.child.say(recorded.PLAIN + CANNOT_BIND)
        self.listener = Listener.OTHER
        self.child.end()
        self.assertEqual(len(self.reactor.spawned), 2)
        self.listener = Listener.OURS
        self.becomes_ready(run)
        self.assertEqual(self.known(), {HOST: 128})

    def test_without_a_need_nothing_is_learned(self) -> None:
        for need in (None, Need(devices={HOST: 1})):
            run = self.load(need)
            run.memory()
            self.assertIsNone(run.output.told)
            self.child.end()
        self.assertIsNone(self.known(""))

    def test_what_only_memory_is_asked_for_is_not_shown(self) -> None:
        self.launcher.config = replace(self.launcher.config, memory={})
        self.patch(Known, "flags", lambda known, binary: {"-lv": True})
        run = self.load(said=recorded.LEVEL_4)
        text = "\n".join(self.log.lines)
        self.assertIn("model loaded", text)
        self.assertNotIn("buffer size", text)
        self.assertEqual(run.output.count, len(recorded.lines(recorded.LEVEL_3)))
        self.assertEqual(run.output.heard, len(recorded.lines(recorded.LEVEL_4)))

    def test_lines_that_are_not_shown_are_progress_too(self) -> None:
        self.patch(self.launcher, "effort", lambda pid: 0)
        self.launcher.config = replace(self.launcher.config, memory={})
        self.patch(Known, "flags", lambda known, binary: {"-lv": True})
        run = self.start()
        before = run.progress()
        self.child.say(recorded.lines(recorded.PLAIN)[0] + b"\n")
        self.assertNotEqual(run.progress(), before)

    def test_what_the_user_asks_for_is_shown(self) -> None:
        self.launcher.config = replace(self.launcher.config, memory={})
        self.patch(Known, "flags", lambda known, binary: {"-lv": True})
        self.model = replace(self.model, extra_args=["-lv", "4"])
        self.model_launcher = LocalLauncher(self.launcher, self.model, self.log)
        self.load()
        self.assertIn("buffer size", "\n".join(self.log.lines))
        self.assertEqual(self.known(), {HOST: 128})

    def test_what_fell_short_is_counted_with_more_where_it_was(self) -> None:
        self.start(Need(devices={HOST: 1, "CUDA0": 1}, key="on 0"))
        self.child.end()
        self.start(Need(devices={HOST: 1, "CUDA1": 1}, key="on 1"))
        self.model_launcher.fell_short({"CUDA0": 900 * MIB, HOST: 5 * MIB, "CUDA2": 7})
        self.assertEqual(self.known("on 0"), {"CUDA0": 900, HOST: 5})
        self.assertIsNone(self.known("on 1"), "it was started since, and has not ended")

    def test_what_is_not_counted_falls_short_of_nothing(self) -> None:
        self.start(Need(devices={HOST: 1}))
        self.child.end()
        self.model_launcher.fell_short({HOST: 5 * MIB})
        self.assertIsNone(self.known(""))
