"""Promises of llamagw.api: what is at which path, and what is said where nothing is.

The real tree in memory (support/bench.py), on the real fleet.
"""

from __future__ import annotations

import time

import msgspec

from llamagw import __version__
from llamagw.dialects import BODIES, OWN, ROUTES, Scope, Where, dialect_of, scope_of
from llamagw.launch import Need, Reading
from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import CHAT, Answer, answers, request

#: POST, by the model in the body.
INFERENCE = [path for route in ROUTES if route.where is Where.BODY for path in route.paths]


GIB = 2**30


def counting_bench() -> Bench:
    """One that counts bytes, on a machine with a GPU, none of whose models is loaded."""
    bench = Bench(
        loaded=False, max_loaded_models=None, memory={"host": "10GiB"}, memory_reserve="1GiB"
    )
    # Of 3 GiB in RAM one is mapped from a file.
    own = {"host": 2 * GIB, "CUDA0": 5 * GIB}
    small = Need(devices=own, files={"8:1": GIB}, source="learned")
    bench.engines.needs = {
        "small": [small],
        "org/big": [Need(devices={"host": 9 * GIB})],
    }
    bench.engines.readings = {
        "host": Reading(16 * GIB, 2 * GIB),
        "CUDA0": Reading(8 * GIB, None),
    }
    bench.dispatcher.apply(bench.config)
    return bench


class ApiTestCase(BenchTestCase):
    def get(self, path: str, method: str = "GET") -> Answer:
        [answer] = self.bench.asks(request(path=path, method=method))
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "*")
        return answer

    def post(self, body: bytes, path: str = CHAT) -> Answer:
        [answer] = self.bench.asks(request(body, path=path))
        return answer


class HealthTests(ApiTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.bench = Bench(loaded=False)

    def test_it_tells_how_the_gateway_is(self) -> None:
        self.bench.reactor.advance(12.5)
        answer = self.get("/health")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        self.assertEqual(
            answer.json(),
            {
                "status": "ok",
                "version": __version__,
                "uptime_sec": 12.5,
                "max_loaded_models": 2,
                "devices": msgspec.to_builtins(self.bench.devices.read()),
                "models": [],
            },
        )

    def test_where_bytes_are_counted_there_is_no_limit_of_models(self) -> None:
        self.bench = Bench(memory="auto", max_loaded_models=None)
        self.assertIsNone(self.get("/health").json()["max_loaded_models"])

    def test_where_bytes_are_counted_it_tells_of_each_device(self) -> None:
        self.bench = counting_bench()
        self.bench.load("small")
        self.assertEqual(
            self.get("/health").json()["memory"],
            {
                "host": {
                    **{"device": "host", "total": 16 * GIB, "budget": 10 * GIB},
                    **{"reserve": 6 * GIB, "ours": 3 * GIB, "others": 2 * GIB, "free": 7 * GIB},
                },
                "CUDA0": {
                    **{"device": "CUDA0", "total": 8 * GIB, "budget": 7 * GIB},
                    # Its driver does not tell what is in use.
                    **{"reserve": GIB, "ours": 5 * GIB, "others": 0, "free": 2 * GIB},
                },
            },
        )

    def test_what_a_model_is_counted_with_is_told_of_it(self) -> None:
        self.bench = counting_bench()
        self.bench.load("small")
        [told] = self.get("/health").json()["models"]
        listed = {model["id"]: model for model in self.get("/models").json()["data"]}
        for model in (told, listed["small"]):
            self.assertEqual(model["charge"], {"host": 3 * GIB, "CUDA0": 5 * GIB})
            self.assertEqual(model["charge_from"], "learned")
        self.assertNotIn("charge", listed["org/big"])

    def test_it_tells_of_models_in_memory_on_their_way_or_failed_and_of_no_others(self) -> None:
        names = ("idle", "busy", "coming", "wanted", "going", "broken")
        self.bench = Bench(names, loaded=False, max_loaded_models=3)
        self.bench.load("idle")
        self.bench.dispatcher.unload("idle")
        self.bench.settle()
        self.bench.load("busy", "going")
        before = time.time()
        for _ in range(3):
            self.bench.client(request({"model": "busy"}))
        self.bench.hold_loads()
        self.bench.client(request({"model": "broken"}))
        self.bench.crash("broken")
        self.bench.engines.lingers = True
        self.bench.dispatcher.unload("going")
        for _ in range(2):
            self.bench.client(request({"model": "coming"}))
        self.bench.client(request({"model": "wanted"}))
        found = self.get("/health").json()["models"]
        self.assertEqual([m["id"] for m in found], ["busy", "coming", "wanted", "going", "broken"])
        self.assertIn("was killed by SIGKILL", found[-1]["error"])
        self.assertGreaterEqual(found.pop()["failed_at"], int(before))
        self.assertGreaterEqual(found[0].pop("last_used"), before - 1)
        port = self.bench.engines.last("busy").port
        self.assertEqual(
            found[0],
            {
                **{"id": "busy", "status": "loaded", "port": port},
                **{"in_flight": 3, "waiting": 0, "load_sec": 0.0},
            },
        )
        told = [(m["status"], m["in_flight"], m["waiting"], m["port"]) for m in found[1:]]
        coming, going = (self.bench.engines.last(name).port for name in ("coming", "going"))
        self.assertEqual(
            told,
            [("loading", 0, 2, coming), ("unloaded", 0, 1, None), ("stopping", 0, 0, going)],
        )
        holds = "room: `busy` is busy, `coming` is loading, `going` is stopping"
        self.assertEqual([m.get("waiting_for") for m in found], [None, "its load", holds, None])
        self.assertGreaterEqual(found[1]["waiting_sec"], 0)

    def test_a_slash_too_many_at_the_end_does_no_harm(self) -> None:
        for path in ("/health/", "/v1/models/"):
            self.assertEqual(self.get(path).json(), self.get(path[:-1]).json())

    def test_it_asks_for_no_model(self) -> None:
        for path in ("/health", "/v1/models", "/v1/models/small"):
            self.assertEqual(self.get(path).status, 200)
        self.assertEqual((self.bench.asked, self.bench.connects), ([], 0))


class ModelsTests(ApiTestCase):
    def test_all_that_are_configured_are_listed_each_with_its_status(self) -> None:
        statuses = ["unloaded", "loading", "loaded", "failed", "stopping"]
        names = [f"m-{s}" for s in statuses]
        self.bench = Bench(names, loaded=False, max_loaded_models=5)
        self.bench.load("m-loaded", "m-stopping")
        self.bench.hold_loads()
        self.bench.client(request({"model": "m-failed"}))
        self.bench.crash("m-failed")
        self.bench.client(request({"model": "m-loading"}))
        self.bench.engines.lingers = True
        self.bench.dispatcher.unload("m-stopping")
        self.assertEqual([r.status for r in self.bench.dispatcher.report()], statuses)
        found = self.get("/v1/models").json()
        self.assertEqual(found["object"], "list")
        self.assertEqual(
            [(m["id"], m["status"]) for m in found["data"]],
            [
                ("m-unloaded", "unloaded"),
                ("m-loading", "loading"),
                ("m-loaded", "loaded"),
                ("m-failed", "failed"),
                ("m-stopping", "unloaded"),
            ],
        )
        for model in found["data"]:
            self.assertEqual(model["object"], "model")
            self.assertIsInstance(model["created"], int)
            self.assertIsInstance(model["owned_by"], str)

    def test_one_is_what_the_list_says_of_it(self) -> None:
        listed = self.get("/v1/models").json()["data"]
        self.assertEqual(self.get("/v1/models/small").json(), listed[0])

    def test_a_name_with_a_slash_is_found_written_either_way(self) -> None:
        for path in ("/v1/models/org/big", "/v1/models/org%2Fbig", "/v1/models/org%2fbig"):
            self.assertEqual(self.get(path).json()["id"], "org/big", path)

    def test_names_that_need_quoting_are_found(self) -> None:
        names = ["a b", "q4:k_m", "ß-1", "50%", "x?y", "a+b"]
        quoted = ["a%20b", "q4:k_m", "%C3%9F-1", "50%25", "x%3Fy", "a+b"]
        self.bench = Bench(names)
        for name, path in zip(names, quoted, strict=True):
            self.assertEqual(self.get(f"/v1/models/{path}").json()["id"], name, path)

    def test_one_that_is_not_there_is_told_with_those_that_are(self) -> None:
        error = self.assert_envelope(self.get("/v1/models/smal"), 404)
        self.assertEqual((error["code"], error["param"]), ("model_not_found", "model"))
        for word in ("`smal`", "Did you mean `small`?", "`org/big`"):
            self.assertIn(word, error["message"])


class WrongTurnTests(ApiTestCase):
    """Whatever is asked, the answer is an envelope that says what would be right."""

    def test_an_unknown_path_names_a_few_that_are_known_and_where_all_are(self) -> None:
        for path in ("/", "/index", "/api/tags"):
            error = self.assert_envelope(self.get(path), 404)
            self.assertEqual(error["code"], "path_not_found")
            self.assertLess(len(error["message"]), 250)
            for word in (f"nothing at {path}.", "/v1/chat/completions", "/v1/models", "docs/"):
                self.assertIn(word, error["message"])
            self.assertEqual(self.assert_envelope(self.post(b"{}", path), 404), error)

    def test_what_the_table_says_the_gateway_answers_itself_it_does(self) -> None:
        for method, path, _, _ in OWN:
            target = path.replace("{id}", "small")
            client = self.bench.client(request(b"" if method == "POST" else None, target, method))
            self.bench.settle()
            # Some want more of a request than that; none is a wrong turn, but for a page.
            [answer] = answers(bytes(client.heard), method)
            wanted = {"/": [404], "/activity/{id}": [404], "/activity/{id}/cancel": [404]}
            wanted["/ui/logout"] = [204]
            self.assertIn(answer.status, wanted.get(path, [200, 400]), path)
            if answer.status == 404 and path != "/":
                self.assertEqual(answer.json()["error"]["code"], "not_found", path)
        self.assertEqual(self.bench.connects, 0)

    def test_a_path_that_is_nearly_right_names_the_right_one(self) -> None:
        for path, meant in (
            ("/v1/chat/completion", "/v1/chat/completions"),
            ("/v2/models", "/v1/models"),
            ("/V1/Models", "/v1/models"),
            ("/v1/chat", "/v1/chat/completions"),
            ("/upstream", "/upstream/{model}/"),
            ("/v1/v1/chat/completions", "/v1/chat/completions"),
            ("/healthy", "/health"),
            ("/v1/message", "/v1/messages"),
        ):
            error = self.assert_envelope(self.get(path), 404)
            self.assertIn(f"Did you mean {meant}", error["message"])
            self.assertLessEqual(error["message"].partition("?")[0].count(" or "), 2)

    def test_a_doubled_slash_is_not_redirected(self) -> None:
        for path in ("/v1//models", "/v1/chat//completions"):
            answer = self.get(path)
            self.assertIn(answer.status, (404, 405))
            self.assert_envelope(answer, answer.status)

    def test_a_wrong_method_names_the_right_ones(self) -> None:
        for path in INFERENCE:
            for method in ("GET", "PUT", "DELETE", "PATCH", "BREW"):
                if (method, path) == ("GET", "/props"):
                    continue
                answer = self.get(path, method)
                dialect = dialect_of(path.encode())
                self.assert_envelope(answer, 405, dialect)
                allowed = "GET, HEAD, OPTIONS, POST" if path == "/props" else "OPTIONS, POST"
                self.assertEqual(answer.headers["Allow"], allowed)
        for path in ("/v1/models", "/health", "/v1/models/small"):
            answer = self.get(path, "DELETE")
            self.assert_envelope(answer, 405)
            self.assertEqual(answer.headers["Allow"], "GET, HEAD, OPTIONS")
            answer = self.post(b'{"model":"small"}', path)
            self.assert_envelope(answer, 405)
        self.assertEqual(self.bench.asked, [])

    def test_a_wrong_method_is_told_what_to_send(self) -> None:
        posts = [route for route in ROUTES if route.methods == ("POST",)]
        for path in (path for route in posts for path in route.paths):
            said = self.get(path.replace("{id}", "0"), "DELETE").json()["error"]["message"]
            self.assertRegex(said, r"^DELETE is not possible at .*\. Send (GET or )?POST")
            if path not in BODIES:
                continue
            self.assertIn(f" with a body such as {BODIES[path]}.", said)
            example = BODIES[path].replace(", …", "")
            if example.startswith("{") and example.endswith("}"):
                # It is what the path takes: a model of that name is looked for.
                error = self.post(example.encode(), path).json()["error"]
                self.assertIn("The model `…` does not exist", error["message"])
        for path in ("/models/load", "/models/unload"):
            [answer] = self.bench.asks(request(path=path))
            message = answer.json()["error"]["message"]
            self.assertIn('Send POST with a body such as {"model": "…"}.', message)
        error = self.assert_envelope(self.get("/v1/models/" + "x" * 1000, "DELETE"), 405)
        self.assertRegex(error["message"], r"^DELETE is not possible at .{64}\. Send GET\.$")

    def test_a_path_that_is_not_utf_8_is_a_bad_request(self) -> None:
        for path in ("/v1/models/%FF", "/%ff%fe", "/v1/models/%C3", "/%80/health"):
            self.assert_envelope(self.get(path), 400)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_query_of_any_bytes_does_no_harm(self) -> None:
        for query in (b"model=%C3%9F", b"x=%ff&y=%", b"&&==&%00", b"+%+"):
            [answer] = self.bench.asks(request(path="/health?Q").replace(b"Q", query))
            self.assertEqual(answer.status, 200, query)
            client = self.bench.client(
                request({"model": "small"}, CHAT + "?Q").replace(b"Q", query)
            )
            self.bench.settle()
            self.assertEqual(bytes(client.heard), b"", query)
        self.assertEqual(self.bench.connects, 4)

    def test_a_host_that_is_not_utf_8_does_no_harm(self) -> None:
        for path in ("/health", "/nothing"):
            says = request(path=path).replace(b"Host: gateway", b"Host: \xff\xfe")
            [answer] = self.bench.asks(says)
            self.assertIn("application/json", answer.headers["Content-Type"])
            self.assertIsInstance(answer.json(), dict)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_star_is_no_path_for_anything_but_options(self) -> None:
        answer = self.get("*")
        self.assertIn(answer.status, (400, 404, 405))
        self.assert_envelope(answer, answer.status)


class BodyTests(ApiTestCase):
    def test_a_body_that_names_no_model_is_a_bad_request_at_each_path(self) -> None:
        for path in INFERENCE:
            for body, said in (
                (b"", "empty"),
                (b"{", "not JSON"),
                (b"[1]", "object"),
                (b"{}", "no `model`"),
                (b'{"model": 7}', "string"),
            ):
                dialect = dialect_of(path.encode())
                open_to_all = scope_of("POST", path) is Scope.INFER
                error = self.assert_envelope(self.post(body, path), 400, dialect, open_to_all)
                self.assertEqual(error["type"], "invalid_request_error")
                self.assertIn(said, error["message"])
        self.assertEqual(self.bench.asked, [])

    def test_bytes_that_are_no_text_are_a_bad_request(self) -> None:
        for body in (b'{"model": "\xff"}', b'\xff{"model": "small"}', b"\0" * 10):
            error = self.assert_envelope(self.post(body), 400)
            self.assertEqual(error["type"], "invalid_request_error")
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_body_nested_without_end_is_a_bad_request(self) -> None:
        deep = b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b',"model":"small"}'
        self.assert_envelope(self.post(deep), 400)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_an_unknown_model_is_told_with_those_that_exist(self) -> None:
        for path in INFERENCE:
            answer = self.post(b'{"model": "gpt-4"}', path)
            open_to_all = scope_of("POST", path) is Scope.INFER
            error = self.assert_envelope(answer, 404, dialect_of(path.encode()), open_to_all)
            for name in ("`gpt-4`", "`small`", "`org/big`"):
                self.assertIn(name, error["message"])
        self.assertEqual(self.bench.connects, 0)

    def test_the_connection_goes_on_after_each_error(self) -> None:
        says = [request(b"{"), request(path="/nothing"), request(b'{"model":"x"}')]
        found = self.bench.asks(*says, request(path="/health"))
        self.assertEqual([a.status for a in found], [400, 404, 404, 200])

    def test_a_trailing_slash_or_an_odd_spelling_of_a_path_is_relayed_or_refused(self) -> None:
        for path in (CHAT + "/", "/v1/chat%2Fcompletions", "/v1/%63hat/completions"):
            before = self.bench.connects
            client = self.bench.client(request(b'{"model":"small"}', path=path))
            self.bench.settle()
            if self.bench.connects == before:
                self.assertRegex(bytes(client.heard), rb"^HTTP/1.1 404 ")
            client.hangs_up()
            self.bench.settle()
