"""Results as a table for the terminal and as an SVG drawing for the documentation."""

from __future__ import annotations

from html import escape
from typing import Any

from loads import GOALS, LOADS, Figures

Results = dict[str, Any]

COLUMNS = (
    # title, figure, digits after the point
    ("CPU µs", "cpu_us", 1),
    ("× nginx", "cpu_ratio", 2),
    ("p50 ms", "p50_ms", 2),
    ("× nginx", "p50_ratio", 2),
    ("p99 ms", "p99_ms", 2),
    ("per second", "per_second", 0),
    ("RSS MB", "rss_mb", 0),
    ("faults", "faults", 0),
)


COLD = (
    ("engine alone, healthy", "engine_ready_ms"),
    ("engine alone, first answer", "engine_first_answer_ms"),
    ("through llamagw, first answer", "llamagw_first_answer_ms"),
    ("added by llamagw, median of the differences", "added_ms"),
    ("added by llamagw, fastest against fastest", "added_fastest_ms"),
)


def _shown(figures: Figures) -> Figures:
    """A target's row: latency of requests and lateness of events share their columns."""
    kind = "late" if "late_p50_ms" in figures else "latency"
    shown = dict(figures)
    for percentile in ("p50", "p99"):
        if f"{kind}_{percentile}_ms" in figures:
            shown[f"{percentile}_ms"] = figures[f"{kind}_{percentile}_ms"]
    shown["faults"] = sum(figures.get(key, 0) for key in ("errors", "disordered", "missing"))
    return shown


def _cell(figures: Figures, figure: str, places: int) -> str:
    return f"{figures[figure]:,.{places}f}" if figure in figures else "–"


def table(results: Results) -> str:
    """All loads, a line for each target."""
    rows = [["", *(title for title, _, _ in COLUMNS)]]
    headings = []
    for load in LOADS:
        if load.name not in results["loads"]:
            continue
        timing = "lateness" if load.rate else "latency"
        headings.append(len(rows))
        rows.append([f"{load.title} (CPU per {load.unit}, {timing})"])
        for target, measured in results["loads"][load.name]["targets"].items():
            shown = _shown(measured)
            rows.append(
                [f"  {target}", *(_cell(shown, figure, places) for _, figure, places in COLUMNS)]
            )
    widths = [max(len(row[i]) for row in rows if len(row) > i) for i in range(1, len(COLUMNS) + 1)]
    first = max(len(row[0]) for n, row in enumerate(rows) if n not in headings)
    lines = []
    for number, row in enumerate(rows):
        if number in headings:
            lines += ["", row[0]]
        else:
            cells = (cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))
            lines.append("  ".join([row[0].ljust(first), *cells]).rstrip())
    return "\n".join(lines)


def goals(results: Results) -> list[dict[str, Any]]:
    """Each goal with what llamagw reached; those that were not measured are left out."""
    found = []
    for goal in GOALS:
        figures = results["loads"].get(goal.load, {}).get("targets", {}).get("llamagw", {})
        if goal.figure in figures:
            value = figures[goal.figure]
            entry = {"load": goal.load, "figure": goal.figure, "title": goal.title}
            found.append({**entry, "most": goal.most, "value": value, "met": value <= goal.most})
    return found


def summary(results: Results) -> str:
    lines = []
    for goal in results["goals"]:
        sign = "met   " if goal["met"] else "MISSED"
        lines.append(f"  {sign}  {goal['title']}: {goal['value']:.2f} (at most {goal['most']:g})")
    if lines:
        lines.insert(0, "\nGoals")
    cold = results.get("cold_start")
    if cold:
        lines.append(f"\nCold start, {cold['model']}, median of {cold['repetitions']}")
        for text, figure in COLD:
            lines.append(f"  {text}: {cold[figure]:.0f} ms")
    for note in results["notes"]:
        lines.append(f"\nNote: {note}")
    return "\n".join(lines)


# --- the drawing ---

BARS = (
    # load, ratio, label
    ("c1", "p50_ratio", "p50, 1 connection"),
    ("c32", "cpu_ratio", "CPU per request, 32 connections"),
    ("s50", "cpu_ratio", "CPU per event, 50 streams × 100/s"),
    ("s200", "cpu_ratio", "CPU per event, 200 streams × 100/s"),
    ("s2000", "cpu_ratio", "CPU per event, 2,000 streams × 10/s"),
    ("body", "cpu_ratio", "CPU per 10 MB request body"),
)

STYLE = """
  .panel { fill: #ffffff; stroke: #d0d7de; }
  text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .small { font-size: 11px; fill: #59636e; }
  .value { font-weight: 600; }
  .bar0 { fill: #2f6fd0; } .bar1 { fill: #8a63c9; }
  .bar2 { fill: #3d8b6e; } .bar3 { fill: #a8642a; }
  .one { stroke: #59636e; stroke-width: 1.5; }
  .goal { stroke: #cf222e; stroke-width: 2.5; }
  @media (prefers-color-scheme: dark) {
    .panel { fill: #161b22; stroke: #3d444d; }
    text { fill: #e6edf3; }
    .small { fill: #9da7b3; }
    .bar0 { fill: #4c8dee; } .bar1 { fill: #a983e6; }
    .bar2 { fill: #4fae8b; } .bar3 { fill: #d08a4c; }
    .one { stroke: #9da7b3; }
    .goal { stroke: #ff7b72; }
  }
"""

WIDTH, LEFT, RIGHT = 760, 270, 70
BAR, GAP, GROUP = 16, 4, 16
MOST = 20.0  # a longer bar is cut off there; its figure still says what it is


def drawing(results: Results) -> str:
    """Bars of each proxy's cost as a multiple of nginx's in the same run, and the goals' marks."""
    names: list[str] = []
    rows: list[tuple[str, float | None, list[tuple[str, float]]]] = []
    marks = {(goal.load, goal.figure): goal.most for goal in GOALS}
    for load, ratio, label in BARS:
        measured = results["loads"].get(load, {}).get("targets", {})
        proxies = {name: one for name, one in measured.items() if name not in ("direct", "nginx")}
        bars = [(name, figures[ratio]) for name, figures in proxies.items() if ratio in figures]
        names += [name for name, _ in bars if name not in names]
        if bars:
            rows.append((label, marks.get((load, ratio)), bars))
    values = [value for _, _, bars in rows for _, value in bars]
    highest = min(max([2.0, *values, *(mark or 0 for _, mark, _ in rows)]), MOST) * 1.04

    def across(value: float) -> float:
        return LEFT + min(value, highest) / highest * (WIDTH - LEFT - RIGHT)

    top, parts = 74, []
    y = top
    for label, mark, bars in rows:
        height = len(bars) * (BAR + GAP) - GAP
        parts.append(_text(LEFT - 12, y + height / 2 + 4, label, anchor="end"))
        for number, (name, value) in enumerate(bars):
            at = y + number * (BAR + GAP)
            kind = f"bar{names.index(name) % 4}"
            parts.append(_bar(LEFT, at, across(value) - LEFT, BAR, kind))
            # clear of the goal's mark, where that stands just behind the bar
            behind = across(mark) if mark and 0 <= across(mark) - across(value) < 50 else 0
            parts.append(
                _text(max(across(value), behind) + 8, at + BAR - 4, f"{value:.2f}×", "value")
            )
        if mark:
            x = across(mark)
            parts.append(_upright(x, y - 4, y + height + 4, "goal"))
        y += height + GROUP
    bottom = y - GROUP + 8
    one = across(1)
    parts.append(_upright(one, top - 8, bottom, "one"))
    parts.append(_text(one, bottom + 14, "nginx = 1", "small", "middle"))

    legend, x = [], float(LEFT)
    for number, name in enumerate(names):
        legend.append(_bar(x, 43, 11, 11, f"bar{number % 4}"))
        legend.append(_text(x + 16, 53, name, "small"))
        x += 30 + 7 * len(name)
    legend.append(_upright(x + 4, 42, 55, "goal"))
    legend.append(_text(x + 12, 53, "goal: at most", "small"))

    height = bottom + 28
    title = "Cost of the gateway as a multiple of nginx (less is better)"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            _bar(0.5, 0.5, WIDTH - 1, height - 1, "panel"),
            _text(20, 28, title, "title"),
            *legend,
            *parts,
            "</svg>",
            "",
        ]
    )


def _bar(x: float, y: float, width: float, height: float, kind: str) -> str:
    size = f'width="{width:.1f}" height="{height}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y}" {size} rx="2"/>'


def _upright(x: float, top: float, bottom: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
