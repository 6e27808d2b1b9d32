"""The configuration's names (aliases, patterns, the default model) and shaping of requests."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from llamagw.config import Names, is_pattern
from tests.config.support import MODEL, ConfigCase


class NamesCase(ConfigCase):
    def text(self, *models: dict[str, Any], **gateway: Any) -> str:
        """A file with these models, each with a path."""
        whole = [{"name": f"m{n}", "model_path": "x.gguf", **m} for n, m in enumerate(models)]
        return json.dumps({"llama_server_path": "./llama-server", "models": whole, **gateway})


class AliasTests(NamesCase):
    def test_aliases_are_taken(self) -> None:
        config = self.load(self.text({"aliases": ["gpt-4o", "gpt-4*", "*"]}, {"name": "n"}))
        self.assertEqual(config.models[0].aliases, ["gpt-4o", "gpt-4*", "*"])

    def test_a_clash_is_a_fault_at_the_later_one_wherever_its_models_stand(self) -> None:
        for models, place, said in (
            (
                [{"aliases": ["x"]}, {"aliases": ["x"]}],
                "models[1].aliases[0]",
                "alias of models[0]",
            ),
            ([{"aliases": ["m1"]}, {}], "models[0].aliases[0]", "name of models[1]"),
            ([{"aliases": ["m0"]}], "models[0].aliases[0]", "name of models[0]"),
            ([{"aliases": ["a", "a"]}], "models[0].aliases[1]", "alias of models[0]"),
            ([{"aliases": ["g*"]}, {"aliases": ["g*"]}], "models[1].aliases[0]", "alias of"),
        ):
            [fault] = self.faults(self.text(*models))
            self.assertIn(f"{place}: ", fault)
            self.assertIn(said, fault)

    def test_a_clash_is_told_along_with_a_fault_in_the_same_model(self) -> None:
        said = self.faults(self.text({"aliases": ["m1"], "threads": -1}, {}))
        self.assertEqual(len(said), 2)

    def test_what_is_no_list_of_names_is_a_fault(self) -> None:
        for aliases in ("gpt-4", [""], [1], {"a": 1}, None):
            [fault] = self.faults(self.text({"aliases": aliases}))
            self.assertIn("models[0].aliases: expected a list of names or patterns", fault)

    def test_a_star_without_quotes_is_told_how_to_write_it(self) -> None:
        text = self.text({})
        said = self.faults(text.replace('"model_path"', '"aliases": [*], "model_path"'))
        self.assertIn('needs quotes, such as "*"', said[0])

    def test_the_default_model_must_be_one(self) -> None:
        models: list[dict[str, Any]] = [{"aliases": ["chat", "gpt-*"]}, {}]
        for name in ("m0", "m1", "chat", "gpt-4"):
            self.assertEqual(self.load(self.text(*models, default_model=name)).default_model, name)
        self.assertEqual(
            self.faults(self.text(*models, default_model="chatt")),
            ['config.yaml:1: default_model: no model is called "chatt"; did you mean "chat"?'],
        )
        [fault] = self.faults(self.text(*models, default_model="zzz"))
        self.assertIn("known are m0, m1, chat, gpt-*", fault)


class NamesTests(SynchronousTestCase):
    NAMES = Names(
        [("a", ["b", "gpt-4*", "[xy]?"]), ("c", ["gpt-*", "gpt-4-turbo"]), ("star*", ["*:free"])]
    )

    def test_a_name_or_alias_comes_before_patterns_and_patterns_in_their_order(self) -> None:
        for name, own in (
            ("a", "a"),
            ("b", "a"),
            ("gpt-4", "a"),
            ("gpt-4-turbo", "c"),
            ("gpt-4-turbo-2", "a"),
            ("gpt-5", "c"),
            ("x1", "a"),
            ("X1", None),
            ("star*", "star*"),
            ("starry", None),
            ("org/x:free", "star*"),
            ("", None),
            ("gpt", None),
        ):
            self.assertEqual(self.NAMES.find(name), own, name)

    def test_patterns_are_not_among_the_exact_ones(self) -> None:
        exact = {"a": "a", "b": "a", "c": "c", "gpt-4-turbo": "c", "star*": "star*"}
        self.assertEqual(self.NAMES.exact, exact)

    @given(st.text(max_size=20))
    def test_a_lone_star_fits_every_name_and_a_plain_alias_only_itself(self, name: str) -> None:
        self.assertEqual(Names([("a", ["*"])]).find(name), "a")
        if not is_pattern(name):
            self.assertEqual(Names([("a", [name])]).find(name + "x"), None)


class ShapingTests(NamesCase):
    def test_values_are_taken_as_they_are(self) -> None:
        put = {"temperature": 0.6, "chat_template_kwargs": {"enable_thinking": False}, "x": [None]}
        [model] = self.load(
            self.text({"set_params": put, "default_params": {"n": 1}, "strip_params": ["user"]})
        ).models
        self.assertEqual(
            (model.set_params, model.default_params, model.strip_params), (put, {"n": 1}, ["user"])
        )

    def test_model_is_not_to_be_touched(self) -> None:
        for key, value in (
            ("set_params", {"model": "x"}),
            ("default_params", {"model": "x"}),
            ("strip_params", ["model"]),
        ):
            [fault] = self.faults(self.text({key: value}))
            self.assertIn(f"models[0].{key}: `model` is what a request is routed by", fault)

    def test_what_json_has_not_is_a_fault(self) -> None:
        for value in (".nan", ".inf", "2024-01-01", "!!set {a, b}", "{1: 2}", "[[.nan]]"):
            said = self.faults(MODEL.format(f"set_params: {{x: {value}}}"))
            self.assertIn("models[0].set_params", said[0], value)

    def test_what_is_no_mapping_is_a_fault(self) -> None:
        for key in ("set_params", "default_params"):
            [fault] = self.faults(self.text({key: ["x"]}))
            self.assertIn(f"models[0].{key}: expected keys and values of the request", fault)
