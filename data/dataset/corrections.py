"""Labels that people corrected: what was said last of an image in production stands above what its folder says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Correction:
    """One image whose label was changed by a production label; ``path`` is where it lies in its source."""

    sha256: str
    path: str
    source: str
    was: str
    now: str


def correct_labels(rows: Sequence[dict[str, Any]]) -> list[Correction]:
    """Give every row of an image the label that production gave it last, in place, and return what was changed.

    A person looked at that very image and said what it shows; its folder was sorted before. Rows that contradict each
    other without a word from production are left as they are: the expectations stop there.

    Args:
        rows: Manifest rows in the order of their sources; those of labelled production images have a ``sampling``.
    """
    said = {row["sha256"]: row["label"] for row in rows if row.get("sampling")}
    changed = []
    for row in rows:
        now = said.get(row["sha256"], row["label"])
        if now != row["label"]:
            changed.append(Correction(row["sha256"], row["path"], row["source"], row["label"], now))
            row["label"] = now
    return changed
