"""Promises of the configuration of remote models: `url:` and `replicas:`."""

from __future__ import annotations

import json
import os
import pickle
from typing import Any
from unittest import mock

from llamagw.config import RemoteModel, Replica
from tests.config.support import ConfigCase
from tests.support.configs import local_model, remote_model

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


class RemoteTests(ConfigCase):
    def text(self, *models: dict[str, Any], **gateway: Any) -> str:
        whole = [{"name": f"m{n}", **model} for n, model in enumerate(models)]
        return json.dumps({"llama_server_path": "./llama-server", "models": whole, **gateway})

    def replicas(self, model: dict[str, Any]) -> list[Replica]:
        [loaded] = self.load(self.text(model)).models
        assert loaded.remote
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

    def test_what_is_wrong_beside_several_urls_is_said_once(self) -> None:
        model = {"url": ["http://a", "http://b"], "api_key_env": "LLAMAGW_TEST_KEY"}
        self.assertIn("the environment has no", self.one_fault(model))

    def test_what_stands_beside_url_is_the_replicas_alone(self) -> None:
        [model] = self.load(self.text({"url": "http://a", "api_key": "k", "paths": ["*"]})).models
        expected = remote_model("m0", Replica(url="http://a", api_key="k"), paths=["*"])
        self.assertEqual(model, expected)
        keys = {"name", "replicas", "paths", "aliases", "pass_headers", "max_in_flight"}
        keys |= {"set_params", "default_params", "strip_params", "json_object"}
        self.assertEqual(set(RemoteModel.__struct_fields__), keys)

    def test_a_key_that_is_given_as_nothing_is_not_given(self) -> None:
        nothing = dict.fromkeys(("api_key", "api_key_env", "ca_file", "upstream_model"))
        self.assertEqual(self.replicas({"url": "https://a", **nothing}), [Replica(url="https://a")])
        listed = {"replicas": [{"url": "https://a", **nothing}]}
        self.assertEqual(self.replicas(listed), [Replica(url="https://a")])

    def test_a_remote_model_is_never_a_local_one_and_none_is_pinned(self) -> None:
        far = remote_model("a", Replica(url="http://a"))
        self.assertEqual((far.remote, local_model("a").remote), (True, False))
        self.assertNotEqual(far, local_model("a"))
        self.assertEqual((far.pinned, far.preload, far.idle_unload_sec), (False, False, 0))

    def test_a_configuration_crosses_processes_and_is_the_same_there(self) -> None:
        models: list[dict[str, Any]] = [{"url": "http://a", "api_key": "k"}, {"model_path": "x"}]
        config = self.load(self.text(*models))
        self.assertEqual(pickle.loads(pickle.dumps(config)), config)

    def test_a_ca_file_counts_from_the_configurations_folder(self) -> None:
        (self.folder / "ca.pem").write_text(PEM)
        for model in (
            {"url": "https://a", "ca_file": "ca.pem"},
            {"replicas": [{"url": "https://a", "ca_file": "ca.pem"}]},
        ):
            self.assertEqual(self.replicas(model)[0].ca_file, str(self.folder / "ca.pem"))

    def test_no_engine_is_needed_where_all_models_are_remote(self) -> None:
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

    def test_too_many_for_the_room_are_told_at_their_place_among_all_models(self) -> None:
        for key, said in (("preload", "2 models are to be preloaded"), ("pinned", "2 models are")):
            models: list[dict[str, Any]] = [{"url": "http://a"}]
            models += [{"model_path": "x", key: True}, {"model_path": "x", key: True}]
            [fault] = self.faults(self.text(*models, max_loaded_models=1))
            self.assertIn(f"models[2].{key}: {said}", fault)

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

    def test_a_ca_file_without_an_end_is_refused_and_not_read(self) -> None:
        os.mkfifo(self.folder / "pipe")
        for path in ("/dev/zero", "pipe", "."):
            fault = self.one_fault({"url": "https://a", "ca_file": path})
            self.assertIn("is not a file; give a PEM file of certificates", fault)
