"""Promises of the listing and the management: what clients hear of models, and have done to them.

The real Api in memory (support/bench.py), on the real fleet.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from llamagw.api import feeds
from llamagw.api.feeds import MOST_FOLLOWERS, PING_SEC
from llamagw.config import ModelConfig, Replica
from llamagw.errors import ModelUnavailable
from llamagw.launch import Memory
from tests.api.test_api import GIB, counting_bench
from tests.support.bench import Bench, BenchTestCase
from tests.support.configs import local_model, remote_model
from tests.support.messages import Answer, answers, request
from tests.support.wire import Wire


class ManagementTestCase(BenchTestCase):
    def get(self, path: str) -> Answer:
        [answer] = self.bench.asks(request(path=path))
        return answer

    def post(self, path: str, body: object) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        [answer] = self.bench.asks(request(data, path))
        return answer

    def configure(self, *models: ModelConfig) -> None:
        """Have the gateway know these models instead."""
        self.bench = Bench(models, loaded=False)


class ListingTests(ManagementTestCase):
    """GET /v1/models."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "a-00001-of-00002.gguf"
        self.path.write_bytes(b"x" * 10)
        (Path(folder.name) / "a-00002-of-00002.gguf").write_bytes(b"x" * 7)
        os.utime(self.path, (1700000000, 1700000000))
        self.configure(
            local_model("a", str(self.path), aliases=["gpt-4o", "gpt-*"]),
            local_model("b", "/nowhere.gguf", context_size=99, aliases=["o1"]),
            remote_model("far", Replica(url="http://far")),
        )

    def entries(self) -> dict[str, Any]:
        return {entry["id"]: entry for entry in self.get("/v1/models").json()["data"]}

    def test_names_and_exact_aliases_are_listed_and_patterns_are_not(self) -> None:
        found = self.entries()
        self.assertEqual([*found], ["a", "gpt-4o", "b", "o1", "far"])
        self.assertEqual((found["a"]["aliases"], found["gpt-4o"]["alias_of"]), (["gpt-4o"], "a"))

    def test_the_list_is_a_page_of_anthropic_s_too(self) -> None:
        page = self.get("/v1/models").json()
        found = {entry["id"]: entry for entry in page["data"]}
        self.assertEqual(
            [page[key] for key in ("object", "has_more", "first_id", "last_id")],
            ["list", False, "a", "far"],
        )
        self.assertEqual({entry["type"] for entry in page["data"]}, {"model"})
        self.assertEqual([entry["display_name"] for entry in page["data"]], [*found])
        self.assertEqual(
            [found[name]["created_at"] for name in ("a", "gpt-4o", "far")],
            ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20Z", "1970-01-01T00:00:00Z"],
        )
        self.assertEqual(self.get("/v1/models/gpt-5").json()["display_name"], "gpt-5")

    def test_a_time_of_a_file_that_no_calendar_has_is_none(self) -> None:
        for moment in (-1, 253_402_300_800, 2**62):
            stat = os.stat_result((0,) * 8 + (moment, 0))
            self.patch(os, "stat", lambda path, stat=stat: stat)
            self.assertEqual(self.entries()["a"]["created_at"], "1970-01-01T00:00:00Z")

    def test_each_has_its_context_the_size_of_its_file_and_its_time(self) -> None:
        found = self.entries()
        for name in ("a", "gpt-4o"):
            self.assertEqual(
                [found[name][key] for key in ("context_size", "size", "created")],
                [4096, 17, 1700000000],
            )
        self.assertEqual(
            [found["b"][k] for k in ("context_size", "size", "created")], [99, None, 0]
        )

    def test_what_a_loaded_engine_reports_is_its_meta(self) -> None:
        self.bench.probe.said = {"meta": {"n_params": 7}}
        self.bench.load("a")
        found = self.entries()
        self.assertEqual((found["a"]["meta"], found["gpt-4o"]["meta"]), ({"n_params": 7},) * 2)
        self.assertNotIn("meta", found["b"])

    def test_of_a_model_elsewhere_what_is_said_there_is_told(self) -> None:
        self.bench.probe.said = {}
        self.assertEqual(
            [self.entries()["far"][key] for key in ("context_size", "size")], [None] * 2
        )
        self.bench.probe.said = {"context_size": 5, "size": 7}
        self.assertEqual([self.entries()["far"][key] for key in ("context_size", "size")], [5, 7])

    def test_a_meta_is_repeated_as_it_was_kept(self) -> None:
        self.bench.probe.said = {"meta": msgspec.Raw(b'{"n_ctx":5,"deep":[1]}')}
        self.assertEqual(self.entries()["far"]["meta"], {"n_ctx": 5, "deep": [1]})

    def test_one_is_found_by_its_name_an_alias_or_a_pattern(self) -> None:
        found = self.entries()
        for name in ("a", "gpt-4o", "o1"):
            self.assertEqual(self.get(f"/v1/models/{name}").json(), found[name])
        entry = self.get("/v1/models/gpt-5").json()
        self.assertEqual((entry["id"], entry["alias_of"], entry["size"]), ("gpt-5", "a", 17))
        self.assert_envelope(self.get("/v1/models/x"), 404)

    def test_one_that_a_reload_removes_meanwhile_is_unknown(self) -> None:
        models = self.bench.config.models
        for name in ("a", "gpt-5"):
            self.configure(*models)
            told: Deferred[dict[str, Any]] = Deferred()
            self.patch(self.bench.probe, "describe", lambda _, told=told: told)
            client = self.bench.client(request(path=f"/v1/models/{name}"))
            self.bench.reload(*models[1:])
            self.assertEqual(bytes(client.heard), b"")
            told.callback({})
            self.bench.settle()
            [answer] = answers(bytes(client.heard))
            self.assert_envelope(answer, 404)

    def test_the_router_s_list_has_each_model_once_with_what_only_the_gateway_knows(self) -> None:
        a, b, far = self.bench.config.models
        self.configure(msgspec.structs.replace(a, pinned=True), b, far)
        self.bench.probe.said = {"meta": {"n_params": 7}}
        self.bench.load("a")
        self.bench.hold_loads()
        self.bench.client(request({"model": "b"}))
        self.bench.crash("b", "exited with status 1", "out of memory", 1)
        for name in ("a", "a", "far", "far", "far"):
            self.bench.client(request({"model": name}))
        used = time.time()
        found = {entry["id"]: entry for entry in self.get("/models").json()["data"]}
        self.assertEqual([*found], ["a", "b", "far"])
        self.assertLess(abs(found["a"].pop("last_used") - used), 5)
        self.assertEqual(
            {**found["a"], "created": 0},
            {
                "id": "a", "aliases": ["gpt-4o"], "tags": [], "object": "model", "created": 0,
                "owned_by": "llamagw", "context_size": 4096, "size": 17, "meta": {"n_params": 7},
                "status": {"value": "loaded"}, "port": self.bench.engines.last("a").port,
                "in_flight": 2, "waiting": 0, "pinned": True, "load_sec": 0.0,
            },
        )  # fmt: skip
        error = "The model `b` cannot be loaded: llama-server exited with status 1: out of memory"
        self.assertLess(abs(found["b"]["status"].pop("failed_at") - used), 5)
        self.assertEqual(
            found["b"]["status"],
            {"value": "unloaded", "failed": True, "exit_code": 1, "error": error},
        )
        listed = self.entries()["b"]
        self.assertEqual((listed["status"], listed["error"]), ("failed", error))
        self.assertLess(abs(listed["failed_at"] - used), 5)
        told = [{"url": "http://far", "status": "loaded", "in_flight": 3}]
        self.assertEqual((found["far"]["replicas"], "replicas" in found["a"]), (told, False))

    def test_the_router_s_list_tells_memory_and_why_requests_wait(self) -> None:
        self.configure(*self.bench.config.models[:2])
        self.bench.load("a")
        self.bench.engines.last("a").in_use = Memory(5, 2, 3)
        self.bench.hold_loads()
        self.bench.client(request({"model": "b"}))
        self.bench.reactor.advance(7)
        found = {entry["id"]: entry for entry in self.get("/models").json()["data"]}
        self.assertEqual(found["a"]["memory"], {"rss": 5, "anon": 2, "file": 3})
        self.assertNotIn("waiting_for", found["a"])
        waits = [found["b"][key] for key in ("waiting", "waiting_sec", "waiting_for")]
        self.assertEqual(waits, [1, 7, "its load"])
        self.assertNotIn("memory", found["b"])


class OrderTests(ManagementTestCase):
    """POST /models/load and /models/unload."""

    def test_a_load_is_answered_at_once_and_goes_on(self) -> None:
        self.bench.hold()
        answer = self.post("/models/load", {"model": "small"})
        self.assertEqual((answer.status, answer.json()), (200, {"success": True}))
        self.assertEqual(self.bench.dispatcher.orders, [("load", "small")])
        self.assertEqual(self.bench.waiting, 1)
        self.bench.crash()
        self.assertEqual((self.bench.waiting, self.bench.in_flight), (0, 0))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_one_that_is_to_be_waited_for_is_answered_when_it_is_done(self) -> None:
        self.bench.hold()
        client = self.bench.client(request({"model": "small", "wait": True}, "/models/load"))
        self.bench.settle()
        self.assertEqual(bytes(client.heard), b"")
        self.bench.ready()
        self.assertEqual(self.bench.leases, (1, 0))
        [answer] = answers(bytes(client.heard))
        self.assertEqual(answer.json(), {"success": True})

    def test_who_waits_for_a_load_and_leaves_leaves_the_queue(self) -> None:
        self.bench.hold()
        client = self.bench.client(request({"model": "small", "wait": True}, "/models/load"))
        self.assertEqual(self.bench.waiting, 1)
        client.hangs_up()
        self.assertEqual(self.bench.waiting, 0)

    def test_why_a_load_failed_is_told_if_it_is_known(self) -> None:
        self.bench.hold()
        client = self.bench.client(request({"model": "small", "wait": True}, "/models/load"))
        self.bench.crash("small", "exited with status 1", "out of memory", 1)
        [waited] = answers(bytes(client.heard))
        for answer in (waited, self.post("/models/load", {"model": "small"})):
            self.assertIn(
                "out of memory", self.assert_envelope(answer, 503, open_to_all=False)["message"]
            )

    def test_one_that_does_not_fit_is_refused_with_the_figures(self) -> None:
        self.bench = counting_bench()
        self.bench.load("small")
        self.assertEqual(self.post("/models/pin", {"model": "small"}).status, 200)
        for wait in (True, False):
            answer = self.post("/models/load", {"model": "org/big", "wait": wait})
            error = self.assert_envelope(answer, 503, open_to_all=False)
            self.assertEqual(error["code"], "insufficient_memory")
            self.assertIn(
                "needs 9.0 GiB on host, and 10.0 GiB may be used there, of which pinned are "
                "`small` 3.0 GiB",
                error["message"],
            )

    def test_what_does_not_fit_is_loaded_if_it_is_to_be_anyway(self) -> None:
        self.bench = counting_bench()
        self.bench.load("small")
        self.post("/models/pin", {"model": "small"})
        body = {"model": "org/big", "wait": True, "anyway": True}
        self.assertEqual(self.post("/models/load", body).json(), {"success": True})
        self.assertEqual(self.bench.dispatcher.orders, [("load", "org/big", True)])
        account = self.get("/health").json()["memory"]["host"]
        # It is counted with what there is.
        self.assertEqual((account["ours"], account["free"]), (10 * GIB, 0))

    def test_an_unload_is_answered_when_the_model_is_gone(self) -> None:
        self.bench.engines.lingers = True
        client = self.bench.client(request({"model": "small"}, "/models/unload"))
        self.bench.settle()
        self.assertEqual(bytes(client.heard), b"")
        self.assertEqual(self.bench.engines.last("small").asked, ["stop"])
        self.bench.crash()
        [answer] = answers(bytes(client.heard))
        self.assertEqual(answer.json(), {"success": True})
        client = self.bench.client(request({"model": "org/big", "force": True}, "/models/unload"))
        self.bench.settle()
        self.assertEqual(answers(bytes(client.heard))[0].json(), {"success": True})
        self.assertEqual(self.bench.engines.last("org/big").asked, ["kill"])
        self.assertEqual(
            self.bench.dispatcher.orders, [("unload", "small", False), ("unload", "org/big", True)]
        )

    def test_what_is_wrong_with_an_order_is_told(self) -> None:
        for path in ("/models/load", "/models/unload", "/models/pin"):
            for body, said in (
                (b"", "it is empty"),
                (b"{}", "missing required field `model`"),
                (b"[]", "Expected `object`"),
                (b'{"model": 1}', "Expected `str`"),
                (b'{"model": "small", "wait": 1, "pinned": 1}', "Expected `bool`"),
                # An unload has no use for it.
                (b'{"model": "small", "anyway": "yes", "pinned": 1}', "Expected `bool`"),
                (b'{"model": "\xff"}', "JSON object"),
            ):
                error = self.assert_envelope(self.post(path, body), 400, open_to_all=False)
                self.assertIn(said, error["message"])
            error = self.assert_envelope(self.post(path, {"model": "smal"}), 404, open_to_all=False)
            self.assertIn("`small`", error["message"])
        self.assertEqual(self.bench.dispatcher.orders, [])


class PinTests(ManagementTestCase):
    """POST /models/pin."""

    def pinned(self) -> list[str]:
        return [entry["id"] for entry in self.get("/models").json()["data"] if entry["pinned"]]

    def test_a_model_is_pinned_and_unpinned_by_any_of_its_names(self) -> None:
        self.configure(local_model("a", aliases=["x"]), local_model("b"))
        for body in ({"model": "x"}, {"model": "a", "pinned": True}):
            answer = self.post("/models/pin", body)
            self.assertEqual((answer.status, answer.json()), (200, {"success": True}))
            self.assertEqual(self.pinned(), ["a"])
        self.assertEqual(self.post("/models/pin", {"model": "a", "pinned": False}).status, 200)
        self.assertEqual(self.pinned(), [])

    def test_what_cannot_be_pinned_is_told_why(self) -> None:
        self.configure(*map(local_model, "abc"), remote_model("far", Replica(url="http://far")))
        self.assertEqual(self.post("/models/pin", {"model": "a"}).status, 200)
        for model, said in (("b", "1 is pinned already"), ("far", "lives elsewhere")):
            answer = self.post("/models/pin", {"model": model})
            error = self.assert_envelope(answer, 400, open_to_all=False)
            self.assertIn(said, error["message"])
        self.assertEqual(self.pinned(), ["a"])

    def test_a_page_of_another_origin_pins_nothing(self) -> None:
        data = request({"model": "small"}, "/models/pin", headers=[("Origin", "http://evil")])
        [answer] = self.bench.asks(data)
        self.assert_envelope(answer, 403, open_to_all=False)
        self.assertEqual(self.pinned(), [])


class ModestOrderTests(ManagementTestCase):
    def test_loads_that_nobody_waits_for_take_one_place_in_the_queue(self) -> None:
        self.bench.hold()
        for name in ("small", "small", "org/big", "small"):
            self.assertEqual(self.post("/models/load", {"model": name}).status, 200)
        orders = [("load", "small"), ("load", "org/big")]
        self.assertEqual((self.bench.dispatcher.orders, self.bench.waiting), (orders, 2))
        self.bench.ready()
        self.bench.hold()
        self.assertEqual(self.post("/models/load", {"model": "small"}).status, 200)
        self.assertEqual(self.bench.dispatcher.orders, [*orders, ("load", "small")])
        self.assertEqual(self.bench.waiting, 1)

    def test_a_body_or_a_name_out_of_all_bounds_is_a_bad_request(self) -> None:
        for path in ("/models/load", "/models/unload", "/models/pin"):
            for name in ("x" * 257, "x" * 1_000_000):
                answer = self.post(path, {"model": name})
                error = self.assert_envelope(answer, 400, open_to_all=False)
                self.assertLess(len(error["message"]), 300)


class ChangesTests(ManagementTestCase):
    """GET /models/sse."""

    def setUp(self) -> None:
        super().setUp()
        self.bench = Bench(loaded=False)

    def changed(self, data: object) -> dict[str, object]:
        """How a change of `small` is told."""
        return {"model": "small", "event": "status_change", "data": data}

    def told(self, client: Wire) -> list[Any]:
        """What the client has heard since the last look, less the frames."""
        body = bytes(client.heard).partition(b"\r\n\r\n")[2]
        lines = [line for line in body.split(b"\n") if line.startswith(b"data: ")]
        client.heard.clear()
        client.heard += b"\r\n\r\n"
        return [json.loads(line[6:]) for line in lines]

    def test_first_comes_how_each_model_is_and_then_each_change(self) -> None:
        client = self.bench.client(request(path="/models/sse"))
        self.assertIn(b"Content-Type: text/event-stream", bytes(client.heard))
        self.assertEqual(
            self.told(client),
            [
                {"model": name, "event": "model_status", "data": {"status": "unloaded"}}
                for name in ("small", "org/big")
            ],
        )
        self.bench.hold_loads()
        done = self.bench.dispatcher.load("small")
        self.assertEqual(self.told(client), [self.changed({"status": "loading"})])
        self.bench.ready()
        self.successResultOf(done)
        self.assertEqual(self.told(client), [self.changed({"status": "loaded"})])
        self.bench.dispatcher.unload("small")
        self.assertEqual(self.told(client), [self.changed({"status": "stopping"})])
        self.bench.settle()
        stopped = self.changed({"status": "unloaded", "exit_code": 0})
        self.assertEqual(self.told(client), [stopped])
        done = self.bench.dispatcher.load("small")
        self.bench.crash("small", "was not started", "no")
        self.failureResultOf(done, ModelUnavailable)
        error = "The model `small` cannot be loaded: llama-server was not started: no"
        failed = {"status": "unloaded", "failed": True, "error": error}
        [loading, told] = self.told(client)
        self.assertLess(abs(told["data"].pop("failed_at") - time.time()), 5)
        self.assertEqual(
            [loading, told], [self.changed({"status": "loading"}), self.changed(failed)]
        )
        self.bench.reactor.advance(100)
        self.assertEqual(self.told(client), [], "it stays failed")
        [snapshot, _] = self.told(self.bench.client(request(path="/models/sse")))
        self.assertEqual(snapshot["data"]["error"], error)

    def test_how_far_a_load_is_is_told_once_a_second_and_once_more_at_its_end(self) -> None:
        self.bench.engines.usual["small"] = 12.0
        self.bench.hold_loads()
        self.bench.dispatcher.load("small")
        client = self.bench.client(request(path="/models/sse"))
        told = {
            "state": "loading",
            **{"elapsed_sec": 0.0, "usual_sec": 12.0, "done": None, "position": None},
            **{"waiting": 1, "waiting_sec": 0.0, "waiting_for": "its load"},
        }
        *_, first = self.told(client)
        self.assertEqual(first, {"model": "small", "event": "progress", "data": told})
        for seconds in (1.0, 2.0):
            for _ in range(4):
                self.bench.reactor.advance(0.25)
            [event] = self.told(client)
            self.assertEqual((event["data"]["elapsed_sec"], event["event"]), (seconds, "progress"))
        self.bench.ready()
        self.assertEqual(self.told(client), [self.changed({"status": "loaded"})])
        self.bench.reactor.advance(1)
        [last] = self.told(client)
        self.assertEqual((last["data"]["state"], last["data"]["waiting"]), ("loaded", 0))
        self.bench.reactor.advance(10)
        self.assertEqual(self.told(client), [])

    def test_one_that_is_not_waited_for_any_more_is_told_too(self) -> None:
        self.bench = Bench(loaded=False, max_loaded_models=1)
        self.bench.load("org/big")
        self.bench.dispatcher.acquire("org/big")
        waiting = self.bench.dispatcher.acquire("small").addErrback(lambda _: None)
        client = self.bench.client(request(path="/models/sse"))
        data = self.told(client)[-1]["data"]
        self.assertEqual((data["state"], data["position"]), ("waiting", 1))
        self.assertEqual(data["waiting_for"], "room: `org/big` is busy")
        waiting.cancel()
        self.bench.reactor.advance(1)
        data = self.told(client)[-1]["data"]
        self.assertEqual((data["state"], data["waiting"]), ("unloaded", 0))

    def test_who_reads_slowly_gets_no_snapshot_for_progress_that_it_missed(self) -> None:
        client = self.bench.client(request(path="/models/sse"))
        self.bench.hold_loads()
        self.bench.dispatcher.load("small")
        self.told(client)
        client.stalls()
        while not self.bench.api._management._feeds._open.copy().pop()._paused:
            self.bench.reactor.advance(1)
        missed = client.most_waiting
        for _ in range(50):
            self.bench.reactor.advance(1)
        self.assertEqual(client.most_waiting, missed)
        client.reads_on()
        self.assertEqual({event["event"] for event in self.told(client)}, {"progress"})

    def test_while_nobody_watches_nothing_is_looked_at(self) -> None:
        self.bench.hold_loads()
        self.bench.dispatcher.load("small")
        client = self.bench.client(request(path="/models/sse"))
        client.hangs_up()
        self.bench.settle()
        self.patch(self.bench.dispatcher, "progress", None)
        self.bench.reactor.pump([1.0] * 5)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_silent_time_has_signs_of_life(self) -> None:
        client = self.bench.client(request(path="/models/sse"))
        client.heard.clear()
        self.bench.reactor.advance(PING_SEC)
        self.assertIn(b"\n: still here\n\n", b"\n" + bytes(client.heard))

    def test_it_ends_with_the_gateway(self) -> None:
        client = self.bench.client(request(path="/models/sse"))
        self.bench.dispatcher.drain()
        self.bench.settle()
        self.assertTrue(bytes(client.heard).endswith(b"0\r\n\r\n"))
        self.assertEqual(len(self.bench.reactor.getDelayedCalls()), 1, "the idle connection's")

    def test_nothing_is_left_of_one_whose_client_left(self) -> None:
        before = len(self.bench.reactor.getDelayedCalls())
        client = self.bench.client(request(path="/models/sse"))
        client.hangs_up()
        self.bench.settle()
        self.assertEqual(len(self.bench.reactor.getDelayedCalls()), before)
        heard = bytes(client.heard)
        self.bench.load("small")
        self.assertEqual(bytes(client.heard), heard)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_one_who_reads_slowly_is_brought_up_to_date_when_it_reads_on(self) -> None:
        client = self.bench.client(request(path="/models/sse"))
        self.told(client)
        client.stalls()
        for _ in range(1250):  # each is four changes
            self.bench.dispatcher.load("small")
            self.bench.reactor.advance(0)
            self.bench.dispatcher.unload("small")
            self.bench.reactor.advance(0)
        self.assertEqual(len(self.bench.engines.runs), 1250)
        self.assertLess(client.most_waiting, 100_000)
        self.bench.load("small")
        client.reads_on()
        last = self.told(client)[-2:]
        self.assertEqual([e["data"]["status"] for e in last], ["loaded", "unloaded"])

    def test_very_many_models_are_told_in_one_piece_and_once(self) -> None:
        self.bench = Bench([f"model-{n}" for n in range(5000)], loaded=False)
        client = self.bench.client()
        client.stalls()
        client.says(request(path="/models/sse"))
        client.reads_on()
        self.bench.settle()
        self.assertEqual(len(self.told(client)), 5000)

    def test_one_too_many_who_follow_is_told_so_and_there_is_room_when_one_leaves(self) -> None:
        paths = ("/models/sse", "/models/logs?model=small&follow=true")
        clients = [self.bench.client(request(path=paths[n % 2])) for n in range(MOST_FOLLOWERS)]
        for path in paths:
            error = self.assert_envelope(self.get(path), 503, open_to_all=False)
            self.assertEqual(error["code"], "server_busy")
        clients[1].hangs_up()
        self.bench.settle()
        self.assertIn(b" 200 ", bytes(self.bench.client(request(path=paths[0])).heard))


class LogTests(ManagementTestCase):
    """GET /models/logs."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(time, "strftime", lambda *_: "14:03:07")

    def test_the_last_lines_are_told_as_text(self) -> None:
        for line in ("one", "zwei ß", "3"):
            self.bench.dispatcher.log("small").add(line)
        answer = self.get("/models/logs?model=small")
        self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(answer.body.decode(), "14:03:07 one\n14:03:07 zwei ß\n14:03:07 3\n")
        self.assertEqual(self.get("/models/logs?model=org/big").body, b"")
        for lines, body in ((0, b""), (1, b"14:03:07 3\n"), (99, answer.body)):
            self.assertEqual(self.get(f"/models/logs?model=small&lines={lines}").body, body)
        for wrong in ("-2", "x", "", "1.5", "9999999999"):
            self.assert_envelope(
                self.get(f"/models/logs?model=small&lines={wrong}"), 400, open_to_all=False
            )

    def test_who_follows_hears_each_line_until_the_gateway_ends(self) -> None:
        log = self.bench.dispatcher.log("small")
        log.add("one")
        log.add("two")
        path = "/models/logs?model=small&follow=true&lines=1"
        client = self.bench.client(request(path=path))
        self.bench.dispatcher.unload("small")  # which is no line of the log
        self.bench.settle()
        log.add("three")
        self.bench.dispatcher.drain()
        log.add("four")
        [answer] = answers(bytes(client.heard))
        self.assertEqual((answer.body, answer.whole), (b"14:03:07 two\n14:03:07 three\n", True))

    def test_who_does_not_read_is_told_that_lines_are_missing(self) -> None:
        log = self.bench.dispatcher.log("small")
        client = self.bench.client(request(path="/models/logs?model=small&follow=true"))
        client.stalls()
        for _ in range(2000):
            log.add("x" * 100)
        self.assertLess(client.most_waiting, 100_000)
        client.reads_on()
        self.assertIn(b"[lines were left out here", bytes(client.heard))

    def test_all_models_logs_are_told_with_their_names(self) -> None:
        for name, line in (("small", "one"), ("org/big", "two"), ("small", "three")):
            self.bench.dispatcher.log(name).add(line)
        one, two, three = b"14:03:07 one\n", b"14:03:07 two\n", b"14:03:07 three\n"
        told = self.get("/models/logs?all=true").body
        self.assertEqual(told, b"small\t%bsmall\t%borg/big\t%b" % (one, three, two))
        told = self.get("/models/logs?all=true&lines=1").body
        self.assertEqual(told, b"small\t%borg/big\t%b" % (three, two))
        self.patch(feeds, "MOST_LINES", 3)
        self.assertEqual(self.get("/models/logs?all=true").body, told, "they share the room")
        wrong = self.get("/models/logs?all=true&model=small")
        self.assert_envelope(wrong, 400, open_to_all=False)

    def test_who_follows_all_hears_a_model_that_runs_later(self) -> None:
        self.bench = Bench(loaded=False)
        small, big = map(self.bench.dispatcher.log, ("small", "org/big"))
        small.add("one")
        client = self.bench.client(request(path="/models/logs?all=true&follow=true"))
        self.bench.hold_loads()
        big.add("two")
        self.bench.dispatcher.load("org/big").addErrback(lambda _: None)
        big.add("three")
        small.add("four")
        self.bench.dispatcher.drain()
        small.add("five")
        [answer] = answers(bytes(client.heard))
        lines = [line.split("\t14:03:07 ") for line in answer.body.decode().splitlines()]
        told = [["small", "one"], ["org/big", "two"], ["org/big", "three"], ["small", "four"]]
        self.assertEqual((lines, answer.whole), (told, True))

    def test_without_a_model_or_with_an_unknown_one_it_is_an_error(self) -> None:
        for query in ("", "&follow=true"):
            self.assert_envelope(self.get(f"/models/logs?{query}"), 400, open_to_all=False)
            self.assert_envelope(self.get(f"/models/logs?model=x{query}"), 404, open_to_all=False)
