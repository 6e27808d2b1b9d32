"""
The descriptions that instances give of their models; each run is asked once, and the result kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from llamagw.fleet.instance import Instance, Life
from llamagw.launch import Asks

#: Timeout in seconds: an instance that is busy may have no thread free to answer.
DESCRIBE_SEC = 1.0


class Descriptions:
    """
    Fetches and keeps the descriptions.

    :param probe: asks one instance
    :param clock: the reactor, or a Clock
    """

    def __init__(self, probe: Asks, clock: IReactorTime) -> None:
        self._probe = probe
        self._clock = clock

    async def of(self, ready: Iterable[Instance]) -> dict[str, dict[str, Any]]:
        """
        The descriptions of models.

        :param ready: instances that are ready; of several of a model, the last with a description
            counts
        :return: by name of the model; models without a description in time are left out
        """
        lives = [(i.model.name, i.life) for i in ready if i.life is not None]
        await gatherResults([self._ask(life) for _, life in lives if not life.description])
        return {name: life.description for name, life in lives if life.description}

    async def metrics(self, ready: Iterable[Instance]) -> dict[str, bytes]:
        """
        The metrics of instances, asked anew.

        :param ready: instances that are ready
        :return: by name of the model; those that do not answer in time are left out
        """
        asked = [(i.model.name, i.life.run.address) for i in ready if i.life is not None]
        answers = [
            self._probe.metrics(address)
            .addTimeout(DESCRIBE_SEC, self._clock)
            .addErrback(lambda _: None)
            for _, address in asked
        ]
        told = await gatherResults(answers)
        return {name: text for (name, _), text in zip(asked, told, strict=True) if text}

    def _ask(self, life: Life) -> Deferred[None]:
        """Ask once for all callers; fires when the description is there, or it is given up."""
        waiting: Deferred[None] = Deferred()
        life.description_waiters.append(waiting)
        if len(life.description_waiters) == 1:

            def received(description: dict[str, Any]) -> None:
                life.description = description

            def over(_: None) -> None:
                waiters, life.description_waiters = life.description_waiters, []
                for waiter in waiters:
                    waiter.callback(None)

            asking = self._probe.describe(life.run.address)
            asking.addTimeout(DESCRIBE_SEC, self._clock)
            asking.addCallbacks(received, lambda _: None).addCallback(over)
        # If its client disconnects it is cancelled; the other waiters are not affected.
        return waiting.addErrback(lambda _: None)
