"""Promises of what is told of a configuration: each value in force, and where it comes from."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from llamagw.config import Config, ConfigError, collector, described, told_faults
from llamagw.config.document import Fault
from llamagw.config.sources import MOST_MODELS
from tests.config.support import GATEWAY, LEAST, MODEL, ConfigCase

REMOTE = """\
models:
  - name: far
    url: http://10.0.0.5:8000
    api_key: sk-1
  - name: two
    url: [http://one, http://two]
  - name: three
    replicas:
      - url: http://three
        api_key_env: PATH
"""


class DescribedTests(ConfigCase):
    def told(self, config: Config, only: str | None = None) -> dict[str, Any]:
        return described(config, {"max_bodies_mb": 512.0, "access_log": True}, only)

    def entries(self, told: dict[str, Any]) -> dict[str, tuple[Any, str, int | None]]:
        """Value, origin and line, by place."""
        both = [*told["values"], *told["models"]]
        return {one["place"]: (one["value"], one["from"], one["line"]) for one in both}

    def test_a_value_has_its_line_or_is_a_default_or_follows_from_the_machine(self) -> None:
        self.cores = 2
        told = self.told(self.load(MODEL.format("context_size: 8192")))
        found = self.entries(told)
        self.assertEqual(found["llama_server_path"], (str(self.engine), "file", 1))
        self.assertEqual(found["max_queue"], (512, "default", None))
        self.assertEqual(found["default_model"], ("tiny", "default", None))
        self.assertEqual(found["max_bodies_mb"], (512.0, "machine", None))
        self.assertEqual(found["access_log"], (True, "default", None))
        self.assertEqual(found["models[0].name"], ("tiny", "file", 3))
        self.assertEqual(found["models[0].context_size"], (8192, "file", 5))
        self.assertEqual(found["models[0].threads"], (2, "machine", None))
        self.assertEqual(found["models[0].batch_size"], (512, "default", None))
        self.assertEqual({one["name"] for one in told["models"]}, {"tiny"})
        self.assertEqual((told["path"], told["same"], told["faults"]), (str(self.path), True, []))
        self.assertEqual(told["text"], self.path.read_text())

    def test_every_key_of_the_configuration_is_told(self) -> None:
        found = self.entries(self.told(self.load(LEAST)))
        top = {place for place in found if "." not in place}
        self.assertEqual(top, {*Config.__struct_fields__} - {"path", "models"})

    def test_a_default_that_is_written_is_from_the_file(self) -> None:
        found = self.entries(self.told(self.load(GATEWAY.format("max_queue: 512"))))
        self.assertEqual(found["max_queue"], (512, "file", 2))

    def test_what_is_said_of_memory_is_told_as_a_file_says_it(self) -> None:
        found = self.entries(self.told(self.load(LEAST)))
        self.assertEqual(found["memory"], ("off", "default", None))
        self.assertEqual(found["memory_reserve"], ("1GB", "default", None))
        self.assertEqual(found["max_loaded_models"], (2, "default", None))
        self.assertEqual(found["models[0].memory"], (None, "default", None))
        self.assertEqual(found["models[0].prompt_cache_mb"], (None, "default", None))
        config = self.load(MODEL.format("memory: 7.5GiB\nmemory: auto\nmemory_reserve: 2GB"))
        found = self.entries(self.told(config))
        self.assertEqual(found["memory"], ("auto", "file", 6))
        self.assertEqual(found["memory_reserve"], ("2GB", "file", 7))
        self.assertEqual(found["max_loaded_models"], (None, "default", None))
        self.assertEqual(found["models[0].memory"], ("7.5GiB", "file", 5))
        self.assertEqual(found["models[0].prompt_cache_mb"], (256, "default", None))
        # The file is another by now: what is in force is no default, and in no line.
        self.path.write_text(LEAST)
        found = self.entries(self.told(config))
        self.assertEqual(found["memory"], ("auto", "file", None))
        self.assertEqual(found["max_loaded_models"], (None, "default", None))
        config = self.load(LEAST)
        self.path.unlink()
        found = self.entries(self.told(config))
        for key, usual in (("memory", "off"), ("memory_reserve", "1GB"), ("max_loaded_models", 2)):
            self.assertEqual(found[key], (usual, "default", None))
        config = self.load(MODEL.format("memory: {CUDA0: 7GB}\nmemory: {host: 48GB}"))
        found = self.entries(self.told(config))
        self.assertEqual(found["memory"], ({"host": "48GB"}, "file", 6))
        self.assertEqual(found["models[0].memory"], ({"CUDA0": "7GB"}, "file", 5))

    def test_a_collector_is_told_without_what_it_is_sent_and_who_asked_for_it(self) -> None:
        text = LEAST + "otel: {headers: {X-Key: sk-1}}\n"
        with mock.patch.object(collector, "_is_installed", return_value=True):
            told = self.told(self.load(text))
            value, origin, line = self.entries(told)["otel"]
            self.assertEqual((value.headers, origin, line), ({"X-Key": "***"}, "file", 5))
            self.assertNotIn("sk-1", str(told))
            with mock.patch.dict(os.environ, OTEL_EXPORTER_OTLP_ENDPOINT="http://box:4318"):
                told = self.told(self.load(LEAST))
            value, origin, line = self.entries(told)["otel"]
        self.assertEqual(value.asked_by, "OTEL_EXPORTER_OTLP_ENDPOINT")
        self.assertEqual((origin, line), ("machine", None))

    def test_servers_elsewhere_are_told_where_they_are_written(self) -> None:
        found = self.entries(self.told(self.load(REMOTE)))
        self.assertEqual(found["models[0].url"], ("http://10.0.0.5:8000", "file", 3))
        self.assertEqual(found["models[0].api_key"], ("***", "file", 4))
        self.assertEqual(found["models[1].url[1]"], ("http://two", "file", 6))
        self.assertEqual(found["models[2].replicas[0].url"], ("http://three", "file", 9))
        self.assertEqual(found["models[2].replicas[0].api_key"], ("***", "file", 10))
        self.assertEqual(found["models[2].replicas[0].ca_file"], (None, "default", None))

    def test_no_secret_is_told_anywhere(self) -> None:
        text = MODEL.format("env: {HF_TOKEN: sk-1}\n    extra_args: [--api-key, sk-2]")
        for written in (
            text,
            REMOTE,
            text + "    api_key: [sk-3]\n",
            REMOTE + "    env: {A: [sk-4]}",
        ):
            config = self.load(text if written.startswith(text) else REMOTE)
            self.path.write_text(written)
            told = self.told(config)
            self.assertNotIn("sk-", str(told))
            self.assertIn("***", str(told["models"]))

    def test_a_file_that_has_changed_since_is_told_as_such(self) -> None:
        """What is in force is told, and lines of the file where they still say it."""
        config = self.load(GATEWAY.format("max_queue: 7"))
        self.path.write_text("# more\n" + GATEWAY.format("max_queue: 8\nlisten_addr: :8000"))
        told = self.told(config)
        found = self.entries(told)
        self.assertFalse(told["same"])
        self.assertEqual(found["max_queue"], (7, "file", None))
        self.assertEqual(found["listen_addr"], (":8000", "file", 4))
        self.assertEqual(found["models[0].name"], ("tiny", "file", 5))

    def test_a_file_that_has_faults_or_is_gone_is_told_with_them(self) -> None:
        config = self.load(GATEWAY.format("max_queue: 7"))
        self.path.write_text("max_queue: many\n")
        told = self.told(config)
        self.assertEqual(told["text"], "max_queue: many\n")
        [queue] = [fault for fault in told["faults"] if fault["place"] == "max_queue"]
        self.assertEqual(queue["line"], 1)
        self.path.write_text("api_key: sk-1\nmodels: [")
        told = self.told(config)
        self.assertIsNone(told["text"], "its secrets cannot be found")
        self.assertEqual(self.entries(told)["max_queue"], (7, "file", None))
        self.path.unlink()
        told = self.told(config)
        self.assertIn("cannot be read", told["faults"][0]["message"])

    def test_of_thousands_of_models_some_are_told_and_each_can_be_asked_for(self) -> None:
        names = [f"m{number}" for number in range(MOST_MODELS + 5)]
        models = [f"  - {{name: {name}, model_path: x.gguf}}\n" for name in names]
        config = self.load("llama_server_path: ./llama-server\nmodels:\n" + "".join(models))
        told = self.told(config)
        self.assertEqual(told["left_out"], 5)
        self.assertEqual(len({one["name"] for one in told["models"]}), MOST_MODELS)
        told = self.told(config, names[-1])
        self.assertEqual(told["left_out"], 0)
        last = f"models[{MOST_MODELS + 4}].name"
        self.assertEqual(self.entries(told)[last], (names[-1], "file", MOST_MODELS + 7))

    def test_no_fault_of_a_file_tells_a_secret(self) -> None:
        for written in (
            "extra_args: --api-key sk-1",
            "extra_args: [[--api-key, sk-1]]",
            "env: {A=sk-1: b}",
            "url: http://me:sk-1@host",
            "url: http://host\n    api_key_env: sk-1",
            "replicas: [sk-1]",
        ):
            with self.subTest(written), self.assertRaises(ConfigError) as raised:
                self.load(MODEL.format(written))
            self.assertNotIn("sk-1", str(told_faults(raised.exception.faults)))

    def test_a_fault_of_a_secret_does_not_repeat_it(self) -> None:
        faults = [
            Fault("f", 3, "models[0].api_key", "expected a text, got 12345"),
            Fault("f", 4, "models[0].threads", "expected a whole number, got 1.5"),
        ]
        self.assertEqual(
            told_faults(faults),
            [
                {"place": "models[0].api_key", "line": 3, "message": "expected a text"},
                {
                    "place": "models[0].threads",
                    "line": 4,
                    "message": "expected a whole number, got 1.5",
                },
            ],
        )
