"""Promises of what the keys of a configuration mean together."""

from __future__ import annotations

from tests.config.support import LEAST, MODEL, ConfigCase, local_models


class RuleTests(ConfigCase):
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

    def test_what_is_captured_is_of_models_that_there_are_and_fits(self) -> None:
        given = LEAST + "    aliases: [gpt-4o, 'claude-*']\ncapture: {models: %s, requests: %s}\n"
        for models in ("[tiny]", "['t*']", "['*']", "[gpt-4o, 'gpt*']", "[claude-3]", "[]"):
            self.load(given % (models, 10))
        self.assertEqual(self.load(given % ("[]", 0)).capture.max_kb, 64)
        self.assertIn(
            'capture.models[0]: no model is called "tny"; did', self.fault(given % ("[tny]", 1))
        )
        for text, said in (
            ("{models: [tiny]}", "capture.requests: is missing"),
            ("{requests: 5}", "capture.models: is missing"),
            ("{models: [tiny], requests: 1001}", "more than the 1000 requests"),
            ("{models: [tiny], requests: 1000, max_kb: 200}", "at most"),
            ("{models: tiny, requests: 1}", "expected a list of up to 100 names"),
            ("{models: [tiny], requests: 1, max_kb: 0}", "1 to 256"),
            ("{models: [tiny], requests: 1, kb: 1}", "did you mean max_kb?"),
            ("true", "expected keys such as {models"),
            ("", "expected keys such as {models"),
        ):
            self.assertIn(said, self.fault(LEAST + f"capture: {text}\n"), text)

    def test_two_models_of_one_name(self) -> None:
        self.assertEqual(
            self.fault(LEAST + LEAST[LEAST.index("  - ") :]),
            'config.yaml:5: models[1].name: "tiny" is the name of models[0] already; '
            "names must differ",
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
        self.assertEqual(
            local_models(config)[0].extra_args, ["--ctx-size", "8", "--model-draft", "x"]
        )
