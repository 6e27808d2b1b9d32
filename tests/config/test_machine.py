"""Promises of how the engine is found, and what is said when it is not there."""

from __future__ import annotations

import os
from unittest import mock

from tests.config.support import LEAST, ConfigCase


class EngineTests(ConfigCase):
    def test_a_bare_command_is_looked_for_on_the_path(self) -> None:
        self.engine.unlink()
        found = self.executable(self.folder / "bin" / "llama-server")
        with mock.patch.dict(os.environ, PATH=str(found.parent)):
            config = self.load(LEAST.replace("./", ""))
        self.assertEqual(config.llama_server_path, str(found))

    def test_a_file_beside_the_configuration_goes_before_the_path(self) -> None:
        other = self.executable(self.folder / "bin" / "llama-server")
        with mock.patch.dict(os.environ, PATH=str(other.parent)):
            config = self.load(LEAST.replace("./", ""))
        self.assertEqual(config.llama_server_path, str(self.engine))

    def test_a_path_with_a_folder_in_it_is_not_looked_for_on_the_path(self) -> None:
        self.engine.unlink()
        found = self.executable(self.folder / "bin" / "llama-server")
        with mock.patch.dict(os.environ, PATH=str(found.parent)):
            self.assertIn("there is no file", self.fault(LEAST))
            self.assertIn("there is no file", self.fault(LEAST.replace("./", f"{self.folder}/")))
            self.assertIn("there is no file", self.fault(LEAST.replace("./", "elsewhere/")))

    def test_an_engine_that_is_a_folder(self) -> None:
        self.assertIn("is not a file; give the path", self.fault(LEAST.replace("llama-server", "")))

    def test_an_engine_that_is_not_executable(self) -> None:
        self.engine.chmod(0o644)
        self.assertEqual(
            self.fault(LEAST),
            "config.yaml:1: llama_server_path: llama-server is not executable; chmod +x it, "
            "or give the path of the llama-server executable of llama.cpp",
        )
