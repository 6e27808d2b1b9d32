"""A gateway whose answers are a table and whose events a test tells, for what watches gateways."""

from __future__ import annotations

import http.server
import json
import queue
import threading
from typing import Any
from urllib.parse import urlsplit

#: Ends a stream of events in order; None breaks it off.
END: dict[str, Any] = {}


class ScriptedGateway:
    """
    Listens on a free port; `down` and `up` are a restart.

    :ivar answers: by path: a status, and what is JSON
    :ivar now: requests under way, for the snapshot that a new stream begins with
    :ivar last: those that have ended, newest first
    :ivar asked: method, path with query, body
    """

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.now: list[dict[str, Any]] = []
        self.last: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.streams: list[queue.Queue[dict[str, Any] | None]] = []
        self._server: _Server | None = None
        self._port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def up(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.gateway = self
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.tell(None)

    def tell(self, event: dict[str, Any] | None) -> None:
        """Send an event to all who listen; see `END`."""
        for stream in list(self.streams):
            stream.put(event)

    def begin(self, live: dict[str, Any]) -> None:
        self.now.append(live)
        self.tell({"event": "begun", "request": live})

    def move(self, live: dict[str, Any]) -> None:
        self.now = [live if other["id"] == live["id"] else other for other in self.now]
        self.tell({"event": "moved", "request": live})

    def finish(self, entry: dict[str, Any]) -> None:
        self.now = [live for live in self.now if live["id"] != entry["id"]]
        self.last.insert(0, entry)
        self.tell({"event": "ended", "request": entry})

    def answer(self, path: str) -> tuple[int, Any]:
        if path in self.answers:
            return self.answers[path]
        if path == "/activity":
            return 200, {"data": self.last}
        error = {"message": f"there is no {path}", "type": "t", "param": None, "code": "not_found"}
        return 404, {"error": error}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    gateway: ScriptedGateway

    def server_bind(self) -> None:
        # HTTPServer's would look up the name of this machine.
        super(http.server.HTTPServer, self).server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are a part of these tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _answer(self) -> None:
        gateway = self.server.gateway
        self.close_connection = True
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        gateway.asked.append((self.command, self.path, body))
        path = urlsplit(self.path).path
        if path == "/activity/sse" and path not in gateway.answers:
            self._stream(gateway)
            return
        status, content = gateway.answer(path)
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, gateway: ScriptedGateway) -> None:
        told: queue.Queue[dict[str, Any] | None] = queue.Queue()
        snapshot = {"event": "snapshot", "now": gateway.now, "last": gateway.last}
        gateway.streams.append(told)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            event: dict[str, Any] | None = snapshot
            while event:
                self._chunk(b": a comment\n\ndata: %b\n\n" % json.dumps(event).encode())
                event = told.get()
            if event is END:
                self._chunk(b"")
        finally:
            gateway.streams.remove(told)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    do_GET = do_POST = _answer

    def log_message(self, *_: Any) -> None: ...
