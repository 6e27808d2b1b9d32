"""
A gateway that is attacked: its models, its keys, and what an attempt came to.

In memory (tests/support/bench.py): what an engine would have got is what the bench was asked for.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from llamagw.config import Replica, when
from llamagw.gate.attempts import LATEST
from tests.support.bench import Bench
from tests.support.configs import local_model, remote_model
from tests.support.keys import Secrets
from tests.support.messages import Answer, answers
from tests.support.wire import Wire

#: The day of all attacks.
NOW = when("2027-06-15")

SCOPES = ("infer", "observe", "manage")


@dataclasses.dataclass
class Attempt:
    """
    What an attempt came to.

    :ivar answers: in the order in which they came
    :ivar asked: the names that were asked for, and the models whose engines got a request
    :ivar sent: these alone
    :ivar orders: of the management, that were carried out
    :ivar heard: all that was answered
    :ivar client: who has made it
    """

    answers: list[Answer]
    asked: list[str]
    sent: list[str]
    orders: list[tuple[object, ...]]
    heard: bytes
    client: Wire

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    @property
    def status(self) -> int:
        """Of the only answer."""
        [answer] = self.answers
        return answer.status


class Attacked:
    """
    A gateway with the models `mine`, `far` (another server's) and `secret`, which is the default.

    :ivar alice: a key that may use `mine` and `far`
    :ivar boss: the same, with every scope
    :ivar admin: a key that may do everything
    """

    def __init__(self, **more: Any) -> None:
        made = self.made = Secrets()
        self.alice = made.make("alice", models=["mine", "far", "keyed"])
        self.boss = made.make("boss", *SCOPES, models=["mine", "far", "keyed"])
        self.admin = made.make("admin", *SCOPES)
        self.bench = Bench(
            [
                local_model("mine", aliases=["m1", "m-*"]),
                local_model("secret", aliases=["s1", "s-*", "org/secret"]),
                remote_model("far", Replica(url="http://far")),
                remote_model("keyed", Replica(url="http://keyed", api_key="sk-upstream")),
            ],
            gate=made.gate(NOW),
            **{"default_model": "secret", **more},
        )
        self.bench.dispatcher.forget()

    def attempt(self, *says: bytes, methods: tuple[str, ...] = ()) -> Attempt:
        """What becomes of it when a client says this."""
        bench = self.bench
        bench.dispatcher.forget()
        client = bench.client(*says)
        bench.settle()
        # Who has sent many wrong keys is answered late.
        bench.reactor.advance(LATEST)
        heard = bytes(client.heard)
        sent = [lease.model.name for lease in bench.dispatcher.given]
        asked = [*bench.dispatcher.asked, *sent]
        orders = [*bench.dispatcher.orders]
        return Attempt(answers(heard, *methods), asked, sent, orders, heard, client)


def bearer(secret: str) -> tuple[str, str]:
    """The header with a key."""
    return "Authorization", f"Bearer {secret}"


def line(name: bytes, value: bytes) -> bytes:
    """A header as it is sent, whatever it is."""
    return name + b": " + value + b"\r\n"


def raw(target: bytes, headers: bytes = b"", body: bytes = b"", method: bytes = b"POST") -> bytes:
    """A request whose every byte is given, but for its Host and length."""
    length = b"Content-Length: %d\r\n" % len(body) if body or method == b"POST" else b""
    return b"%b %b HTTP/1.1\r\nHost: gateway\r\n%b%b\r\n%b" % (
        method,
        target,
        headers,
        length,
        body,
    )
