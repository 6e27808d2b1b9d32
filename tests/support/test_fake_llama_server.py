"""The fake llama-server does what its table says: loads, answers, records and misbehaves.

Plain blocking tests (stdlib only, no reactor), so that both `trial` and `pytest` run them. What
the gateway makes of such a backend is left to the fault tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

FAKE = Path(__file__).with_name("fake_llama_server.py")
DEADLINE = 20.0
CHAT = "/v1/chat/completions"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Fake:
    """One fake process, its record, and a client of it."""

    def __init__(self, test: unittest.TestCase, script: object = None, *flags: str, **env: Any):
        folder = tempfile.TemporaryDirectory()
        test.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.model = self.folder / "model.gguf"
        if script is not None:
            self.model.write_text(script if isinstance(script, str) else json.dumps(script))
        self.record_path = self.folder / "record"
        self.port = free_port()
        self.argv = [str(FAKE), "-m", str(self.model), "--port", str(self.port), *flags]
        self.env = os.environ | {"FAKE_LLAMA": json.dumps({"record": str(self.record_path), **env})}
        self.process = self.start()
        test.addCleanup(self.kill)

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(DEADLINE)
        if self.process.stderr:
            self.process.stderr.close()

    def ended(self) -> tuple[int, str]:
        """Its exit status and what it said on stderr."""
        said = self.process.communicate(timeout=DEADLINE)[1].decode()
        return self.process.returncode, said

    def events(self, name: str) -> list[dict[str, Any]]:
        if not self.record_path.exists():
            return []
        lines = map(json.loads, self.record_path.read_text().splitlines())
        return [line for line in lines if line["event"] == name]

    def until(self, name: str, count: int = 1) -> dict[str, Any]:
        """The count-th event of this name, as soon as it is recorded."""
        end = time.monotonic() + DEADLINE
        while len(found := self.events(name)) < count:
            if time.monotonic() > end:
                raise AssertionError(f"no {name} in {self.record_path.read_text()}")
            select.select([], [], [], 0.005)
        return found[count - 1]

    def connect(self) -> http.client.HTTPConnection:
        self.until("ready")
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)

    def ask(
        self, body: object = None, path: str = CHAT, method: str | None = None
    ) -> tuple[int, bytes]:
        with contextlib.closing(self.connect()) as client:
            return exchange(client, body, path, method)

    def raw(self, body: object) -> bytes:
        """Every byte of an answer after which the connection is closed."""
        self.until("ready")
        data = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as sock:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            sock.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while more := sock.recv(65536):
                    received += more
            return received


def exchange(
    client: http.client.HTTPConnection,
    body: object = None,
    path: str = CHAT,
    method: str | None = None,
) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    client.request(method or ("GET" if body is None else "POST"), path, data)
    response = client.getresponse()
    return response.status, response.read()


def texts(stream: bytes) -> list[str]:
    """What the content events of a chat stream say."""
    events = [line[6:] for line in stream.decode().split("\n") if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    return [delta["content"] for delta in deltas if delta.get("content")]


class LoadTests(unittest.TestCase):
    def test_answers_503_while_loading_then_ok(self) -> None:
        fake = Fake(self, {"load_sec": 0.5})
        fake.until("listening")
        client = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=DEADLINE)
        self.addCleanup(client.close)
        status, body = exchange(client, path="/health")
        self.assertEqual((status, json.loads(body)["error"]["message"]), (503, "Loading model"))
        fake.until("ready")
        self.assertEqual(exchange(client, path="/health"), (200, b'{"status":"ok"}'))

    def test_bound_late_refuses_until_loaded(self) -> None:
        fake = Fake(self, {"load_sec": 0.5, "bind": "late"})
        fake.until("start")
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", fake.port), timeout=DEADLINE)
        self.assertEqual(fake.ask(path="/health")[0], 200)

    def test_says_that_it_gets_on_or_does_not(self) -> None:
        for progress, grows in (("output", True), ("none", False)):
            fake = Fake(self, {"load_sec": 0.3, "load_progress": progress})
            fake.until("ready")
            fake.process.terminate()
            code, said = fake.ended()
            self.assertEqual((code, "loading tensors, 3 done" in said), (0, grows))

    def test_fails_in_the_words_of_the_real_one(self) -> None:
        cases: list[tuple[object, int, str]] = [
            (None, 1, "failed to open GGUF file"),
            ("no gguf", 1, "invalid magic characters"),
            ({"fail": "truncated_model"}, 1, "model is corrupted or incomplete"),
            ({"fail": "port"}, 1, "couldn't bind HTTP server socket"),
            ({"fail": "cuda_memory"}, 1, "cudaMalloc failed: out of memory"),
            ({"fail": "flag"}, 1, "error: invalid argument"),
            ({"fail": "library"}, 127, "error while loading shared libraries"),
            ({"fail": "exit", "exit_code": 3, "stderr": ["so it is"]}, 3, "so it is\n"),
            ({"fail": "oom"}, -signal.SIGKILL, ""),
            ({"fail": "exit", "fail_after_sec": 0.1}, 1, "loading tensors, 2 done"),
        ]
        for script, code, words in cases:
            with self.subTest(script):
                got, said = Fake(self, script).ended()
                self.assertEqual(got, code)
                self.assertIn(words, said)

    def test_a_taken_port_is_fatal(self) -> None:
        first = Fake(self, {})
        first.until("ready")
        second = Fake(self, {}, "--port", str(first.port))
        code, said = second.ended()
        self.assertEqual(code, 1)
        words = f"couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {first.port}"
        self.assertIn(words, said)

    def test_once_is_for_the_first_only(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            script = {"fail": "exit", "once": f"{folder}/used"}
            self.assertEqual(Fake(self, script).ended()[0], 1)
            self.assertEqual(Fake(self, script).ask(path="/health")[0], 200)

    def test_never_gets_healthy(self) -> None:
        fake = Fake(self, {"fail": "never"})
        fake.until("listening")
        client = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=DEADLINE)
        self.addCleanup(client.close)
        for _ in range(3):
            self.assertEqual(exchange(client, path="/health")[0], 503)
        self.assertEqual(fake.events("ready"), [])

    def test_help_shows_flags_and_leaves_out_the_unknown(self) -> None:
        command = [str(FAKE), "--help"]
        whole = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        self.assertIn("-kvu,  --kv-unified,", whole)
        env = os.environ | {"FAKE_LLAMA": '{"unknown_flags": ["--kv-unified"]}'}
        less = subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout
        self.assertNotIn("--kv-unified", less)
        self.assertIn("--parallel", less)
        code, said = Fake(self, {}, "--kv-unified", unknown_flags=["--kv-unified"]).ended()
        self.assertEqual((code, said), (1, "error: invalid argument: --kv-unified\n"))


class AnswerTests(unittest.TestCase):
    def test_chat_plain_and_streamed(self) -> None:
        fake = Fake(self, {}, "-a", "m", "--parallel", "2", "--frobnicate", "-1", "-kvu")
        status, body = fake.ask({"max_tokens": 3})
        whole = json.loads(body)
        self.assertEqual((status, whole["model"]), (200, "m"))
        self.assertEqual(whole["choices"][0]["message"]["content"], "t0 t1 t2 ")
        status, body = fake.ask({"stream": True, "fake": {"events": 3}})
        self.assertEqual((status, texts(body)), (200, ["t0 ", "t1 ", "t2 "]))
        self.assertTrue(body.endswith(b"data: [DONE]\n\n"))
        self.assertEqual(len(json.loads(fake.ask(path="/slots")[1])), 2)
        self.assertEqual(fake.ask({}, path="/v1/nothing")[0], 404)

    def test_embeddings_only_when_asked_for(self) -> None:
        body = {"input": ["a", "b"]}
        self.assertEqual(Fake(self, {}).ask(body, "/v1/embeddings")[0], 501)
        status, answer = Fake(self, {}, "--embeddings").ask(body, "/v1/embeddings")
        self.assertEqual(status, 200)
        self.assertEqual([len(item["embedding"]) for item in json.loads(answer)["data"]], [8, 8])

    def test_echoes_and_records_what_it_received(self) -> None:
        fake = Fake(self, {})
        body = {"fake": {"echo": True}, "padding": "p" * 300_000}
        digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
        echo = json.loads(fake.ask(body)[1])
        self.assertEqual((echo["method"], echo["path"]), ("POST", CHAT))
        self.assertEqual(echo["body_sha256"], digest)
        self.assertEqual(fake.until("request")["body_sha256"], digest)
        self.assertEqual(fake.until("finish")["id"], fake.until("request")["id"])

    def test_any_status_and_body(self) -> None:
        script = {"status": 418, "body": "short", "headers": [["X-A", "b"]], "framing": "chunked"}
        self.assertEqual(Fake(self, {}).ask({"fake": script}), (418, b"short"))

    def test_takes_a_change_of_script_while_it_runs(self) -> None:
        fake = Fake(self, {})
        fake.ask({"health": 500, "request": {"status": 429}}, "/fake")
        self.assertEqual(fake.ask(path="/health")[0], 500)
        self.assertEqual(fake.ask({})[0], 429)

    def test_closes_a_connection_that_is_idle_or_worn(self) -> None:
        fake = Fake(self, {"keepalive_sec": 0.1, "keepalive_max": 2})
        client = fake.connect()
        self.addCleanup(client.close)
        self.assertEqual(exchange(client, path="/health")[0], 200)
        self.assertEqual(fake.until("closed")["served"], 1)
        client.close()
        for _ in range(2):
            client.request("GET", "/health")
            response = client.getresponse()
            response.read()
        self.assertEqual(response.getheader("Connection"), "close")

    def test_records_that_a_client_left(self) -> None:
        fake = Fake(self, {})
        scripts: list[dict[str, Any]] = [
            {"rate": 50, "events": 100_000},
            {"delay": 600},
            {"raw": "flood"},
        ]
        for number, script in enumerate(scripts, 1):
            client = fake.connect()
            body = json.dumps({"stream": True, "fake": script})
            client.request("POST", CHAT, body)
            request = fake.until("request", number)
            if "delay" not in script:
                response = client.getresponse()
                self.assertTrue(response.readline().startswith(b"data: "))
                response.close()
            client.close()
            self.assertEqual(fake.until("disconnect", number)["id"], request["id"])
        self.assertEqual(fake.events("finish"), [])
        self.assertNotIn(b'"is_processing":true', fake.ask(path="/slots")[1])

    def test_a_request_waits_for_a_slot(self) -> None:
        fake = Fake(self, {}, "-np", "1")
        first = fake.connect()
        first.request("POST", CHAT, json.dumps({"fake": {"delay": 600}}))
        fake.until("request")
        second = fake.connect()
        self.addCleanup(second.close)
        second.request("POST", CHAT, json.dumps({"max_tokens": 1}))
        fake.until("request", 2)
        self.assertEqual(fake.events("finish"), [])
        first.close()
        self.assertEqual(second.getresponse().status, 200)


class FaultTests(unittest.TestCase):
    def test_dies_at_each_moment_of_a_plain_answer(self) -> None:
        for when, sees in (
            ("before_head", lambda got: got == b""),
            ("after_head", lambda got: got.endswith(b"\r\n\r\n")),
            ("mid_body", lambda got: b'"choices"' in got and not got.endswith(b"}")),
        ):
            with self.subTest(when):
                fake = Fake(self, {})
                got = fake.raw({"fake": {"fault": "kill", "when": when}})
                self.assertTrue(sees(got), got)
                self.assertEqual(fake.ended()[0], -signal.SIGKILL)

    def test_dies_in_and_between_the_events_of_a_stream(self) -> None:
        for when, whole in (("mid_body", False), ("between_events", True)):
            with self.subTest(when):
                fake = Fake(self, {})
                script = {"fault": "exit", "exit_code": 7, "when": when, "at": 3}
                got = fake.raw({"stream": True, "fake": script})
                self.assertEqual(got.endswith(b"}\n\n\r\n"), whole)
                said = texts(got[: got.rindex(b"\n\n")])
                self.assertEqual(said, ["t0 ", "t1 ", "t2 "])
                self.assertEqual(fake.ended()[0], 7)

    def test_closes_one_connection_and_lives_on(self) -> None:
        fake = Fake(self, {})
        for fault in ("close", "reset"):
            self.assertEqual(fake.raw({"fake": {"fault": fault}}), b"")
        self.assertEqual(fake.ask({})[0], 200)

    def test_a_stalled_request_leaves_health_alone(self) -> None:
        fake = Fake(self, {})
        client = fake.connect()
        self.addCleanup(client.close)
        client.request("POST", CHAT, json.dumps({"fake": {"fault": "stall"}}))
        fake.until("fault")
        self.assertEqual(fake.ask(path="/health")[0], 200)
        self.assertIn(b'"is_processing":true', fake.ask(path="/slots")[1])

    def test_a_blocked_or_stopped_one_answers_nobody(self) -> None:
        for fault in ("block", "hang"):
            with self.subTest(fault):
                fake = Fake(self, {})
                asking, probe = fake.connect(), fake.connect()
                self.addCleanup(asking.close)
                self.addCleanup(probe.close)
                asking.request("POST", CHAT, json.dumps({"fake": {"fault": fault}}))
                fake.until("fault")
                if fault == "hang":
                    os.waitpid(fake.process.pid, os.WUNTRACED)
                probe.request("GET", "/health")
                self.assertEqual(select.select([probe.sock, asking.sock], [], [], 0.2)[0], [])

    def test_wrong_bytes(self) -> None:
        fake = Fake(self, {})
        good = b'{"raw":"a whole answer"}'
        for kind, marks in {
            "garbage": [b"nothing like HTTP"],
            "two_lengths": [b"Content-Length: 24\r\nContent-Length: 3\r\n", good],
            "length_chunked": [b"Content-Length: 24\r\nTransfer-Encoding: chunked\r\n", good],
            "continue": [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", good],
            "http10": [b"HTTP/1.0 200 OK\r\n", good],
            "cut_chunk": [b"\r\n100\r\n" + good],
            "after_204": [b"HTTP/1.1 204 No Content\r\n", good],
            "second_answer": [good + b"HTTP/1.1 200 OK\r\n"],
            "slow": [good],
        }.items():
            with self.subTest(kind):
                got = fake.raw({"fake": {"raw": kind, "byte_sec": 0.0001}})
                for mark in marks:
                    self.assertIn(mark, got)
        self.assertEqual(fake.raw({"fake": {"raw": "empty"}}), b"")

    def test_every_kind_of_wrong_bytes_stands_in_the_table(self) -> None:
        source = FAKE.read_text()
        table = source.split('"""')[1]
        coded = source.split("RAW: dict")[1].split("\n}\n")[0]
        kinds = [line.split('"')[1] for line in coded.split("\n") if line.startswith('    "')]
        self.assertGreater(len(kinds), 20)
        self.assertEqual([kind for kind in kinds if f"{' ' * 30}{kind} " not in table], [])

    def test_stale_closes_unannounced(self) -> None:
        fake = Fake(self, {})
        client = fake.connect()
        self.addCleanup(client.close)
        client.request("POST", CHAT, json.dumps({"fake": {"raw": "stale"}}))
        response = client.getresponse()
        self.assertIsNone(response.getheader("Connection"))
        response.read()
        self.assertEqual(fake.until("closed")["served"], 1)

    def test_endless_headers_and_floods_go_on(self) -> None:
        fake = Fake(self, {})
        for kind in ("endless_header", "endless_line", "flood", "flood_plain"):
            with self.subTest(kind), contextlib.closing(fake.connect()) as client:
                client.request("POST", CHAT, json.dumps({"fake": {"raw": kind}}))
                assert client.sock is not None
                got = 0
                while got < 200_000:
                    got += len(client.sock.recv(65536))

    def test_ignores_sigterm(self) -> None:
        fake = Fake(self, {"sigterm": "ignore"})
        fake.until("ready")
        fake.process.terminate()
        fake.until("sigterm")
        self.assertEqual(fake.ask(path="/health")[0], 200)
        self.assertIsNone(fake.process.poll())

    def test_wants_one_of_its_keys_as_the_real_one_does(self) -> None:
        fake = Fake(self, {"load_sec": 0.2}, "--api-key", "a,b")
        fake.until("listening")
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", fake.port)) as client:
            self.assertEqual(exchange(client, path="/props")[0], 503, "while it loads")
        for path in ("/health", "/v1/models", "/fake"):
            self.assertEqual(fake.ask(path=path)[0], 200)
        for path in ("/props", "/slots", "/nothing"):
            self.assertEqual(fake.ask(path=path)[0], 401)
        self.assertEqual(fake.ask({"messages": []})[0], 401)
        for headers in ({"Authorization": "Bearer a"}, {"X-Api-Key": "b"}):
            with contextlib.closing(fake.connect()) as client:
                client.request("GET", "/props", headers=headers)
                self.assertEqual(client.getresponse().status, 200)

    def test_leaves_a_grandchild_that_holds_stderr_open(self) -> None:
        fake = Fake(self, {"grandchild_sec": 600})
        grandchild = fake.until("grandchild")["grandchild"]
        self.addCleanup(os.kill, grandchild, signal.SIGKILL)
        fake.until("ready")
        fake.process.terminate()
        self.assertEqual(fake.process.wait(DEADLINE), 0)
        stderr = fake.process.stderr
        assert stderr is not None
        os.set_blocking(stderr.fileno(), False)
        while stderr.read(65536):
            pass
        self.assertIsNone(stderr.read(1))  # no data, and no end either

    def test_logs_as_much_as_asked(self) -> None:
        fake = Fake(self, {"log": {"lines": 500, "width": 10}})
        fake.until("start")
        assert fake.process.stderr is not None
        said = [fake.process.stderr.readline() for _ in range(501)]
        self.assertEqual(said[1:], [b"log log lo\n"] * 500)
