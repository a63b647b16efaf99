"""What Prefect runs by itself: the watch on a schedule, the retraining on a drift event, the training on demand."""

from datetime import timedelta

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Interval

from flows.retrain import retrain
from flows.train import train
from flows.watch import watch
from tasks.params import load_params
from tasks.watch import EVENT, resource_of
from tasks.workspace import Workspace

# A second run would only judge the same window or train on the same labels: it is cancelled, not queued.
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


def build_deployments(home: Workspace) -> list:
    """Return the deployments of one workspace; they are named after its folder."""
    params = load_params(home.params)
    workspace = {"workspace": str(home.root)}
    on_drift = DeploymentEventTrigger(
        name=f"retrain-{home.root.name}",
        expect={EVENT},
        match={"prefect.resource.id": resource_of(home), "regraft.action": "retrain"},
        threshold=1,
        within=timedelta(seconds=0),
        parameters=workspace,
    )
    return [
        watch.to_deployment(
            home.root.name,
            schedule=Interval(timedelta(seconds=params.watch.every_s)),
            concurrency_limit=ONE_AT_A_TIME,
            parameters=workspace,
            description="Compare the latest predictions with the champion's reference",
        ),
        retrain.to_deployment(
            home.root.name,
            triggers=[on_drift],
            concurrency_limit=ONE_AT_A_TIME,
            parameters=workspace,
            description="Learn from labelled production images when the drift event asks for it",
        ),
        train.to_deployment(
            home.root.name,
            concurrency_limit=ONE_AT_A_TIME,
            parameters=workspace,
            description="Make a version from the workspace's sources",
        ),
    ]


def serve_deployments(home: Workspace) -> None:
    """Register the deployments and run what is due, until stopped.

    A restart must not end the schedules, so they are not paused at shutdown.
    """
    serve(*build_deployments(home), pause_on_shutdown=False, print_starting_message=False, limit=2)
