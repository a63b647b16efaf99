"""Images as the model sees them: decoded once per preprocessing, then mapped from a cache on the disk."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from regraft.data.dataset.ingest import map_ahead
from regraft.data.dataset.manifest import DatasetError
from regraft.data.dataset.shards import ShardReader
from regraft.serving.decoding.preprocess import ImageError, PreprocessSpec, load_input
from regraft.serving.files.durable import sync_folder, write_json

logger = logging.getLogger(__name__)


def load_pixels(
    dataset: Path,
    sha256s: Sequence[str],
    spec: PreprocessSpec,
    cache: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> np.memmap:
    """Return the images as ``regraft.serving.decoding.preprocess`` makes them, read-only, uint8 (N, size, size, 3).

    Args:
        dataset: The folder that ingest wrote.
        sha256s: N content hashes; the rows of the result are in this order.
        spec: The preprocessing, which is also part of the cache's key.
        cache: Folder of cached arrays; safe to delete at any time.
        progress: Called with (images decoded, N); not called when the array comes from the cache.

    Raises:
        DatasetError: If an image is not in the dataset, or its shard is damaged.
        ValueError: If ``sha256s`` is empty.
    """
    if not len(sha256s):
        raise ValueError("no images to load: the list of content hashes is empty")
    key = {"images": hashlib.sha256("\n".join(sha256s).encode()).hexdigest(), "preprocess": spec.sha256}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path, side = cache / f"{name}.npy", cache / f"{name}.json"
    shape = (len(sha256s), spec.size_px, spec.size_px, 3)
    if (found := _open_cached(path, side, key, shape)) is not None:
        return found
    cache.mkdir(parents=True, exist_ok=True)
    side.unlink(missing_ok=True)
    digest = _fill(path, shape, _decode(dataset, list(sha256s), spec), progress)
    write_json(side, {**key, "pixels": digest})
    return np.lib.format.open_memmap(path, mode="r")


def _open_cached(path: Path, side: Path, key: dict[str, str], shape: tuple[int, ...]) -> np.memmap | None:
    """Return the cached array if every byte of it is what was written, else None."""
    try:
        said = json.loads(side.read_text(encoding="utf-8"))
        pixels = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("cache file %s is broken (%s) and is built again", path.name, error)
        return None
    if pixels.shape == shape and pixels.dtype == np.uint8 and said == {**key, "pixels": _digest(pixels)}:
        return pixels
    logger.warning("cache file %s is not what was written and is built again", path.name)
    return None


def _decode(dataset: Path, sha256s: list[str], spec: PreprocessSpec) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (the rows that show it, the image) of each distinct image, shard by shard so that each is read once."""
    reader = ShardReader(dataset)
    rows: dict[str, list[int]] = {}
    for row, sha256 in enumerate(sha256s):
        rows.setdefault(sha256, []).append(row)

    def decode(item: tuple[str, bytes]) -> tuple[list[int], np.ndarray]:
        sha256, image = item
        try:
            # An older version is judged on later images too: what is above its white it sees as white.
            return rows[sha256], load_input(image, spec, clip=True)
        except ImageError as error:
            raise DatasetError(f"image {sha256} of {dataset} no longer decodes: {error}") from error

    order = sorted(rows, key=lambda sha256: reader.places.get(sha256, ("", 0)))
    yield from map_ahead(decode, ((sha256, reader.read(sha256)) for sha256 in order))


def _fill(
    path: Path,
    shape: tuple[int, ...],
    images: Iterator[tuple[list[int], np.ndarray]],
    progress: Callable[[int, int], None] | None,
) -> str:
    """Write the array to ``path`` in one step and return the hash of its bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    done = 0
    try:
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for rows, image in images:
            pixels[rows] = image
            done += len(rows)
            if progress:
                progress(done, shape[0])
        pixels.flush()
        digest = _digest(pixels)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return digest


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(memoryview(pixels).cast("B")).hexdigest()
