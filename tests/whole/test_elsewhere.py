"""A model that lives elsewhere, as a client has it: another gateway, or an engine.

The gateway that is asked is *near*; what its models' URLs lead to is *far*. Over uvloop's
transports and over Twisted's own; over TCP and over TLS. What goes wrong there is in
tests/faults/test_servers_elsewhere.py.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.faults.support import Faulty, asking
from tests.support.authority import Authority
from tests.whole.harness import (
    CHAT,
    DEADLINE,
    EMBEDDINGS,
    Gateway,
    Reply,
    Stream,
    engine,
    free_port,
    in_threads,
    model,
    question,
    small_model,
    wait_until,
)

STOCK = "epoll" if sys.platform == "linux" else "select"


@pytest.fixture(scope="module", params=[None, STOCK], ids=["uvloop", "stock"])
def reactor(request: pytest.FixtureRequest) -> Any:
    return request.param


@contextlib.contextmanager
def running(gateway: Gateway) -> Iterator[Gateway]:
    """It runs meanwhile, and ends in order after it."""
    try:
        gateway.start()
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


def near_to(*models: dict[str, Any], reactor: str | None = None, **config: Any) -> Gateway:
    gateway = Gateway(list(models), reactor=reactor, **config)
    if all("model_path" not in entry for entry in models):
        del gateway.config["llama_server_path"]
    return gateway


def has_logged(gateway: Gateway, what: str) -> bool:
    return what in gateway.log


def is_reached(gateway: Gateway, name: str) -> bool:
    return bool(gateway.report(name)["status"] == "loaded")


def until_reached(gateway: Gateway, *names: str) -> None:
    for name in names:
        wait_until(partial(is_reached, gateway, name), f"{name} is there")


def content_type(boundary: str) -> str:
    return f"multipart/form-data; boundary={boundary}"


def post(port: int, path: str, body: bytes, **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())


# Another gateway


@pytest.fixture(scope="module")
def far(reactor: Any) -> Iterator[Gateway]:
    gateway = Gateway(
        [model("theirs"), model("vectors", extra_args=["--embeddings", "--pooling", "mean"])],
        reactor=reactor,
    )
    with running(gateway):
        assert gateway.chat("theirs").status == 200
        yield gateway


@pytest.fixture(scope="module")
def near(reactor: Any, far: Gateway) -> Iterator[Gateway]:
    """Room for one model of its own; it knows the far one's under names of its own."""
    url = f"http://127.0.0.1:{far.port}/v1"
    gateway = near_to(
        model("ours"),
        {"name": "smol", "aliases": ["small"], "url": url, "upstream_model": "theirs"},
        {"name": "embed", "url": url, "upstream_model": "vectors"},
        {"name": "unknown", "url": url},
        reactor=reactor,
        max_loaded_models=1,
    )
    with running(gateway):
        until_reached(gateway, "smol", "embed", "unknown")
        yield gateway


def test_a_chat_is_answered_by_whatever_name_it_has_here(near: Gateway, far: Gateway) -> None:
    for name in ("smol", "small"):
        reply = near.chat(name, tokens=5)
        assert reply.status == 200, reply
        assert reply.json()["usage"]["completion_tokens"] == 5
        content = reply.json()["choices"][0]["message"]["content"]
        assert content == far.chat("theirs", tokens=5).json()["choices"][0]["message"]["content"]


def test_a_stream_arrives_bit_by_bit_and_ends_with_done(near: Gateway) -> None:
    stream = near.stream("smol", tokens=40)
    assert b"[DONE]" not in stream.read_events(3)
    whole = stream.rest()
    assert stream.reads > 8
    assert whole.count(b"data: {") > 40
    assert whole.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_an_error_from_there_arrives_unchanged(near: Gateway, far: Gateway) -> None:
    through = near.ask("POST", EMBEDDINGS, {"model": "smol", "input": "a river"})
    direct = far.ask("POST", EMBEDDINGS, {"model": "theirs", "input": "a river"})
    assert (through.status, through.body) == (direct.status, direct.body)
    assert through.status >= 400
    # It has no model of that name, and says so in its own words.
    reply = near.chat("unknown")
    assert (reply.status, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert "`theirs`, `vectors`" in reply.json()["error"]["message"]


def test_each_place_of_the_name_is_written_anew(near: Gateway, far: Gateway) -> None:
    reply = near.ask("POST", EMBEDDINGS, {"model": "embed", "input": "a river"})
    assert reply.status == 200
    assert len(reply.json()["data"][0]["embedding"]) > 100
    for path in ("/props", "/slots"):
        through, direct = (g.get(f"{path}?model={n}") for g, n in ((near, "smol"), (far, "theirs")))
        assert through[0]["n_ctx"] if path == "/slots" else through["model_alias"] == "theirs"
        assert type(through) is type(direct)
    # SmolLM2 hears nothing; that it says so itself shows that the form has reached it.
    form = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\nRIFF\r\n--x--\r\n"
    )
    path, headers = "/v1/audio/transcriptions", {"Content-Type": content_type("x")}
    through_form = post(near.port, path, form % b"smol", **headers)
    direct_form = post(far.port, path, form % b"theirs", **headers)
    assert (through_form.status, through_form.body) == (direct_form.status, direct_form.body)
    assert b"model_not_found" not in through_form.body
    assert post(near.port, path, form % b"unknown", **headers).status == 404


def test_what_is_behind_upstream_is_the_far_gateway_itself(near: Gateway, far: Gateway) -> None:
    listed = near.get("/upstream/smol/v1/models")["data"]
    assert [entry["id"] for entry in listed] == ["theirs", "vectors"]


def test_the_list_tells_what_is_known_there(near: Gateway, far: Gateway) -> None:
    theirs = next(e for e in far.get("/v1/models")["data"] if e["id"] == "theirs")
    assert theirs["context_size"] == 2048
    listed = {entry["id"]: entry for entry in near.get("/v1/models")["data"]}
    for name in ("smol", "small"):
        for key in ("context_size", "size", "meta"):
            assert listed[name][key] == theirs[key], key
        assert listed[name]["status"] == "loaded"
    assert listed["small"]["alias_of"] == "smol"


def test_it_takes_no_room_and_is_told_of(near: Gateway) -> None:
    stream = near.stream("smol", tokens=1000)
    stream.read_events(2)
    assert near.chat("ours").status == 200
    report = near.report("smol")
    assert (report["status"], report["port"], report["in_flight"]) == ("loaded", None, 1)
    assert report["elsewhere"] is True
    models = {entry["id"]: entry for entry in near.get("/models")["data"]}
    assert [models[name]["status"]["value"] for name in ("ours", "smol")] == ["loaded"] * 2
    url = near.config["models"][1]["url"]
    assert models["smol"]["replicas"] == [{"url": url, "status": "loaded", "in_flight": 1}]
    assert "replicas" not in models["ours"]
    assert len(near.backends()) == 1
    stream.leave()


def test_a_client_that_leaves_ends_the_generation_there(near: Gateway, far: Gateway) -> None:
    stream = near.stream("smol", tokens=1900)
    stream.read_events(3)
    assert far.busy_slots("theirs") == 1
    stream.leave()
    wait_until(lambda: far.busy_slots("theirs") == 0, "its slot is free", deadline=3)
    assert near.report("smol")["in_flight"] == 0


def test_a_stream_of_anthropic_s_kind_comes_through(near: Gateway) -> None:
    asked = {**question("smol", 6, stream=True), "max_tokens": 6}
    raw = Stream(near.port, "/v1/messages", asked).rest()
    assert b"event: message_start" in raw
    assert b"event: message_stop" in raw


# An engine


@contextlib.contextmanager
def bare_engine(*flags: str) -> Iterator[str]:
    """A llama-server that is not the gateway's; its URL."""
    port, binary = free_port(), engine()
    process = subprocess.Popen(
        [
            *(str(binary), "-m", str(small_model()), "--host", "127.0.0.1", "--port", str(port)),
            *("-c", "512", "-t", "1", "--no-warmup", *flags),
        ],
        env={**os.environ, "LD_LIBRARY_PATH": str(binary.parent)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(DEADLINE)


def test_clients_may_bring_their_own_key(reactor: Any) -> None:
    """Where the gateway has none; without any, it is the engine that says so."""
    with (
        bare_engine("--api-key", "sesame", "--api-prefix", "/api") as prefixed,
        bare_engine("--api-key", "sesame") as plain,
        running(
            near_to(
                {"name": "prefixed", "url": f"{prefixed}/api"},
                {"name": "plain", "url": plain},
                reactor=reactor,
            )
        ) as near,
    ):
        until_reached(near, "prefixed", "plain")
        for name in ("prefixed", "plain"):
            body = json.dumps(question(name, 3)).encode()
            refused = post(near.port, CHAT, body)
            assert (refused.status, refused.json()["error"]["message"]) == (401, "Invalid API Key")
            assert post(near.port, CHAT, body, Authorization="Bearer sesame").status == 200


def test_an_engine_that_wants_a_key_and_has_a_prefix(reactor: Any) -> None:
    """And that is not there yet when the gateway is."""
    with (
        bare_engine("--api-key", "sesame", "--api-prefix", "/deep/in") as prefixed,
        bare_engine("--api-key", "sesame") as plain,
        running(
            near_to(
                {"name": "right", "url": f"{prefixed}/deep/in/v1", "api_key": "sesame"},
                {"name": "wrong", "url": f"{plain}/v1", "api_key": "abracadabra"},
                {"name": "lost", "url": prefixed, "api_key": "sesame"},
                reactor=reactor,
            )
        ) as near,
    ):
        until_reached(near, "right")
        reply = near.chat("right")
        assert reply.status == 200, reply
        assert near.get("/v1/models/right")["meta"]["n_ctx"] == 512
        assert near.get("/props?model=right")["total_slots"] >= 1
        for name, why in (
            ("wrong", f"{plain}/v1 cannot be reached: it wants another api_key (it answers 401)"),
            ("lost", f"{prefixed} cannot be reached: it has neither /health nor /v1/models (404)"),
        ):
            wait_until(partial(has_logged, near, why), why)
            reply = near.chat(name)
            assert reply.status == 503
            assert why in reply.json()["error"]["message"]


# TLS


def listens_with_tls(gateway: Gateway, authority: Authority, *names: str) -> Gateway:
    """Have it do so."""
    key, cert = authority.issue(*names)
    gateway.config["listen_addr"] = (
        f"ssl:{gateway.port}:privateKey={key}:certKey={cert}:interface=127.0.0.1"
    )
    context = ssl.create_default_context(cafile=str(authority.path))
    context.check_hostname = False
    over_tcp = gateway.ask

    def ask(
        method: str,
        path: str,
        body: object = None,
        port: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        if port is not None:
            return over_tcp(method, path, body, port, headers)  # an engine of its
        connection = http.client.HTTPSConnection("127.0.0.1", gateway.port, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body).encode())
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())

    gateway.ask = ask  # type: ignore[method-assign]
    return gateway


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def far_tls(reactor: Any, authority: Authority) -> Iterator[Gateway]:
    gateway = Gateway([model("theirs")], reactor=reactor, max_body_mb=8)
    with running(listens_with_tls(gateway, authority, "localhost", "127.0.0.1")):
        assert gateway.chat("theirs").status == 200
        yield gateway


@pytest.fixture(scope="module")
def near_tls(reactor: Any, authority: Authority, far_tls: Gateway) -> Iterator[Gateway]:
    """By the name of the host and by its number."""
    common = {"ca_file": str(authority.path), "upstream_model": "theirs"}
    gateway = near_to(
        {"name": "smol", "url": f"https://localhost:{far_tls.port}/v1", **common},
        {"name": "numbered", "url": f"HTTPS://127.0.0.1:{far_tls.port}", **common},
        reactor=reactor,
    )
    with running(gateway):
        until_reached(gateway, "smol", "numbered")
        yield gateway


def test_tls_with_an_authority_of_ones_own(near_tls: Gateway, far_tls: Gateway) -> None:
    for name in ("smol", "numbered"):
        assert near_tls.chat(name).status == 200
        stream = near_tls.stream(name, tokens=40)
        assert b"[DONE]" not in stream.read_events(3)
        assert stream.rest().count(b"data: {") > 40
    assert near_tls.get("/v1/models/smol")["context_size"] == 2048


def test_many_at_once_over_tls(near_tls: Gateway) -> None:
    replies = in_threads(*[lambda: near_tls.chat("smol", tokens=3)] * 16)
    assert [reply.status for reply in replies] == [200] * 16


def test_a_big_body_over_tls_both_ways(near_tls: Gateway, far_tls: Gateway) -> None:
    """5 MB of text to be made tokens of, of which there are as much again."""
    content = "river bank " * 520_000
    asked = {"model": "smol", "content": content}
    through = near_tls.ask("POST", "/tokenize", asked)
    assert through.status == 200, through.body[:500]
    assert len(through.body) > 5_000_000
    direct = far_tls.ask("POST", "/tokenize", {**asked, "model": "theirs"})
    assert through.body == direct.body
    # One that is too big is told so by the one that minds, over TLS as well.
    refused = far_tls.ask("POST", "/tokenize", {"model": "theirs", "content": "x" * 9_000_000})
    assert (refused.status, refused.json()["error"]["code"]) == (413, "body_too_large")
    passed_on = near_tls.ask("POST", "/tokenize", {"model": "smol", "content": "x" * 9_000_000})
    assert (passed_on.status, passed_on.json()["error"]) == (413, refused.json()["error"])


def test_a_client_that_leaves_ends_the_generation_there_over_tls_too(
    near_tls: Gateway, far_tls: Gateway
) -> None:
    stream = near_tls.stream("smol", tokens=1900)
    stream.read_events(3)
    assert far_tls.busy_slots("theirs") == 1
    stream.leave()
    wait_until(lambda: far_tls.busy_slots("theirs") == 0, "its slot is free", deadline=3)


def test_tls_comes_with_a_reload_where_it_is_spoken_already(
    reactor: Any, authority: Authority, far_tls: Gateway
) -> None:
    """To servers, and to clients."""
    entry = {"name": "theirs", "url": f"https://localhost:{far_tls.port}"}
    near = near_to(entry, reactor=reactor)
    with running(near):
        wait_until(lambda: "its certificate is not trusted here" in near.log, "it is told")
        near.config["models"] = [{**entry, "ca_file": str(authority.path)}]
        near.port = free_port()
        listens_with_tls(near, authority, "localhost")
        near.write_config()
        os.kill(near.pid, signal.SIGHUP)
        wait_until(lambda: "the configuration was reloaded" in near.log, "it is reloaded")
        until_reached(near, "theirs")
        assert near.ask("POST", CHAT, question("theirs", 3)).status == 200


def test_a_certificate_that_is_not_right_is_told_in_words(
    reactor: Any, authority: Authority, far_tls: Gateway, tmp_path: Path
) -> None:
    """Unknown here, of another authority, for another host, or with nothing to check it with."""
    url = f"https://localhost:{far_tls.port}"
    other = Authority(tmp_path, "other")
    empty = tmp_path / "empty.pem"
    empty.write_text("-----BEGIN CERTIFICATE-----\nTm90aGluZw==\n-----END CERTIFICATE-----\n")
    stranger = listens_with_tls(
        Gateway([model("theirs")], reactor=reactor), authority, "far.example"
    )
    models = [
        {"name": "system", "url": url},
        {"name": "other", "url": url, "ca_file": str(other.path)},
        {"name": "empty", "url": url, "ca_file": str(empty)},
        {
            "name": "stranger",
            "url": f"https://localhost:{stranger.port}",
            "ca_file": str(authority.path),
        },
    ]
    with running(stranger), running(near_to(*models, reactor=reactor)) as near:
        for name, why in (
            ("system", "its certificate is not trusted here (ca_file: names the authority"),
            ("other", "its certificate is not trusted here (ca_file: names the authority"),
            ("empty", f"ca_file {empty} cannot be used"),
            ("stranger", "its certificate is for another host"),
        ):
            reply = near.chat(name)
            assert reply.status == 503
            assert f"cannot be reached: {why}" in reply.json()["error"]["message"]


@pytest.mark.parametrize("plain", [False, True], ids=["events", "plain"])
def test_a_client_that_stops_reading_costs_little_memory_over_tls_too(
    reactor: Any, authority: Authority, plain: bool
) -> None:
    """Here nor there; and goes on where it was when it reads again."""
    far = listens_with_tls(Faulty({"theirs": {}}, reactor=reactor), authority, "localhost")
    url = {"url": f"https://localhost:{far.port}", "ca_file": str(authority.path)}
    near = near_to({"name": "theirs", **url}, reactor=reactor)
    with running(far), running(near):
        flood = {"raw": "flood_plain" if plain else "flood"}
        before = [psutil.Process(g.pid).memory_info().rss for g in (near, far)]
        stream = Stream(near.port, CHAT, asking("theirs", stream=not plain, fake=flood))
        stream.read_until(b"\r\n\r\n")

        def sent() -> int:
            # The fake engine's own count of what it has got rid of.
            [active] = far.ask("GET", "/fake", port=far.report("theirs")["port"]).json()["active"]
            count: int = active["sent"]
            return count

        def stands_still() -> bool:
            first, end = sent(), time.monotonic() + 1
            wait_until(lambda: time.monotonic() > end or sent() != first, "a second has gone")
            return sent() == first

        wait_until(stands_still, "the engine is held up too")
        after = [psutil.Process(g.pid).memory_info().rss for g in (near, far)]
        assert all(b - a < 4 * 2**20 for a, b in zip(before, after, strict=True)), (before, after)
        held = sent()
        while len(stream.raw) < held + 2**20:
            stream._read()
        assert sent() > held
        stream.leave()
        wait_until(lambda: near.report("theirs")["in_flight"] == 0, "nobody is left")


# WebSockets


WAMP = Subprotocol("wamp")


class Sockets:
    """A server of WebSockets elsewhere: echoes, and does a few things when it is told to."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        #: How those that are over were closed, by the path that was asked for.
        self.closed: dict[str, tuple[int | None, str | None]] = {}
        self.server = serve(
            self._serve,
            "127.0.0.1",
            0,
            ssl=context,
            process_request=self._look,
            select_subprotocol=lambda _, offered: WAMP if WAMP in offered else None,
            max_size=2**22,
        )
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Sockets:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join(DEADLINE)

    def _look(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path in ("/health", "/v1/models"):
            return connection.respond(200, "{}")
        if request.path == "/forbidden":
            return connection.respond(403, "not for you")
        return None

    def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        path = socket.request.path
        try:
            for message in socket:
                if message == "close":
                    socket.close(4002, "as you say")
                elif message == "vanish":
                    socket.socket.shutdown(2)
                elif message == "path":
                    socket.send(path)
                else:
                    socket.send(message)
        except ConnectionClosed:
            pass
        finally:
            self.closed[path] = socket.close_code, socket.close_reason


@pytest.fixture(scope="module", params=["tcp", "tls"])
def sockets(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Sockets]:
    context = None
    if request.param == "tls":
        key, cert = authority.issue("127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
    with Sockets(context) as server:
        yield server


def near_sockets(sockets: Sockets, authority: Authority, **more: Any) -> Gateway:
    entry = {"name": "far", "url": sockets.url}
    if sockets.url.startswith("https"):
        entry["ca_file"] = str(authority.path)
    return near_to(entry, **more)


@pytest.fixture(scope="module")
def tunnelled(reactor: Any, sockets: Sockets, authority: Authority) -> Iterator[Gateway]:
    near = near_sockets(sockets, authority, reactor=reactor, request_timeout_sec=0.5)
    with running(near):
        until_reached(near, "far")
        yield near


def tunnel(near: Gateway, path: str = "ws", **more: Any) -> ClientConnection:
    url = f"ws://127.0.0.1:{near.port}/upstream/far/{path}"
    connection: ClientConnection = connect(url, proxy=None, max_size=2**22, **more)
    return connection


def test_a_websocket_carries_text_and_binary_both_ways(tunnelled: Gateway) -> None:
    data = os.urandom(2**20)
    with tunnel(tunnelled, "deep/ws?x=%20y") as socket:
        for message in ("a river", "ein Fluß", data, "", b""):
            socket.send(message)
            assert socket.recv(DEADLINE) == message
        socket.send("path")
        assert socket.recv(DEADLINE) == "/deep/ws?x=%20y"
        assert tunnelled.report("far")["in_flight"] == 1
    wait_until(lambda: tunnelled.report("far")["in_flight"] == 0, "its place is free")


def test_pings_are_answered_from_the_other_end(tunnelled: Gateway) -> None:
    with tunnel(tunnelled) as socket:
        assert socket.ping().wait(DEADLINE)


def test_an_idle_one_is_not_cut_by_the_limit_for_requests(tunnelled: Gateway) -> None:
    """request_timeout_sec is 0.5 here."""
    with tunnel(tunnelled) as socket:
        begin = tunnelled.health()["uptime_sec"]
        wait_until(lambda: tunnelled.health()["uptime_sec"] > begin + 1.5, "it was idle for long")
        socket.send("still there")
        assert socket.recv(DEADLINE) == "still there"


def test_a_close_from_either_side_arrives_with_its_code(
    tunnelled: Gateway, sockets: Sockets
) -> None:
    path = uuid.uuid4().hex
    with tunnel(tunnelled, path) as socket:
        socket.close(4001, "enough")
    wait_until(lambda: f"/{path}" in sockets.closed, "the other side has heard")
    assert sockets.closed[f"/{path}"] == (4001, "enough")
    with tunnel(tunnelled) as socket:
        socket.send("close")
        with pytest.raises(ConnectionClosed):
            socket.recv(DEADLINE)
        assert (socket.close_code, socket.close_reason) == (4002, "as you say")


def test_a_client_that_vanishes_is_not_waited_for(tunnelled: Gateway, sockets: Sockets) -> None:
    path = uuid.uuid4().hex
    tunnel(tunnelled, path).socket.shutdown(2)
    wait_until(lambda: f"/{path}" in sockets.closed, "the other side has heard")
    wait_until(lambda: tunnelled.report("far")["in_flight"] == 0, "its place is free")


def test_a_server_that_vanishes_ends_the_tunnel(reactor: Any, authority: Authority) -> None:
    with Sockets() as server, running(near_sockets(server, authority, reactor=reactor)) as near:
        until_reached(near, "far")
        with tunnel(near) as socket:
            socket.send("vanish")
            with pytest.raises(ConnectionClosed):
                socket.recv(DEADLINE)
            assert socket.close_code == 1006
        wait_until(lambda: near.report("far")["in_flight"] == 0, "its place is free")


def test_a_subprotocol_is_agreed_on(tunnelled: Gateway) -> None:
    with tunnel(tunnelled, subprotocols=["mqtt", "wamp"]) as socket:
        assert socket.subprotocol == "wamp"


def test_a_refusal_arrives_as_it_is(tunnelled: Gateway) -> None:
    with pytest.raises(InvalidStatus) as refused:
        tunnel(tunnelled, "forbidden")
    assert refused.value.response.status_code == 403
    assert refused.value.response.body == b"not for you"


def test_many_at_once_do_not_mix(tunnelled: Gateway) -> None:
    def talk(number: int) -> bool:
        with tunnel(tunnelled) as socket:
            for turn in range(50):
                socket.send(f"{number} {turn}" * 100)
                if socket.recv(DEADLINE) != f"{number} {turn}" * 100:
                    return False
            return True

    assert all(in_threads(*[lambda n=n: talk(n) for n in range(20)]))


def test_the_end_of_the_gateway_does_not_wait_for_a_tunnel_longer_than_for_an_answer(
    reactor: Any, sockets: Sockets, authority: Authority
) -> None:
    near = near_sockets(sockets, authority, reactor=reactor, drain_sec=0.5)
    with running(near):
        until_reached(near, "far")
        with tunnel(near) as socket:
            socket.send("here")
            assert socket.recv(DEADLINE) == "here"
            begin = time.monotonic()
            near.terminate()
            with pytest.raises(ConnectionClosed):
                socket.recv(DEADLINE)
            assert near.wait() == 0
            assert 0.4 < time.monotonic() - begin < 4
