"""The plot of the candidates: accuracy against what an image costs, so that a slower winner has to show for it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from regraft.models.report.plots import Axes, choose_ticks, draw_text, number

WIDTH, HEIGHT = 640, 300
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def draw_tradeoff(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Return accuracy with its interval against milliseconds an image, on a logarithmic axis.

    Args:
        rows: Candidates with ``name``, ``accuracy``, ``accuracy_low``, ``accuracy_high``, 0-1, ``ms`` and ``chosen``.
    """
    places = [math.log10(max(row["ms"], 1e-3)) for row in rows]
    low = min(row["accuracy_low"] for row in rows)
    spread = max(places) - min(places) + 0.1
    axes = Axes((min(places) - 0.1, max(places) + spread), (low, 1.0), WIDTH, HEIGHT)  # half the width is for names
    shown = [tick for tick in TICKS if axes.x[0] <= math.log10(tick) <= axes.x[1]]
    frame = axes.draw_frame("ms an image on the nominal machine", "accuracy of the probe", [], choose_ticks(low, 1.0))
    marks = [draw_text(f"{tick:g}", axes.at(math.log10(tick), low)[0], HEIGHT - 24, "middle") for tick in shown]
    return axes.wrap("accuracy by milliseconds an image", frame, *marks, *draw_candidates(axes, rows, places))


def draw_candidates(axes: Axes, rows: Sequence[Mapping[str, Any]], places: Sequence[float]) -> list[str]:
    """Return a mark with its interval and name for each candidate; names that would meet are moved apart."""
    drawn, taken = [], []
    for row, place in sorted(zip(rows, places, strict=True), key=lambda pair: -pair[0]["accuracy"]):
        x, y = axes.at(place, row["accuracy"])
        _, top = axes.at(place, row["accuracy_high"])
        _, bottom = axes.at(place, row["accuracy_low"])
        series = "s0" if row.get("chosen") else "s1"
        line = f'<polyline points="{number(x)},{number(top)} {number(x)},{number(bottom)}"/>'
        drawn.append(f'<g class="{series}">{line}<circle cx="{number(x)}" cy="{number(y)}" r="4"/></g>')
        label = y + 4
        while any(abs(label - other) < 13 and abs(x - beside) < 240 for beside, other in taken):
            label += 13
        taken.append((x, label))
        drawn.append(draw_text(row["name"], x + 9, label, "start"))
    return drawn
