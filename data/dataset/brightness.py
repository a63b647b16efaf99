"""How bright the images of a data set are: the range that their values fill, and the figures under that range.

Which value is white in files deeper than 8 bits shows over all of them only. A deep file is therefore measured under
every range that holds it while it is open, and the figures are picked when all are known: no file is opened twice.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.dataset.manifest import read_manifest
from regraft.serving.decoding.preprocess import WHITE, DecodedImage
from regraft.serving.decoding.quality import QUALITY_NAMES, measure_quality
from regraft.serving.decoding.value_range import ValueRange, fit_range, list_ranges

MEASURED = "measured"
"""Field of a row in which the figures of a deep image wait until the range is known."""
FLAT = 1e-3
"""Contrast (0-1) below which every pixel is compared; the figure itself is that of every n-th pixel."""
DIM = 16
"""A deep image that alone would fill a range this many times narrower keeps 16 of 256 levels."""

Row = dict[str, Any]


def measure_brightness(decoded: DecodedImage) -> Row:
    """Return what the manifest says of an image's pixels; of a deep one ``settle_brightness`` picks the figures later.

    Args:
        decoded: A deep file under its "own" range.
    """
    deep = decoded.values
    if deep is None:
        return {"peak": None, **_measure(decoded.pixels)}
    ranges = list_ranges(is_float=deep.is_float)
    own, *wider = ranges[ranges.index(deep.fit()) :]
    measured = {own: _measure(decoded.pixels)}
    measured |= {each: _measure(deep.render(each, WHITE, clip=True)) for each in wider}
    return {"peak": deep.peak, MEASURED: measured}


def settle_brightness(rows: list[Row]) -> ValueRange | None:
    """Put the figures of every deep image under the range of all of them into its row; return that range, if any."""
    found = find_range((row["mode"], row["peak"]) for row in rows if row["peak"] is not None)
    if found is not None:
        for row in rows:
            if MEASURED in row:
                row.update(row.pop(MEASURED)[found.only(is_float=row["mode"] == "F")])
    return found


def find_range(deep: Iterable[tuple[str, float]]) -> ValueRange | None:
    """Return the narrowest range that holds the peaks of all deep images, given as (mode, peak); None if there is none.

    The range of integers is that of 16-bit files, of 32-bit integers and of 16-bit colour together.
    """
    peaks: dict[bool, float] = {}
    for mode, peak in deep:
        is_float = mode == "F"
        peaks[is_float] = max(peak, peaks.get(is_float, 0.0))
    if not peaks:
        return None
    found = [fit_range(peak, is_float=is_float).model_dump(exclude_unset=True) for is_float, peak in peaks.items()]
    return ValueRange.model_validate({name: value for fitted in found for name, value in fitted.items()})


def read_value_range(dataset: Path) -> ValueRange | None:
    """Return the range that the deep images of a data set fill, None if it has none.

    Raises:
        DatasetError: If there is no manifest.
    """
    frame = read_manifest(dataset, ["mode", "peak"]).dropna(subset="peak")
    return find_range(zip(frame["mode"], frame["peak"].astype(float), strict=True))


def list_dim(rows: Iterable[Mapping[str, Any]], value_range: ValueRange | None) -> list[str]:
    """Return the paths of deep images that end so far below white that they are as good as black."""
    found = []
    for row in rows if value_range is not None else ():
        if row["peak"] is not None:
            is_float = row["mode"] == "F"
            own = fit_range(row["peak"], is_float=is_float)
            found += [row["path"]] if own.white(is_float=is_float) * DIM <= value_range.white(is_float=is_float) else []
    return found


def _measure(pixels: np.ndarray) -> Row:
    quality = measure_quality(pixels)
    flat = quality[QUALITY_NAMES.index("contrast")] < FLAT and bool((pixels == pixels[0, 0]).all())
    return {
        "constant": bool(flat),
        **{f"q_{name}": float(value) for name, value in zip(QUALITY_NAMES, quality, strict=True)},
    }
