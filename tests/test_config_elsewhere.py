"""The configuration of models that live elsewhere: `url:` and `replicas:`."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from llamagw.settings import Origin, Replica, origin
from tests.test_config import ConfigCase

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


class ElsewhereTests(ConfigCase):
    def text(self, *models: dict[str, Any], **gateway: Any) -> str:
        whole = [{"name": f"m{n}", **model} for n, model in enumerate(models)]
        return json.dumps({"llama_server_path": "./llama-server", "models": whole, **gateway})

    def replicas(self, model: dict[str, Any]) -> list[Replica]:
        [loaded] = self.load(self.text(model)).models
        self.assertTrue(loaded.elsewhere)
        return loaded.replicas

    def one_fault(self, model: dict[str, Any]) -> str:
        [said] = self.faults(self.text(model))
        return said.removeprefix("config.yaml:1: ")

    def test_one_url_several_and_replicas_come_to_the_same(self) -> None:
        a, b = "http://10.0.0.1:8000", "https://b.example/v1"
        self.assertEqual(self.replicas({"url": a}), [Replica(url=a)])
        self.assertEqual(self.replicas({"url": [a, b]}), [Replica(url=a), Replica(url=b)])
        listed = self.replicas({"replicas": [{"url": a}, {"url": b, "upstream_model": "x"}]})
        self.assertEqual(listed, [Replica(url=a), Replica(url=b, upstream_model="x")])

    def test_what_stands_beside_url_is_for_each_of_them(self) -> None:
        model = {"url": ["http://a", "http://b"], "api_key": "k", "upstream_model": "x"}
        for replica in self.replicas(model):
            self.assertEqual((replica.api_key, replica.upstream_model), ("k", "x"))

    def test_a_key_comes_from_the_environment(self) -> None:
        model = {"url": "http://a", "api_key_env": "LLAMAGW_TEST_KEY"}
        with mock.patch.dict("os.environ", {"LLAMAGW_TEST_KEY": "secret"}):
            self.assertEqual(self.replicas(model)[0].api_key, "secret")
        self.assertIn(
            "models[0].api_key_env: the environment has no LLAMAGW_TEST_KEY", self.one_fault(model)
        )

    def test_a_key_with_nothing_behind_it_is_as_if_it_was_not_there(self) -> None:
        nothing = {"api_key": None, "api_key_env": None, "ca_file": None, "upstream_model": None}
        self.assertEqual(self.replicas({"url": "https://a", **nothing}), [Replica(url="https://a")])
        listed = self.replicas({"replicas": [{"url": "https://a", **nothing}]})
        self.assertEqual(listed, [Replica(url="https://a")])

    def test_what_is_wrong_beside_several_urls_is_said_once(self) -> None:
        model = {"url": ["http://a", "http://b"], "api_key_env": "LLAMAGW_TEST_KEY"}
        self.assertIn("the environment has no", self.one_fault(model))

    def test_what_stands_beside_url_is_the_replicas_alone(self) -> None:
        [model] = self.load(self.text({"url": "http://a", "api_key": "k"})).models
        self.assertEqual((model.url, model.api_key, model.replicas[0].api_key), ([], None, "k"))

    def test_a_ca_file_counts_from_the_configurations_folder(self) -> None:
        (self.folder / "ca.pem").write_text(PEM)
        for model in (
            {"url": "https://a", "ca_file": "ca.pem"},
            {"replicas": [{"url": "https://a", "ca_file": "ca.pem"}]},
        ):
            self.assertEqual(self.replicas(model)[0].ca_file, str(self.folder / "ca.pem"))

    def test_no_engine_is_needed_where_all_models_live_elsewhere(self) -> None:
        text = json.dumps({"models": [{"name": "a", "url": "http://a"}]})
        self.assertEqual(self.load(text).llama_server_path, "")
        mixed = {"models": [{"name": "a", "url": "http://a"}, {"name": "b", "model_path": "x"}]}
        self.assertIn("llama_server_path: is missing", self.faults(json.dumps(mixed))[0])

    def test_tls_is_known_of(self) -> None:
        for models, address, tls in (
            ([{"url": "http://a"}], ":1", False),
            ([{"url": ["http://a", "https://b"]}], ":1", True),
            ([{"url": "HTTPS://a"}], ":1", True),
            ([{"url": "http://a"}], "ssl:1:privateKey=a", True),
            ([{"url": "http://a"}], " ssl:1:privateKey=a", True),
        ):
            config = self.load(self.text(*models, listen_addr=address))
            self.assertEqual(config.uses_tls, tls)

    def test_they_take_no_room(self) -> None:
        models: list[dict[str, Any]] = [{"url": "http://a"}, {"url": "http://b"}]
        models.append({"model_path": "x", "pinned": True})
        self.assertEqual(len(self.load(self.text(*models, max_loaded_models=1)).models), 3)

    def test_each_thing_that_is_wrong_is_told_at_its_place(self) -> None:
        for model, said in (
            ({}, "models[0].model_path: is missing; the path of a file is needed (or url:"),
            ({"url": "http://a", "model_path": "x"}, "models[0].url: does not go together with"),
            (
                {"url": "http://a", "replicas": [{"url": "http://b"}]},
                "models[0].replicas: does not",
            ),
            ({"url": []}, "models[0].url: is an empty list"),
            ({"replicas": []}, "models[0].replicas: is an empty list"),
            ({"url": 7}, "models[0].url: expected a URL such as"),
            ({"url": "10.0.0.1:8000"}, "models[0].url: "),
            ({"url": ["http://a", "ftp://b"]}, "models[0].url[1]: 'ftp://b' begins with neither"),
            ({"replicas": "http://a"}, "models[0].replicas: expected a list such as"),
            ({"replicas": ["http://a"]}, 'models[0].replicas[0]: expected keys such as "url: …"'),
            ({"replicas": [{}]}, "models[0].replicas[0].url: is missing"),
            ({"replicas": [{"url": "x"}]}, "models[0].replicas[0].url: 'x' begins with neither"),
            ({"replicas": [{"url": "http://a", "k": 1}]}, "models[0].replicas[0].k: unknown key"),
            (
                {"replicas": [{"url": "http://a"}], "api_key": "x"},
                "models[0].api_key: goes with url",
            ),
            ({"model_path": "x", "api_key": "x"}, "models[0].api_key: goes with url"),
            ({"url": "http://a", "gpu_layers": 1}, "models[0].gpu_layers: is for a model that"),
            ({"url": "http://a", "preload": True}, "models[0].preload: is for a model that"),
            ({"url": "http://a", "ca_file": "x"}, "models[0].ca_file: is for https"),
            ({"url": "https://a", "ca_file": "x"}, "models[0].ca_file: "),
            ({"url": "http://a", "api_key": "ß"}, "models[0].api_key: has characters"),
            ({"url": "http://a", "paths": ["/x"]}, "models[0].paths: is for a server that gets"),
            ({"url": "http://a", "api_key": "k", "paths": ["x"]}, "models[0].paths: expected a"),
        ):
            self.assertTrue(self.one_fault(model).startswith(said), (model, self.one_fault(model)))
        (self.folder / "no.pem").write_text("nothing")
        self.assertIn("no certificate", self.one_fault({"url": "https://a", "ca_file": "no.pem"}))


class OriginTests(SynchronousTestCase):
    def test_a_url_is_taken_apart(self) -> None:
        for url, found in (
            ("http://a", Origin(False, "a", 80, "")),
            ("https://a.b:8443/", Origin(True, "a.b", 8443, "")),
            ("https://a/v1", Origin(True, "a", 443, "")),
            ("http://a:1/api/v1/", Origin(False, "a", 1, "/api")),
            ("http://[::1]:8000/x", Origin(False, "::1", 8000, "/x")),
            ("HTTP://A:80", Origin(False, "a", 80, "")),
        ):
            self.assertEqual(origin(url), found)

    def test_what_is_none_is_told(self) -> None:
        for url in (
            "a", "a:80", "//a", "http://", "http:///x", "http://a:x", "http://a:99999", "http://a:0",
            "http://a b", "http://u:p@a", "http://a?x", "http://a#x", "http://a/ß", "http://[::1",
            "unix:/x", "ws://a",
        ):  # fmt: skip
            self.assertRaises(ValueError, origin, url)
