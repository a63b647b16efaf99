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
from regraft.tasks.sharing.depot import Depot, RemoteError
from regraft.tasks.workspace.lineage import keep_lineage
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)

FOLDER = "versions"


def put_versions(home: Workspace, depot: Depot) -> int:
    """Send versions that the remote lacks, and what it lost of those in the pointer; return how many were new."""
    registry, there, sent = Registry(home.models_store), set(list_versions(depot)), 0
    for entry in registry.versions():
        if entry.version in there and (not entry.role or _is_whole(depot, entry.version)):
            continue
        try:
            info = open_bundle(entry.path).info
        except BundleError as error:
            logger.warning("version %s is not sent: %s", entry.version, error)
            continue
        files = {file: depot.put_file(entry.path / file) for file in [INFO_FILE, *info.files]}
        if entry.version not in there or not _lists_files(depot, entry.version):
            lineage = _read_lineage(home.lineage / entry.version)
            document = {"files": files, "lineage": lineage, "registered_at": entry.registered_at}
            depot.write(FOLDER, f"{entry.version}.json", json.dumps(document, sort_keys=True).encode())
            sent += 1
    return sent


def list_versions(depot: Depot) -> list[str]:
    """Return the versions that the remote holds."""
    return [name.removesuffix(".json") for name in depot.list(FOLDER) if name.endswith(".json")]


def get_lineage(home: Workspace, depot: Depot, version: str) -> None:
    """Write the lineage of a version, unless it is here: what it learned from is to be known wherever one retrains."""
    if not (home.lineage / version).is_dir():
        files = read_version(depot, version)["lineage"]
        keep_lineage(home, version, {name: text.encode() for name, text in files.items()})


def get_version(home: Workspace, depot: Depot, version: str) -> bool:
    """Write the folder of a version, unless it is here; return whether it came.

    Raises:
        RemoteError: If the remote does not hold it whole.
    """
    final = Registry(home.models_store).path(version)
    if final.is_dir():
        return False
    document = read_version(depot, version)
    if not document["files"]:
        return False  # cleaned
    temporary = home.state / "incoming" / version
    shutil.rmtree(temporary, ignore_errors=True)
    for file, md5 in document["files"].items():
        depot.get_file(md5, temporary / file)
    if open_bundle(temporary).info.version != version:
        raise RemoteError(f"{depot.url} holds another version under the name {version}")
    os.utime(temporary, (document["registered_at"],) * 2)  # the time of registration
    replace_folder(temporary, final)
    return True


def read_version(depot: Depot, version: str) -> dict[str, Any]:
    """Return the document of a version: "files" by name, "lineage" as texts by name, "registered_at" in Unix seconds.

    Raises:
        RemoteError: If there is none, it is damaged, or a name in it leads out of its folder.
    """
    try:
        document = json.loads(depot.read(FOLDER, f"{version}.json") or b"")
        names = [*document["files"], *document["lineage"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RemoteError(
            f"{depot.url} has no sound description of version {version}; push it again from where it was made"
        ) from error
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or version != Path(version).name:
            raise RemoteError(f"{depot.url} describes version {version} with a file outside of it: {name}")
    return document


def forget_files(depot: Depot, version: str) -> None:
    """Leave of a version only its lineage: what it learned from, and when."""
    document = read_version(depot, version) | {"files": {}}
    depot.write(FOLDER, f"{version}.json", json.dumps(document, sort_keys=True).encode())


def _is_whole(depot: Depot, version: str) -> bool:
    try:
        files = read_version(depot, version)["files"].values()
    except RemoteError:
        return False
    return bool(files) and all(map(depot.holds_file, files))


def _lists_files(depot: Depot, version: str) -> bool:
    try:
        return bool(read_version(depot, version)["files"])
    except RemoteError:
        return False


def _read_lineage(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}
