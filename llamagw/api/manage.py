"""
Management: load and unload models, hear of their states, read what their engines print.

The shapes are those of llama-server's router (tools/server/README.md of llama.cpp).
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct
from twisted.internet.interfaces import IReactorTime

from llamagw.api.feeds import Feeds, as_text, last
from llamagw.errors import BadRequest
from llamagw.fleet import Dispatcher
from llamagw.proxy import Request, by_query, checked_name

#: Bytes that the body of a request to load or unload may have: it names a model.
MOST_ACTION = 16 * 1024


class ModelAction(Struct):
    """
    The body of /models/load and /models/unload.

    :ivar wait: whether the answer waits until the model is loaded
    :ivar force: whether the model is unloaded at once, whatever it is answering
    """

    model: str
    wait: bool = False
    force: bool = False


class Management:
    """
    What is done with models, beside using them.

    :param dispatcher: does it
    :param clock: keeps time
    """

    def __init__(self, dispatcher: Dispatcher, clock: IReactorTime) -> None:
        self._dispatcher = dispatcher
        self._feeds = Feeds(dispatcher, clock)
        #: The own names of models that are being loaded for clients that do not wait.
        self._loading: set[str] = set()

    async def load(self, request: Request) -> None:
        """
        Load a model, as a request for it would, and wait for it if the client wants to.

        :raises GatewayError: when it cannot be loaded, as far as the client waits to know
        """
        action = _action(request)
        name = self._dispatcher.catalogue.own_name(action.model)
        if action.wait:
            await self._dispatcher.load(name)
        elif name not in self._loading:
            # One place in the queue is enough for all who do not wait for it.
            loading = self._dispatcher.load(name)
            if loading.called:
                await loading
            else:
                self._loading.add(name)
                # The log says why it was in vain, and so does /models.
                loading.addErrback(lambda _: None)
                loading.addBoth(lambda _: self._loading.discard(name))

    async def unload(self, request: Request) -> None:
        """Unload a model; returns when its run has ended."""
        action = _action(request)
        await self._dispatcher.unload(action.model, action.force)

    def changes(self, request: Request) -> None:
        """
        Send each change of a model's state, as long as the client listens.

        :raises ServerBusy: when too many listen already
        """
        self._feeds.changes(request)

    def log(self, request: Request) -> bytes | None:
        """
        What a model's instances printed last.

        :return: the lines as text; None if the client follows, and gets each further line
        :raises BadRequest: when it does not say which model, or how many lines
        :raises ServerBusy: when too many follow already
        """
        name = by_query(request).named(self._dispatcher.config.default_model)
        [count] = request.args.get(b"lines", [b"-1"])[-1:]
        if not re.fullmatch(rb"-1|\d{1,9}", count):
            raise BadRequest("?lines= must be a number, 0 or more.", param="lines")
        if request.args.get(b"follow") in ([b"true"], [b"1"]) and request.method == b"GET":
            self._feeds.log(request, name, int(count))
            return None
        return as_text(last(self._dispatcher.log(name).lines, int(count)))


def _action(request: Request) -> ModelAction:
    """
    :raises BadRequest: unless the body is a JSON object with a string `model`, and short
    """
    if len(request.body) > MOST_ACTION:
        raise BadRequest(f"The body is over {MOST_ACTION} bytes; it needs to name a model only.")
    try:
        action = msgspec.json.decode(request.body, type=ModelAction)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what = str(error) if request.body else "it is empty"
        raise BadRequest(
            f'The body must be a JSON object such as {{"model": "…"}}: {what}.'
        ) from None
    checked_name(action.model)
    return action
