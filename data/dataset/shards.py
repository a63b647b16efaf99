"""The bytes of a dataset: Parquet shards named by their own SHA-256, each distinct image stored once.

Shards end where the content says so, hence one more image changes one shard and the others stay as they are.
"""

import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from regraft.data.dataset.manifest import DatasetError, read_manifest
from regraft.serving.files.durable import write_bytes

SHARDS = "shards"
SCHEMA = pa.schema([("sha256", pa.string()), ("image", pa.binary())])
MAX_ROWS, MAX_BYTES = 1024, 64 * 2**20
CUT_EVERY = 512
ROW_GROUP = 32  # the unit of reading: one image costs at most this many
KEPT_BYTES = 256 * 2**20


class ShardWriter:
    """Write images one after the other; ``places`` says where each content hash went, as (shard, row)."""

    def __init__(self, dataset: Path) -> None:
        self.places: dict[str, tuple[str, int]] = {}
        self.names: list[str] = []
        self._folder = dataset / SHARDS
        self._rows: dict[str, bytes] = {}
        self._bytes = 0

    def add(self, sha256: str, image: bytes) -> None:
        """Store ``image`` unless its content is stored already."""
        if sha256 in self.places or sha256 in self._rows:
            return
        if self._rows and self._bytes + len(image) > MAX_BYTES:
            self.close_shard()
        self._rows[sha256] = image
        self._bytes += len(image)
        if len(self._rows) >= MAX_ROWS or int(sha256[:8], 16) % CUT_EVERY == 0:
            self.close_shard()

    def close_shard(self) -> None:
        """End the current shard; call it after each source, so that none spans two."""
        if not self._rows:
            return
        table = pa.table({"sha256": list(self._rows), "image": list(self._rows.values())}, schema=SCHEMA)
        sink = io.BytesIO()
        pq.write_table(
            table, sink, compression="none", use_dictionary=False, write_statistics=False, row_group_size=ROW_GROUP
        )
        name = f"{hashlib.sha256(sink.getbuffer()).hexdigest()}.parquet"
        write_bytes(self._folder / name, sink.getvalue())
        self.places.update({sha256: (name, row) for row, sha256 in enumerate(self._rows)})
        self.names.append(name)
        self._rows, self._bytes = {}, 0


class ShardReader:
    """Read single images; the row groups used last stay in memory, up to 256 MiB."""

    def __init__(self, dataset: Path) -> None:
        frame = read_manifest(dataset, ["sha256", "shard", "shard_row"])
        rows = zip(frame["shard"], frame["shard_row"].tolist(), strict=True)
        self.places: dict[str, tuple[str, int]] = dict(zip(frame["sha256"], rows, strict=True))
        self._folder = dataset / SHARDS
        self._kept: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self._bytes = 0

    def read(self, sha256: str) -> bytes:
        """Return the bytes of one image.

        Raises:
            DatasetError: If it is not in the dataset, or the shard does not hold those bytes any more.
        """
        if sha256 not in self.places:
            raise DatasetError(f"no image {sha256} in {self._folder.parent}; was the split made from this dataset?")
        shard, row = self.places[sha256]
        group = self._read_group(shard, row // ROW_GROUP)
        offset = row % ROW_GROUP
        image = group["image"][offset].as_py() if offset < group.num_rows else b""
        if hashlib.sha256(image).hexdigest() != sha256:
            raise _damaged(self._folder / shard, f"row {row} is not the image {sha256}")
        return image

    def _read_group(self, shard: str, number: int) -> pa.Table:
        key = (shard, number)
        if key not in self._kept:
            try:
                with pq.ParquetFile(self._folder / shard) as file:
                    table = file.read_row_group(number)
            except (OSError, pa.ArrowException, IndexError) as error:
                raise _damaged(self._folder / shard, str(error)) from error
            self._kept[key] = table
            self._bytes += table.nbytes
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept.move_to_end(key)
        return self._kept[key]


def read_images(dataset: Path, sha256s: Sequence[str]) -> Iterator[bytes]:
    """Yield the bytes of each image of ``sha256s``, in that order, checked against its hash.

    Raises:
        DatasetError: At the first image that is missing or changed.
    """
    reader = ShardReader(dataset)
    for sha256 in sha256s:
        yield reader.read(sha256)


def _damaged(shard: Path, why: str) -> DatasetError:
    return DatasetError(f"the shard {shard} is damaged ({why}); restore it with dvc pull or run the stage ingest again")
