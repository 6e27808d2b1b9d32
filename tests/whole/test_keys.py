"""Keys as a person sets them up: `llamagw keys`, a configuration, certificates, the real engine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.authority import Authority
from tests.whole.harness import CHAT, Gateway, model, question, wait_until

CURL = shutil.which("curl")
LLAMAGW = str(Path(sys.executable).with_name("llamagw"))
pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")


class Door:
    """A gateway with keys and certificates, and what its clients need."""

    def __init__(self, gateway: Gateway, authority: Authority) -> None:
        self.gateway = gateway
        self._certificates = {name: authority.issue(name) for name in ("boss.lan", "stranger.lan")}
        key, cert = authority.issue("localhost")
        folder = gateway.folder
        shutil.copy(key, folder / "key.pem")
        shutil.copy(cert, folder / "cert.pem")
        shutil.copy(authority.path, folder / "ca.pem")

    def keys(self, *words: str) -> str:
        """What `llamagw keys` prints."""
        command = [LLAMAGW, "keys", *words, "--keys-file", "keys.yaml"]
        done = subprocess.run(
            command, cwd=self.gateway.folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def curl(self, path: str, *flags: str, who: str = "stranger.lan") -> tuple[int, Any]:
        """The status and the JSON of an answer, to one who shows a certificate of a name."""
        key, cert = self._certificates[who]
        command = [CURL or "curl", "-sS", "--max-time", "60", "--cacert", "ca.pem"]
        command += ["--cert", str(cert), "--key", str(key), "-w", "\n%{http_code}", *flags]
        command.append(f"https://localhost:{self.gateway.port}{path}")
        done = subprocess.run(
            command, cwd=self.gateway.folder, stdout=subprocess.PIPE, text=True, check=True
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body)

    def ask(self, *flags: str, who: str = "stranger.lan", tokens: int = 2) -> tuple[int, Any]:
        body = json.dumps(question("smol", tokens))
        return self.curl(CHAT, "-d", body, *flags, who=who)

    def asks_in_vain(self, *flags: str) -> bool:
        """Whether a long answer was broken off."""
        try:
            self.ask(*flags, tokens=4000)
        except subprocess.CalledProcessError:
            return True
        return False

    def takes(self, secret: str) -> bool:
        """Whether a key is valid."""
        return self.curl("/v1/models", "-H", f"x-api-key: {secret}")[0] == 200


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    gateway = Gateway(
        [model("smol", parallel=1)],
        tls={"cert": "cert.pem", "key": "key.pem", "client_ca": "ca.pem"},
        keys_file="keys.yaml",
        audit_log="audit.jsonl",
    )
    try:
        made = Door(gateway, Authority(tmp_path_factory.mktemp("authority")))
        made.keys("new", "boss", "--scope", "infer,observe,manage", "--certificate", "boss.lan")
        gateway.write_config()
        gateway.spawn(gateway.command("-n", "--pidfile="))
        wait_until(lambda: "listening on" in gateway.log, "it listens")
        yield made
        gateway.stop()
    finally:
        gateway.clean_up()


def test_a_certificate_stands_for_a_key_and_gives_its_rights(door: Door) -> None:
    assert door.ask(who="boss.lan")[0] == 200
    status, told = door.curl("/activity", who="boss.lan")
    assert (status, told["data"][0]["status"]) == (200, 200)


def test_a_certificate_without_a_key_is_no_key(door: Door) -> None:
    status, told = door.ask(who="stranger.lan")
    assert (status, told["error"]["code"]) == (401, "invalid_api_key")


def test_a_key_that_is_made_while_it_runs_is_valid_soon_and_one_that_is_removed_is_not(
    door: Door,
) -> None:
    secret = door.keys("new", "guest", "--models", "smol")
    header = ("-H", f"Authorization: Bearer {secret}")
    wait_until(partial(door.takes, secret), "the key is known")
    assert door.ask(*header)[0] == 200
    assert door.curl("/models/unload", "-d", '{"model": "smol"}', *header)[0] == 403
    with ThreadPoolExecutor(1) as pool:
        # What it has open then is cut off.
        endless = pool.submit(door.asks_in_vain, *header)
        wait_until(lambda: _waiting(door, "in_flight"), "it is answered")
        door.keys("rm", "guest")
        wait_until(lambda: not door.takes(secret), "the key is gone")
        assert endless.result()
    audit = (door.gateway.folder / "audit.jsonl").read_text()
    told = [json.loads(line) for line in audit.splitlines()]
    changes = [one for one in told if one["audit"] == "keys"]
    assert [(one["added"], one["removed"]) for one in changes] == [(["guest"], []), ([], ["guest"])]
    assert ("guest", 403) in [(one["key"], one["status"]) for one in told if "key" in one]
    assert secret not in audit + door.gateway.log


def test_who_asks_little_is_not_behind_all_of_who_asks_much(door: Door) -> None:
    secrets = {name: door.keys("new", name) for name in ("much", "little")}
    for secret in secrets.values():
        wait_until(partial(door.takes, secret), "the key is known")
    ended: list[str] = []

    def ask(name: str) -> None:
        assert door.ask("-H", f"x-api-key: {secrets[name]}", tokens=64)[0] == 200
        ended.append(name)

    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ask, "much") for _ in range(12)]
        wait_until(lambda: _waiting(door) >= 6, "they wait")
        asked.append(pool.submit(ask, "little"))
        for one in asked:
            one.result()
    assert ended.index("little") < 8


def _waiting(door: Door, what: str = "waiting") -> int:
    [one] = door.curl("/health", who="boss.lan")[1]["models"]
    return int(one[what])
