"""TLS as a person sets it up: `llamagw cert self`, a configuration, curl and `llamagw ps`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.whole.harness import CHAT, Gateway, model, question, wait_until

CURL = shutil.which("curl")
LLAMAGW = str(Path(sys.executable).with_name("llamagw"))
pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway(
        [model("smol")],
        tls={"cert": "cert.pem", "key": "key.pem"},
        forwarded={"trusted": ["127.0.0.1"]},
    )
    try:
        made = gateway.run([LLAMAGW, "cert", "self"])
        assert made.returncode == 0, made.stdout
        gateway.write_config()
        gateway.spawn(gateway.command("-n", "--pidfile="))
        wait_until(lambda: "listening on" in gateway.log, "it listens")
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


def curl(gateway: Gateway, path: str, *flags: str, scheme: str = "https") -> str:
    command = [CURL or "curl", "-sS", "--max-time", "60", "--cacert", "cert.pem", *flags]
    command.append(f"{scheme}://localhost:{gateway.port}{path}")
    done = subprocess.run(
        command, cwd=gateway.folder, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def test_a_stream_comes_to_curl_which_is_known_by_what_its_proxy_says(gateway: Gateway) -> None:
    body = json.dumps(question("smol", 8, stream=True))
    said = curl(gateway, CHAT, "-N", "-d", body, "-H", "X-Forwarded-For: 203.0.113.7")
    assert said.count("data: {") > 1
    assert said.endswith("data: [DONE]\n\n")
    [entry] = json.loads(curl(gateway, "/activity"))["data"]
    assert (entry["client"], entry["status"]) == ("203.0.113.7", 200)


def test_without_tls_curl_is_told_and_sent_there(gateway: Gateway) -> None:
    error = json.loads(curl(gateway, "/v1/models", scheme="http"))["error"]
    assert error["code"] == "https_required"
    page = curl(gateway, "/ui/", "-L", "-H", "Accept: text/html", scheme="http")
    assert page.startswith("<!doctype html>")


def test_the_command_trusts_what_the_configuration_names(gateway: Gateway) -> None:
    listed = gateway.run([LLAMAGW, "ps", "-c", "config.yaml"])
    assert listed.returncode == 0, listed.stdout
    assert "smol" in listed.stdout
