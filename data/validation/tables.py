"""The two tables that expectations look at: one row per listed file, one row per class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

HELD_OUT = ("validation", "test")


@dataclass(frozen=True, slots=True)
class DatasetTables:
    """Facts about a dataset that has been ingested.

    ``files`` has a row per listed file: ``shown`` names it and ``readable`` says whether it is in the dataset. The
    rest is empty for those that are not: sides in pixels, ``label``, ``repeats`` (an ``original`` further up has the
    same content), and how many labels (``image_labels``) and given parts (``image_parts``, ``group_parts``) its
    content and its group have, with their names (``named_``...) where it is more than one. ``constant`` says that all
    pixels are equal.

    ``classes`` has a row per class: ``images`` and ``trainable`` count distinct contents, ``ratio`` is that of the
    largest class to this one.
    """

    files: pd.DataFrame
    classes: pd.DataFrame


def gather_evidence(manifest: pd.DataFrame, quarantine: Sequence[dict[str, Any]]) -> DatasetTables:
    """Return the tables for a manifest and the rows of ``quarantine.json``."""
    sources = {*manifest["source"], *(item["source"] for item in quarantine)}
    readable = _gather_images(manifest.reset_index(drop=True), len(sources) > 1)
    refused = pd.DataFrame(
        {
            "shown": [_name(item["source"], item["path"], len(sources) > 1) for item in quarantine],
            "readable": False,
            "reason": [item["reason"] for item in quarantine],
        },
        dtype=object,
    )
    files = pd.concat([readable, refused], ignore_index=True) if len(refused) else readable.assign(reason=None)
    return DatasetTables(files, _gather_classes(manifest))


def _gather_images(images: pd.DataFrame, name_source: bool) -> pd.DataFrame:
    shown = pd.Series(
        [_name(source, path, name_source) for source, path in zip(images["source"], images["path"], strict=True)],
        index=images.index,
        dtype=object,
    )
    sides = images[["width", "height"]]
    facts: dict[str, Any] = {
        "shown": shown,
        "readable": True,
        "short_side": sides.min(axis=1),
        "long_side": sides.max(axis=1),
        "label": images["label"].astype(object),
        "group": images["group"].astype(object),
        "repeats": images.duplicated("sha256").astype(object),
        "constant": images["constant"].astype(object),
        "original": shown.groupby(images["sha256"]).transform("first"),
    }
    for name, by, what in (
        ("image_labels", "sha256", "label"),
        ("image_parts", "sha256", "given_part"),
        ("group_parts", "group", "given_part"),
    ):
        facts[name], facts[f"named_{name}"] = _count_values(images, by, what)
    return pd.DataFrame(facts, index=images.index)


def _count_values(images: pd.DataFrame, by: str, what: str) -> tuple[pd.Series, pd.Series]:
    """Return, per row, how many values of ``what`` its ``by`` has (0 for none), and their names if several."""
    counts = images.groupby(by)[what].transform("nunique").fillna(0).astype(int)
    several = images[counts > 1]
    names = {key: ", ".join(sorted(set(rows.dropna()))) for key, rows in several.groupby(by)[what]}
    return counts, images[by].map(names).astype(object)


def _name(source: str, path: str, name_source: bool) -> str:
    return f"{source}:{path}" if name_source else path


def _gather_classes(manifest: pd.DataFrame) -> pd.DataFrame:
    images = manifest.groupby("label")["sha256"].nunique().sort_index()
    learnt = manifest[~manifest["given_part"].isin(HELD_OUT)].groupby("label")["sha256"].nunique()
    trainable = learnt.reindex(images.index, fill_value=0)
    largest = int(images.max()) if len(images) else 0
    return pd.DataFrame(
        {
            "label": images.index.astype(object),
            "images": images.to_numpy(),
            "trainable": trainable.to_numpy(),
            "ratio": [round(largest / count, 6) for count in images],
        }
    )
