"""Promises of llamagw.fleet.shortage: what is said where memory is wanting."""

from __future__ import annotations

from llamagw.errors import InsufficientMemory, ModelUnavailable
from llamagw.fleet.model import Model
from llamagw.fleet.needs import Lack
from llamagw.fleet.shortage import never_fits, ran_out
from llamagw.launch import Need

GIB = 2**30
BIG = Model("big#1", "big", 1, pinned=False)


def test_a_model_that_never_fits_is_told_how_much_it_needs_and_how_much_there_is() -> None:
    error = never_fits(BIG, [Lack("host", 20 * GIB, 15 * GIB, 0)])
    assert isinstance(error, InsufficientMemory)
    assert "`big`" in error.message
    assert "20.0 GiB on host, and 15.0 GiB may be used there." in error.message
    assert "smaller context_size" in error.message
    assert "llamagw fit" in error.message
    assert "--anyway" in error.message
    assert error.retry_after is None, "it never will"


def test_who_holds_the_rest_is_named() -> None:
    pinned = tuple((f"p{number}", GIB) for number in range(5))
    [lack] = [Lack("CUDA0", 20 * GIB, 22 * GIB, 3 * GIB, pinned)]
    message = never_fits(BIG, [lack]).message
    assert "of which 3.0 GiB are held by others and pinned are `p0` 1.0 GiB" in message
    assert "2 more" in message
    assert "unpinning `p0`" in message
    assert "fewer gpu_layers" in message


def test_who_may_use_some_models_only_is_told_of_no_others() -> None:
    pinned = tuple((f"p{number}", GIB) for number in range(5))
    error = never_fits(BIG, [Lack("CUDA0", 20 * GIB, 22 * GIB, 3 * GIB, pinned)])
    plain = error.unnamed()
    assert plain.message.startswith("The model `big` does not fit into memory: it needs 20.0 GiB")
    assert "pin" not in plain.message
    assert (type(plain), plain.param) == (type(error), error.param)
    assert plain.retry_after == error.retry_after
    assert plain.unnamed() is plain


def test_where_only_others_are_in_the_way_it_may_fit_later() -> None:
    assert never_fits(BIG, [Lack("host", 12 * GIB, 15 * GIB, 5 * GIB)]).retry_after
    pinned = Lack("host", 12 * GIB, 15 * GIB, 5 * GIB, (("p", 4 * GIB),))
    assert never_fits(BIG, [pinned]).retry_after is None


def test_a_load_that_ran_out_of_memory_is_told_what_it_was_counted_with() -> None:
    failure = ModelUnavailable("It was killed by SIGKILL.", retry_after=4)
    need = Need(devices={"host": 2 * GIB, "CUDA0": 512 * 2**20}, files={"f": GIB})
    error = ran_out(BIG, need, failure)
    assert error.message.startswith("It was killed by SIGKILL. It ran out of memory")
    assert "3.0 GiB on host and 512 MiB on CUDA0" in error.message
    assert error.retry_after == 4
    assert "memory:" not in error.message
    need = Need(devices={"host": GIB}, source="config")
    assert "a larger `memory:`" in ran_out(BIG, need, failure).message
