"""Which images are train, validation and test: stratified, grouped, and decided once and for all by content hash."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, model_validator

from regraft.data.dataset.manifest import DatasetError, encode_table
from regraft.data.sources.entries import IntakeError
from regraft.data.sources.parts import PARTS
from regraft.data.split.stratify import Component, assign_parts, make_key
from regraft.data.split.twins import join_twins
from regraft.serving.files.durable import write_bytes

logger = logging.getLogger(__name__)

COLUMNS = ("sha256", "label", "group", "part", "sampling")
LATER = {"sampling"}
"""Columns that splits of earlier releases lack; they read as None."""
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])


class SplitError(IntakeError):
    """Images that cannot be divided without breaking a promise; ``problems`` says which."""


class SplitConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How much is held out."""

    validation_share: float = Field(0.15, gt=0, lt=1)
    """Share of the images used to choose between models; of train and validation together where a test part is given,
    in the same proportion."""
    test_share: float = Field(0.2, gt=0, lt=1)
    """Share of the images that judge and teach nothing."""
    seed: int = Field(0, ge=0)
    """Another seed is another split of the images that are not decided yet."""
    random_test_share: float = Field(0.5, gt=0, lt=1)
    """Share of the randomly drawn production images that judges; images drawn for another reason only train."""

    @model_validator(mode="after")
    def _leaves_something_to_learn(self) -> "SplitConfig":
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share {self.validation_share} + test_share {self.test_share} leave nothing for train; "
                "their sum must be below 1"
            )
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part; they sum to 1."""
        train = 1 - self.validation_share - self.test_share
        return dict(zip(PARTS, (train, self.validation_share, self.test_share), strict=True))

    @property
    def random_shares(self) -> dict[str, float]:
        """Share of each part among randomly drawn production images: few of them are to answer for a whole line."""
        rest = (1 - self.random_test_share) / (1 - self.test_share)
        return {name: self.random_test_share if name == "test" else share * rest for name, share in self.shares.items()}


@dataclass(slots=True)
class _Image:
    """One distinct content: what all of its manifest rows say."""

    labels: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    allowed: set[tuple[str, ...]] = field(default_factory=set)
    path: str = ""
    samplings: set[str | None] = field(default_factory=set)

    @property
    def sampling(self) -> str | None:
        """How it was drawn; an image that is also part of a set given as a whole counts as that."""
        known = {name for name in self.samplings if name}
        return None if None in self.samplings else "random" if known == {"random"} else min(known, default=None)


def split_dataset(
    manifest: pd.DataFrame, frozen: Mapping[str, str], config: SplitConfig, twins: Iterable[tuple[str, str]] = ()
) -> pd.DataFrame:
    """Return one row per distinct image: ``COLUMNS``, ordered by ``sha256``; no group and no sampling are None.

    A part given by a source is respected; of two given parts the second is test and validation comes out of train.
    Production images that were drawn at random are dealt apart, so that enough of them judge; others from production
    only train, because a test part of images the champion finds hard is unfair to it. The order of rows does not
    matter.

    Args:
        manifest: As ``read_manifest`` returns it; needs sha256, path, source, label, group, given_part.
        frozen: Parts decided earlier, by content hash; they win over everything else. Other hashes are ignored.
        config: Shares and seed.
        twins: Pairs of content hashes that show one picture and belong in one part.

    Raises:
        SplitError: If an image has two labels, a group would be in two parts, or a part would be empty.
    """
    images = _read_images(manifest)
    problems = [
        f"{image.path} has the labels {', '.join(sorted(image.labels))}"
        for image in images.values()
        if len(image.labels) > 1
    ]
    unknown = sorted(set(frozen.values()) - set(PARTS))
    problems += [f"frozen images have the part {part!r}, which is none of {', '.join(PARTS)}" for part in unknown]
    components = [] if problems else _make_components(images, frozen, config.seed, problems)
    if not problems:
        components = join_twins(components, twins)
        drawn = [component for component in components if component.drawn]
        chosen = assign_parts([component for component in components if not component.drawn], config.shares)
        chosen |= assign_parts(drawn, config.random_shares)
        parts = {sha: chosen[component.key] for component in components for sha in component.images}
        problems += [f"no image is left for {part}" for part in PARTS if part not in parts.values()]
    if problems:
        raise SplitError(
            "the split", problems, "Correct the labels, groups or given parts; only a new workspace moves old images."
        )
    counts = Counter(parts.values())
    logger.info("split done %s frozen=%d", " ".join(f"{p}={counts[p]}" for p in PARTS), len(parts.keys() & frozen))
    rows = [
        (sha, *images[sha].labels, min(images[sha].groups, default=None), parts[sha], images[sha].sampling)
        for sha in sorted(parts)
    ]
    return pd.DataFrame({name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}, dtype=object)


def write_split(path: Path, split: pd.DataFrame) -> None:
    """Write the result of ``split_dataset`` to ``path``; equal splits give equal bytes."""
    columns = {name: [value if isinstance(value, str) else None for value in split[name]] for name in COLUMNS}
    write_bytes(path, encode_table(pa.table(columns, schema=SCHEMA)))


def read_split(path: Path) -> pd.DataFrame:
    """Return the split written by ``write_split``.

    Raises:
        DatasetError: If there is none, or it cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            rows = file.read(columns=[name for name in COLUMNS if name in file.schema_arrow.names]).to_pydict()
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path} is missing or cannot be read ({error}); run the stage split again") from error
    count = len(next(iter(rows.values()), []))
    return pd.DataFrame({name: rows.get(name, [None] * count) for name in COLUMNS}, dtype=object)


def _read_images(manifest: pd.DataFrame) -> dict[str, _Image]:
    images: dict[str, _Image] = defaultdict(_Image)
    columns = ("sha256", "path", "source", "label", "group", "given_part", "sampling")
    manifest = manifest.assign(**dict.fromkeys(LATER - set(manifest)))
    rows = list(zip(*(manifest[name].astype(object) for name in columns), strict=True))
    given: dict[str, set[str | None]] = defaultdict(set)
    for _, _, source, _, _, part, _ in rows:
        given[source].add(_text(part))
    for sha256, path, source, label, group, part, sampling in rows:
        image = images[sha256]
        image.labels.add(label)
        image.allowed.add(_open_parts(_text(part), given[source]))
        image.samplings.add(_text(sampling))
        image.path = min(image.path or path, path)
        if group := _text(group):
            image.groups.add(group)
    return images


def _open_parts(part: str | None, given: set[str | None]) -> tuple[str, ...]:
    """Return the parts that an image may go to, from what was said of it and of the rest of its source.

    Of two given parts the second is the held-out one, whatever it is called; train alone holds nothing out.
    """
    if part is None or given == {"train"}:
        return PARTS
    named = given - {None}
    if part == "train":
        return ("train",) if named == set(PARTS) or named == {"train"} else ("train", "validation")
    if part == "validation" and named == {"train", "validation"}:
        return ("test",)
    return (part,)


def _make_components(
    images: Mapping[str, _Image], frozen: Mapping[str, str], seed: int, problems: list[str]
) -> list[Component]:
    """Return the images joined by group; what cannot be joined is added to ``problems``."""
    components = []
    overruled = 0
    for members in _connect(images):
        groups = {group for sha in members for group in images[sha].groups}
        decided = {frozen[sha] for sha in members if sha in frozen}
        limits = {allowed for sha in members for allowed in images[sha].allowed}
        allowed = tuple(part for part in PARTS if all(part in limit for limit in limits))
        samplings = {images[sha].sampling for sha in members}
        if samplings - {None, "random"}:
            allowed = tuple(part for part in allowed if part == "train")
        name = f"the group {min(groups)!r}" if groups else images[members[0]].path
        if len(decided) > 1:
            problems.append(f"{name} joins images that are in {' and '.join(sorted(decided))} for ever")
        elif not decided and not allowed:
            problems.append(f"{name} is given to {' and '.join(sorted({'/'.join(limit) for limit in limits}))}")
        overruled += bool(decided) and not decided <= set(allowed)
        labels = dict(sorted(Counter(label for sha in members for label in images[sha].labels).items()))
        key = make_key(groups or members, seed)
        components.append(
            Component(
                key, tuple(members), labels, allowed or PARTS, min(decided, default=None), samplings == {"random"}
            )
        )
    if overruled:
        logger.warning("%d images or groups keep an earlier part although their source now gives another", overruled)
    return components


def _connect(images: Mapping[str, _Image]) -> list[list[str]]:
    """Return the content hashes in connected sets: two share a set if they share a group, also through others."""
    by_group: dict[str, list[str]] = defaultdict(list)
    for sha256, image in images.items():
        for group in image.groups:
            by_group[group].append(sha256)
    connected, seen = [], set()
    for start in sorted(images):
        if start in seen:
            continue
        seen.add(start)
        reached = [start]
        for sha256 in reached:  # grows while it is walked
            for group in images[sha256].groups:
                fresh = [other for other in by_group.pop(group, []) if other not in seen]
                seen.update(fresh)
                reached += fresh
        connected.append(sorted(reached))
    return connected


def _text(value: object) -> str | None:
    """Return a cell, or None for any of the ways in which pandas says that it is missing."""
    return value if isinstance(value, str) else None
