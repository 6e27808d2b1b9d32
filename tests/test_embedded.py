"""Promises of deploy/embedded.py: what `make run` says before it serves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def free(port: object, config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "embedded.py"), "free", str(port), str(config)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_a_taken_port_ends_it_with_one_hint(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        config.write_text(f'listen_addr: ":{port}"\n')
        done = free(port, config)
        assert done.returncode == 1
        [line] = done.stdout.splitlines()
        assert line.startswith(f"Port {port} is taken. Another one: make run PORT=")
        # Edited by hand, it need not be free.
        config.write_text('listen_addr: ":1"\n')
        assert free(port, config).returncode == 0
    config.write_text(f'listen_addr: ":{port}"\n')
    assert (free(port, config).returncode, free(port, config).stdout) == (0, "")


def test_a_port_that_is_none_is_told(tmp_path: Path) -> None:
    for port in ("0", "65536", "many"):
        done = free(port, tmp_path / "config.yaml")
        assert done.returncode == 1
        assert done.stdout == f"PORT={port}: expected a number from 1 to 65535\n"
