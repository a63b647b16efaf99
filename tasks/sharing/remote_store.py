"""What lies beside DVC's own objects in the remote: small named documents, and files by content.

The documents are below ``regraft/``; files are objects of DVC, so that a bundle that was pushed already is not sent
twice. A name holds the hash of its content where it matters, so a document that was half written reads as absent.
"""

import hashlib
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from regraft.serving.files.durable import StorageError
from regraft.tasks.workspace.dvc_repo import open_repository
from regraft.tasks.workspace.workspace import Workspace

FOLDER = "regraft"


class RemoteError(RuntimeError):
    """The DVC remote cannot be used; the message says which, why and what to do."""

    exit_code = 1


class RemoteStore:
    """The remote of one workspace. Not for several threads."""

    def __init__(self, dvc_remote: Any) -> None:
        self.url = str(dvc_remote.fs.unstrip_protocol(dvc_remote.path))
        self._fs, self._odb = dvc_remote.fs, dvc_remote.odb
        self._root = dvc_remote.fs.join(dvc_remote.path, FOLDER)

    def list(self, folder: str) -> list[str]:
        """Return the names in a folder of documents, sorted; none if there is no such folder."""
        place = self._fs.join(self._root, folder)
        self._fs.fs.invalidate_cache(place)  # another machine may just have written there
        try:
            return sorted(self._fs.name(path) for path in self._fs.ls(place, detail=False) if path != place)
        except FileNotFoundError:
            return []

    def read(self, folder: str, name: str) -> bytes | None:
        """Return a document, or None if it is gone."""
        try:
            return self._fs.cat_file(self._fs.join(self._root, folder, name))
        except FileNotFoundError:
            return None

    def write(self, folder: str, name: str, content: bytes) -> None:
        """Write a document."""
        self._fs.put_file(io.BytesIO(content), self._fs.join(self._root, folder, name), size=len(content))

    def remove(self, folder: str, name: str) -> None:
        """Remove a document; it may be gone already."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._fs.join(self._root, folder, name))

    def put_file(self, path: Path) -> str:
        """Store a file by its content and return its MD5, by which DVC names it."""
        from dvc_objects.fs.local import localfs

        md5 = hash_md5(path)
        self._odb.add(str(path), localfs, md5)
        return md5

    def holds_file(self, md5: str) -> bool:
        """Say whether the content is there."""
        return bool(self._odb.exists(md5))

    def get_file(self, md5: str, into: Path) -> None:
        """Write the content of this MD5 to ``into``.

        Raises:
            RemoteError: If the remote does not hold it, or holds something else under its name.
        """
        into.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._fs.get_file(self._odb.oid_to_path(md5), str(into))
        except FileNotFoundError as error:
            raise RemoteError(
                f"{self.url} does not hold {into.name} ({md5}) any more; push it from where it was made: regraft push"
            ) from error
        if hash_md5(into) != md5:
            raise RemoteError(f"{self.url} holds a damaged copy of {into.name} ({md5}); remove it there and push again")
        into.chmod(0o644)  # DVC's objects are read-only

    def read_object(self, md5: str) -> bytes | None:
        """Return the content of an object, or None if it is not there."""
        try:
            return self._fs.cat_file(self._odb.oid_to_path(md5))
        except FileNotFoundError:
            return None

    def list_objects(self, older_than_s: float) -> Iterator[tuple[str, int]]:
        """Yield MD5 and bytes of every object that is at least so old; one whose age is not told is left out."""
        for path in self._fs.find(self._odb.path):
            info = self._fs.info(path)
            at = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or info.get("updated")
            changed = at.timestamp() if hasattr(at, "timestamp") else at
            if isinstance(changed, int | float) and changed < time.time() - older_than_s:
                yield self._odb.path_to_oid(path), int(info["size"])

    def remove_object(self, md5: str) -> None:
        """Remove an object; it may be gone already."""
        with suppress(FileNotFoundError):
            self._odb.delete(md5)


@contextmanager
def open_remote(home: Workspace) -> Iterator[RemoteStore]:
    """Yield the workspace's default remote.

    Raises:
        RemoteError: If there is no remote, its plugin is not installed, or it cannot be reached.
    """
    with open_repository(home.root) as repo:
        with explaining(home):
            remote = RemoteStore(repo.cloud.get_remote(command="push"))
        try:
            yield remote
        except StorageError:
            raise
        except OSError as error:
            raise RemoteError(explain_remote(home, error)) from error


@contextmanager
def explaining(home: Workspace) -> Iterator[None]:
    """Turn what DVC says of a remote into a RemoteError."""
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, ImportError) as error:
        raise RemoteError(explain_remote(home, error)) from error


def explain_remote(home: Workspace, error: BaseException) -> str:
    """Return what is wrong with the remote and what to do about it."""
    told = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return f"the DVC remote of {home.root} cannot be used: {told}{cause}. Look closer with: regraft doctor"


def hash_md5(path: Path) -> str:
    """Return the MD5 of a file, as hex; DVC names content by it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
