"""Step ``push``: data and model artifacts to the DVC remote, and an earlier version's data back from it."""

import shutil
from pathlib import Path

from tasks.repository import open_repository
from tasks.step import step
from tasks.workspace import Workspace, WorkspaceError, init_workspace


@step(retries=3, retry_delay_seconds=[2, 10, 30])  # the remote may be a network away
def push(home: Workspace) -> int:
    """Send every output that the remote lacks; return how many objects went."""
    with open_repository(home.root) as repo:
        return repo.push()


def restore(home: Workspace, version: str, into: Path) -> Workspace:
    """Make ``into`` a workspace with the data, parameters and artifacts of ``version``, byte for byte.

    Args:
        home: The workspace that registered the version.
        version: A full version.
        into: A folder that does not exist yet or is empty.

    Raises:
        WorkspaceError: If the version has no lineage here, or ``into`` is not empty.
    """
    lineage = home.lineage / version
    if not lineage.is_dir():
        raise WorkspaceError(f"{home.root} keeps no lineage of version {version}")
    if into.exists() and any(into.iterdir()):
        raise WorkspaceError(f"{into} is not empty; name a new folder")
    into.mkdir(parents=True, exist_ok=True)
    shutil.copytree(lineage, into, dirs_exist_ok=True)
    with open_repository(home.root) as repo:
        remote = str(repo.config["remote"]["store"]["url"])
    restored = init_workspace(into, remote=remote)
    with open_repository(restored.root) as repo:
        repo.pull()
    return restored
