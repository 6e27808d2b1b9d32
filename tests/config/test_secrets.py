"""Promises of how secrets are masked: none is shown, all else stays, and each is found again."""

from __future__ import annotations

import pytest
import yaml
from msgspec.structs import replace

from llamagw.config.document import Document
from llamagw.config.resolved import Config, Otel, Replica
from llamagw.config.secrets import MASK, is_secret, masked_arguments, masked_text, unmasked
from tests.support.configs import configuration, local_model, remote_model


def masked(text: str) -> str:
    document = Document("/nowhere/config.yaml")
    document.parse(text.encode())
    assert document.text is not None
    assert document.root is not None
    return masked_text(document.text, document.root)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a: 1 # α\napi_key: sk-1 # mine\nb: 2\n", 'a: 1 # α\napi_key: "***" # mine\nb: 2\n'),
        ("{url: x, api_key: 'sk-1', b: 2}", '{url: x, api_key: "***", b: 2}'),
        ('api_key: "s\\"k-1"\n', 'api_key: "***"\n'),
        ("api_key: &k sk-1\nb: {api_key: *k}\n", 'api_key: &k "***"\nb: {api_key: *k}\n'),
        ("api_key: !!str sk-1\n", 'api_key: !!str "***"\n'),
        ("env: {A: sk-1, B: [sk-2]}\nc: 3\n", 'env: {A: "***", B: ["***"]}\nc: 3\n'),
        ("env:\n  A: sk-1\n  B: 5\nc: 3\n", 'env:\n  A: "***"\n  B: "***"\nc: 3\n'),
        ("otel: {headers: {X: sk-1}}\n", 'otel: {headers: {X: "***"}}\n'),
        ("pass_headers: [X]\n", "pass_headers: [X]\n"),
        ("env: &m {A: sk-1}\nb: *m\n", 'env: &m {A: "***"}\nb: *m\n'),
        ("name: &n sk-1\napi_key: *n\n", 'name: &n "***"\napi_key: *n\n'),
        ("x: &b --hf-token=sk-1 k-2\nenv: {A: *b}\n", 'x: &b "***"\nenv: {A: *b}\n'),
        ("env: {A: &b --hf-token=sk-1 k-2}\nx: *b\n", 'env: {A: &b "***"}\nx: *b\n'),
        ("x: &b {api_key: sk-1}\ny: {<<: *b}\n", 'x: &b {api_key: "***"}\ny: {<<: *b}\n'),
        (
            "extra_args: [--api-key, sk-1, --port, '1', --hf-token=sk-2]\n",
            'extra_args: [--api-key, "***", --port, \'1\', "--hf-token=***"]\n',
        ),
        ("a: 1 # api_key: sk-1\n", 'a: 1 # api_key: "***"\n'),
        ("a: 1\n#  HF_TOKEN: sk-1\n", 'a: 1\n#  HF_TOKEN: "***"\n'),
        ("\ufeffapi_key: sk-1\n", 'api_key: "***"\n'),
        ("a: 1\r\napi_key: sk-1\r\nb: 2\r\n", 'a: 1\r\napi_key: "***"\r\nb: 2\r\n'),
        ("a: 😀\napi_key: sk-1\n", 'a: 😀\napi_key: "***"\n'),
        ("a: 1\napi_key:\nb: 2\n", "a: 1\napi_key:\nb: 2\n"),
        ("api_key_env: GPU_KEY\nmax_tokens: 5\n", "api_key_env: GPU_KEY\nmax_tokens: 5\n"),
    ],
)
def test_each_secret_is_masked_and_all_else_stays_as_it_is_written(text: str, wanted: str) -> None:
    shown = masked(text)
    assert shown == wanted
    assert "sk-" not in shown
    yaml.safe_load(shown)


@pytest.mark.parametrize(
    "text",
    [
        "extra_args: --api-key sk-1\n",
        "extra_args: ['--threads 4 --api-key sk-1']\n",
        "extra_args: [[--api-key, sk-1]]\n",
        "extra_args: [--api-key, [sk-1], {token: sk-2}]\n",
        "extra_args: {--api-key: sk-1}\n",
        "models: [{apikey: sk-1}, {Api-Key: [sk-2]}, {hf_token: sk-3}]\n",
        "ENV: {A: sk-1}\n",
        "api_key...: sk-1\n'headers:': {x: sk-2}\n",
        "env: {A=sk-1, B}\n",
        "api_key: {sk-1: {b: sk-2}}\n",
        "api_key_env: sk-1\n",
        "otel: {headers: {x-api-key=sk-1: a, x-key: sk-2, b: [{c: sk-3}]}}\n",
        "api_key: &a?sk-1 sk-2\n",
        "url: http://me:sk-1@host/\n",
        "url: [http://host/?api_key=sk-1]\n",
        "a: 1\n#extra_args: ['--api-key', \"sk-1\"]\n# --hf-token sk-1\n",
    ],
)
def test_a_secret_in_a_wrong_place_or_shape_is_masked_too(text: str) -> None:
    """A file that has faults is shown as well, to be mended."""
    shown = masked(text)
    assert "sk-" not in shown
    yaml.safe_load(shown)


def test_a_text_that_is_no_secret_stays_as_it_is_written() -> None:
    text = (
        "models:\n  - {name: 'a?b', url: 'http://host/v1', api_key_env: GPU_KEY}\n"
        "  - set_params: {max_tokens: 5, stop: ['--', 'Is it?yes']}\n# all tokens\n"
    )
    assert masked(text) == text


@pytest.mark.parametrize("style", ["|", ">-", "|2-"])
def test_what_stands_below_a_secret_of_several_lines_keeps_its_line(style: str) -> None:
    text = f"a: 1\napi_key: {style}\n  sk-1\n  sk-2\nb: 2\n"
    shown = masked(text)
    assert "sk-" not in shown
    assert shown.splitlines().index("b: 2") == text.splitlines().index("b: 2")
    assert yaml.safe_load(shown) == {"a": 1, "api_key": MASK, "b": 2}


def test_an_alias_of_many_is_gone_through_once() -> None:
    text = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 100))
    assert masked(text) == text


def test_places_of_secrets_are_known_and_names_of_variables_are_none() -> None:
    for place in ("api_key", "models[1].api_key", "models[0].replicas[2].api_key"):
        assert is_secret(place)
    for place in ("models[0].env.HF_TOKEN", "models[0].env", "env", "otel.headers.X-Key"):
        assert is_secret(place)
    for place in ("", "models[0].api_key_env", "models[0].name", "models[0].environment"):
        assert not is_secret(place)


def test_arguments_that_name_a_secret_are_masked() -> None:
    given = ["--api-key", "a", "--hf-token=b", "-hft", "c", "--api-key d", "--threads", "4"]
    assert masked_arguments(given) == [
        *("--api-key", "***", "--hf-token=***", "-hft", "***", "--api-key ***", "--threads", "4")
    ]


def test_a_mask_is_taken_for_the_secret_that_stands_there() -> None:
    old = configuration(
        local_model("a", env={"A": "1", "B": "2"}, extra_args=["--api-key", "k", "-x"]),
        remote_model("r", Replica(url="http://one", api_key="1"), Replica(url="http://two")),
    )
    told = configuration(
        local_model("a", env={"A": MASK, "B": "2"}, extra_args=["--api-key", MASK, "-x"]),
        remote_model("r", Replica(url="http://one", api_key=MASK), Replica(url="http://two")),
    )
    assert told != old
    assert unmasked(told, old) == old


def test_masked_headers_for_a_collector_are_those_that_there_are() -> None:
    def with_headers(**headers: str) -> Config:
        otel = Otel(
            asked_by="otel",
            endpoint=None,
            headers=headers,
            content=False,
            sample=None,
            spans=True,
            metrics=True,
            problem="",
        )
        return replace(configuration(local_model("a")), otel=otel)

    old = with_headers(Key="s", Other="t")
    assert unmasked(with_headers(Key=MASK, Other="t"), old) == old
    assert unmasked(with_headers(New=MASK), old) == with_headers(New=MASK)
    assert unmasked(with_headers(Key=MASK), configuration(local_model("a"))).otel is not None


def test_a_mask_without_a_secret_is_a_text_like_any_other() -> None:
    old = configuration(local_model("a"), remote_model("r", Replica(url="http://one")))
    told = configuration(
        local_model("a", env={"A": MASK}, extra_args=["--api-key", MASK]),
        local_model("r", env={"A": MASK}),
        remote_model("new", Replica(url="http://one", api_key=MASK)),
    )
    assert unmasked(told, old) == told
