"""Plots as inline SVG text: colours come from the page's style sheet, so they follow light, dark and print."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

LEFT, TOP, RIGHT, BOTTOM = 60, 14, 14, 40
WIDTH, HEIGHT = 440, 280
SERIES = 4
"""Colours in the style sheet (``.s0`` to ``.s3``)."""

Points = Sequence[tuple[float, float]]


def number(value: float) -> str:
    """Return a coordinate with at most two digits after the point."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def draw_text(text: str, x: float, y: float, anchor: str, kind: str = "tick") -> str:
    """Return one line of text with its anchor (start, middle, end) at a pixel."""
    return f'<text class="{kind}" x="{number(x)}" y="{number(y)}" text-anchor="{anchor}">{escape(text)}</text>'


class Axes:
    """Maps data to pixels of one plot area and draws its frame."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], width: int = WIDTH, height: int = HEIGHT
    ) -> None:
        self.x, self.y, self.width, self.height = widen(x), widen(y), width, height

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a data point."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (self.width - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def draw_frame(self, x_label: str, y_label: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
        """Return grid, tick labels and axis titles."""
        right, parts = self.width - RIGHT, []
        for tick in y_ticks:
            x, y = self.at(self.x[0], tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{number(y)}" y2="{number(y)}"/>')
            parts.append(draw_text(f"{tick:g}", x - 7, y + 4, "end"))
        for tick in x_ticks:
            x, y = self.at(tick, self.y[0])
            parts.append(draw_text(f"{tick:g}", x, y + 16, "middle"))
        parts.append(draw_text(x_label, (LEFT + right) / 2, self.height - 6, "middle", "axis"))
        centre = number((TOP + self.height - BOTTOM) / 2)
        turned = draw_text(y_label, 0, 0, "middle", "axis")
        return "".join(parts) + f'<g transform="translate(13 {centre}) rotate(-90)">{turned}</g>'

    def draw_line(self, points: Points, series: int, *, marks: bool = True) -> str:
        """Return one line through ``points`` in the colour of ``series``."""
        pixels = [self.at(x, y) for x, y in points]
        path = " ".join(f"{number(x)},{number(y)}" for x, y in pixels)
        dots = "".join(f'<circle cx="{number(x)}" cy="{number(y)}" r="3"/>' for x, y in pixels) if marks else ""
        return f'<g class="s{series % SERIES}"><polyline points="{path}"/>{dots}</g>'

    def draw_legend(self, names: Sequence[str], *, left: bool = False) -> str:
        """Return the names of the series with their colours, in an upper corner."""
        x = LEFT + 18 if left else self.width - RIGHT - 8
        rows = []
        for i, name in enumerate(names):
            y = TOP + 12 + 17 * i
            rows.append(f'<g class="s{i % SERIES}"><circle cx="{x}" cy="{y}" r="4"/></g>')
            rows.append(draw_text(name, x + 10 if left else x - 10, y + 4, "start" if left else "end"))
        return "".join(rows)

    def wrap(self, title: str, *parts: str) -> Markup:
        """Return the whole SVG; ``title`` is what a screen reader says."""
        return Markup(
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(title)}">'
            f"{''.join(parts)}</svg>"
        )


def widen(bounds: tuple[float, float]) -> tuple[float, float]:
    """Return bounds that are not a single point."""
    low, high = bounds
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def choose_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers within the bounds."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first = -int(-low // step) if low % step else int(low // step)
    ticks = []
    while first * step <= high + step * 1e-9:
        ticks.append(round(first * step, 10))
        first += 1
    return ticks


def draw_curves(lines: Mapping[str, Points], x_label: str, y_label: str, *, most: float = math.inf) -> Markup:
    """Return a line plot of named series whose values are at most ``most``."""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    low, high = widen((min(ys), max(ys)))  # of a level line too no tick lies where no value can be
    axes = Axes((min(xs), max(xs)), (low, min(high, most)))
    x_ticks = [tick for tick in choose_ticks(*axes.x) if tick == int(tick)]
    frame = axes.draw_frame(x_label, y_label, x_ticks, choose_ticks(*axes.y))
    drawn = [axes.draw_line(points, i) for i, points in enumerate(lines.values())]
    return axes.wrap(f"{y_label} by {x_label}", frame, *drawn, axes.draw_legend(list(lines)))


def draw_ranges(lines: Mapping[str, Sequence[Mapping[str, float]]], x_label: str, y_label: str) -> Markup:
    """Return a plot of named series of ``{x, y, low, high}``, every point with its interval."""
    rows = [row for points in lines.values() for row in points]
    xs = sorted({row["x"] for row in rows})
    axes = Axes((0.0, xs[-1] * 1.05), (min(row["low"] for row in rows), max(row["high"] for row in rows)))
    drawn = []
    for i, points in enumerate(lines.values()):
        aside = (i - (len(lines) - 1) / 2) * 0.012 * xs[-1]  # intervals at one size would cover each other
        drawn.append(axes.draw_line([(row["x"] + aside, row["y"]) for row in points], i))
        for row in points:
            (x, bottom), (_, top) = axes.at(row["x"] + aside, row["low"]), axes.at(row["x"] + aside, row["high"])
            ends = f'x1="{number(x)}" x2="{number(x)}" y1="{number(bottom)}" y2="{number(top)}"'
            drawn.append(f'<g class="s{i % SERIES}"><line {ends}/></g>')
    frame = axes.draw_frame(x_label, y_label, xs, choose_ticks(*axes.y))
    return axes.wrap(f"{y_label} by {x_label}", frame, *drawn)


def draw_reliability(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
    """Return accuracy against stated confidence; on the diagonal the model means what it says.

    Args:
        stages: By name ("before", "after"), the rows of ``evaluate_predictions(...)["reliability"]``.
    """
    axes = Axes((0.0, 1.0), (0.0, 1.0), 400, 380)
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    (x1, y1), (x2, y2) = axes.at(0, 0), axes.at(1, 1)
    diagonal = f'<line class="ideal" x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"/>'
    drawn = []
    for i, (name, rows) in enumerate(stages.items()):
        drawn.append(axes.draw_line([(row["confidence"], row["accuracy"]) for row in rows], i, marks=False))
        drawn.append(draw_bubbles(axes, name, rows, i))
    frame = axes.draw_frame("stated confidence", "accuracy", ticks, ticks)
    legend = axes.draw_legend(list(stages), left=True)
    return axes.wrap("accuracy against stated confidence", frame, diagonal, *drawn, legend)


def draw_bubbles(axes: Axes, name: str, rows: Sequence[Mapping[str, Any]], series: int) -> str:
    """Return one circle per confidence bin; its area shows how many images it stands for."""
    most, parts = max(row["n"] for row in rows), []
    for row in rows:
        x, y = axes.at(row["confidence"], row["accuracy"])
        radius = 3 + 7 * (row["n"] / most) ** 0.5
        words = f"{name}: {row['n']} images, confidence {row['confidence']:.3f}, accuracy {row['accuracy']:.3f}"
        parts.append(
            f'<circle class="bubble" cx="{number(x)}" cy="{number(y)}" r="{number(radius)}">'
            f"<title>{escape(words)}</title></circle>"
        )
    return f'<g class="s{series % SERIES}">{"".join(parts)}</g>'


def draw_interval(value: float, low: float, high: float, bounds: tuple[float, float] = (0.0, 1.0)) -> Markup:
    """Return a small bar with a dot at ``value`` between ``low`` and ``high``, for a table cell."""
    left, right = widen(bounds)

    def place(x: float) -> str:
        return number(4 + 112 * (min(max(x, left), right) - left) / (right - left))

    return Markup(
        '<svg class="interval" viewBox="0 0 120 14" aria-hidden="true">'
        '<line class="grid" x1="4" x2="116" y1="7" y2="7"/>'
        f'<g class="s0"><line class="range" x1="{place(low)}" x2="{place(high)}" y1="7" y2="7"/>'
        f'<circle cx="{place(value)}" cy="7" r="4"/></g></svg>'
    )
