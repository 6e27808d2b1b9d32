"""
How instances describe their models: each is asked once in a run, for all who want to know.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from llamagw.fleet.instance import Instance, Life
from llamagw.launch import Asks

#: Seconds that an instance has to describe its model; one that is busy may have no thread for it.
DESCRIBE_SEC = 1.0


class Descriptions:
    """
    Asks instances.

    :param probe: asks one
    :param clock: keeps time
    """

    def __init__(self, probe: Asks, clock: IReactorTime) -> None:
        self._probe = probe
        self._clock = clock

    async def of(self, ready: Iterable[Instance]) -> dict[str, dict[str, Any]]:
        """
        What instances say of their models.

        :param ready: those that are ready; of a model's, the last that says something counts
        :return: by the names of the models; what was not said in time is left out
        """
        lives = [(i.model.name, i.life) for i in ready if i.life is not None]
        await gatherResults([self._ask(life) for _, life in lives if not life.description])
        return {name: life.description for name, life in lives if life.description}

    def _ask(self, life: Life) -> Deferred[None]:
        """Fires when it has described its model, or has not in time; it is asked once for all."""
        waiting: Deferred[None] = Deferred()
        life.curious.append(waiting)
        if len(life.curious) == 1:

            def said(description: dict[str, Any]) -> None:
                life.description = description

            def over(_: None) -> None:
                curious, life.curious = life.curious, []
                for one in curious:
                    one.callback(None)

            asking = self._probe.describe(life.run.address)
            asking.addTimeout(DESCRIBE_SEC, self._clock)
            asking.addCallbacks(said, lambda _: None).addCallback(over)
        # One whose client has left is cancelled, and the others wait on.
        return waiting.addErrback(lambda _: None)
