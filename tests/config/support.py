"""A configuration file in a folder of its own, and what is said of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from llamagw.config import (
    Config,
    ConfigError,
    LocalModel,
    load,
    machine,
)

#: The least that a file must say; line 1 is the engine, line 3 the first model.
LEAST = """\
llama_server_path: ./llama-server
models:
  - name: tiny
    model_path: tiny.gguf
"""

#: Like LEAST, with room for more keys of the gateway (line 2) or of the model.
GATEWAY = "llama_server_path: ./llama-server\n{}\nmodels: [{{name: tiny, model_path: tiny.gguf}}]\n"
MODEL = LEAST + "    {}\n"


def local_models(config: Config) -> list[LocalModel]:
    """The models of a configuration that llamagw runs itself."""
    return [model for model in config.models if not model.remote]


class ConfigCase(SynchronousTestCase):
    """A folder with an engine and a model in it, where config.yaml is written."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(os.path.realpath(folder.name))
        self.path = self.folder / "config.yaml"
        self.engine = self.executable(self.folder / "llama-server")
        self.model = self.folder / "tiny.gguf"
        self.model.write_bytes(b"GGUF")
        #: Of the machine: more than any default.
        self.cores = 64
        self.patch(machine, "physical_cores", lambda: self.cores)

    def executable(self, path: Path) -> Path:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return path

    def load(self, text: str | bytes) -> Config:
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(str(self.path))

    def faults(self, text: str | bytes) -> list[str]:
        """What is said of a file, one text per fault, without the folder's name."""
        error = self.assertRaises(ConfigError, self.load, text)
        said = [str(fault) for fault in error.faults]
        told = [line for fault in error.faults for line in (str(fault), *fault.excerpt)]
        self.assertEqual(str(error).splitlines(), told, "one line per fault, and its excerpt")
        return [line.replace(f"{self.folder}/", "") for line in said]

    def fault(self, text: str | bytes) -> str:
        """The only fault of a file."""
        faults = self.faults(text)
        self.assertEqual(len(faults), 1, faults)
        return faults[0]
