"""That a part that is missing is told with the command that installs it."""

from __future__ import annotations

import sys

import pytest

from tests.support.parts import NO_SKIP, part

INSTALL = "apt-get install no-such-program"


def test_a_part_is_found_by_any_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", sys.prefix + "/bin")
    assert part("no-such-program", INSTALL, "python") == sys.prefix + "/bin/python"


def test_what_wants_a_missing_part_is_skipped_and_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(NO_SKIP, raising=False)
    with pytest.raises(pytest.skip.Exception, match=INSTALL):
        part("no-such-program", INSTALL)


def test_it_fails_instead_where_nothing_may_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_SKIP, "1")
    with pytest.raises(pytest.fail.Exception, match=INSTALL):
        part("no-such-program", INSTALL)
