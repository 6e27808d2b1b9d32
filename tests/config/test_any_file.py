"""Whatever a file holds, it is a Config or a ConfigError."""

from __future__ import annotations

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llamagw.config import (
    Config,
    ConfigError,
    ConfigFile,
    ModelEntry,
)
from tests.config.support import LEAST, ConfigCase

_keys = st.one_of(
    st.sampled_from([*ConfigFile.__struct_fields__, *ModelEntry.__struct_fields__]), st.text()
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
        **dict.fromkeys(ConfigFile.__struct_fields__, _values),
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
            told = [line for f in error.faults for line in (str(f), *f.excerpt)]
            self.assertEqual(said.splitlines(), told)
            for line in told:
                self.assertTrue(line.isprintable())
                self.assertTrue(line.startswith((str(self.path), "    ")))
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
