"""Versions in the remote: an immutable document each, with its lineage and the names of its files by content."""

import json
import logging
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from regraft.serving.bundle.format import INFO_FILE, BundleError, open_bundle
from regraft.serving.files.durable import replace_folder
from regraft.serving.registry.registry import Registry
from regraft.tasks.sharing.remote_store import RemoteError, RemoteStore
from regraft.tasks.workspace.lineage import keep_lineage
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)

FOLDER = "versions"


def put_versions(home: Workspace, remote: RemoteStore) -> int:
    """Send versions that the remote lacks, and what it lost of those in the pointer; return how many were new."""
    registry, there, sent = Registry(home.models_store), set(list_versions(remote)), 0
    for entry in registry.versions():
        if entry.version in there and (not entry.role or _is_whole(remote, entry.version)):
            continue
        try:
            info = open_bundle(entry.path).info
        except BundleError as error:
            logger.warning("version %s is not sent: %s", entry.version, error)
            continue
        files = {file: remote.put_file(entry.path / file) for file in [INFO_FILE, *info.files]}
        if entry.version not in there or not _lists_files(remote, entry.version):
            lineage = _read_lineage(home.lineage / entry.version)
            document = {"files": files, "lineage": lineage, "registered_at": entry.registered_at}
            remote.write(FOLDER, f"{entry.version}.json", json.dumps(document, sort_keys=True).encode())
            sent += 1
    return sent


def list_versions(remote: RemoteStore) -> list[str]:
    """Return the versions that the remote holds."""
    return [name.removesuffix(".json") for name in remote.list(FOLDER) if name.endswith(".json")]


def get_lineage(home: Workspace, remote: RemoteStore, version: str) -> None:
    """Write the lineage of a version, unless it is here: what it learned from is to be known wherever one retrains."""
    if not (home.lineage / version).is_dir():
        files = read_version(remote, version)["lineage"]
        keep_lineage(home, version, {name: text.encode() for name, text in files.items()})


def get_version(home: Workspace, remote: RemoteStore, version: str) -> bool:
    """Write the folder of a version, unless it is here; return whether it came.

    Raises:
        RemoteError: If the remote does not hold it whole.
    """
    final = Registry(home.models_store).path(version)
    if final.is_dir():
        return False
    document = read_version(remote, version)
    if not document["files"]:
        return False  # cleaned
    temporary = home.state / "incoming" / version
    shutil.rmtree(temporary, ignore_errors=True)
    for file, md5 in document["files"].items():
        remote.get_file(md5, temporary / file)
    if open_bundle(temporary).info.version != version:
        raise RemoteError(f"{remote.url} holds another version under the name {version}")
    os.utime(temporary, (document["registered_at"],) * 2)  # the time of registration
    replace_folder(temporary, final)
    return True


def read_version(remote: RemoteStore, version: str) -> dict[str, Any]:
    """Return the document of a version: "files" by name, "lineage" as texts by name, "registered_at" in Unix seconds.

    Raises:
        RemoteError: If there is none, it is damaged, or a name in it leads out of its folder.
    """
    try:
        document = json.loads(remote.read(FOLDER, f"{version}.json") or b"")
        names = [*document["files"], *document["lineage"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RemoteError(
            f"{remote.url} has no sound description of version {version}; push it again from where it was made"
        ) from error
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or version != Path(version).name:
            raise RemoteError(f"{remote.url} describes version {version} with a file outside of it: {name}")
    return document


def forget_files(remote: RemoteStore, version: str) -> None:
    """Leave of a version only its lineage: what it learned from, and when."""
    document = read_version(remote, version) | {"files": {}}
    remote.write(FOLDER, f"{version}.json", json.dumps(document, sort_keys=True).encode())


def _is_whole(remote: RemoteStore, version: str) -> bool:
    try:
        files = read_version(remote, version)["files"].values()
    except RemoteError:
        return False
    return bool(files) and all(map(remote.holds_file, files))


def _lists_files(remote: RemoteStore, version: str) -> bool:
    try:
        return bool(read_version(remote, version)["files"])
    except RemoteError:
        return False


def _read_lineage(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}
