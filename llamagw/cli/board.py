"""
What `llamagw top` knows of a gateway, and how it is told: totals, models, requests, as cells.

No I/O, no threads, and nothing of the library that draws: watch.py asks the gateway, screen.py
draws. What comes from the gateway has passed through clients and engines: its types are not relied
upon, and its text is made harmless for a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from llamagw.cli import show
from llamagw.cli.accounts import Account, accounts, charge, charged
from llamagw.cli.entries import number, state, text
from llamagw.cli.rates import Rates
from llamagw.text import span

#: Requests under way that are shown at most.
MOST = 500

#: Devices that are shown at most.
_DEVICES = 8

#: Seconds without an answer after which the gateway counts as gone.
STALE = 6.0

#: The state of a model, and the style in which it is shown.
STYLES = {"loaded": "green", "loading": "yellow", "stopping": "yellow", "failed": "red"}

#: The same for a request.
LIVE_STYLES = {"waiting": "yellow", "loading": "yellow", "processing": "cyan", "answering": "green"}


class Cell(NamedTuple):
    """
    A text, and a style for it.

    :ivar style: a colour of the terminal, ``dim`` or ``bold``; "" for none
    """

    text: str
    style: str = ""


class Row(NamedTuple):
    """
    A line of a table.

    :ivar key: by which it is known from one update to the next
    :ivar cells: without the last column
    :ivar note: the last column, and what is told of the line when it is selected
    """

    key: str
    cells: list[Cell]
    note: str


class Device(NamedTuple):
    """
    The memory of a device.

    :ivar total: bytes in all
    :ivar ours: bytes of models
    :ivar others: bytes of others
    :ivar words: who has what, in several lengths, the longest first
    """

    device: str
    total: float
    ours: float
    others: float
    words: tuple[str, ...]


class Board:
    """
    What is known.

    :ivar models: as ``GET /models`` tells them, those in memory first
    :ivar live: requests under way by id and time, the oldest first
    :ivar filter: what names, clients, paths or states must contain to be shown
    :ivar rates: requests and tokens a second
    """

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = []
        self.live: dict[str, dict[str, Any]] = {}
        self.filter = ""
        self.rates = Rates()
        self._more = 0.0
        self._health: dict[str, Any] = {}
        #: Of each device, where memory is counted.
        self._accounts: list[Account] = []
        #: What /health says of models, by name: only of those that are busy or in memory.
        self._reports: dict[str, dict[str, Any]] = {}
        self._gone: str | None = None
        self._deaf: str | None = None
        #: When the gateway answered last; None before that.
        self._heard: float | None = None

    # ---- What is told -----------------------------------------------------------------------

    def take(self, kind: str, value: Any, now: float) -> None:
        """
        Note what the gateway has told.

        :param kind: ``models`` or ``health`` (an answer), ``event`` (of requests), ``gone`` (why it
            cannot be reached), ``deaf`` (why no events come)
        :param now: seconds of a clock that never goes back
        """
        if kind == "gone":
            self._gone = value
        elif kind == "deaf":
            # Whether they are under way still nobody knows.
            self._deaf, self.live, self._more = value, {}, 0
        elif kind == "event":
            self._deaf = None
            self._event(value, now)
        elif kind == "models":
            self._gone, self._heard = None, now
            self.models = sorted(
                value["data"], key=lambda model: status(model) in ("unloaded", "failed")
            )
        elif kind == "health":
            self._health, self._accounts = value, accounts(value)
            reports = value.get("models")
            self._reports = {
                str(report.get("id")): report
                for report in (reports if isinstance(reports, list) else [])
                if isinstance(report, dict)
            }

    def _event(self, event: dict[str, Any], now: float) -> None:
        kind, request = event.get("event"), event.get("request")
        if kind == "snapshot":
            self.live = {}
            for entry in _dicts(event.get("now")):
                self._put(entry, now)
            self.rates.keep(self.live)
            for entry in _dicts(event.get("last")):
                self.rates.learn(entry)
            self._more = number(event, "more") or 0
        elif kind == "more":
            self._more = number(event, "more") or 0
        elif isinstance(request, dict):
            if kind in ("begun", "moved"):
                self._put(request, now)
            elif kind == "ended":
                self.live.pop(_key(request), None)
                self.rates.ended(_key(request), request, now)

    def _put(self, entry: dict[str, Any], now: float) -> None:
        key = _key(entry)
        if key in self.live or len(self.live) < MOST:
            self.live[key] = {**entry, "_at": now}
            self.rates.moved(key, entry, now)

    # ---- What is shown ----------------------------------------------------------------------

    def trouble(self, now: float) -> str:
        """Why what is shown is not what is; "" if it is."""
        if self._gone is not None:
            return show.plain(self._gone)
        if self._heard is None:
            return "connecting"
        silent = now - self._heard
        if silent > STALE:
            return f"no answer for {span(silent)}"
        return "" if self._deaf is None else f"no news of requests: {show.plain(self._deaf)}"

    def title(self) -> str:
        """The version, and since when it runs; "" before that is known."""
        version, up = text(self._health, "version"), number(self._health, "uptime_sec")
        told = [version] if version else []
        if up is not None:
            told.append(f"up {span(up)}")
        return " · ".join(told)

    def totals(self, now: float) -> list[tuple[str, str]]:
        """The numbers of the whole gateway, each with what it counts."""
        loaded = sum(status(model) == "loaded" for model in self.models)
        most = number(self._health, "max_loaded_models")
        return [
            (f"{loaded}{'' if most is None else f' of {most:g}'}", "loaded"),
            (f"{self._sum('in_flight'):g}", "active"),
            (f"{self._sum('waiting'):g}", "waiting"),
            (f"{self.rates.requests(now):.1f}", "requests/s"),
            (f"{sum(self.rates.tokens(now).values()):.1f}", "tokens/s"),
        ]

    def _sum(self, key: str) -> float:
        return sum(number(model, key) or 0 for model in self.models)

    @property
    def counted(self) -> bool:
        """Whether the gateway counts memory."""
        return bool(self._accounts)

    def devices(self) -> list[Device]:
        """The memory of each device: what models are charged, or have in use if not counted."""
        found = [
            Device(one.device, one.total, one.charged, one.others, (one.words(), one.brief()))
            for one in self._accounts
        ]
        for device in [] if found else _dicts(self._health.get("devices")):
            total, free = number(device, "total"), number(device, "free")
            if not total or free is None or total < 0:
                continue
            ours = min(max(number(device, "used_by_models") or 0, 0), total)
            others = min(max(total - free - ours, 0), total - ours)
            told = ", ".join((f"models {show.size(ours)}", f"others {show.size(others)}"))
            name = text(device, "device") or "?"
            found.append(Device(name, total, ours, others, (f"{told} of {show.size(total)}",)))
        return found[:_DEVICES]

    def model_rows(self, now: float) -> list[Row]:
        """The models that pass the filter."""
        rows, speeds = [], self.rates.tokens(now)
        for model in self.models:
            name, told = text(model, "id"), status(model)
            tokens = speeds.get(name)
            report = self._reports.get(model["id"], {})
            note = _model_note({**report, **model}, told)
            if not self._passes((name, told, *_strings(model.get("aliases")))):
                continue
            memory = number(model, "memory", "rss")
            cells = [
                Cell(name, "bold" if told == "loaded" else ""),
                Cell(told, STYLES.get(told, "dim")),
                _sized(memory),
                *([_sized(charged(model))] if self.counted else []),
                *(_counted(number(model, key)) for key in ("in_flight", "waiting")),
                Cell(f"{tokens:.1f}" if tokens else "-", "" if tokens else "dim"),
            ]
            rows.append(Row(model["id"], cells, note))
        return rows

    def live_rows(self, now: float) -> list[Row]:
        """The requests that pass the filter."""
        rows = []
        for key, entry in self.live.items():
            name, told = text(entry, "model", "asked"), text(entry, "state")
            client, path = text(entry, "client"), text(entry, "path")
            if not self._passes((name, told, client, path, text(entry, "id"))):
                continue
            elapsed = (number(entry, "elapsed_sec") or 0) + max(now - entry["_at"], 0)
            cells = [
                Cell(_brief(elapsed)),
                Cell(name or "-"),
                Cell(state(entry), LIVE_STYLES.get(told, "")),
                Cell(client or "-"),
                Cell(path or "-"),
            ]
            rows.append(Row(key, cells, _live_note(entry)))
        return rows

    def active(self, name: str) -> float:
        """How many answers a model is giving."""
        return next((number(m, "in_flight") or 0 for m in self.models if m["id"] == name), 0)

    def pinned(self, name: str) -> bool:
        """Whether a model is pinned."""
        return any(model["id"] == name and model.get("pinned") for model in self.models)

    def in_words(self, entry: dict[str, Any]) -> str:
        """A request that is under way, such as ``POST /v1/completions for a from 127.0.0.1``."""
        told = " ".join(filter(None, (text(entry, "method"), text(entry, "path"))))
        model, client = text(entry, "model", "asked"), text(entry, "client")
        return f"{told or 'a request'} for {model} from {client}"

    def more(self, shown: int) -> str:
        """What to say above the requests."""
        if self._gone is not None or self._deaf is not None:
            return "What is under way is not known"
        if not shown:
            return "No request is under way" if not self.live else "No request passes the filter"
        rest = f", and {self._more:g} more" if self._more else ""
        return f"{shown} request{'s'[: shown != 1]} under way{rest}"

    def _passes(self, texts: Iterable[str]) -> bool:
        wanted = self.filter.casefold()
        return not wanted or any(wanted in told.casefold() for told in texts)


def status(model: dict[str, Any]) -> str:
    """The state of a model, as `llamagw ps` tells it."""
    told = model["status"]
    failed = told["value"] == "unloaded" and told.get("failed")
    return "failed" if failed else show.plain(str(told["value"]))


def _model_note(model: dict[str, Any], told: str) -> str:
    """What else is to be said of a model, the most important first."""
    words = []
    if told == "failed":
        words.append(text(model["status"], "error") or text(model, "error") or "it has failed")
    if told == "loading":
        words.append(_load(number(model, "load_sec"), number(model, "usual_sec")))
    seconds, reason = number(model, "waiting_sec"), text(model, "waiting_for")
    if seconds is not None:
        words.append(f"the first waits for {span(seconds)}, for {reason or '?'}")
    if model.get("pinned"):
        words.append("pinned")
    idle = number(model, "unloads_in_sec")
    if idle is not None and told == "loaded":
        words.append(f"unloads in {span(max(idle, 0))}")
    context, port = number(model, "context_size"), number(model, "port")
    if context is not None:
        words.append(f"context {context:g}")
    if port is not None:
        words.append(f"port {port:g}")
    if text(model, "socket"):
        words.append("a UNIX socket")
    if charged(model) is not None:
        origin = text(model, "charge_from")
        words.append(f"counted with {charge(model)}{f' ({origin})' if origin else ''}")
    return "; ".join(filter(None, words))


def _load(seconds: float | None, usual: float | None) -> str:
    told = "" if seconds is None else f"for {span(seconds)}"
    if usual is None:
        return told
    return f"{told}, usually {usual:.0f} s".removeprefix(", ")


def _live_note(entry: dict[str, Any]) -> str:
    """What a request waits for, or how far its answer is."""
    told, reason = text(entry, "state"), text(entry, "waiting_for")
    first, sent = number(entry, "first_byte_sec"), number(entry, "bytes_out")
    usual = number(entry, "usual_sec")
    if told in ("waiting", "loading"):
        words = f"for {reason}" if reason else ""
        if told == "loading" and usual is not None:
            words += f", usually {usual:.0f} s"
        return words.removeprefix(", ")
    if told == "answering":
        words = f"{show.size(sent or 0)} sent"
        return words if first is None else f"{words}, the first after {first:.1f} s"
    return "prefill" if told == "processing" else ""


def _brief(seconds: float) -> str:
    """An elapsed time, in six characters."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes < 60 else span(seconds)


def _sized(value: float | None) -> Cell:
    return Cell("-", "dim") if value is None else Cell(show.size(value))


def _counted(value: float | None) -> Cell:
    if value is None:
        return Cell("-", "dim")
    return Cell(f"{value:g}", "" if value else "dim")


def _key(entry: dict[str, Any]) -> str:
    """Clients may choose an id twice."""
    return f"{entry.get('id')} {entry.get('time')}"


def _dicts(values: object) -> list[dict[str, Any]]:
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []


def _strings(values: object) -> list[str]:
    return [v for v in values if isinstance(v, str)] if isinstance(values, list) else []
