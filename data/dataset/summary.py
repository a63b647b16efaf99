"""What an ingest found, as counts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regraft.data.dataset.brightness import DIM, list_dim
from regraft.data.dataset.corrections import Correction
from regraft.data.sources.entries import Listing
from regraft.data.sources.sources import Source
from regraft.serving.decoding.value_range import ValueRange, fit_range

Counts = dict[str, int]
SHOWN_PAIRS = 100
SHOWN_CORRECTIONS = 5
NAMED = 5


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """Counts of one dataset; the same as ``summary.json``.

    ``duplicates`` lists [first path, repeated path] of the first hundred exact duplicates, ``parts`` the parts as
    given by the sources, ``unreadable_share`` the quarantined files among all listed ones. ``named`` are the classes
    that the sources name, with or without an image, and why those without have none; ``allowed`` are those whose loss
    the user allowed; ``notes`` is what is to be told of the sources and the images.

    ``value_range`` says which value is white in files deeper than 8 bits, None where there are none; ``bits`` counts
    those files by what each fills alone. ``constant`` images have equal pixels throughout, ``dim`` ones end 16 times
    below white; the first hundred of each are named.
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
    value_range: dict[str, int] | None
    bits: Counts
    constant: int
    constant_images: list[str]
    dim: int
    dim_images: list[str]
    named: dict[str, str]
    allowed: list[str]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Told:
    """What sources and their listings say beside files; see ``IngestSummary``."""

    named: dict[str, str]
    allowed: list[str]
    notes: list[str]


def describe_sources(
    sources: Sequence[Source], listings: Sequence[Listing], corrections: Sequence[Correction] = ()
) -> Told:
    """Return the classes that the sources name, those that may be lost, and what there is to tell."""
    named = {label: "" for source in sources for label in source.labels}
    for listing in listings:
        named |= {entry.label: "" for entry in listing.entries}
    for listing in listings:
        named |= {label: why for label, why in listing.empty.items() if label not in named}
    notes = [note for source in sources for note in source.notes]
    notes += [note for listing in listings for note in listing.notes]
    if corrections:
        shown = ", ".join(f"{one.path}: {one.was} -> {one.now}" for one in corrections[:SHOWN_CORRECTIONS])
        more = f" and {len(corrections) - SHOWN_CORRECTIONS} more" if len(corrections) > SHOWN_CORRECTIONS else ""
        notes.append(f"what production said of these images stands above their label: {shown}{more}")
    allowed = sorted({label for source in sources for label in source.allowed})
    return Told(dict(sorted(named.items())), allowed, notes)


def summarise_dataset(
    rows: list[dict[str, Any]],
    quarantined: list[dict[str, Any]],
    ignored: Mapping[str, Counts],
    told: Told,
    value_range: ValueRange | None = None,
) -> IngestSummary:
    """Return the counts of manifest rows, quarantined files and files ignored per source, and what these tell."""
    listed = len(rows) + len(quarantined)
    pairs, distinct = find_duplicates(rows)
    constant, dim = [row["path"] for row in rows if row["constant"]], list_dim(rows, value_range)
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
        value_range=None if value_range is None else value_range.model_dump(),
        bits=_count(_name_range(row) for row in rows if row["peak"] is not None),
        constant=len(constant),
        constant_images=constant[:SHOWN_PAIRS],
        dim=len(dim),
        dim_images=dim[:SHOWN_PAIRS],
        named=told.named,
        allowed=told.allowed,
        notes=[*told.notes, *_tell_dim(dim, len(rows), value_range)],
    )


def _tell_dim(paths: list[str], images: int, value_range: ValueRange | None) -> list[str]:
    if not paths or value_range is None:
        return []
    return [
        f"{len(paths)} of {images} images end {DIM} times or more below the white of the data set "
        f"({_describe_range(value_range)}) and are as good as black ({_name_some(paths)}): if they were saved on "
        "another scale than the rest, save all of them on one"
    ]


def _describe_range(value_range: ValueRange) -> str:
    named = {"integer_bits": (False, "integers"), "float_white": (True, "floats")}
    told = [kind for field, kind in named.items() if field in value_range.model_fields_set]
    return ", ".join(f"{value_range.white(is_float=is_float)} in files of {name}" for is_float, name in told)


def _name_some(paths: list[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more


def _name_range(row: Mapping[str, Any]) -> str:
    is_float = row["mode"] == "F"
    fitted = fit_range(row["peak"], is_float=is_float)
    return f"float to {fitted.float_white}" if is_float else f"{fitted.integer_bits}"


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
