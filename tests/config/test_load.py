"""Promises of loading a file: every key and default, relative paths, all faults at once."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from unittest import mock

import msgspec

from llamagw.config import (
    CaptureEntry,
    ConfigFile,
    ModelEntry,
    OtelEntry,
    ReplicaEntry,
    load,
)
from tests.config.support import LEAST, MODEL, ConfigCase, local_models
from tests.support.configs import configuration, local_model


class DefaultsTests(ConfigCase):
    def test_the_example_has_every_key(self) -> None:
        root = Path(__file__).resolve().parents[2]
        example = (root / "config.example.yaml").read_text()
        for struct in (ConfigFile, ModelEntry, OtelEntry, ReplicaEntry):
            for field in msgspec.structs.fields(struct):
                self.assertRegex(example, rf"(?m)^[ #-]*{field.name}:", field.name)

    def test_every_default_of_the_gateway(self) -> None:
        values = msgspec.structs.asdict(self.load(LEAST))
        del values["llama_server_path"], values["models"], values["path"]
        self.assertEqual(
            values,
            {
                "listen_addr": ":8000",
                "tls": None,
                "forwarded": None,
                "default_model": "tiny",
                "port_range_start": 8081,
                "backend_socket": "tcp",
                "max_loaded_models": 2,
                "memory": None,
                "memory_reserve": 10**9,
                "health_check_sec": 30,
                "swap_after_sec": "auto",
                "max_queue": 512,
                "queue_timeout_sec": 600,
                "stream_keepalive_sec": 0,
                "load_timeout_sec": 600,
                "stop_timeout_sec": 10,
                "drain_sec": 30,
                "poison_sec": 60,
                "max_body_mb": 64,
                "max_bodies_mb": None,
                "cors_origins": ["*"],
                "request_timeout_sec": 60,
                "client_stall_sec": 600,
                "access_log": None,
                "engine_log": "warn",
                "log_format": "text",
                "activity_size": 1000,
                "ui": True,
                "keys": None,
                "keys_file": None,
                "audit_log": None,
                "limit_wait_sec": 5,
                "capture": CaptureEntry(models=[], requests=0, max_kb=64),
                "otel": None,
            },
        )

    def test_all_bodies_have_an_eighth_of_the_memory_and_room_for_one(self) -> None:
        self.assertEqual(self.load(LEAST).bodies_mb(16 * 2**30), 2048)
        self.assertEqual(self.load(LEAST).bodies_mb(2**20), 64)
        self.assertEqual(self.load(LEAST + "max_bodies_mb: 100\n").bodies_mb(2**40), 100)

    def test_requests_are_logged_in_the_foreground_unless_the_file_says_otherwise(self) -> None:
        for line, wanted in (
            ("", (True, False)),
            ("access_log: true\n", (True, True)),
            ("access_log: false\n", (False, False)),
        ):
            config = self.load(LEAST + line)
            self.assertEqual((config.logs_access(True), config.logs_access(False)), wanted)

    def test_every_default_of_a_model(self) -> None:
        [model] = self.load(LEAST).models
        self.assertEqual(
            msgspec.structs.asdict(model),
            {
                "name": "tiny",
                "model_path": str(self.model),
                "gpu_layers": 0,
                "context_size": 4096,
                "threads": 4,
                "batch_size": 512,
                "parallel": 8,
                "memory": None,
                "prompt_cache_mb": None,
                "max_in_flight": None,
                "extra_args": [],
                "aliases": [],
                "set_params": {},
                "default_params": {},
                "strip_params": [],
                "json_object": "loose",
                "pass_headers": [],
                "env": {},
                "pinned": False,
                "preload": False,
                "idle_unload_sec": 0,
                "idle_shrink_sec": 0,
            },
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
            engine_log: none
            models:
              - name: "Qwen/Qwen2.5 7B: the chat one"
                model_path: {self.model}
                gpu_layers: -1
                context_size: 1
                threads: 1
                batch_size: 1
                parallel: 1
                extra_args: ["--embeddings", "--pooling", "mean"]
                json_object: strict
                env: {{CUDA_VISIBLE_DEVICES: 0, OMP_WAIT_POLICY: passive}}
                preload: true
                idle_unload_sec: 0.5
              - {{name: other, model_path: /models/other.gguf}}
            """)
        )
        self.assertEqual(
            config,
            configuration(
                local_model(
                    "Qwen/Qwen2.5 7B: the chat one",
                    model_path=str(self.model),
                    gpu_layers=-1,
                    context_size=1,
                    threads=1,
                    batch_size=1,
                    parallel=1,
                    extra_args=["--embeddings", "--pooling", "mean"],
                    json_object="strict",
                    env={"CUDA_VISIBLE_DEVICES": "0", "OMP_WAIT_POLICY": "passive"},
                    preload=True,
                    idle_unload_sec=0.5,
                ),
                local_model("other"),
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
                engine_log="none",
                path=str(self.path),
            ),
        )

    def test_the_only_model_is_the_default_model_unless_the_file_says_otherwise(self) -> None:
        self.assertEqual(self.load(LEAST).default_model, "tiny")
        self.assertIsNone(self.load(LEAST + "default_model: null\n").default_model)
        second = "  - {name: second, model_path: tiny.gguf}\n"
        self.assertIsNone(self.load(LEAST + second).default_model)
        two = LEAST + second + "default_model: second\n"
        self.assertEqual(self.load(two).default_model, "second")
        far = "models: [{name: far, url: http://10.0.0.5:8000}]\n"
        self.assertEqual(self.load(far).default_model, "far")

    def test_the_default_of_threads_is_never_more_than_there_are_cores(self) -> None:
        for cores, threads in ((64, 4), (4, 4), (2, 2), (1, 1)):
            self.cores = cores
            self.assertEqual(local_models(self.load(LEAST))[0].threads, threads)
            for written in (0, 1, 7):
                text = MODEL.format(f"threads: {written}")
                self.assertEqual(local_models(self.load(text))[0].threads, written)

    def test_numbers_and_switches_in_extra_args_are_taken_as_they_are_written(self) -> None:
        text = MODEL.format("extra_args: [--ctx-size, 4096, -1, 0.50, 0x1F, on, True, 1e-5]")
        self.assertEqual(
            local_models(self.load(text))[0].extra_args,
            ["--ctx-size", "4096", "-1", "0.50", "0x1F", "on", "True", "1e-5"],
        )
        text = LEAST.replace("- name", "- &x\n    extra_args: [8, true]\n    name")
        second = local_models(self.load(text + "  - {<<: *x, name: second}\n"))[1]
        self.assertEqual(second.extra_args, ["8", "true"])

    def test_a_loaded_configuration_cannot_be_changed(self) -> None:
        config = self.load(LEAST)
        with self.assertRaises(AttributeError):
            config.max_queue = 1  # type: ignore[misc]
        with self.assertRaises(AttributeError):
            config.models[0].name = "other"  # type: ignore[misc]

    def test_merge_keys_of_yaml_work(self) -> None:
        text = """\
        llama_server_path: ./llama-server
        models:
          - &tiny {name: tiny, model_path: tiny.gguf, threads: 2}
          - {<<: *tiny, name: second}
        """
        config = self.load(textwrap.dedent(text))
        self.assertEqual([model.threads for model in local_models(config)], [2, 2])


class PathTests(ConfigCase):
    def test_relative_paths_count_from_the_folder_of_the_file(self) -> None:
        self.executable(self.folder / "bin" / "llama-server")
        text = LEAST.replace("./llama-server", "bin/llama-server")
        config = self.load(text.replace("tiny.gguf", "../models/tiny.gguf"))
        self.assertEqual(config.llama_server_path, str(self.folder / "bin" / "llama-server"))
        expected = str(self.folder.parent / "models" / "tiny.gguf")
        self.assertEqual(local_models(config)[0].model_path, expected)

    def test_relative_paths_do_not_count_from_the_current_folder(self) -> None:
        self.path.write_text(LEAST)
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder.parent)
        config = load(os.path.join(self.folder.name, "config.yaml"))
        self.assertEqual(local_models(config)[0].model_path, str(self.model))

    def test_a_tilde_is_the_home_folder(self) -> None:
        with mock.patch.dict(os.environ, HOME=str(self.folder)):
            config = self.load(LEAST.replace("./", "~/").replace("tiny.gguf", "~/tiny.gguf"))
        self.assertEqual(config.llama_server_path, str(self.engine))
        self.assertEqual(local_models(config)[0].model_path, str(self.model))

    def test_a_missing_model_file_is_no_fault(self) -> None:
        config = self.load(LEAST + "  - {name: gone, model_path: gone.gguf}\n")
        self.assertEqual([model.name for model in config.models], ["tiny", "gone"])


class FaultTests(ConfigCase):
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
                'expected a whole number: -1 (all), 0 (CPU only) or more; or "auto", got "all"',
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
