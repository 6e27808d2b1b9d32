"""What a killed gateway left is ended by the next one, and nothing else is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

import msgspec
import psutil
from twisted.trial.unittest import SynchronousTestCase

from llamagw.launch.leftovers import Known, Leftovers, default_folder

#: A process that waits for the end of its input.
_WAITS = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]


class LeftoversTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = os.path.join(self.mktemp(), "state")
        os.makedirs(os.path.dirname(self.folder), exist_ok=True)

    def process(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(_WAITS, stdin=subprocess.PIPE)

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        return process

    def gone(self) -> dict[str, Any]:
        """A gateway that is there no more."""
        process = subprocess.Popen([sys.executable, "-S", "-c", ""])
        process.wait()
        return {"pid": process.pid, "started": 1.0}

    def known(self, process: subprocess.Popen[bytes], off: float = 0.0) -> dict[str, Any]:
        known = Known.of(process.pid)
        assert known is not None
        return {"pid": known.pid, "started": known.started + off}

    def leave(self, gateway: dict[str, Any], *backends: dict[str, Any]) -> str:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        path = os.path.join(self.folder, f"{gateway['pid']}.json")
        with open(path, "wb") as file:
            file.write(msgspec.json.encode({"gateway": gateway, "backends": backends}))
        return path

    def test_what_a_gateway_left_that_is_gone_is_ended(self) -> None:
        left = Known.of(self.process().pid)
        assert left is not None
        path = self.leave(self.gone(), {"pid": left.pid, "started": left.started})
        Leftovers(self.folder).clean_up()
        self.assertIsNone(left.find())
        self.assertFalse(os.path.exists(path))

    def test_a_later_process_of_the_same_pid_is_left_alone(self) -> None:
        process = self.process()
        self.leave(self.gone(), self.known(process, off=-60.0))
        Leftovers(self.folder).clean_up()
        self.assertIsNone(process.poll())

    def test_what_a_gateway_has_that_still_runs_is_left_alone(self) -> None:
        gateway, process = self.process(), self.process()
        path = self.leave(self.known(gateway), self.known(process))
        Leftovers(self.folder).clean_up()
        self.assertIsNone(process.poll())
        self.assertTrue(os.path.exists(path))

    def test_what_is_no_state_of_ours_is_passed_over(self) -> None:
        os.makedirs(self.folder, mode=0o700)
        for name, content in (("a.json", b"{"), ("b.json", b'{"gateway": 1}'), ("c", b"\xff")):
            with open(os.path.join(self.folder, name), "wb") as file:
                file.write(content)
        Leftovers(self.folder).clean_up()
        self.assertEqual(len(os.listdir(self.folder)), 4)

    def test_the_file_names_what_was_started_and_has_not_ended(self) -> None:
        leftovers = Leftovers(self.folder)
        leftovers.clean_up()
        one, two = self.process(), self.process()
        leftovers.started(one.pid)
        leftovers.started(two.pid)
        leftovers.ended(one.pid)
        [name] = os.listdir(self.folder)
        with open(os.path.join(self.folder, name), "rb") as file:
            state = msgspec.json.decode(file.read())
        self.assertEqual(state["gateway"]["pid"], os.getpid())
        self.assertEqual([backend["pid"] for backend in state["backends"]], [two.pid])

    def test_the_file_goes_when_nothing_is_left(self) -> None:
        leftovers = Leftovers(self.folder)
        leftovers.clean_up()
        leftovers.close()
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_folder_that_others_may_write_is_not_trusted(self) -> None:
        os.makedirs(self.folder)
        os.chmod(self.folder, 0o777)
        process = self.process()
        self.leave(self.gone(), self.known(process))
        Leftovers(self.folder).clean_up()
        self.assertIsNone(process.poll())

    def test_a_state_that_cannot_be_written_costs_no_more_than_a_warning(self) -> None:
        leftovers = Leftovers(self.folder)
        leftovers.clean_up()
        shutil.rmtree(self.folder)
        leftovers.started(self.process().pid)
        self.assertFalse(os.path.exists(self.folder))

    def test_each_user_has_a_folder_of_its_own(self) -> None:
        self.assertIn(str(os.getuid()), default_folder())

    def test_a_process_that_is_gone_is_not_found(self) -> None:
        gone = self.gone()
        self.assertIsNone(Known(gone["pid"], gone["started"]).find())
        self.assertIsNone(Known.of(gone["pid"]))
        mine = Known.of(os.getpid())
        assert mine is not None
        self.assertEqual(mine.find(), psutil.Process())
