"""What a version keeps under another lamp or camera: one row for each shift, and the same in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from regraft.models.report.formats import format_range, format_share
from regraft.models.report.plots import draw_text, number

WIDTH, LEFT, RIGHT, TOP, FOOT = 680, 262, 72, 46, 44
ROW, ASIDE = 42, 6
"""Height of a row, and how far a head's mark lies from its middle where there are two; pixels."""
EVERY_DAY = "half the light"
"""The shift that is said in words whatever it costs: lamps age."""

Row = Mapping[str, Any]
Place = Callable[[float], float]
"""From a share to its pixel across."""


def sort_rows(shifts: Mapping[str, Any]) -> list[Row]:
    """Return the rows as they are shown: the images as they are, then the shifts, the hardest first."""
    first, *others = shifts["rows"]
    return [first, *sorted(others, key=lambda row: row["accuracy"])]


def draw_shifts(shifts: Mapping[str, Any]) -> Markup:
    """Return a chart of accuracies with intervals: the version filled, the plain head hollow, a bar from one to other.

    Args:
        shifts: What ``regraft.models.classifier.robustness.measure_robustness`` returned.
    """
    rows, compared = sort_rows(shifts), "plain" in shifts["rows"][0]
    height = TOP + ROW * len(rows) + FOOT
    floor = min(row[f"{head}_low"] for row in rows for head in (("accuracy", "plain") if compared else ("accuracy",)))
    low = min(0.9, int(floor * 10) / 10)

    def place(share: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (share - low) / (1 - low)

    parts = [_draw_axis(low, place, height), _draw_legend(compared)]
    clean = number(place(rows[0]["accuracy"]))
    parts.append(f'<line class="ideal" x1="{clean}" x2="{clean}" y1="{TOP}" y2="{height - FOOT}"/>')
    for place_of, row in enumerate(rows):
        parts.append(_draw_row(row, place, TOP + ROW * (place_of + 0.5), compared))
    edge = number(TOP + ROW)
    parts.append(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{edge}" y2="{edge}"/>')
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="accuracy under each shift">{"".join(parts)}</svg>'
    )


def _draw_axis(low: float, place: Place, height: int) -> str:
    step = 0.1 if low >= 0.4 else 0.2
    ticks = [round(1 - step * i, 10) for i in range(int((1 - low) / step + 1e-9) + 1)]
    parts = []
    for tick in ticks:
        x = place(tick)
        parts.append(f'<line class="grid" x1="{number(x)}" x2="{number(x)}" y1="{TOP}" y2="{height - FOOT}"/>')
        parts.append(draw_text(f"{100 * tick:.0f} %", x, height - FOOT + 16, "middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    return "".join(parts) + draw_text("share of right answers", middle, height - 8, "middle", "axis")


def _draw_legend(compared: bool) -> str:
    marks = [("s0", "this version")]
    if compared:
        marks.append(("plain", "its head without views"))
    parts, x = [], 0
    for kind, words in marks:
        parts.append(f'<g class="{kind}"><circle cx="{x + 5}" cy="14" r="5"/></g>')
        parts.append(draw_text(words, x + 15, 18, "start"))
        x += 30 + 7 * len(words)
    x += 4
    parts.append(f'<line class="ideal" x1="{x}" x2="{x}" y1="6" y2="22"/>')
    return "".join(parts) + draw_text("images as they are", x + 8, 18, "start")


def _draw_row(row: Row, place: Place, middle: float, compared: bool) -> str:
    parts = [
        draw_text(row["name"], 0, middle - 3, "start", "axis"),
        draw_text(row["describes"], 0, middle + 13, "start"),
    ]
    aside = ASIDE if compared else 0
    if compared:
        ends = f'x1="{number(place(row["plain"]))}" x2="{number(place(row["accuracy"]))}"'
        heights = f'y1="{number(middle - aside)}" y2="{number(middle + aside)}"'
        kind = "gained" if row["gain_low"] > 0 else "lost" if row["gain_high"] < 0 else "alike"
        parts.append(f'<line class="{kind}" {ends} {heights}/>')
        parts.append(_draw_mark("plain", row, "plain", place, middle - aside))
        parts.append(draw_text(format_share(row["plain"]), WIDTH, middle - 3, "end"))
    parts.append(_draw_mark("s0", row, "accuracy", place, middle + aside))
    parts.append(draw_text(format_share(row["accuracy"]), WIDTH, middle + (13 if compared else 4), "end", "axis"))
    return "".join(parts)


def _draw_mark(kind: str, row: Row, head: str, place: Place, y: float) -> str:
    x, low, high = (number(place(row[name])) for name in (head, f"{head}_low", f"{head}_high"))
    words = f"{row['name']}: {format_share(row[head])} ({format_range(row, head)})"
    return (
        f'<g class="{kind}"><line class="range" x1="{low}" x2="{high}" y1="{number(y)}" y2="{number(y)}"/>'
        f'<circle cx="{x}" cy="{number(y)}" r="5"><title>{escape(words)}</title></circle></g>'
    )


def say_shifts(shifts: Mapping[str, Any]) -> list[str]:
    """Return what to know of them in sentences: half the light, the hardest shift, where views gain and where not.

    Args:
        shifts: As for ``draw_shifts``; ``alone`` says why there is no plain head to compare with.
    """
    clean, *rows = sort_rows(shifts)
    said = [f"With {row['name']} {_say_kept(row)}." for row in rows if row["name"] == EVERY_DAY]
    if rows and (worst := rows[0])["accuracy"] < clean["accuracy"] and worst["name"] != EVERY_DAY:
        said.append(f"Hardest for it is {worst['name']} ({worst['describes']}): {_say_kept(worst)}.")
    if "plain" in clean:
        return [*said, _say_gains(rows)]
    return [*said, f"Nothing is compared: {shifts['alone']}."] if "alone" in shifts else said


def _say_kept(row: Row) -> str:
    kept = f"{format_share(row['accuracy'])} of the answers are right ({format_range(row, 'accuracy')})"
    if "plain" not in row:
        return kept
    return f"{kept}, without views {format_share(row['plain'])} would be"


def _say_gains(rows: Sequence[Row]) -> str:
    """Return under which shifts the paired difference of the two heads leaves no doubt of its direction."""
    better = [_say_gain(row) for row in rows if row["gain_low"] > 0]
    worse = [_say_gain(row) for row in rows if row["gain_high"] < 0]
    parts = [f"better under {'; '.join(better)}"] if better else []
    parts += [f"worse under {'; '.join(worse)}"] if worse else []
    if not parts:
        return "Under none of them can the version be told from its head without views on so many images."
    rest = len(rows) - len(better) - len(worse)
    told = f" The two cannot be told apart under the other {rest}." if rest else ""
    return f"Fitted on views it is {', and '.join(parts)}.{told}"


def _say_gain(row: Row) -> str:
    low, high = 100 * row["gain_low"], 100 * row["gain_high"]
    return f"{row['name']} ({100 * row['gain']:+.1f} points, {low:+.1f} to {high:+.1f})"
