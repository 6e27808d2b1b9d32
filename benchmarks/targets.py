"""What is measured: the fake backend alone, nginx before it, llamagw, and gateways that run."""

from __future__ import annotations

import json
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import (
    HERE,
    Processes,
    descendants,
    executable,
    find_nginx,
    free_port,
    healthy,
    pin,
    python_command,
)

DUMMY_GGUF = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)  # version 3, no tensors, no metadata

NGINX = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 16000; }}
http {{
    access_log off;
    client_max_body_size 64m;
    client_body_buffer_size 16m;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream backend {{
        server 127.0.0.1:{backend};
        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering on;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Cores:
    """One core for the proxy under test, another for load and backend, where there are two."""

    proxy: int
    load: int

    @classmethod
    def choose(cls) -> Cores:
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[1 if len(allowed) > 1 else 0])


@dataclass(frozen=True)
class Target:
    name: str
    host: str
    port: int
    model: str
    pid: int | None  # None: nothing stands before the backend
    backend_exe: str = ""

    def processes(self) -> list[int]:
        """The proxy's own processes; backends that it started are none of them."""
        if self.pid is None:
            return []
        below = [pid for pid in descendants(self.pid) if not self._is_backend(pid)]
        return [self.pid, *below]

    def pin(self, cores: Cores) -> None:
        if self.pid is None:
            return
        pin(self.processes(), [cores.proxy])
        pin([pid for pid in descendants(self.pid) if self._is_backend(pid)], [cores.load])

    def _is_backend(self, pid: int) -> bool:
        return executable(pid) == self.backend_exe or "llama-server" in executable(pid)


def start_direct(running: Processes, backend: Path, seconds: int) -> Target:
    port = free_port()
    command = [str(backend), "--port", str(port), "--max-seconds", str(seconds)]
    process = running.start("backend", command)
    running.wait_until(lambda: healthy(port), "the fake backend", process, "backend")
    return Target("direct", "127.0.0.1", port, "bench", None)


def start_nginx(running: Processes, direct: Target) -> Target | None:
    """nginx before the same backend, or None where it is not installed."""
    nginx = find_nginx()
    if nginx is None:
        return None
    port = free_port()
    config = running.folder / "nginx.conf"
    config.write_text(NGINX.format(folder=running.folder, backend=direct.port, port=port))
    command = [nginx, "-e", "stderr", "-p", str(running.folder), "-c", str(config)]
    process = running.start("nginx", command)
    running.wait_until(lambda: healthy(port), "nginx", process, "nginx")
    return Target("nginx", "127.0.0.1", port, "bench", process.pid)


def gateway_command(config: Path) -> tuple[list[str], dict[str, str]]:
    """How a user starts llamagw, with the checkout's code: command and environment."""
    command = [*python_command("twistd"), "-n", "--pidfile=", "llamagw", "--config", str(config)]
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    return command, {**os.environ, "PYTHONPATH": path}


def write_config(path: Path, port: int, engine: Path, model: dict[str, Any], **more: Any) -> None:
    """A configuration of one model; JSON is YAML."""
    config = {
        "listen_addr": f"127.0.0.1:{port}",
        "llama_server_path": str(engine),
        "port_range_start": free_port(),
        "max_loaded_models": 1,
        "access_log": False,  # as nginx, beside it
        "models": [model],
        **more,
    }
    path.write_text(json.dumps(config, indent=2))


def start_llamagw(
    running: Processes, backend: Path, seconds: int, name: str = "llamagw", **more: Any
) -> Target:
    """llamagw before a backend of its own; `more` of its configuration."""
    model = running.folder / "bench.gguf"
    model.write_bytes(DUMMY_GGUF)
    port = free_port()
    config = running.folder / f"{name}.yaml"
    bound = ["--max-seconds", str(seconds)]
    entry = {"name": "bench", "model_path": str(model), "extra_args": bound}
    write_config(config, port, backend, entry, **more)
    command, env = gateway_command(config)
    process = running.start(name, command, env)
    running.wait_until(lambda: healthy(port), name, process, name)
    return Target(name, "127.0.0.1", port, "bench", process.pid, str(backend.resolve()))


def llamagw_version(target: Target) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{target.port}/health", timeout=5) as answer:
        return str(json.load(answer).get("version", "?"))
