"""One picture in two files (a PNG and its JPEG, a copy at another size): found by its look, kept in one part.

Equal bytes are no twins: they are one image already, by content hash.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from regraft.serving.files.durable import write_json

TWINS_FILE = "twins.json"
BITS, BANDS = 64, 8
NEAR_BITS = BANDS - 1
"""Looks that differ in so many bits share one of the bands for certain."""
SIDE_PX = 64
LEAST_CORRELATION = 0.995
"""Of grey values."""
MOST_TWINS = 4
"""Files of one picture; where more look alike they are shots of one scene, and joining them could leave nothing to
divide."""
LEAST_CONTRAST = 4.0
"""Standard deviation of grey values below which an image is flat: all flat images look alike."""
MOST_ALIKE = 2000
"""Images of one band that are compared with each other; where more share one, a look says nothing."""

Pair = tuple[str, str]


def describe_look(pixels: np.ndarray) -> str:
    """Return the perceptual hash (16 hexadecimal digits) of uint8 ``(H, W, 3)``: alike for what looks alike."""
    import imagehash  # imports scipy

    return str(imagehash.phash(Image.fromarray(pixels).convert("L")))


def find_twins(
    looks: Mapping[str, str], read: Callable[[Sequence[str]], Iterable[np.ndarray]]
) -> tuple[list[Pair], int]:
    """Return the pairs of different images that show one picture, sorted, and how many images look like many others.

    Args:
        looks: ``describe_look`` of each content hash.
        read: Returns the pixels, uint8 ``(H, W, 3)``, of these content hashes in their order.
    """
    candidates = _find_candidates(looks)
    wanted = sorted({sha256 for pair in candidates for sha256 in pair})
    faces = dict(zip(wanted, map(_standardise, read(wanted)), strict=True)) if wanted else {}
    pairs = [(one, other) for one, other in candidates if _agree(faces[one], faces[other])]
    crowd = _find_crowd(pairs)
    return [pair for pair in pairs if not crowd.intersection(pair)], len(crowd)


def describe_twins(pairs: Sequence[Pair], crowd: int, paths: Mapping[str, str], labels: Mapping[str, str]) -> list[str]:
    """Return what to say: how many twins, those whose two files have different labels, and how many are too many."""
    lines = []
    if pairs:
        one, other = pairs[0]
        lines.append(
            f"{len(pairs)} pairs of different files show one picture each and stay in the same part; "
            f"the first: {paths[one]} = {paths[other]}"
        )
    split = [f"{paths[a]} ({labels[a]}) = {paths[b]} ({labels[b]})" for a, b in pairs if labels[a] != labels[b]]
    if split:
        lines.append(f"{len(split)} of these pairs have two labels, for instance {split[0]}")
    if crowd:
        lines.append(
            f"{crowd} images look like more than {MOST_TWINS - 1} others: shots of one scene? Images that belong "
            "together stay in one part if they have a group: --groups-at, or a column group in a manifest"
        )
    return lines


def write_twins(folder: Path, pairs: Sequence[Pair]) -> None:
    """Write the pairs where ``read_twins`` finds them."""
    write_json(folder / TWINS_FILE, [list(pair) for pair in pairs])


def read_twins(folder: Path) -> list[Pair]:
    """Return the pairs in ``folder``; none if an earlier release wrote it."""
    path = folder / TWINS_FILE
    return [(one, other) for one, other in json.loads(path.read_text())] if path.exists() else []


def _find_candidates(looks: Mapping[str, str]) -> list[Pair]:
    """Return the pairs of images whose looks are within ``NEAR_BITS``, sorted."""
    bands: dict[tuple[int, str], list[str]] = defaultdict(list)
    width = BITS // 4 // BANDS
    for sha256, look in looks.items():
        for band in range(BANDS):
            bands[band, look[band * width : (band + 1) * width]].append(sha256)
    pairs: set[Pair] = set()
    for members in bands.values():
        if 1 < len(members) <= MOST_ALIKE:
            values = np.array([int(looks[sha256], 16) for sha256 in members], dtype=np.uint64)
            near = np.bitwise_count(values[:, None] ^ values[None]) <= NEAR_BITS
            pairs |= {tuple(sorted((members[i], members[j]))) for i, j in np.argwhere(np.triu(near, 1))}
    return sorted(pairs)


def _find_crowd(pairs: Sequence[Pair]) -> set[str]:
    """Return the images in connected sets of more than ``MOST_TWINS``."""
    sets: dict[str, set[str]] = {}
    for one, other in pairs:
        both = sets.get(one, {one}) | sets.get(other, {other})
        sets |= dict.fromkeys(both, both)
    return {sha256 for sha256, members in sets.items() if len(members) > MOST_TWINS}


def _standardise(pixels: np.ndarray) -> np.ndarray | None:
    """Return the grey values at ``SIDE_PX`` with mean 0 and length 1; None for a flat image."""
    grey = Image.fromarray(pixels).convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float64)
    if values.std() < LEAST_CONTRAST:
        return None
    values = values.ravel() - values.mean()
    return (values / np.linalg.norm(values)).astype(np.float32)


def _agree(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and float(one @ other) >= LEAST_CORRELATION
