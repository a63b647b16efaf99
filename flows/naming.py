"""What a workspace's things are called on a Prefect server, so that a list of them can be read."""

from tasks.workspace import Workspace

FLOWS = ("train", "watch", "retrain")


def name_deployment(home: Workspace, flow: str) -> str:
    """Return the name of the deployment of ``flow``; the server lists it beside those of other workspaces."""
    return f"{home.root.name}-{flow}"


def address_deployment(home: Workspace, flow: str) -> str:
    """Return ``flow/name``, by which the server finds the deployment."""
    return f"{flow}/{name_deployment(home, flow)}"
