"""The configuration: its defaults, and what is said of each thing that can be wrong with it."""

from __future__ import annotations

import os
import tempfile
import textwrap
from pathlib import Path
from unittest import mock

import msgspec
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from llamagw.config import Config, ConfigError, ModelConfig, Replica, endpoint_string, load

#: The least that a file must say; line 1 is the engine, line 3 the first model.
LEAST = """\
llama_server_path: ./llama-server
models:
  - name: tiny
    model_path: tiny.gguf
"""

#: Like LEAST, with room for more keys of the gateway (line 2) or of the model.
GATEWAY = "llama_server_path: ./llama-server\n{}\nmodels: [{{name: tiny, model_path: tiny.gguf}}]\n"
MODEL = LEAST + "    {}\n"


class ConfigCase(SynchronousTestCase):
    """A folder with an engine and a model in it, where config.yaml is written."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(os.path.realpath(folder.name))
        self.path = self.folder / "config.yaml"
        self.engine = self.executable(self.folder / "llama-server")
        self.model = self.folder / "tiny.gguf"
        self.model.write_bytes(b"GGUF")

    def executable(self, path: Path) -> Path:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return path

    def load(self, text: str | bytes) -> Config:
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(str(self.path))

    def faults(self, text: str | bytes) -> list[str]:
        """What is said of a file, one text per fault, without the folder's name."""
        error = self.assertRaises(ConfigError, self.load, text)
        said = [str(fault) for fault in error.faults]
        self.assertEqual(str(error), "\n".join(said))
        self.assertEqual(len(str(error).splitlines()), len(said), "one line per fault")
        return [line.replace(f"{self.folder}/", "") for line in said]

    def fault(self, text: str | bytes) -> str:
        """The only fault of a file."""
        faults = self.faults(text)
        self.assertEqual(len(faults), 1, faults)
        return faults[0]


class DefaultsTests(ConfigCase):
    def test_the_example_and_the_readme_name_every_key(self) -> None:
        root = Path(__file__).resolve().parents[1]
        example = (root / "config.example.yaml").read_text()
        readme = (root / "README.md").read_text()
        for struct in (Config, ModelConfig, Replica):
            for field in msgspec.structs.fields(struct):
                self.assertRegex(example, rf"(?m)^[ #-]*{field.name}:|or: {field.name}", field.name)
                self.assertIn(f"`{field.name}`", readme)

    def test_every_default_of_the_gateway(self) -> None:
        values = msgspec.structs.asdict(self.load(LEAST))
        del values["llama_server_path"], values["models"]
        self.assertEqual(
            values,
            {
                "listen_addr": ":8000",
                "default_model": None,
                "port_range_start": 8081,
                "max_loaded_models": 2,
                "health_check_sec": 30,
                "swap_after_sec": 10,
                "max_queue": 512,
                "queue_timeout_sec": 600,
                "stream_keepalive_sec": 0,
                "load_timeout_sec": 600,
                "stop_timeout_sec": 10,
                "drain_sec": 30,
                "max_body_mb": 64,
                "max_bodies_mb": None,
                "cors_origins": ["*"],
                "request_timeout_sec": 60,
                "client_stall_sec": 600,
                "access_log": False,
            },
        )

    def test_all_bodies_have_an_eighth_of_the_memory_and_room_for_one(self) -> None:
        self.assertEqual(self.load(LEAST).bodies_mb(16 * 2**30), 2048)
        self.assertEqual(self.load(LEAST).bodies_mb(2**20), 64)
        self.assertEqual(self.load(LEAST + "max_bodies_mb: 100\n").bodies_mb(2**40), 100)

    def test_every_default_of_a_model(self) -> None:
        [model] = self.load(LEAST).models
        self.assertEqual(
            model,
            ModelConfig(
                name="tiny",
                model_path=str(self.model),
                gpu_layers=0,
                context_size=4096,
                threads=4,
                batch_size=512,
                parallel=8,
                extra_args=[],
                env={},
                pinned=False,
                preload=False,
                idle_unload_sec=0,
            ),
        )

    def test_every_key_can_be_given(self) -> None:
        config = self.load(
            textwrap.dedent(f"""\
            llama_server_path: {self.engine}
            listen_addr: 127.0.0.1:9000
            port_range_start: 65535
            max_loaded_models: 1
            health_check_sec: 0.5
            swap_after_sec: 0
            max_queue: 1
            load_timeout_sec: 60
            stop_timeout_sec: 2.5
            drain_sec: 0
            max_body_mb: 0.5
            access_log: true
            models:
              - name: "Qwen/Qwen2.5 7B: the chat one"
                model_path: {self.model}
                gpu_layers: -1
                context_size: 1
                threads: 1
                batch_size: 1
                parallel: 1
                extra_args: ["--embeddings", "--pooling", "mean"]
                env: {{CUDA_VISIBLE_DEVICES: 0, OMP_WAIT_POLICY: passive}}
                preload: true
                idle_unload_sec: 0.5
              - {{name: other, model_path: /models/other.gguf}}
            """)
        )
        self.assertEqual(
            config,
            Config(
                llama_server_path=str(self.engine),
                listen_addr="127.0.0.1:9000",
                port_range_start=65535,
                max_loaded_models=1,
                health_check_sec=0.5,
                swap_after_sec=0,
                max_queue=1,
                load_timeout_sec=60,
                stop_timeout_sec=2.5,
                drain_sec=0,
                max_body_mb=0.5,
                access_log=True,
                models=[
                    ModelConfig(
                        name="Qwen/Qwen2.5 7B: the chat one",
                        model_path=str(self.model),
                        gpu_layers=-1,
                        context_size=1,
                        threads=1,
                        batch_size=1,
                        parallel=1,
                        extra_args=["--embeddings", "--pooling", "mean"],
                        env={"CUDA_VISIBLE_DEVICES": "0", "OMP_WAIT_POLICY": "passive"},
                        preload=True,
                        idle_unload_sec=0.5,
                    ),
                    ModelConfig(name="other", model_path="/models/other.gguf"),
                ],
            ),
        )

    def test_a_loaded_configuration_cannot_be_changed(self) -> None:
        config = self.load(LEAST)
        with self.assertRaises(AttributeError):
            config.max_queue = 1  # type: ignore[misc]
        with self.assertRaises(AttributeError):
            config.models[0].name = "other"  # type: ignore[misc]

    def test_a_number_in_the_environment_is_taken_as_it_is_written(self) -> None:
        config = self.load(MODEL.format("env: {A: 0755, B: 1.50, C: 0x1F, D: '', E: -1, F: 'x=y'}"))
        self.assertEqual(
            config.models[0].env,
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
            [m.env for m in config.models], [{"A": "7"}, {"A": "7"}, {"A": "7", "B": "8"}]
        )

    def test_merge_keys_of_yaml_work(self) -> None:
        text = """\
        llama_server_path: ./llama-server
        models:
          - &tiny {name: tiny, model_path: tiny.gguf, threads: 2}
          - {<<: *tiny, name: second}
        """
        self.assertEqual([m.threads for m in self.load(textwrap.dedent(text)).models], [2, 2])


class PathTests(ConfigCase):
    def test_relative_paths_count_from_the_folder_of_the_file(self) -> None:
        self.executable(self.folder / "bin" / "llama-server")
        text = LEAST.replace("./llama-server", "bin/llama-server")
        config = self.load(text.replace("tiny.gguf", "../models/tiny.gguf"))
        self.assertEqual(config.llama_server_path, str(self.folder / "bin" / "llama-server"))
        expected = str(self.folder.parent / "models" / "tiny.gguf")
        self.assertEqual(config.models[0].model_path, expected)

    def test_relative_paths_do_not_count_from_the_current_folder(self) -> None:
        self.path.write_text(LEAST)
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder.parent)
        config = load(os.path.join(self.folder.name, "config.yaml"))
        self.assertEqual(config.models[0].model_path, str(self.model))

    def test_a_tilde_is_the_home_folder(self) -> None:
        with mock.patch.dict(os.environ, HOME=str(self.folder)):
            config = self.load(LEAST.replace("./", "~/").replace("tiny.gguf", "~/tiny.gguf"))
        self.assertEqual(config.llama_server_path, str(self.engine))
        self.assertEqual(config.models[0].model_path, str(self.model))

    def test_a_bare_command_is_looked_for_on_the_path(self) -> None:
        self.engine.unlink()
        found = self.executable(self.folder / "bin" / "llama-server")
        with mock.patch.dict(os.environ, PATH=str(found.parent)):
            config = self.load(LEAST.replace("./", ""))
        self.assertEqual(config.llama_server_path, str(found))

    def test_a_file_beside_the_configuration_goes_before_the_path(self) -> None:
        other = self.executable(self.folder / "bin" / "llama-server")
        with mock.patch.dict(os.environ, PATH=str(other.parent)):
            config = self.load(LEAST.replace("./", ""))
        self.assertEqual(config.llama_server_path, str(self.engine))

    def test_a_path_with_a_folder_in_it_is_not_looked_for_on_the_path(self) -> None:
        self.engine.unlink()
        found = self.executable(self.folder / "bin" / "llama-server")
        with mock.patch.dict(os.environ, PATH=str(found.parent)):
            self.assertIn("there is no file", self.fault(LEAST))
            self.assertIn("there is no file", self.fault(LEAST.replace("./", f"{self.folder}/")))
            self.assertIn("there is no file", self.fault(LEAST.replace("./", "elsewhere/")))

    def test_a_missing_model_file_is_no_fault(self) -> None:
        config = self.load(LEAST + "  - {name: gone, model_path: gone.gguf}\n")
        self.assertEqual([model.name for model in config.missing_files()], ["gone"])

    def test_a_folder_is_no_model_file(self) -> None:
        config = self.load(LEAST.replace("tiny.gguf", "."))
        self.assertEqual([model.name for model in config.missing_files()], ["tiny"])


class FaultTests(ConfigCase):
    def test_bodies_together_have_no_less_than_one_of_them(self) -> None:
        [fault] = self.faults(LEAST + "max_bodies_mb: 10\n")
        self.assertIn("max_bodies_mb: is 10, less than the 64 MB of one body", fault)
        self.assertEqual(self.load(LEAST + "max_bodies_mb: 10\nmax_body_mb: 5\n").max_body_mb, 5)

    def test_origins_are_origins(self) -> None:
        good = ["*", "localhost", "https://a.example", "http://[::1]:80", "app://obsidian.md"]
        self.assertEqual(self.load(LEAST + f"cors_origins: {good}\n").cors_origins, good)
        self.assertEqual(self.load(LEAST + "cors_origins: []\n").cors_origins, [])
        for bad in ("a.example", "https://a.example/", "https://*.example", "null", "127.0.0.1"):
            [fault] = self.faults(LEAST + f'cors_origins: ["{bad}"]\n')
            self.assertIn("cors_origins[0]: expected an origin such as https://", fault)
        self.assertEqual(len(self.faults(LEAST + 'cors_origins: "*"\n')), 1)

    def test_headers_that_are_passed_are_no_affair_of_the_connection(self) -> None:
        passed = LEAST + "    pass_headers: [%s]\n"
        names = ["Set-Cookie", "Access-Control-Allow-Private-Network"]
        [model] = self.load(passed % ", ".join(names)).models
        self.assertEqual(model.pass_headers, names)
        for name, said in (
            ("Transfer-Encoding", "the gateway's own"),
            ("content-length", "the gateway's own"),
            ("Access-Control-Allow-Origin", "cors_origins"),
            ('"a b"', "expected a list of names of headers"),
        ):
            [fault] = self.faults(passed % name)
            self.assertIn("models[0].pass_headers", fault)
            self.assertIn(said, fault)

    def test_a_name_has_256_characters_at_most(self) -> None:
        self.load(LEAST.replace("name: tiny", f"name: {'x' * 256}"))
        [fault] = self.faults(LEAST.replace("name: tiny", f"name: {'x' * 257}"))
        self.assertIn("expected a name of 1 to 256 characters", fault)

    def test_all_faults_are_told_at_once(self) -> None:
        faults = self.faults(
            textwrap.dedent("""\
            llama_server_path: ./nothing-here
            listen_addr: nowhere
            port_range_start: 70000
            max_loaded_model: 3
            models:
              - name: tiny
                model_path: tiny.gguf
                gpu_layers: all
              - name: tiny
                context_size: 0
                extra_args: --verbose
              - just a text
            """)
        )
        self.assertEqual(
            faults,
            [
                "config.yaml:1: llama_server_path: there is no file nothing-here; "
                "give the path of the llama-server executable of llama.cpp",
                "config.yaml:2: listen_addr: cannot listen on 'nowhere': there is no port; "
                "write ':8000', '127.0.0.1:8000', '[::1]:8000', 'unix:/path/to/socket' "
                "or another Twisted server endpoint string",
                "config.yaml:3: port_range_start: expected a port, 1 to 65535, got 70000",
                "config.yaml:4: max_loaded_model: unknown key; did you mean max_loaded_models?",
                "config.yaml:8: models[0].gpu_layers: "
                'expected a whole number: -1 (all), 0 (CPU only) or more, got "all"',
                "config.yaml:9: models[1].model_path: is missing; the path of a file is needed "
                "(or url:, for a model that lives elsewhere)",
                'config.yaml:9: models[1].name: "tiny" is the name of models[0] already; '
                "names must differ",
                "config.yaml:10: models[1].context_size: expected a whole number, 1 or more, got 0",
                "config.yaml:11: models[1].extra_args: "
                'expected a list of texts, such as ["--embeddings", "--pooling", "mean"], '
                'got "--verbose"',
                'config.yaml:12: models[2]: expected keys such as "name: …", got "just a text"',
            ],
        )

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
            ("swap_after_sec", "-0.1", "a number of seconds, 0 or more", "-0.1"),
            ("swap_after_sec", ".inf", "a number of seconds, 0 or more", "inf"),
            ("max_queue", "0", "a whole number, 1 or more", "0"),
            ("load_timeout_sec", "[60]", "a number of seconds, more than 0", "[60]"),
            ("stop_timeout_sec", "0", "a number of seconds, more than 0", "0"),
            ("drain_sec", "soon", "a number of seconds, 0 or more", '"soon"'),
            ("max_body_mb", "0", "a number of megabytes, more than 0", "0"),
            ("access_log", "1", "true or false", "1"),
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
            ("threads", "0", "a whole number, 1 or more", "0"),
            ("batch_size", "null", "a whole number, 1 or more", "nothing"),
            ("parallel", "0", "a whole number, 1 or more", "0"),
            ("parallel", "{a: 1}", "a whole number, 1 or more", '{"a":1}'),
            ("extra_args", "[1]", 'a list of texts, such as ["--embeddings",', "[1]"),
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
            + ", ".join(field.name for field in msgspec.structs.fields(ModelConfig)),
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

    def test_aliases_that_make_too_much_of_a_file_are_a_fault(self) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
        self.assertIn("its aliases make too much of it", self.fault("\n".join(lines)))

    def test_a_key_given_twice(self) -> None:
        self.assertEqual(
            self.fault(GATEWAY.format("max_queue: 1\nmax_queue: 2")),
            "config.yaml:2: max_queue: is given twice; line 3 has it again",
        )
        self.assertEqual(
            self.fault(MODEL.format("threads: 1\n    threads: 2")),
            "config.yaml:5: models[0].threads: is given twice; line 6 has it again",
        )

    def test_models_must_be_a_list_with_one_at_least(self) -> None:
        for models, shown in [
            ("[]", "[]"),
            ("", "nothing"),
            ("tiny", '"tiny"'),
            ("{name: tiny}", '{"name":"tiny"}'),
        ]:
            self.assertEqual(
                self.fault(f"llama_server_path: ./llama-server\nmodels: {models}\n"),
                "config.yaml:2: models: expected a list with at least one model, got " + shown,
            )

    def test_two_models_of_one_name(self) -> None:
        self.assertEqual(
            self.fault(LEAST + LEAST[LEAST.index("  - ") :]),
            'config.yaml:5: models[1].name: "tiny" is the name of models[0] already; '
            "names must differ",
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

    def test_more_to_preload_than_fit(self) -> None:
        models = [f"  - {{name: m{n}, model_path: x, preload: true}}\n" for n in range(3)]
        least = "max_loaded_models: {}\nllama_server_path: ./llama-server\nmodels:\n"
        self.assertEqual(
            self.fault(least.format(1) + "".join(models)),
            "config.yaml:5: models[1].preload: 3 models are to be preloaded and max_loaded_models "
            "is 1; raise max_loaded_models to 3, or preload fewer",
        )
        self.load(least.format(3) + "".join(models))

    def test_pinned_models_leave_room_for_the_others(self) -> None:
        def text(limit: int, pinned: int, others: int) -> str:
            entries = [f"  - {{name: p{n}, model_path: x, pinned: true}}\n" for n in range(pinned)]
            entries += [f"  - {{name: o{n}, model_path: x}}\n" for n in range(others)]
            first = f"max_loaded_models: {limit}\nllama_server_path: ./llama-server\nmodels:\n"
            return first + "".join(entries)

        for limit, pinned, others, place, lost, enough in [
            (2, 2, 1, "5: models[1]", "o0", 3),
            (1, 3, 2, "5: models[1]", "o0", 4),
            (2, 3, 0, "6: models[2]", "p2", 3),
        ]:
            self.assertEqual(
                self.fault(text(limit, pinned, others)),
                f"config.yaml:{place}.pinned: {pinned} models are pinned and max_loaded_models is "
                f'{limit}, so that "{lost}" could never be loaded; '
                f"raise max_loaded_models to {enough}",
            )
        for limit, pinned, others in [(2, 2, 0), (3, 2, 5), (1, 0, 3), (1, 1, 0)]:
            self.load(text(limit, pinned, others))

    def test_the_default_of_the_limit_counts_too(self) -> None:
        entries = "".join(f"  - {{name: m{n}, model_path: x, preload: true}}\n" for n in range(3))
        said = self.fault("llama_server_path: ./llama-server\nmodels:\n" + entries)
        self.assertIn("config.yaml:5: models[2].preload: 3 models", said)
        self.assertIn("max_loaded_models is 2;", said)

    def test_the_gateways_own_flags_in_extra_args(self) -> None:
        for argument in ("--host", "--port", "-m", "--model", "--port=1"):
            self.assertEqual(
                self.fault(MODEL.format(f"extra_args: [--verbose, {argument}, x]")),
                f"config.yaml:5: models[0].extra_args[1]: {argument} is set by llamagw itself; "
                "leave it out",
            )

    def test_other_flags_in_extra_args_are_the_users_affair(self) -> None:
        config = self.load(MODEL.format("extra_args: [--ctx-size, '8', --model-draft, x]"))
        self.assertEqual(config.models[0].extra_args, ["--ctx-size", "8", "--model-draft", "x"])

    def test_an_engine_that_is_a_folder(self) -> None:
        self.assertIn("is not a file; give the path", self.fault(LEAST.replace("llama-server", "")))

    def test_an_engine_that_is_not_executable(self) -> None:
        self.engine.chmod(0o644)
        self.assertEqual(
            self.fault(LEAST),
            "config.yaml:1: llama_server_path: llama-server is not executable; chmod +x it, "
            "or give the path of the llama-server executable of llama.cpp",
        )


class UnreadableTests(ConfigCase):
    def test_no_file(self) -> None:
        error = self.assertRaises(ConfigError, load, str(self.path))
        self.assertEqual(
            str(error),
            f"{self.path}: cannot be read: No such file or directory; "
            "see config.example.yaml for a beginning",
        )

    def test_a_folder(self) -> None:
        error = self.assertRaises(ConfigError, load, str(self.folder))
        self.assertIn("cannot be read: Is a directory", str(error))

    def test_an_empty_file(self) -> None:
        for text in ("", "# only a comment\n", "---\n"):
            self.assertIn(
                'expected keys and values such as "listen_addr: :8000", got nothing',
                self.fault(text),
            )

    def test_no_mapping(self) -> None:
        self.assertIn("expected keys and values", self.fault("just words"))
        self.assertIn("got [1,2]", self.fault("[1, 2]"))

    def test_broken_yaml_has_its_line(self) -> None:
        # The words are those of libyaml, or of PyYAML where there is none.
        self.assertRegex(
            self.fault("listen_addr: ':8000'\nmodels: [\n"),
            r"\Aconfig\.yaml:3: is not YAML: .*expected .*node content",
        )
        self.assertTrue(self.fault("a: b: c").startswith("config.yaml:1: is not YAML: "))
        self.assertTrue(self.fault("a: 1\n\tb: 2").startswith("config.yaml:2: is not YAML: "))

    def test_two_documents(self) -> None:
        self.assertIn("is not YAML: but found another document", self.fault("a: 1\n---\nb: 2\n"))

    def test_a_tag_that_would_run_code_is_refused(self) -> None:
        said = self.fault("a: !!python/object/apply:os.getcwd []")
        self.assertIn("could not determine a constructor", said)

    def test_not_utf_8(self) -> None:
        self.assertIn("it is not UTF-8 text", self.fault(b"name: \xff\xfe"))

    def test_a_control_character(self) -> None:
        self.assertIn("is not YAML", self.fault(b"name: a\x00b"))

    def test_values_that_yaml_itself_chokes_on(self) -> None:
        for value in (
            "2001-99-99",
            "!!int ''",
            "!!int x",
            "!!float x",
            "!!bool x",
            "!!timestamp x",
            "!!timestamp [x]",
            "!!binary ä",
            "? [a]\n  : b",
        ):
            with self.subTest(value=value):
                self.assertIn("is not YAML", self.fault(f"a: {value}\n"))

    def test_a_file_that_contains_itself(self) -> None:
        self.assertIn("is not YAML", self.fault("models: &a [*a]\n"))

    def test_a_file_nested_without_end(self) -> None:
        self.assertIn("is not YAML", self.fault("[" * 1200))

    def test_values_that_cannot_be_shown_as_they_are(self) -> None:
        for value in (
            "{1.5: x}",
            "{null: x}",
            "{? !!binary YQ== : x}",
            "!!set {a, b}",
            "2001-01-01",
            "!!binary YQ==",
            "1" * 400,
            '"\\ud800"',
            '"\\0"',
            '"~\\0"',
            '"a\\nb\\u2028c"',
        ):
            with self.subTest(value=value):
                for place in (f"llama_server_path: {value}", f"port_range_start: {value}"):
                    said = self.faults(f"{place}\nmodels: [{{name: a, model_path: b}}]\n")
                    "\n".join(said).encode()
                self.assertTrue(self.faults(f"llama_server_path: x\nmodels: {value}"))


class ListenAddrTests(ConfigCase):
    def test_addresses_become_endpoint_strings(self) -> None:
        for address, endpoint in [
            (":8000", "tcp:8000:interface=0.0.0.0"),
            ("0.0.0.0:8080", "tcp:8080:interface=0.0.0.0"),
            ("127.0.0.1:8000", "tcp:8000:interface=127.0.0.1"),
            ("[::1]:8000", r"tcp6:8000:interface=\:\:1"),
            ("localhost:8000", "tcp:8000:interface=localhost"),
            ("tcp:8000", "tcp:8000"),
            ("tcp6:8000", "tcp6:8000"),
            ("unix:/run/llamagw.sock", "unix:/run/llamagw.sock"),
            ("tcp:8000:interface=127.0.0.1", "tcp:8000:interface=127.0.0.1"),
        ]:
            self.assertEqual(endpoint_string(address), endpoint)
            self.assertEqual(
                self.load(GATEWAY.format(f"listen_addr: '{address}'")).listen_addr, address
            )

    def test_twisted_understands_what_comes_out(self) -> None:
        for address, port, interface in [
            (":8000", 8000, "0.0.0.0"),
            ("127.0.0.1:8001", 8001, "127.0.0.1"),
            ("[::1]:8002", 8002, "::1"),
        ]:
            endpoint = serverFromString(MemoryReactor(), endpoint_string(address))
            self.assertEqual((endpoint._port, endpoint._interface), (port, interface))

    def test_bad_addresses(self) -> None:
        for address, wrong in [
            ("localhost", "no host and no port"),
            ("8000", "there is no port"),
            ("[::1]", "there is no port"),
            (":", "the port is '', not a number"),
            (":http", "the port is 'http', not a number"),
            (":65536", "port 65536 is above 65535"),
            ("127.0.0.1:99999", "port 99999 is above 65535"),
            ("tcp:70000", "port 70000 is above 65535"),
            ("ssl:70000", "port 70000 is above 65535"),
            ("[zz]:80", "'zz' is not an IPv6 address"),
            ("1.2.3.4.5:80", "'1.2.3.4.5' is neither an IPv4 address nor a host name"),
            ("http://127.0.0.1:8000", "that is a URL"),
            ("unix:", "the path of the socket is missing"),
        ]:
            said = self.fault(GATEWAY.format(f"listen_addr: '{address}'"))
            start = f"config.yaml:2: listen_addr: cannot listen on '{address}': {wrong}; write "
            self.assertTrue(said.startswith(start), said)

    def test_a_port_of_thousands_of_digits(self) -> None:
        said = self.fault(GATEWAY.format(f"listen_addr: ':{'9' * 5000}'"))
        self.assertTrue(said.startswith("config.yaml:2: listen_addr: "))


# Fuzzing: whatever a file holds, it is a Config or a ConfigError.

_keys = st.one_of(
    st.sampled_from([*Config.__struct_fields__, *ModelConfig.__struct_fields__]), st.text()
)
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(max_size=8),
    st.dates(),
    st.datetimes(),
    st.sampled_from([":8000", "./llama-server", "tiny.gguf", "~", "[", "{", 10**400]),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(_keys, _scalars), inner, max_size=4),
        st.sets(_scalars, max_size=3),
    ),
    max_leaves=8,
)
_models = st.lists(
    st.one_of(st.dictionaries(_keys, _values, max_size=5), _values), min_size=0, max_size=3
)
_files = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(Config.__struct_fields__, _values),
        "models": st.one_of(_models, _values),
    },
)


def _fuzz(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class FuzzTests(ConfigCase):
    def check(self, text: bytes) -> None:
        try:
            config = self.load(text)
        except ConfigError as error:
            self.assertTrue(error.faults)
            said = str(error)
            said.encode()
            self.assertEqual(len(said.splitlines()), len(error.faults))
            for line in said.splitlines():
                self.assertTrue(line.startswith(str(self.path)))
        else:
            self.assertIsInstance(config, Config)
            self.assertTrue(config.models)

    @_fuzz(200)
    @given(st.one_of(_files, _values))
    def test_whatever_values_a_file_holds(self, content: object) -> None:
        self.check(yaml.dump(content, allow_unicode=True).encode("utf-8", "surrogatepass"))

    @_fuzz(150)
    @given(st.binary(max_size=200))
    @example(b"? [a[]\n: 1")
    @example(b"a: &a {b: *a}")
    def test_whatever_bytes_a_file_holds(self, content: bytes) -> None:
        self.check(content)

    @_fuzz(150)
    @given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`,?#\n \t\\0\u2028", max_size=80))
    def test_whatever_marks_of_yaml_a_file_holds(self, content: str) -> None:
        self.check(content.encode())

    @_fuzz(150)
    @given(
        st.lists(st.tuples(st.integers(0, len(LEAST)), st.text(max_size=3)), min_size=1, max_size=3)
    )
    def test_whatever_slips_of_the_hand(self, slips: list[tuple[int, str]]) -> None:
        text = LEAST
        for at, new in slips:
            text = text[:at] + new + text[at + len(new) :]
        self.check(text.encode("utf-8", "surrogatepass"))
