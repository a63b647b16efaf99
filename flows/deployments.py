"""What Prefect runs by itself: the watch on a schedule, the retraining on a drift event, the training on demand."""

from datetime import timedelta
from pathlib import Path

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Interval

from regraft.flows.retrain import retrain
from regraft.flows.server.naming import FLOWS, address_deployment, name_deployment
from regraft.flows.server.stack import StackError
from regraft.flows.train import train
from regraft.flows.watch import watch
from regraft.tasks.settings.params import load_params
from regraft.tasks.steps.watch import CALLS_A_FLOW, EVENT, resource_of
from regraft.tasks.workspace.workspace import Workspace

# A second run would only judge the same window or train on the same labels: it is cancelled, not queued.
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


def build_deployments(home: Workspace) -> list:
    """Return the deployments of one workspace; ``regraft.flows.server.naming`` names them."""
    params = load_params(home.params)
    workspace = {"workspace": str(home.root)}
    on_drift = DeploymentEventTrigger(
        name=f"retrain-{home.root.name}",
        expect={EVENT},
        match={"prefect.resource.id": resource_of(home), "regraft.action": list(CALLS_A_FLOW)},
        threshold=1,
        within=timedelta(seconds=0),
        parameters=workspace,
    )
    return [
        watch.to_deployment(
            name_deployment(home, "watch"),
            schedule=Interval(timedelta(seconds=params.watch.every_s)),
            concurrency_limit=ONE_AT_A_TIME,
            parameters=workspace,
            description="Compare the latest predictions with the champion's reference",
        ),
        retrain.to_deployment(
            name_deployment(home, "retrain"),
            triggers=[on_drift],
            concurrency_limit=ONE_AT_A_TIME,
            parameters=workspace,
            description="Learn from labelled production images when the drift event asks for it",
        ),
        train.to_deployment(
            name_deployment(home, "train"),
            concurrency_limit=ONE_AT_A_TIME,
            parameters=workspace,
            description="Make a version from the workspace's sources",
        ),
    ]


def serve_deployments(home: Workspace) -> None:
    """Register the deployments and run what is due, until stopped.

    A restart must not end the schedules, so they are not paused at shutdown.

    Raises:
        StackError: If another workspace has deployments of the same name on this server.
    """
    require_own_names(home)
    forget_former_names(home)
    serve(*build_deployments(home), pause_on_shutdown=False, print_starting_message=False, limit=2)


def require_own_names(home: Workspace) -> None:
    """Raise StackError if the names of this workspace's deployments are another's: registering would take them over.

    A workspace that was moved finds its own former place in them, where nothing is any more; it keeps its names.
    """
    with get_client(sync_client=True) as client:
        for flow in FLOWS:
            try:
                known = client.read_deployment_by_name(address_deployment(home, flow))
            except ObjectNotFound:
                continue
            other = Path(known.parameters.get("workspace", home.root))
            if other != home.root and (other / "params.yaml").exists():
                raise StackError(
                    f"the Prefect server knows {address_deployment(home, flow)} as that of {other}; "
                    f"give the folder {home.root} another name, or use another server"
                )


def forget_former_names(home: Workspace) -> None:
    """Delete the deployments that an earlier release named after the folder alone: nobody would run their runs."""
    with get_client(sync_client=True) as client:
        for flow in FLOWS:
            try:
                former = client.read_deployment_by_name(f"{flow}/{home.root.name}")
            except ObjectNotFound:
                continue
            if former.parameters.get("workspace") == str(home.root):
                client.delete_resource_owned_automations(f"prefect.deployment.{former.id}")
                client.delete_deployment(former.id)
