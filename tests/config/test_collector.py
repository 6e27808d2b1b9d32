"""Promises of what is exported by OpenTelemetry: what switches it on, and which value wins."""

from __future__ import annotations

import os
from unittest import mock

from llamagw.config import Otel, collector
from tests.config.support import LEAST, ConfigCase

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
IS_INSTALLED = collector._is_installed
URL = "http://collector:4318"


class CollectorTests(ConfigCase):
    def setUp(self) -> None:
        super().setUp()
        self.installed = True
        self.patch(collector, "_is_installed", lambda package: self.installed)

    def otel(self, text: str = "", **variables: str) -> Otel | None:
        """What a file with these lines says, with these variables of OpenTelemetry only."""
        others = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
        with mock.patch.dict(os.environ, {**others, **variables}, clear=True):
            return self.load(LEAST + text).otel

    def signals(self, text: str = "", **variables: str) -> tuple[bool, bool]:
        found = self.otel(text, **variables)
        return (False, False) if found is None else (found.spans, found.metrics)

    def test_nothing_is_exported_unless_somebody_asks_for_it(self) -> None:
        self.assertIsNone(self.otel())
        self.assertIsNone(self.otel(OTEL_SERVICE_NAME="x", OTEL_EXPORTER_OTLP_HEADERS="a=b"))

    def test_every_default(self) -> None:
        self.assertEqual(
            self.otel("otel: {}\n"),
            Otel(
                asked_by="otel",
                endpoint="http://127.0.0.1:4318",
                headers={},
                content=False,
                sample=None,
                spans=True,
                metrics=True,
                problem="",
            ),
        )

    def test_every_key_can_be_given(self) -> None:
        text = f"otel: {{endpoint: {URL}/x, headers: {{X-Key: s}}, content: true, sample: 0.5}}\n"
        found = self.otel(text, **{ENDPOINT: "http://elsewhere"})
        assert found is not None
        self.assertEqual(
            (found.endpoint, found.headers, found.content, found.sample),
            (f"{URL}/x", {"X-Key": "s"}, True, 0.5),
        )

    def test_the_standard_variables_switch_it_on(self) -> None:
        for variables, signals in (
            ({ENDPOINT: URL}, (True, True)),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL}, (True, False)),
            ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": URL}, (False, True)),
            ({"OTEL_TRACES_EXPORTER": "console, otlp"}, (True, False)),
            ({"OTEL_METRICS_EXPORTER": "otlp"}, (False, True)),
        ):
            self.assertEqual(self.signals(**variables), signals, variables)
            found = self.otel(**variables)
            assert found is not None
            self.assertIn(found.asked_by, variables)
            # The SDK reads it by itself.
            wanted = None if URL in variables.values() else "http://127.0.0.1:4318"
            self.assertEqual(found.endpoint, wanted, variables)

    def test_and_off_whatever_the_file_says(self) -> None:
        text = "otel: {}\n"
        for variables, signals in (
            ({"OTEL_SDK_DISABLED": "True"}, (False, False)),
            ({"OTEL_TRACES_EXPORTER": "none"}, (False, True)),
            ({"OTEL_METRICS_EXPORTER": "none"}, (True, False)),
            ({"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}, (False, False)),
        ):
            self.assertEqual(self.signals(text, **variables), signals, variables)

    def test_what_is_not_installed_is_a_fault_if_the_file_asks_for_it(self) -> None:
        self.installed = False
        self.assertEqual(
            self.fault(LEAST + "otel: {}\n"),
            "config.yaml:5: otel: wants OpenTelemetry's SDK, which is not installed: "
            "pip install 'llamagw[otel]'",
        )
        self.assertIsNone(self.otel(), "who does not want it needs nothing")

    def test_and_no_fault_if_the_environment_does(self) -> None:
        self.installed = False
        found = self.otel(**{ENDPOINT: URL})
        assert found is not None
        self.assertIn("pip install 'llamagw[otel]'", found.problem)

    def test_a_package_that_is_not_there_is_not_installed(self) -> None:
        for name, installed in (("email.mime", True), ("email.no", False), ("no.such.one", False)):
            self.assertIs(IS_INSTALLED(name), installed, name)

    def test_a_collector_is_not_spoken_to_in_another_protocol(self) -> None:
        grpc = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", ENDPOINT: "http://collector:4317"}
        found = self.otel(**grpc)
        assert found is not None
        self.assertIn("OTEL_EXPORTER_OTLP_PROTOCOL=grpc", found.problem)
        found = self.otel(f"otel: {{endpoint: {URL}}}\n", **grpc)
        assert found is not None
        self.assertEqual(found.problem, "", "the file's address is for ours")

    def test_wrong_values_are_told_where_they_stand(self) -> None:
        for text, told in (
            ("otel:\n", "otel: expected keys such as"),
            ("otel: true\n", "otel: expected keys such as"),
            ("otel: {endpoint: 'collector:4318'}\n", "otel.endpoint: expected a URL such as"),
            ("otel: {endpoint: 'http://a/?b=c'}\n", "otel.endpoint: expected a URL such as"),
            ("otel: {sample: 2}\n", "otel.sample: expected a number from 0 to 1, got 2"),
            ("otel: {headers: {'a b': c}}\n", "otel.headers: expected names and texts"),
            ("otel: {endpoints: x}\n", "otel.endpoints: unknown key; did you mean endpoint?"),
        ):
            self.assertIn(f"config.yaml:5: {told}", self.fault(LEAST + text))
