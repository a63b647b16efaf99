"""The images behind the answers, kept by content so that labelled ones can be trained on; oldest out first."""

import contextlib
import hashlib
import os
import threading
import time
from pathlib import Path

TORN_S = 60.0
"""A file still being written after so long is nobody's any more."""


class ImageStore:
    """A folder of files named by their SHA-256, never above its quota; a quota of 0 keeps nothing.

    Safe for many threads. Several processes on one folder may each overshoot by what the others add.
    """

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        self.folder, self.quota_bytes = folder, quota_bytes
        self._lock = threading.Lock()
        self._clear_torn()
        self._bytes = sum(size for _, size, _ in self._list_files()) if quota_bytes > 0 else 0

    @property
    def is_on(self) -> bool:
        """Reads as a claim: images are kept."""
        return self.quota_bytes > 0

    def keep(self, data: bytes) -> str:
        """Return the SHA-256 of ``data``, after keeping it if the store is on.

        It is not synced to the disk, so a power cut may leave a torn file; that is replaced when the image comes again.
        """
        sha256 = self.name(data)
        if not self.is_on or len(data) > self.quota_bytes:
            return sha256
        path = self.path(sha256)
        with self._lock:
            known = _read_if_there(path)
            if known == data:
                os.utime(path)
                return sha256
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{sha256}.{os.getpid()}.tmp")
            temporary.write_bytes(data)
            temporary.replace(path)
            self._bytes += len(data) - len(known or b"")
            if self._bytes > self.quota_bytes:
                self._evict(spare=path)
        return sha256

    @staticmethod
    def name(data: bytes) -> str:
        """Return the SHA-256 of ``data``, as hex."""
        return hashlib.sha256(data).hexdigest()

    def touch(self, sha256: str) -> None:
        """Make an image young again, as when its label came back: labelled images leave last."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path(sha256))

    def read(self, sha256: str) -> bytes | None:
        """Return the bytes, or None if they were not kept, were evicted, or no longer have their hash."""
        data = _read_if_there(self.path(sha256))
        return data if data is not None and self.name(data) == sha256 else None

    def path(self, sha256: str) -> Path:
        """Return where the image of this hash is or would be."""
        return self.folder / sha256[:2] / sha256

    def _clear_torn(self) -> None:
        """Remove what a killed process was writing; others may be writing now."""
        for path in self.folder.glob("??/.*.tmp") if self.is_on else ():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > TORN_S:
                    path.unlink()

    def _evict(self, spare: Path) -> None:
        """Remove the oldest until a tenth of the quota is free, so that not every image pays for a listing."""
        files = sorted(self._list_files())
        self._bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._bytes <= self.quota_bytes * 0.9:
                return
            if path != spare:
                path.unlink(missing_ok=True)
                self._bytes -= size

    def _list_files(self) -> list[tuple[int, int, Path]]:
        """Return (modification time in ns, bytes, path) of every kept image."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        return found


def _read_if_there(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
