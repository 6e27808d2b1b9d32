"""
The screen of `llamagw top`, drawn by Textual: what is where, and what the keys do.

What it shows is board.py's, who asks the gateway watch.py. All text is drawn as `Text` objects, so
that nothing in it is taken for markup. The colours are the terminal's own, light or dark.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Key, Resize
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from llamagw.cli import show
from llamagw.cli.board import Board, Cell, Device, Row
from llamagw.cli.client import Client
from llamagw.cli.watch import Watch

#: Seconds between two updates.
EVERY = 0.5

#: Columns from which the tables have their wide form.
WIDE = 100

#: The width of a bar for memory, if there are shorter words.
SHORTEST = 20

#: The width of a bar to scroll.
_SCROLL = 2

#: The width of a model's name at most, where a note stands beside it.
NAME = 28

#: The columns of the models, and of the requests in a narrow and in a wide terminal: name, and
#: width; 0 for what shares the rest.
_MODELS = [("MODEL", 0), ("STATE", 8), ("MEMORY", 8), ("ACTIVE", 6), ("WAITING", 7), ("TOK/S", 6)]
#: Those of the models where memory is counted.
_COUNTED = [*_MODELS[:3], ("CHARGE", 8), *_MODELS[3:]]
_REQUESTS = [("ELAPSED", 7), ("MODEL", 0), ("STATE", 12)]
_ORIGIN = [("CLIENT", 15), ("PATH", 20)]
_NOTE = ("", 0)

_HELP = """\
Tab          from models to requests and back
↑ ↓ PgUp …   select a line; its whole story is told below

l            load the selected model
u            unload it; asks if it is giving answers
p            pin it, so that it is not evicted; again: no more
c            cancel the selected request, after asking

/            show only what contains a text: names, clients, paths, states
Esc          show all again
q            quit

MEMORY is what a model's engine has in use, without GPUs; CHARGE
what it is counted with on all devices, if the gateway counts.
TOK/S and the totals are means of the last 10 seconds."""


class Rows(DataTable[Text]):
    """
    A table as wide as the terminal, that redraws what has changed only.

    :param id: of the widget
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", show=False),
        Binding("end", "scroll_bottom", show=False),
    ]

    def __init__(self, id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False)
        self._rows: dict[str, Row] = {}
        self._dim = self._noted = False

    def lay(self, columns: Sequence[tuple[str, int]], width: int) -> None:
        """
        Make the columns anew.

        :param columns: as `_MODELS`
        :param width: characters that there are
        """
        rows, self._rows = self._rows, {}
        rest = width - sum(wide + 2 * self.cell_padding for _, wide in columns)
        shares = sum(not wide for _, wide in columns)
        name = max(min(rest // shares, NAME) if shares > 1 else rest, 8)
        self._noted = columns[-1] == _NOTE
        self.clear(columns=True)
        for number, column in enumerate(columns):
            share = max(rest - name, 8) if column == _NOTE else name
            self.add_column(Text(column[0]), width=column[1] or share, key=str(number))
        self.tell(list(rows.values()), self._dim)

    def tell(self, rows: Sequence[Row], dim: bool) -> None:
        """
        Show these rows; only what differs is drawn.

        :param dim: whether they may be out of date
        """
        new = {row.key: row for row in rows}
        if list(new) != list(self._rows):
            at, top = self.selected, self.scroll_y
            self.clear()
            for row in rows:
                self.add_row(*self._cells(row, dim), key=row.key)
            if at in new:
                self.move_cursor(row=list(new).index(at), animate=False, scroll=False)
            self.scroll_to(y=top, animate=False)
        else:
            for key, row in new.items():
                before = self._rows[key]
                if row == before and dim == self._dim:
                    continue
                for number, cell in enumerate(self._cells(row, dim)):
                    self.update_cell(key, str(number), cell)
        self._rows, self._dim = new, dim

    def _cells(self, row: Row, dim: bool) -> list[Text]:
        cells = row.cells[: len(self.columns)]
        if self._noted:
            cells = [*cells[: len(self.columns) - 1], Cell(row.note, "dim")]
        return [
            Text(
                cell.text,
                "dim" if dim else cell.style,
                no_wrap=True,
                overflow="ellipsis",
                justify="right" if name.label.plain in _NUMBERS else "left",
            )
            for cell, name in zip(cells, self.columns.values(), strict=False)
        ]

    @property
    def selected(self) -> str | None:
        """The key of the row with the cursor; None if there is no row."""
        keys = list(self._rows)
        return keys[self.cursor_row] if 0 <= self.cursor_row < len(keys) else None

    @property
    def note(self) -> str:
        """What is told of the selected row."""
        at = self.selected
        return "" if at is None else self._rows[at].note


_NUMBERS = ("MEMORY", "CHARGE", "ACTIVE", "WAITING", "TOK/S", "ELAPSED")


class Ask(ModalScreen[str]):
    """
    Asks a question; its result is the key that was pressed, "" for none of them.

    :param question: one or more lines
    :param keys: each with what it does; without any, every key closes it
    """

    def __init__(self, question: str, keys: dict[str, str]) -> None:
        super().__init__()
        self._question = question
        self._keys = keys

    def compose(self) -> ComposeResult:
        text = Text(self._question)
        text.append("\n\n")
        for key, what in (self._keys or {"any key": "goes back"}).items():
            text.append(f" {key} ", "bold reverse").append(f" {what}   ")
        with Vertical(id="ask"):
            yield Static(text)

    def on_key(self, event: Key) -> None:
        event.stop()
        event.prevent_default()
        if event.key in self._keys:
            self.dismiss(event.key)
        elif not self._keys or event.key in ("escape", "q", "n"):
            self.dismiss("")


class Top(App[int]):
    """
    Watches a gateway.

    :param client: asks it
    """

    TITLE = "llamagw top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    #head { height: auto; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    #models { height: auto; max-height: 45%; }
    #count { height: 1; padding: 0 1; text-style: bold; margin-top: 1; }
    #requests { height: 1fr; }
    #note { height: 2; padding: 0 1; }
    Rows > .datatable--header { background: ansi_default; color: ansi_default;
                                text-style: bold dim; }
    Rows > .datatable--cursor { background: ansi_default; color: ansi_default; text-style: bold; }
    Rows:focus > .datatable--cursor { text-style: reverse; }
    #filter { height: 1; border: none; padding: 0 1; display: none; }
    #filter.open { display: block; }
    Ask { align: center middle; }
    #ask { width: auto; max-width: 90%; height: auto; max-height: 90%; padding: 1 2;
           border: round ansi_blue; }
    #ask Static { width: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit_top", "Quit"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("l", "load", "Load"),
        Binding("u", "unload", "Unload"),
        Binding("p", "pin", "Pin"),
        Binding("c", "cancel", "Cancel"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("escape", "all", show=False),
    ]

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._watch = Watch(client)
        self._board = Board()
        self._counted = False
        self.theme = "ansi-dark"
        self.animation_level = "none"

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield Rows("models")
        yield Static(id="count")
        yield Rows("requests")
        yield Static(id="note")
        yield Input(placeholder="show only what contains …", id="filter")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._watch.start()
        self.set_interval(EVERY, self.update)
        self.query_one("#models").focus()

    def on_unmount(self) -> None:
        self._watch.stop()

    def on_resize(self, event: Resize) -> None:
        if not self.query("#note"):
            return
        self._lay_models(event.size.width)
        wide = event.size.width >= WIDE
        columns = [*_REQUESTS, *(_ORIGIN if wide else []), _NOTE]
        self._rows("requests").lay(columns, event.size.width - _SCROLL)
        self.update()

    def _lay_models(self, width: int) -> None:
        self._counted = self._board.counted
        columns = [*(_COUNTED if self._counted else _MODELS), *([_NOTE] if width >= WIDE else [])]
        self._rows("models").lay(columns, width - _SCROLL)

    # ---- What is shown ----------------------------------------------------------------------

    def update(self) -> None:
        """Show what has come since the last update."""
        if not self.query("#note"):
            return  # the end: the timer still runs while the screen is taken down
        now = time.monotonic()
        while True:
            try:
                kind, value = self._watch.told.get_nowait()
            except queue.Empty:
                break
            if kind == "done":
                self.notify(show.plain(value), markup=False)
            elif kind == "failed":
                self.notify(show.plain(value), severity="error", markup=False, timeout=10)
            else:
                self._board.take(kind, value, now)
        if self._board.counted != self._counted:
            self._lay_models(self.size.width)
        trouble = self._board.trouble(now)
        models, requests = self._rows("models"), self._rows("requests")
        models.tell(self._board.model_rows(now), bool(trouble))
        live = self._board.live_rows(now)
        requests.tell(live, bool(trouble))
        self._say("#head", self._head(trouble, now))
        self._say("#count", Text(self._board.more(len(live))))
        focused = requests if requests.has_focus else models
        self._say("#note", Text(focused.note, overflow="ellipsis"))

    def _say(self, where: str, text: Text) -> None:
        widget = self.query_one(where, Static)
        if widget.content != text:
            widget.update(text)

    def _rows(self, id: str) -> Rows:
        return self.query_one(f"#{id}", Rows)

    def _head(self, trouble: str, now: float) -> Text:
        width = self.size.width - 2
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append("llamagw", "bold").append(f" {self._board.title()}".rstrip())
        head.append(f" · {show.plain(self._client.url)}", "dim")
        if self._board.filter:
            head.append(f" · only “{show.plain(self._board.filter)}”", "yellow")
        head.append("\n")
        if trouble:
            head.append(f"Trying again: {trouble}", "bold red")
        else:
            for value, name in self._board.totals(now):
                head.append(value, "bold").append(f" {name}   ")
        for device in self._board.devices():
            head.append("\n").append_text(_bar(device, width))
        return head

    # ---- What the keys do -------------------------------------------------------------------

    def action_quit_top(self) -> None:
        self.exit(0)

    def action_interrupt(self) -> None:
        self.exit(130)

    def action_help(self) -> None:
        self.push_screen(Ask(_HELP, {}))

    def action_load(self) -> None:
        name = self._model()
        if name is not None:
            self.notify(show.plain(f"{name} is to be loaded"), markup=False)
            self._watch.command(f"{name} is loaded", lambda: self._client.load(name))

    def action_unload(self) -> None:
        name = self._model()
        if name is None:
            return

        def unload(key: str | None) -> None:
            if key in ("u", "f"):
                self._watch.command(
                    f"{name} is unloaded", lambda: self._client.unload(name, force=key == "f")
                )

        busy = self._board.active(name)
        if busy:
            answers = "1 answer" if busy == 1 else f"{busy:g} answers"
            self._ask(
                f"{name} is giving {answers}.",
                {"u": "unload it after that", "f": "cut off", "n": "no"},
                unload,
            )
        else:
            unload("u")

    def action_pin(self) -> None:
        name = self._model()
        if name is not None:
            pin = not self._board.pinned(name)
            done = f"{name} is {'pinned' if pin else 'no longer pinned'}"
            self._watch.command(done, lambda: self._client.pin(name, pin))

    def action_cancel(self) -> None:
        key = self._rows("requests").selected
        entry = None if key is None else self._board.live.get(key)
        if entry is None:
            return
        id = str(entry.get("id"))

        def cancel(key: str | None) -> None:
            if key == "y":
                self._watch.command("cancelled", lambda: self._client.cancel(id))

        self._ask(
            f"Cancel {self._board.in_words(entry)}?",
            {"y": "cancel it; its client gets an error", "n": "no"},
            cancel,
        )

    def _ask(self, question: str, keys: dict[str, str], then: Callable[[str | None], None]) -> None:
        self.push_screen(Ask(show.plain(question), keys), then)

    def _model(self) -> str | None:
        return self._rows("models").selected

    # ---- The filter -------------------------------------------------------------------------

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.add_class("open")
        box.focus()

    def action_all(self) -> None:
        self.query_one("#filter", Input).value = ""
        self._close_filter()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._board.filter = event.value.strip()
        self.update()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter").remove_class("open")
        self._rows("models").focus()


def _bar(device: Device, width: int) -> Text:
    """How much memory of a device is in use, as a bar with the longest words that leave it room."""
    label = f"{device.device[:8]:<8} "
    rooms = [(max(width - len(label) - len(words) - 1, 4), words) for words in device.words]
    room, words = next((one for one in rooms if one[0] >= SHORTEST), rooms[-1])
    ours = min(round(device.ours / device.total * room), room)
    others = min(round(device.others / device.total * room), room - ours)
    bar = Text(label).append("█" * ours, "green").append("█" * others, "bright_black")
    return bar.append("░" * (room - ours - others), "dim").append(f" {words}")
