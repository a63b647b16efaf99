"""What a transfer certificate says and how it is kept: the verdict, its figures, its two files.

How it comes about is in ``models/certificate/certify.py``.
"""

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from regraft.models.certificate.paired_difference import Difference, estimate_more_data, say_images
from regraft.serving.files.durable import write_bytes, write_json

CERTIFICATE_FILE, CURVE_FILE = "certificate.json", "curve.csv"
CONDITIONS = ("transfer", "scratch", "neighbours")

Decision = Literal["helps", "no evidence", "hurts"]


class Condition(BaseModel, frozen=True, extra="forbid"):
    """One condition at one number of labels: balanced accuracy over images and draws, and how it was reached.

    ``taken`` is the trial that each draw took, ``budget_s`` the counted seconds of its training trial, ``steps`` those
    of each draw.
    """

    condition: str
    n: int
    accuracy: float
    low: float
    high: float
    by_draw: list[float]
    taken: list[str]
    budget_s: float
    steps: list[int]
    frozen_groups: int


class Certificate(BaseModel, frozen=True, extra="forbid"):
    """The verdict on transfer, with everything it rests on.

    ``gain`` is transfer minus scratch and ``floor`` transfer minus nearest neighbours, at ``n`` labels. The decision
    is ``helps`` where ``gain.low`` is above ``threshold`` and ``floor.value`` above 0; ``hurts`` where ``gain.high`` is
    below ``-threshold``. ``more_images`` and ``more_draws`` are about what would settle an open comparison. Where test
    images come in groups, ``groups`` is how many.
    """

    format: Literal[1] = 1
    decision: Decision
    reason: str
    threshold: float
    backbone: str
    classes: int
    n: int
    images: int
    draws: int
    size_px: int
    gain: Difference | None = None
    floor: Difference | None = None
    more_images: int = 0
    more_draws: int = 0
    conditions: list[Condition] = []
    fits: dict[str, dict[str, Any]] = {}
    crossing: dict[str, Any] = {}
    next_labels: dict[str, Any] = {}
    notes: list[str] = []
    groups: int | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision on two comparisons with its reason."""

    decision: Decision
    reason: str
    more_images: int = 0
    more_draws: int = 0


def decide_transfer(gain: Difference, floor: Difference, smallest_gain: float) -> Decided:
    """Return whether transfer helped, from its differences to scratch and to nearest neighbours.

    Negative transfer is measured against the same network without the weights. Neighbours that are better do not make
    it ``hurts``, but nothing is called help that is not ahead of them: a network that had too little time to learn
    from scratch is easily beaten.
    """
    words = (
        f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] in balanced accuracy on "
        f"{say_images(gain.images, gain.groups)} against scratch"
    )
    said = f"{floor.value:+.3f} [{floor.low:+.3f}, {floor.high:+.3f}] against nearest neighbours on plain pixels"
    if gain.high < -smallest_gain:
        return Decided("hurts", f"transfer hurts: {words}; {said}")
    if gain.low > smallest_gain and floor.value > 0:
        return Decided("helps", f"transfer helps: {words}; {said}")
    if gain.low > smallest_gain:
        better = "better" if floor.high < 0 else "as good"
        return Decided("no evidence", f"no evidence that transfer helps: {words}, but neighbours are {better}: {said}")
    images, draws, effect = estimate_more_data(gain, smallest_gain)
    further = math.ceil(gain.groups * images / gain.images) if gain.groups else None
    needs = ((images, say_images(images, further).partition(" ")[2]), (draws, "label draws"))
    asked = " and ".join(f"{more} more {what}" for more, what in needs if more)
    settle = f"about {asked} would settle a difference of {effect:.3f}" if asked else "a repetition may settle it"
    return Decided("no evidence", f"no evidence that transfer helps or hurts: {words}; {said}; {settle}", images, draws)


def format_curve(certificate: Certificate) -> str:
    """Return ``curve.csv``: one row per size; every condition's balanced accuracy with its interval."""
    buffer = io.StringIO()
    columns = ["n", *(f"{condition}{end}" for condition in CONDITIONS for end in ("", "_low", "_high"))]
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for size in sorted({condition.n for condition in certificate.conditions}):
        row: dict[str, Any] = {"n": size}
        for condition in (condition for condition in certificate.conditions if condition.n == size):
            values = (("", condition.accuracy), ("_low", condition.low), ("_high", condition.high))
            row |= {f"{condition.condition}{end}": f"{value:.6g}" for end, value in values}
        writer.writerow(row)
    return buffer.getvalue()


def save_certificate(certificate: Certificate, into: Path) -> None:
    """Write ``certificate.json`` and ``curve.csv`` into the folder ``into``."""
    write_json(into / CERTIFICATE_FILE, certificate.model_dump(mode="json"))
    write_bytes(into / CURVE_FILE, format_curve(certificate).encode())


def read_certificate(folder: Path) -> Certificate:
    """Return the certificate of a folder."""
    return Certificate.model_validate(json.loads((folder / CERTIFICATE_FILE).read_text()))
