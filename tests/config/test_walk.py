"""Promises of what is said of each key and value that is not of its type."""

from __future__ import annotations

import re
import textwrap

import msgspec

from llamagw.config import ConfigFile, ModelEntry, ReplicaEntry
from llamagw.config.document import Document
from llamagw.config.walk import fields
from tests.config.support import GATEWAY, LEAST, MODEL, ConfigCase, local_models


class KeyTests(ConfigCase):
    def test_a_name_has_256_characters_at_most(self) -> None:
        self.load(LEAST.replace("name: tiny", f"name: {'x' * 256}"))
        [fault] = self.faults(LEAST.replace("name: tiny", f"name: {'x' * 257}"))
        self.assertIn("expected a name of 1 to 256 characters", fault)

    def test_wrong_values_of_the_gateway(self) -> None:
        for key, value, wanted, shown in [
            ("port_range_start", "0", "a port, 1 to 65535", "0"),
            ("port_range_start", "65536", "a port, 1 to 65535", "65536"),
            ("port_range_start", "'8081'", "a port, 1 to 65535", '"8081"'),
            ("max_loaded_models", "0", "a whole number, 1 or more", "0"),
            ("max_loaded_models", "1.5", "a whole number, 1 or more", "1.5"),
            ("max_loaded_models", "true", "a whole number, 1 or more", "true"),
            ("health_check_sec", "0", "a number of seconds, more than 0", "0"),
            ("health_check_sec", "-1", "a number of seconds, more than 0", "-1"),
            ("health_check_sec", "30s", "a number of seconds, more than 0", '"30s"'),
            ("health_check_sec", "", "a number of seconds, more than 0", "nothing"),
            ("health_check_sec", ".inf", "a number of seconds, more than 0", "inf"),
            ("health_check_sec", ".nan", "a number of seconds, more than 0", "nan"),
            ("swap_after_sec", "-0.1", '"auto", or a number of seconds, 0 or more', "-0.1"),
            ("swap_after_sec", ".inf", '"auto", or a number of seconds, 0 or more', "inf"),
            ("swap_after_sec", "soon", '"auto", or a number of seconds, 0 or more', '"soon"'),
            ("max_queue", "0", "a whole number, 1 or more", "0"),
            ("load_timeout_sec", "[60]", "a number of seconds, more than 0", "[60]"),
            ("stop_timeout_sec", "0", "a number of seconds, more than 0", "0"),
            ("drain_sec", "soon", "a number of seconds, 0 or more", '"soon"'),
            ("poison_sec", "-1", "a number of seconds, 0 or more", "-1"),
            ("max_body_mb", "0", "a number of megabytes, more than 0", "0"),
            ("access_log", "1", "true or false", "1"),
            ("engine_log", "error", "warn, all or none", '"error"'),
            ("engine_log", "false", "warn, all or none", "false"),
            ("listen_addr", "8000", "an address such as", "8000"),
        ]:
            with self.subTest(key=key, value=value):
                said = self.fault(GATEWAY.format(f"{key}: {value}"))
                self.assertTrue(said.startswith(f"config.yaml:2: {key}: expected {wanted}"), said)
                self.assertTrue(said.endswith(f", got {shown}"), said)

    def test_wrong_values_of_a_model(self) -> None:
        for key, value, wanted, shown in [
            ("gpu_layers", "-2", "a whole number: -1 (all), 0 (CPU only) or more", "-2"),
            ("context_size", "4k", "a whole number, 1 or more", '"4k"'),
            ("threads", "-1", "a whole number, 1 or more, or 0 (automatic)", "-1"),
            ("threads", "auto", "a whole number, 1 or more, or 0 (automatic)", '"auto"'),
            ("json_object", "true", '"loose" or "strict"', "true"),
            ("batch_size", "null", "a whole number, 1 or more", "nothing"),
            ("parallel", "0", "a whole number, 1 or more", "0"),
            ("parallel", "{a: 1}", "a whole number, 1 or more", '{"a":1}'),
            ("extra_args", "[[1]]", 'a list of texts, such as ["--embeddings",', "[[1]]"),
            ("extra_args", "[~]", 'a list of texts, such as ["--embeddings",', "[null]"),
            ("env", "[A=1]", "names and texts, such as {CUDA_VISIBLE_DEVICES: 0}", '["A=1"]'),
            ("env", "", "names and texts", "nothing"),
            ("pinned", "1", "true or false", "1"),
            ("preload", "at start", "true or false", '"at start"'),
            ("idle_unload_sec", "-1", "a number of seconds, 0 or more", "-1"),
            ("idle_unload_sec", ".inf", "a number of seconds, 0 or more", "inf"),
        ]:
            with self.subTest(key=key, value=value):
                said = self.fault(MODEL.format(f"{key}: {value}"))
                start = f"config.yaml:5: models[0].{key}: expected {wanted}"
                self.assertTrue(said.startswith(start), said)
                self.assertTrue(said.endswith(f", got {shown}"), said)

    def test_what_must_be_given(self) -> None:
        self.assertEqual(
            self.faults("{}"),
            [
                "config.yaml:1: models: is missing; a list with at least one model is needed",
                "config.yaml:1: llama_server_path: is missing; the path of a file is needed",
            ],
        )
        self.assertEqual(
            self.faults("llama_server_path: ./llama-server\nmodels:\n  - threads: 2\n"),
            [
                "config.yaml:3: models[0].name: is missing; a name of 1 to 256 characters, such as "
                '"qwen2.5-7b" is needed',
                "config.yaml:3: models[0].model_path: is missing; the path of a file is needed "
                "(or url:, for a model that lives elsewhere)",
            ],
        )

    def test_an_empty_name_or_path_is_none(self) -> None:
        self.assertIn(
            "models[0].name: expected a name", self.fault(LEAST.replace("tiny\n", "''\n"))
        )
        self.assertIn(
            "models[0].model_path: expected the path", self.fault(LEAST.replace("tiny.gguf", "''"))
        )
        self.assertIn(
            "llama_server_path: expected the path",
            self.fault(LEAST.replace("./llama-server", "''")),
        )

    def test_every_key_says_what_it_wants(self) -> None:
        for struct in (ConfigFile, ModelEntry, ReplicaEntry):
            keys = struct.__struct_fields__
            document = Document("config.yaml")
            fields(document, struct, dict.fromkeys(keys, object()), "")
            self.assertEqual([fault.place for fault in document.faults], [*keys])
            for fault in document.faults:
                self.assertRegex(fault.message, "expected (?!a value)")

    def test_an_unknown_key_names_the_nearest_known_one(self) -> None:
        for key, near in [
            ("max_loaded", "max_loaded_models"),
            ("listen_address", "listen_addr"),
            ("model", "models"),
            ("healthcheck_sec", "health_check_sec"),
        ]:
            self.assertEqual(
                self.fault(GATEWAY.format(f"{key}: 1")),
                f"config.yaml:2: {key}: unknown key; did you mean {near}?",
            )
        self.assertEqual(
            self.fault(MODEL.format("ctx_size: 1")),
            "config.yaml:5: models[0].ctx_size: unknown key; did you mean context_size?",
        )

    def test_an_unknown_key_that_is_near_to_none_names_them_all(self) -> None:
        said = self.fault(MODEL.format("zzz: 1"))
        self.assertEqual(
            said,
            "config.yaml:5: models[0].zzz: unknown key; known are "
            + ", ".join(field.name for field in msgspec.structs.fields(ModelEntry)),
        )

    def test_keys_of_others_are_told_what_is_meant(self) -> None:
        for keys, address in (
            ("host: 0.0.0.0\nport: 9000", '"0.0.0.0:9000"'),
            ("host: '::1'", '"[::1]:8000"'),
            ("port: 9000", '":9000"'),
        ):
            for said in self.faults(GATEWAY.format(keys)):
                self.assertRegex(said, re.escape(f"unknown key; write listen_addr: {address}"))
        for key in ("api_key", "api_keys", "api_key_env"):
            said = self.fault(GATEWAY.format(f"{key}: s3cret"))
            self.assertIn("this gateway has no keys of its own yet: docs/security.md", said)
            self.assertNotIn("s3cret", said)

    def test_a_key_that_stands_too_high_or_too_low_is_told_where_it_belongs(self) -> None:
        self.assertEqual(
            self.fault(LEAST + "context_size: 8192\n"),
            "config.yaml:5: context_size: unknown key; write it in the entry of its model, below "
            "models:",
        )
        self.assertEqual(
            self.fault(MODEL.format("max_queue: 7")),
            "config.yaml:5: models[0].max_queue: unknown key; write it at the top, beside models:",
        )

    def test_an_unknown_key_that_came_with_a_merge_has_its_models_line(self) -> None:
        for key in ("zzz", "'a['", "'.'"):
            text = f"extra: &x {{{key}: 1}}\n{LEAST}    <<: *x\n"
            said = self.faults(text)
            self.assertEqual(len(said), 2)
            self.assertTrue(said[1].startswith(f"config.yaml:4: models[0].{key.strip(chr(39))}: "))

    def test_a_key_that_is_no_text(self) -> None:
        for key in ("1", "null", "true", "2001-01-01", "1.50", "!!binary YVs="):
            self.assertIn("unknown key", self.fault(GATEWAY.format(f"{key}: 1")))

    def test_models_must_be_a_list_with_one_at_least(self) -> None:
        for models, shown in [
            ("[]", "[]"),
            ("", "nothing"),
            ("tiny", '"tiny"'),
            ("{name: tiny}", '{"name":"tiny"}; begin each model with "- "'),
        ]:
            self.assertEqual(
                self.fault(f"llama_server_path: ./llama-server\nmodels: {models}\n"),
                "config.yaml:2: models: expected a list with at least one model, got " + shown,
            )

    def test_a_variable_that_no_environment_can_have(self) -> None:
        for variable, place, said in [
            ("A: true", "A", "expected a text, got true; put it in quotes"),
            ("A:", "A", "expected a text, got nothing; put it in quotes"),
            ("A: [1]", "A", "expected a text, got [1]; put it in quotes"),
            ("A: 2020-01-01", "A", 'expected a text, got "2020-01-01"; put it in quotes'),
            ('A: "x\\0y"', "A", 'expected a text, got "x\\u0000y"; put it in quotes'),
            ("A=B: x", "A=B", 'expected a name without "=", such as OMP_WAIT, got "A=B"'),
            ("'': x", "", 'expected a name without "=", such as OMP_WAIT, got ""'),
            (
                '"A\\0": x',
                "A\\x00",
                'expected a name without "=", such as OMP_WAIT, got "A\\u0000"',
            ),
            ("1: x", "1", 'expected a name without "=", such as OMP_WAIT, got 1'),
        ]:
            with self.subTest(variable=variable):
                self.assertEqual(
                    self.fault(MODEL.format(f"env:\n      B: x\n      {variable}")),
                    f"config.yaml:7: models[0].env.{place}: {said}",
                )


class EnvironmentTests(ConfigCase):
    def test_a_number_in_the_environment_is_taken_as_it_is_written(self) -> None:
        config = self.load(MODEL.format("env: {A: 0755, B: 1.50, C: 0x1F, D: '', E: -1, F: 'x=y'}"))
        self.assertEqual(
            local_models(config)[0].env,
            {"A": "0755", "B": "1.50", "C": "0x1F", "D": "", "E": "-1", "F": "x=y"},
        )

    def test_an_environment_may_come_with_a_merge(self) -> None:
        config = self.load(
            textwrap.dedent("""\
            llama_server_path: ./llama-server
            models:
              - &tiny {name: tiny, model_path: tiny.gguf, env: &env {A: 7}}
              - {<<: *tiny, name: second}
              - {name: third, model_path: tiny.gguf, env: {<<: *env, B: 8}}
            """)
        )
        self.assertEqual(
            [m.env for m in local_models(config)], [{"A": "7"}, {"A": "7"}, {"A": "7", "B": "8"}]
        )
