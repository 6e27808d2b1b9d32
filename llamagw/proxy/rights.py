"""For which models a request may be sent, where keys are wanted (`llamagw.gate`)."""

from __future__ import annotations

from llamagw.errors import SHOWN, ModelNotFound, NotPermitted
from llamagw.fleet import Catalogue
from llamagw.gate import Caller
from llamagw.text import harmless


def sees(caller: Caller, catalogue: Catalogue, own: str) -> bool:
    """
    Whether a caller may use a model, and be told of it.

    :param own: the model's configured name; one that is not configured any more is no secret to
        those who may use all of that name
    """
    return caller.every_model or caller.may_use(own, *catalogue.aliases(own))


def check_model(caller: Caller, catalogue: Catalogue, asked: str | None, name: str) -> None:
    """
    Check that a caller may use a model.

    What is refused is refused alike whether there is such a model or not.

    :param asked: the name in the request; None if it has none
    :param name: the same, or that of the default model
    :raises NotPermitted: if it may not
    :raises ModelNotFound: if it might, and there is none; tells the names of those that it may use
    """
    if caller.every_model:
        return
    own = catalogue.names.find(name)
    if not caller.may_use(name) and (own is None or not sees(caller, catalogue, own)):
        what = (
            "the default model" if asked is None else f"a model called `{harmless(asked, SHOWN)}`"
        )
        raise NotPermitted(f"The API key `{caller.name}` may not use {what}.", param="model")
    if own is None:
        known = [
            called for called, own in catalogue.names.exact.items() if sees(caller, catalogue, own)
        ]
        raise ModelNotFound(name, known)


def reason_for(caller: Caller, reason: str | None) -> str | None:
    """
    What a request waits for, as a caller may be told.

    :param reason: as in `llamagw.fleet.ModelReport`, such as "room: `b` is busy"
    :return: without the names of models, if it may not use all
    """
    if reason is None or caller.every_model:
        return reason
    return reason.partition(":")[0]


def check_all(caller: Caller) -> None:
    """
    Check that a caller may use every model, for what cannot be told of some.

    :raises NotPermitted: if it may not
    """
    if not caller.every_model:
        raise NotPermitted(
            f"The API key `{caller.name}` is for some models, and this is about all of them."
        )
