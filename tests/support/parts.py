"""
Programs that some tests want and a plain `make test` does not bring: a browser, Prometheus.

Where one is missing, its tests are skipped, and the skip says how to install it. With
``LLAMAGW_NO_SKIP=1``, as in .ci/run, they fail instead.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

#: The variable that makes a missing part a failure.
NO_SKIP = "LLAMAGW_NO_SKIP"


def part(name: str, install: str, *others: str) -> str:
    """
    The path of a program that may be missing; without it the test is skipped, or fails.

    May be called in a test, in a fixture, or where a module begins.

    :param name: of the program
    :param install: the command that installs it on Debian, such as "apt-get install chromium"
    :param others: further names that it may have
    :return: its path
    """
    for one in (name, *others):
        found = shutil.which(one)
        if found is not None:
            return found
    missing(f"{name} is not installed; Debian: {install}")


def missing(reason: str) -> NoReturn:
    """
    Skip the test, or the module that begins, because a part is missing; or fail.

    :param reason: what is missing, and how to install it
    """
    if os.environ.get(NO_SKIP):
        pytest.fail(f"{reason} ({NO_SKIP} is set)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
