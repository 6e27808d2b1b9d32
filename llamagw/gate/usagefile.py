"""
The file of what keys have used: SQLite, in the user's state folder; several gateways may share it.

Each write is one transaction, so that a crash loses at most that. Everything here blocks, and is
called in one thread at a time. A file that is damaged is put aside; the gateway's work never
depends on it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from twisted.logger import Logger

from llamagw.state import is_ours

_log = Logger(namespace="llamagw.usage")

#: The name of the file, and what is added to that of a damaged one.
NAME, DAMAGED = "usage.sqlite", ".damaged"

#: Days that are kept.
KEPT_DAYS = 400

#: Seconds that a write waits for another gateway's.
_PATIENCE = 5.0

#: A larger number is not kept: SQLite's are of 64 bits.
_MOST = 2**62

_TABLE = """
CREATE TABLE IF NOT EXISTS usage (
    day INTEGER NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
    requests INTEGER NOT NULL, prompt INTEGER NOT NULL, answer INTEGER NOT NULL,
    PRIMARY KEY (day, key, model)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (day, key, model) DO UPDATE SET
    requests = requests + excluded.requests,
    prompt = prompt + excluded.prompt, answer = answer + excluded.answer
"""
_ROWS = """
SELECT day, key, model, requests, prompt, answer FROM usage
WHERE day >= ? AND (? IS NULL OR key = ?) ORDER BY day DESC, key, model LIMIT ?
"""


class Row(NamedTuple):
    """
    What a key has used of a model in a day.

    :ivar day: of UTC, counted from the epoch
    :ivar prompt: tokens of prompts
    :ivar answer: tokens of answers
    """

    day: int
    key: str
    model: str
    requests: int
    prompt: int
    answer: int


class UsageFile:
    """
    The file.

    :param folder: where it is; None, or one that is not safe, for no file: then nothing is kept
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._database: sqlite3.Connection | None = None
        self._complained = False
        self._tidied = -1

    def __repr__(self) -> str:
        return f"<UsageFile in {self._folder}>"

    def used(self, day: int) -> dict[str, int]:
        """Tokens of each key in a day; empty if that is not known."""
        query = "SELECT key, SUM(prompt + answer) FROM usage WHERE day = ? GROUP BY key"
        return {str(key): int(tokens) for key, tokens in self._ask(query, (day,))}

    def rows(self, since: int, key: str | None, most: int) -> list[Row]:
        """
        What was used, the newest day first; empty if that is not known.

        :param since: the first day
        :param key: of this key only; None for all
        :param most: how many at most
        """
        return [Row(*row) for row in self._ask(_ROWS, (since, key, key, most))]

    def add(self, new: Mapping[tuple[int, str, str], Sequence[int]]) -> bool:
        """
        Add to what was used, all of it or nothing.

        :param new: requests, tokens of prompts and of answers, by day, key and model
        :return: whether that is done for good: not if it may be possible later
        """
        rows = [(*place, *(min(n, _MOST) for n in row)) for place, row in new.items()]
        for _ in range(2):
            database = self._open()
            if database is None:
                return self._path() is None
            try:
                with database:
                    database.execute("BEGIN IMMEDIATE")
                    database.executemany(_ADD, rows)
                    newest = max(day for day, _, _ in new)
                    if newest != self._tidied:
                        oldest = newest - KEPT_DAYS
                        database.execute("DELETE FROM usage WHERE day <= ?", (oldest,))
                self._tidied, self._complained = newest, False
                return True
            except sqlite3.Error as error:
                if not self._put_aside(error):
                    return False
        return False

    def close(self) -> None:
        """Close it."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _ask(self, query: str, values: tuple[object, ...]) -> list[Any]:
        database = self._open()
        if database is None:
            return []
        try:
            return database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            self._put_aside(error)
            return []

    def _path(self) -> str | None:
        if self._folder is None or not is_ours(self._folder):
            return None
        return os.path.join(self._folder, NAME)

    def _open(self) -> sqlite3.Connection | None:
        """The database; None if there is to be none, or it cannot be opened now."""
        if self._database is not None:
            return self._database
        path = self._path()
        if path is None:
            return None
        for _ in range(2):
            database = None
            try:
                # SQLite would make it readable by others.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                # By one thread at a time, but not always the same.
                database = sqlite3.connect(
                    path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
                )
                database.execute(_TABLE)
                # Whether it is a table of ours.
                database.execute(_ROWS, (0, None, None, 0))
            except (sqlite3.Error, OSError) as error:
                if database is not None:
                    database.close()
                if not self._put_aside(error):
                    return None
            else:
                self._database = database
                return database
        return None

    def _put_aside(self, error: Exception) -> bool:
        """
        Give a file that is damaged another name, and say so; or say, once, that it cannot be used.

        :return: whether that was done, and a new one can be begun
        """
        path = self._path()
        if path is None:
            return False
        if not _is_damage(error):
            self._complain(path, error)
            return False
        self.close()
        try:
            for end in ("-journal", "-wal", "-shm"):
                # It belongs to the damaged one; to a new one it would do harm.
                with contextlib.suppress(FileNotFoundError):
                    os.replace(path + end, path + DAMAGED + end)
            os.replace(path, path + DAMAGED)
        except OSError as failure:
            self._complain(path, failure)
            return False
        _log.warn(
            "{path} is damaged ({error}): it is now {aside}, and what keys use is counted anew",
            path=path,
            error=str(error),
            aside=path + DAMAGED,
        )
        return True

    def _complain(self, path: str, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            _log.warn(
                "what keys use cannot be kept in {path} now: {error}", path=path, error=str(error)
            )


def _is_damage(error: Exception) -> bool:
    """Whether a file is none of SQLite's, or damaged, or has other tables than ours."""
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    # Python has SQLite's own codes since 3.11 only.
    text = str(error)
    return any(sign in text for sign in ("not a database", "malformed", "no such", "has no column"))
