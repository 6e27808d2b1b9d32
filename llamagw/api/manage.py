"""
Management: load, unload and pin models, follow their states, read their engines' output.

Requests and answers have the format of llama-server's router (tools/server/README.md of llama.cpp).
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from msgspec import Struct

from llamagw.api.feeds import Feeds, all_logs, as_text, last
from llamagw.errors import BadRequest
from llamagw.fleet import Dispatcher
from llamagw.proxy import Request, by_query, check_all, check_model, checked_name

#: Maximum size, in bytes, of the body of an order to load, unload or pin, which only names a model.
MOST_ACTION = 16 * 1024

#: What a query says for yes.
_TRUE = ([b"true"], [b"1"])


class ModelAction(Struct):
    """
    The body of /models/load and /models/unload.

    :ivar model: the model's name or alias
    :ivar wait: whether to answer when the model is loaded, rather than at once
    :ivar force: whether to break off its requests in flight
    :ivar anyway: whether to load the model even if the figures say that it does not fit
    """

    model: str
    wait: bool = False
    force: bool = False
    anyway: bool = False


class Pin(Struct):
    """
    The body of /models/pin.

    :ivar model: the model's name or alias
    :ivar pinned: whether it is never evicted from now on
    """

    model: str
    pinned: bool = True


_Action = TypeVar("_Action", ModelAction, Pin)


class Management:
    """
    Handles the requests of management.

    :param dispatcher: carries them out
    :param feeds: the streams
    """

    def __init__(self, dispatcher: Dispatcher, feeds: Feeds) -> None:
        self._dispatcher = dispatcher
        self._feeds = feeds
        #: Configured names of models that are being loaded for clients that do not wait.
        self._loading: set[str] = set()

    async def load(self, request: Request) -> None:
        """
        Load a model as a request for it would; returns when it is loaded if the client waits.

        :raises GatewayError: if the body is invalid, there is no such model, or it is known that
            the model cannot be loaded
        """
        action = self._permitted(request, ModelAction)
        name = self._dispatcher.catalogue.own_name(action.model)
        if action.wait:
            await self._dispatcher.load(name, action.anyway)
        elif name not in self._loading:
            # One waiter suffices for all clients that do not wait.
            loading = self._dispatcher.load(name, action.anyway)
            if loading.called:
                await loading
            else:
                self._loading.add(name)
                # A failure is in the log and in /models.
                loading.addErrback(lambda _: None)
                loading.addBoth(lambda _: self._loading.discard(name))

    async def unload(self, request: Request) -> None:
        """
        Unload a model; returns when its run has ended.

        :raises GatewayError: if the body is invalid, there is no such model, or it is remote
        """
        action = self._permitted(request, ModelAction)
        await self._dispatcher.unload(action.model, action.force)

    def pin(self, request: Request) -> None:
        """
        Pin or unpin a model, until its configuration changes.

        :raises GatewayError: if the body is invalid, there is no such model, it is remote, or too
            many are pinned
        """
        pin = self._permitted(request, Pin)
        self._dispatcher.pin(pin.model, pin.pinned)

    def changes(self, request: Request) -> None:
        """
        Send each change of a model's state until the client disconnects.

        :raises ServerBusy: if there are too many feeds
        """
        check_all(request.caller)
        self._feeds.changes(request)

    def _permitted(self, request: Request, kind: type[_Action]) -> _Action:
        """
        The body, of a request that may do that with its model.

        :raises GatewayError: if it is invalid, or the model is not one of the caller's
        """
        action = _action(request, kind)
        check_model(request.caller, self._dispatcher.catalogue, action.model, action.model)
        return action

    def log(self, request: Request) -> bytes | None:
        """
        The last lines that a model's instances printed, or those of all models.

        :return: the lines as text; None if the client follows: then they are being sent
        :raises BadRequest: if the model or the number of lines is missing or invalid
        :raises ServerBusy: if there are too many feeds
        """
        args, name = request.args, None
        if args.get(b"all") not in _TRUE:
            call = by_query(request)
            name = call.named(self._dispatcher.config.default_model)
            check_model(request.caller, self._dispatcher.catalogue, call.model, name)
        elif b"model" in args:
            raise BadRequest("?all=true is for all models; leave ?model= out.", param="model")
        else:
            check_all(request.caller)
        [lines] = args.get(b"lines", [b"-1"])[-1:]
        if not re.fullmatch(rb"-1|\d{1,9}", lines):
            raise BadRequest("?lines= must be a number, 0 or more.", param="lines")
        count = int(lines)
        if args.get(b"follow") in _TRUE and request.method == b"GET":
            if name is None:
                self._feeds.logs(request, count)
            else:
                self._feeds.log(request, name, count)
            return None
        if name is None:
            return all_logs(self._dispatcher, count)
        return as_text(last(self._dispatcher.log(name).lines, count))


def _action(request: Request, kind: type[_Action]) -> _Action:
    """
    Parse the body.

    :param kind: what it is to be
    :raises BadRequest: if it is not a JSON object with what that needs, or too long
    """
    if len(request.body) > MOST_ACTION:
        raise BadRequest(f"The body is over {MOST_ACTION} bytes; it needs to name a model only.")
    try:
        action = msgspec.json.decode(request.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what = str(error) if request.body else "it is empty"
        raise BadRequest(
            f'The body must be a JSON object such as {{"model": "…"}}: {what}.'
        ) from None
    checked_name(action.model)
    return action
