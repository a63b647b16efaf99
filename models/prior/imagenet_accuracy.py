"""What is publicly known of a backbone before any image is looked at: its ImageNet-1k accuracy, from ``prior.csv``.

A selector must beat this list to be worth its time (arXiv 2510.06448). Each row of the table names its source at a
pinned commit; of several evaluated sizes it holds the one nearest 224 px. ``date`` is the month in which the weights,
or the newest ones that the source lists, were announced. Nothing is filled in from memory.
"""

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

TABLE = Path(__file__).with_name("prior.csv")

IMAGENET_TAG = re.compile(r"(^|_)in\d+k(_|$)")
"""In a timm tag: trained on ImageNet-1k or a set that contains it, such as ``a1_in1k`` or ``augreg_in21k``."""


@dataclass(frozen=True, slots=True)
class PriorEntry:
    """What is known of one backbone.

    Attributes:
        name: ``arch.tag``.
        accuracy: Top-1 on the ImageNet-1k validation images, 0-1.
        size_px: Size it was evaluated at; of a mean the first row's.
        source: Pinned address of the figure.
        date: Year and month of the source.
        basis: Names of the rows the accuracy is the mean of; the backbone's own alone if it is listed.
    """

    name: str
    accuracy: float
    size_px: int
    source: str
    date: str
    basis: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Return whether the figure is of these very weights."""
        return self.basis == (self.name,)


@cache
def read_table() -> MappingProxyType[str, PriorEntry]:
    """Return the rows of ``prior.csv`` by name."""
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    entries = {
        row["name"]: PriorEntry(
            row["name"], float(row["accuracy"]), int(row["size_px"]), row["source"], row["date"], (row["name"],)
        )
        for row in rows
    }
    return MappingProxyType(entries)


def static_prior(name: str) -> PriorEntry | None:
    """Return what is known of backbone ``name`` (``arch.tag``), or None: never a guess.

    Weights that are not listed but were trained on ImageNet by their tag take the mean of their architecture's rows:
    tags of one architecture differ less than architectures do. Weights of other origin (``inat2017_bird``, say),
    without a tag or of an unlisted architecture have none, because ImageNet accuracy says nothing of them.
    """
    table = read_table()
    if name in table:
        return table[name]
    architecture, _, tag = name.partition(".")
    kin = [table[each] for each in sorted(table) if each.partition(".")[0] == architecture]
    if not kin or not IMAGENET_TAG.search(tag):
        return None
    mean = sum(entry.accuracy for entry in kin) / len(kin)
    return PriorEntry(name, mean, kin[0].size_px, kin[0].source, kin[0].date, tuple(entry.name for entry in kin))
