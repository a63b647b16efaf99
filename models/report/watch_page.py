"""One self-contained HTML page about a version under watch: its windows as a chart, its alarm, the journal."""

import itertools
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from regraft.models.report.plots import Axes, choose_ticks, draw_text, number
from regraft.serving.files.durable import write_bytes

WIDTH, HEIGHT = 680, 260
SHOWN = 120
"""Windows in the chart, the latest."""
LISTED = 50
"""Windows in the table, the latest first."""
STRONGEST = 12.0
"""Powers of ten of evidence at which the chart ends."""
AUDIT = "audit"
"""Decision of a line of the journal that ends an audit."""
MARKS = {"quiet": "s0", "opened": "s1", "open": "s1", "closed": "s2"}
"""What became of the alarm, and its colour."""

Window = Mapping[str, Any]


def write_watch_page(
    path: Path, version: str, windows: Sequence[Window], alarm: Mapping[str, Any], promised: float
) -> None:
    """Write the page to ``path``, whole or not at all.

    Args:
        path: An HTML file.
        version: That is watched.
        windows: Of the journal, oldest first; one at least.
        alarm: The state: opened_at, began_at, reason, harm.
        promised: False alarms a month.
    """
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    shown = windows[-SHOWN:]
    known = [window for window in shown if window["estimated_accuracy"] is not None]
    page = environment.get_template("watch.html").render(
        version=version,
        style=Markup((folder / "style.css").read_text()),
        headline=say_state(alarm),
        reason=alarm["reason"] or windows[-1]["reason"],
        plot=draw_evidence(shown),
        accuracies=draw_accuracies(shown) if len(known) > 1 else "",
        promised=promised,
        rows=[_format(window) for window in reversed(windows[-LISTED:])],
    )
    write_bytes(path, page.encode())


def say_state(alarm: Mapping[str, Any]) -> str:
    """Return the state of the alarm as a headline."""
    if alarm["opened_at"] is None:
        return "No alarm is open"
    since = say_time(alarm["began_at"] or alarm["opened_at"])
    return f"Answers became worse, since {since}" if alarm["harm"] else f"Something changed, since {since}"


def say_time(at: float) -> str:
    """Return a moment, in seconds since the epoch, as people of this machine say it: "Tue 3 Mar 14:10"."""
    moment = datetime.fromtimestamp(at).astimezone()
    return f"{moment:%a} {moment.day} {moment:%b %H:%M}"


def weigh_evidence(p_value: float) -> float:
    """Return the powers of ten by which a p-value is below 1, up to where the chart ends."""
    return min(STRONGEST, -math.log10(max(p_value, 10**-STRONGEST)))


def draw_evidence(windows: Sequence[Window]) -> Markup:
    """Return a chart of how strongly each window speaks for a change, and how strongly it must; audits at the foot."""
    evidence = [weigh_evidence(window["p_value"]) for window in windows]
    known = [weigh_evidence(window["alpha"]) for window in windows if window["decision"] != AUDIT] or [0.0]
    after = itertools.accumulate((window["decision"] != AUDIT for window in windows), initial=0)
    limits = [known[max(0, count - 1)] for count in itertools.islice(after, 1, None)]
    axes = Axes((0, len(windows) + 1), (0, max(*evidence, *limits) * 1.08), WIDTH, HEIGHT)
    points = [axes.at(place, limit) for place, limit in enumerate(limits, 1)]
    points = [axes.at(0.4, limits[0]), *points, axes.at(len(windows) + 0.6, limits[-1])]
    path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    line = f'<polyline class="ideal" points="{path}"/>'
    marks = [_draw_mark(axes, place, *each) for place, each in enumerate(zip(windows, evidence, strict=True), 1)]
    frame = axes.draw_frame("", "evidence of a change", [], choose_ticks(*axes.y))
    return _wrap("evidence of a change by window", axes, windows, frame, line, *marks)


def draw_accuracies(windows: Sequence[Window]) -> Markup:
    """Return a chart of the accuracy that is estimated for each window without labels."""
    known = [(place, window) for place, window in enumerate(windows, 1) if window["estimated_accuracy"] is not None]
    low = min(window["estimated_accuracy"] for _, window in known)
    axes = Axes((0, len(windows) + 1), (min(0.9, math.floor(low * 10) / 10), 1.0), WIDTH, HEIGHT)
    marks = [_draw_mark(axes, place, window, window["estimated_accuracy"]) for place, window in known]
    frame = axes.draw_frame("", "estimated accuracy", [], choose_ticks(*axes.y))
    return _wrap("estimated accuracy by window", axes, windows, frame, *marks)


def _draw_mark(axes: Axes, place: int, window: Window, value: float) -> str:
    x, y = axes.at(place, value)
    words = f"{say_time(window['begin'])} to {say_time(window['until'])}: {window['decision']}. {window['reason']}"
    radius = 6 if window["alarm"] in ("opened", "closed") else 4
    return (
        f'<g class="{MARKS[window["alarm"]]}"><circle cx="{number(x)}" cy="{number(y)}" r="{radius}">'
        f"<title>{escape(words)}</title></circle></g>"
    )


def _wrap(words: str, axes: Axes, windows: Sequence[Window], *parts: str) -> Markup:
    """Return the chart with the times of its ends and what its colours mean."""
    foot = axes.height - 22
    times = [
        draw_text(say_time(windows[0]["begin"]), axes.at(0, 0)[0], foot, "start"),
        draw_text(say_time(windows[-1]["until"]), axes.at(axes.x[1], 0)[0], foot, "end"),
    ]
    x, legend = 60, []
    for kind, name in (("s0", "quiet"), ("s1", "alarm open"), ("s2", "alarm closed")):
        legend.append(f'<g class="{kind}"><circle cx="{x}" cy="{axes.height - 8}" r="4"/></g>')
        legend.append(draw_text(name, x + 9, axes.height - 4, "start"))
        x += 40 + 7 * len(name)
    body = "".join((*parts, *times, *legend))
    size = f"0 0 {axes.width} {axes.height}"
    return Markup(f'<div class="plot broad"><svg viewBox="{size}" role="img" aria-label="{words}">{body}</svg></div>')


def _format(window: Window) -> dict[str, Any]:
    texts = {"begin": say_time(window["begin"]), "until": say_time(window["until"]), "told": f"{window['told']:.0f}"}
    return {**window, **texts, "p_value": "" if window["decision"] == AUDIT else f"{window['p_value']:.2g}"}
