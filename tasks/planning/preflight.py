"""What would stop a run at its end is found at its start: permissions, the remote and its plugin, DVC's settings.

Everything here is cheap on this machine's disks; a remote across a network costs one listing.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from regraft.serving.files.durable import StorageError
from regraft.serving.registry.registry import Registry
from regraft.tasks.graph.prefect_step import step
from regraft.tasks.sharing.remote_store import RemoteError, open_remote
from regraft.tasks.sharing.sharing import RemoteMovedOnError, follow
from regraft.tasks.workspace.dvc_repo import open_repository
from regraft.tasks.workspace.pins import pin_settings
from regraft.tasks.workspace.workspace import Workspace

PLUGINS = {
    "s3": ("dvc_s3", "regraft[s3]"),
    "gs": ("dvc_gs", "regraft[gs]"),
    "ssh": ("dvc_ssh", "regraft[ssh]"),
    "azure": ("dvc_azure", "regraft[azure]"),
    "gdrive": ("dvc_gdrive", "dvc-gdrive"),
    "hdfs": ("dvc_hdfs", "dvc-hdfs"),
    "oss": ("dvc_oss", "dvc-oss"),
    "webdav": ("dvc_webdav", "dvc-webdav"),
    "webdavs": ("dvc_webdav", "dvc-webdav"),
    "webhdfs": ("dvc_webhdfs", "dvc-webhdfs"),
}
"""Scheme of a remote -> module that it needs, and what to install to have it."""


@step
def preflight(home: Workspace) -> None:
    """Pin the settings, follow what other copies of the workspace did, and refuse to start what could not be kept.

    Raises:
        StorageError: If the workspace may not be written.
        RemoteError: If the remote cannot be used.
        RemoteMovedOnError: If another copy and this one both changed the pointer.
    """
    if problems := find_locked(home):
        raise StorageError("; ".join(problems))
    pin_settings(home.root)
    if problems := find_remote_problems(home):
        raise RemoteError("; ".join(problems))
    told = follow(home)
    if told.relation == "parted":
        raise RemoteMovedOnError("; ".join([*told.notes, "settle it first: regraft pull"]))


def find_locked(home: Workspace) -> list[str]:
    """Return which folders of the workspace may not be written."""
    folders = (home.root, home.root / ".dvc", home.data_store, home.models_store, home.state, home.remote)
    locked = [str(folder) for folder in folders if folder.exists() and not os.access(folder, os.W_OK)]
    return [f"{folder} may not be written; change its permissions, or use a copy that may be" for folder in locked]


def find_remote_problems(home: Workspace, *, probe: bool = False) -> list[str]:
    """Return what is wrong with the remote and with DVC's settings.

    Args:
        home: The workspace.
        probe: Also write a document to the remote, and remove it.
    """
    with open_repository(home.root) as repo:
        problems = _check_settings(repo.config) or _check_address(home, repo.config)
    if problems or not probe:
        return problems
    try:
        with open_remote(home) as remote:
            remote.write("probe", f"{os.getpid()}.txt", b"regraft doctor")
            remote.remove("probe", f"{os.getpid()}.txt")
    except RemoteError as error:
        return [str(error)]
    return []


def _check_settings(config: Any) -> list[str]:
    """Return which settings, of whatever level, a workspace cannot work with."""
    name, remotes = config["core"].get("remote"), config["remote"]
    if name not in remotes:
        return [f"there is no DVC remote {name!r}; set one with: regraft init DIR --remote URL"]
    problems = []
    if "symlink" in str(config["cache"].get("type", "")):
        problems.append("cache.type of DVC allows symlinks, which no bundle may hold; remove it from .dvc/config.local")
    if remotes[name].get("worktree") or remotes[name].get("version_aware"):
        problems.append(f"the remote {name!r} is cloud-versioned (worktree, version_aware); versions need a plain one")
    return problems


def _check_address(home: Workspace, config: Any) -> list[str]:
    url = str(config["remote"][config["core"]["remote"]]["url"])
    scheme = urlparse(url).scheme if "://" in url else ""
    if scheme in ("http", "https"):
        return [
            f"the remote {url} cannot be listed, so versions cannot be shared through it; use a folder, s3, ssh, ..."
        ]
    if scheme in PLUGINS and find_spec(PLUGINS[scheme][0]) is None:
        return [f"the remote {url} needs a plugin that is not installed: pip install '{PLUGINS[scheme][1]}'"]
    folder = Path(url)
    if scheme or folder == home.remote:
        return []
    if not folder.is_dir() and Registry(home.models_store).pointer().seq:
        return [
            f"the remote {folder} is not there (is its disk mounted?); or name another: regraft init DIR --remote URL"
        ]
    place = next(parent for parent in [folder, *folder.parents] if parent.exists())
    return [] if os.access(place, os.W_OK) else [f"the remote {folder} may not be written; change its permissions"]
