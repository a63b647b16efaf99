"""Step ``push``: data, artifacts and versions to the DVC remote; ``pull`` and ``restore`` bring them back."""

import shutil
from pathlib import Path

from regraft.tasks.graph.prefect_step import step
from regraft.tasks.sharing.remote_store import explaining
from regraft.tasks.sharing.sharing import Exchange, settle, share
from regraft.tasks.workspace.dvc_repo import open_repository
from regraft.tasks.workspace.workspace import Workspace, WorkspaceError, init_workspace


@step(retries=3, retry_delay_seconds=[2, 10, 30])  # the remote may be a network away
def push(home: Workspace) -> int:
    """Send every output, version and line of history that the remote lacks; return how many objects went.

    Raises:
        RemoteMovedOnError: If another copy of the workspace changed the pointer; all but the journal is sent then.
    """
    with explaining(home), open_repository(home.root) as repo:
        sent = repo.push()
    share(home)
    return sent


def pull(home: Workspace, *, every: bool = False) -> tuple[int, Exchange]:
    """Get the outputs that ``dvc.lock`` names, then versions, pointer, journal and history of other copies.

    Args:
        home: The workspace; a fresh clone with its ``dvc.lock`` will do.
        every: Get all versions, not only champion, challenger and previous.

    Returns:
        How many outputs came, and what else.
    """
    came = 0
    if home.lock.exists():
        with explaining(home), open_repository(home.root) as repo:
            came = repo.pull()["stats"]["fetched"]
    return came, settle(home, every=every)


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
        remote = str(repo.config["remote"][repo.config["core"]["remote"]]["url"])
    restored = init_workspace(into, remote=remote)
    with open_repository(restored.root) as repo:
        repo.pull()
    return restored
