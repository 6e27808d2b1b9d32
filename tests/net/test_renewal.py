"""Promises of llamagw.net.renewal: changed files are read again, faults are told once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent

from llamagw.config import TlsEntry
from llamagw.net import Renewal, Tls, read_tls
from llamagw.net.renewal import LOOK_SEC
from tests.support.authority import Authority
from tests.support.logs import observe


class World:
    """A certificate that is followed."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.clock = Clock()
        self.used: list[Tls] = []
        self.said: list[str] = []
        self.threads: list[Deferred[None]] = []
        self.slow = False
        self.renewal = Renewal(self.clock, self.in_thread, self.used.append)
        self.follow()

    def in_thread(self, call):  # type: ignore[no-untyped-def]
        if not self.slow:
            return maybeDeferred(call)
        hold: Deferred[None] = Deferred()
        self.threads.append(hold)
        return hold.addCallback(lambda _: call())

    def issue(self) -> None:
        key, cert = self.authority.issue("localhost")
        key.chmod(0o600)
        self.files = TlsEntry(cert=str(cert), key=str(key))

    def follow(self) -> None:
        self.issue()
        self.renewal.follow(":8443", self.files, read_tls(":8443", self.files))

    def look(self) -> None:
        self.clock.advance(LOOK_SEC)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    stop = observe(lambda event: world.said.append(formatEvent(event)))
    yield world
    stop()


def test_files_that_stay_are_left_alone(world: World) -> None:
    for _ in range(3):
        world.look()
    assert (world.used, world.said) == ([], [])


def test_a_new_pair_is_used_and_told_once(world: World) -> None:
    world.issue()
    for _ in range(3):
        world.look()
    [tls] = world.used
    assert world.said == [f"the files of tls have changed: {tls.told}"]


def test_a_pair_that_is_half_written_is_told_once_and_used_when_it_is_whole(world: World) -> None:
    cert = Path(world.files.cert)
    old = cert.read_bytes()
    world.issue()
    new = cert.read_bytes()
    cert.write_bytes(old)
    for _ in range(3):
        world.look()
    [said] = world.said
    assert said == (
        f"tls.key: {world.files.key} is not the key of the certificate {cert}; "
        "the certificate in use stays, and this is tried again"
    )
    cert.write_bytes(new[:100])
    world.look()
    assert len(world.said) == 2, "it is another reason"
    assert not world.used
    cert.write_bytes(new)
    world.look()
    assert len(world.used) == 1
    assert world.said[2].startswith("the files of tls have changed")


def test_files_that_are_away_are_told_and_used_when_they_are_back(world: World) -> None:
    cert = Path(world.files.cert)
    content = cert.read_bytes()
    cert.unlink()
    world.look()
    assert world.said[0].startswith(f"tls.cert: there is no file {cert}; ")
    cert.write_bytes(content)
    world.look()
    assert len(world.used) == 1


def test_a_look_that_takes_long_is_the_only_one_and_comes_to_nothing_after_a_reload(
    world: World,
) -> None:
    world.slow = True
    world.issue()
    world.look()
    world.look()
    assert len(world.threads) == 1
    world.follow()
    world.threads[0].callback(None)
    assert world.used == []
    world.look()
    world.threads[1].callback(None)
    assert world.used == [], "it is what the reload has read"


def test_it_ends(world: World) -> None:
    world.renewal.stop()
    assert world.clock.getDelayedCalls() == []
    world.renewal.follow(":8443", None, None)
    assert world.clock.getDelayedCalls() == []
