"""Promises of how a file is parsed: no YAML, or far too much of it, is one clear fault."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llamagw.config import ConfigError, Fault, document, load, with_lines
from tests.config.support import GATEWAY, MODEL, ConfigCase

SOUND = "llama_server_path: /bin/sh\nmodels: [{name: a, model_path: a}]\n"


def faults(path: Path, text: str) -> list[Fault]:
    file = path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    return caught.value.faults


def doubled(line: str) -> str:
    """Thirty values, each with the one before it twice."""
    first = "a0: &a0 {a: 1, b: 2}\n"
    return first + "".join(line.format(n=n, before=n - 1) for n in range(1, 31))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (doubled("a{n}: &a{n} [*a{before}, *a{before}]\n"), "its aliases make too much of it"),
        (doubled("a{n}: &a{n} {{<<: [*a{before}, *a{before}]}}\n"), "its aliases make too much"),
        # The second one of them is a fault, but would be merged all the same.
        (doubled("a{n}: &a{n} {{<<: *a{before}, <<: *a{before}}}\n"), "its aliases make too much"),
        (
            "? [&a0 x,"
            + ",".join(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 31))
            + "]\n: 1",
            "its aliases make too much of it",
        ),
        ("a: &a [*a]\n", "an alias stands inside of what it repeats"),
        ("[" * 100_000, "it is nested too deeply"),
        ("- " * 100_000, "it is nested too deeply"),
        ("{a: " * 100_000, "it is nested too deeply"),
        ("a: [" + "x," * 200_000 + "]\n", "it has over 200000 keys and values"),
        (
            "\n".join(" " * n + "k" * 1000 + ":" for n in range(200))
            + f"\n{' ' * 200}[{'x,' * 5000}]\n",
            "its keys are too long, and nested too deeply",
        ),
        ("max_queue: 0x" + "f" * 5000, "a number has over 100 digits"),
        ("max_queue: 1" + ":59" * 100_000, "a number has over 100 digits"),
        ("max_queue: 1" + ":59" * 100_000 + ".5", "a number has over 100 digits"),
        ("? 0x" + "f" * 5000 + "\n: 1", "a number has over 100 digits"),
    ],
)
def test_what_would_make_too_much_is_refused_before_it_is_made(
    tmp_path: Path, text: str, said: str
) -> None:
    [fault] = faults(tmp_path, text)
    assert said in fault.message


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SOUND, encoding="utf-8")
    os.truncate(path, 10 * 2**30)
    for one in (str(path), "/dev/zero"):
        with pytest.raises(ConfigError, match="is no configuration: it is over 4 MB"):
            load(one)


def test_of_many_faults_the_first_are_told_and_that_there_are_more(tmp_path: Path) -> None:
    found = faults(tmp_path, SOUND + "".join(f"k{n}: 1\n" for n in range(5000)))
    assert len(found) == document.MOST_FAULTS + 1
    assert "has more faults" in str(found[-1])
    assert "k0: unknown key" in str(found[0])


def test_a_fault_is_short_however_long_what_it_is_about(tmp_path: Path) -> None:
    for text in (
        f"? {'k' * 100_000}\n: 1\n{SOUND}",
        f"default_model: {'x' * 100_000}\n{SOUND}",
        f"a: !<{'x' * 100_000}> b\n",
    ):
        for fault in faults(tmp_path, text):
            assert len(str(fault)) < 1500


def test_a_file_that_is_large_and_right_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    models = "".join(f"- {{name: m{n}, model_path: m, aliases: [a{n}]}}\n" for n in range(2000))
    comments = ("#" + "x" * 98 + "\n") * 10_000
    path.write_text(f"{comments}llama_server_path: /bin/sh\nmodels:\n{models}", encoding="utf-8")
    assert len(load(str(path)).models) == 2000


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

    def test_faults_found_later_get_the_lines_of_their_places(self) -> None:
        self.load(MODEL.format("extra_args:\n      - -x\n      - -y"))
        places = ("models[0].extra_args[1]", "models[0].threads", "models[0].extra_args[0]", "")
        found = with_lines([Fault(str(self.path), None, place, "x") for place in places])
        self.assertEqual([fault.line for fault in found], [1, 3, 6, 7])
        self.path.unlink()
        self.assertEqual(with_lines(found[:1])[0].line, None)
        self.assertEqual(with_lines([]), [])

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
