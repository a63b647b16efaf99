"""What an ingest found, as counts."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Counts = dict[str, int]
SHOWN_PAIRS = 100


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """Counts of one dataset; the same as ``summary.json``.

    ``duplicates`` lists [first path, repeated path] of the first hundred exact duplicates, ``parts`` the parts as
    given by the sources, ``unreadable_share`` the quarantined files among all listed ones.
    """

    images: int
    distinct: int
    bytes: int
    quarantined: int
    unreadable_share: float
    labels: Counts
    parts: Counts
    sources: dict[str, Counts]
    modes: Counts
    formats: Counts
    animated: int
    width_px: Counts
    height_px: Counts
    sizes: int
    duplicates: list[list[str]]
    reasons: Counts
    ignored: Counts
    shards: int


def summarise_dataset(
    rows: list[dict[str, Any]], quarantined: list[dict[str, Any]], ignored: Mapping[str, Counts]
) -> IngestSummary:
    """Return the counts of manifest rows, quarantined files and files ignored per source."""
    listed = len(rows) + len(quarantined)
    pairs, distinct = find_duplicates(rows)
    return IngestSummary(
        images=len(rows),
        distinct=distinct,
        bytes=sum(row["bytes"] for row in rows),
        quarantined=len(quarantined),
        unreadable_share=round(len(quarantined) / max(listed, 1), 6),
        labels=_count(row["label"] for row in rows),
        parts=_count(row["given_part"] or "none" for row in rows),
        sources=_count_sources(rows, quarantined, ignored),
        modes=_count(row["mode"] for row in rows),
        formats=_count(row["format"] for row in rows),
        animated=sum(row["frames"] > 1 for row in rows),
        width_px=_range([row["width"] for row in rows]),
        height_px=_range([row["height"] for row in rows]),
        sizes=len({(row["width"], row["height"]) for row in rows}),
        duplicates=pairs[:SHOWN_PAIRS],
        reasons=_count(item["reason"] for item in quarantined),
        ignored=_count(kind for counts in ignored.values() for kind, n in counts.items() for _ in range(n)),
        shards=len({row["shard"] for row in rows}),
    )


def find_duplicates(rows: Iterable[Mapping[str, Any]]) -> tuple[list[list[str]], int]:
    """Return ([path of the first, path of the repetition], ...) in row order, and the number of distinct images."""
    first: dict[str, str] = {}
    pairs = []
    for row in rows:
        if row["sha256"] in first:
            pairs.append([first[row["sha256"]], row["path"]])
        else:
            first[row["sha256"]] = row["path"]
    return pairs, len(first)


def _count_sources(
    rows: list[dict[str, Any]], quarantined: list[dict[str, Any]], ignored: Mapping[str, Counts]
) -> dict[str, Counts]:
    images = Counter(row["source"] for row in rows)
    refused = Counter(item["source"] for item in quarantined)
    return {
        name: {"images": images[name], "quarantined": refused[name], "ignored": sum(counts.values())}
        for name, counts in ignored.items()
    }


def _count(values: Iterable[str]) -> Counts:
    return dict(sorted(Counter(values).items()))


def _range(values: list[int]) -> Counts:
    ordered = sorted(values) or [0]
    return {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]}
