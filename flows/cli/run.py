"""Commands that keep running, or talk to what runs: the endpoint, the deployments, the whole stack, the demo."""

import math
import signal
import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer

from regraft.flows.cli.app import JsonOption, WorkspaceOption, answer, app
from regraft.flows.cli.checks import check_demo_folder, check_images
from regraft.tasks.workspace.workspace import open_workspace

HERE = Path()
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Port of the endpoint.")]
HostOption = Annotated[
    str, typer.Option(help="Interface to listen on; the default is reachable from this machine only.")
]


@app.command(epilog="Example: regraft serve --workspace W --port 3000")
def serve(workspace: WorkspaceOption = HERE, port: PortOption = 3000, host: HostOption = "127.0.0.1") -> None:
    """Serve the champion over HTTP until stopped; a promoted version is picked up without a restart."""
    from regraft.flows.server.stack import endpoint_settings, require_free
    from regraft.serving.process.process import start_service, stop_service, wait_ready

    home = open_workspace(workspace)
    require_free(port, host)
    _stop_on_signals()
    service = start_service(
        home.root, port, host=host, log=home.logs / "endpoint.log", settings=endpoint_settings(home)
    )
    try:
        wait_ready(f"http://{host}:{port}", math.inf, process=service, log=home.logs / "endpoint.log", path="/livez")
        answer({}, False, f"http://{host}:{port}  (Ctrl-C stops; log: {home.logs / 'endpoint.log'})")
        _wait_for_end({"endpoint": service})
    finally:
        stop_service(service)


@app.command(epilog="Example: regraft predict photo.jpg --url http://127.0.0.1:3000 --json")
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    workspace: WorkspaceOption = HERE,
    url: Annotated[
        str | None, typer.Option(help="Ask a running endpoint instead of loading the champion here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Name the label of images, by the champion in this process or by a running endpoint; exit code 2 if not of all."""
    check_images(images)
    from regraft.flows.asking import ask_champion, ask_endpoint

    answers = ask_endpoint(url, images) if url else ask_champion(open_workspace(workspace), images)
    lines = [
        f"{one['label']:<28} {one['probability']:.3f}  {one['image']}"
        if "error" not in one
        else f"{'-':<28} {'-':>5}  {one['image']}: {one['error']}; {one['advice']}"
        for one in answers
    ]
    answer(answers, as_json, "\n".join(lines))
    if any("error" in one for one in answers):
        raise typer.Exit(2)


@app.command(epilog="Example: PREFECT_API_URL=http://127.0.0.1:4200/api regraft deploy --workspace W")
def deploy(workspace: WorkspaceOption = HERE) -> None:
    """Register train, watch (scheduled) and retrain (on a drift event) with the Prefect server, and run what is due."""
    home = open_workspace(workspace)
    from regraft.flows.driver import prepare_prefect

    if prepare_prefect(home) is None:
        raise typer.BadParameter("no Prefect server: start one with `regraft up`, or set PREFECT_API_URL")
    from regraft.flows.deployments import serve_deployments

    serve_deployments(home)


@app.command(epilog="Example: regraft up --workspace W --port 3000 --ui-port 4200")
def up(
    workspace: WorkspaceOption = HERE,
    port: PortOption = 3000,
    ui_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prefect server and its UI.")] = 4200,
) -> None:
    """Start the local stack: Prefect server and UI, schedules and triggers, the endpoint. Ctrl-C stops all of it."""
    from regraft.flows.server.stack import require_free, running_stack

    home = open_workspace(workspace)
    for taken in (port, ui_port):  # both, before the server is started: that takes the better part of a minute
        require_free(taken)
    _stop_on_signals()
    with running_stack(home, endpoint_port=port, server_port=ui_port) as running:
        addresses = running.addresses
        lines = [
            f"Prefect UI  {addresses['ui']}",
            f"endpoint    {addresses['endpoint']}",
            f"logs        {home.logs}",
            "Ctrl-C stops.",
        ]
        answer(addresses, False, "\n".join(lines))
        _wait_for_end(running.processes)


@app.command(epilog="Example: regraft demo --workspace workspaces/demo")
def demo(
    workspace: Annotated[Path, typer.Option("--workspace", "-w", help="A folder of the demo's own.")] = Path(
        "workspaces/demo"
    ),
    as_json: JsonOption = False,
) -> None:
    """Render a production line, train, serve, let it drift, retrain, swap: the whole loop in under four minutes."""
    check_demo_folder(workspace)
    from regraft.flows.demo.demo import run_demo

    _stop_on_signals()
    result = run_demo(workspace)
    if as_json:
        answer(result, True, "")


def _stop_on_signals() -> None:
    """Let SIGTERM, and SIGINT where a shell had it ignored, unwind like Ctrl-C, so that what was started is stopped."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


def _wait_for_end(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Return on Ctrl-C or SIGTERM.

    Raises:
        StackError: If one of the processes ends by itself.
    """
    from regraft.flows.server.stack import StackError

    try:
        while True:
            for name, process in processes.items():
                if process.poll() is not None:
                    raise StackError(f"the {name} ended by itself with code {process.returncode}; look at its log")
            time.sleep(0.2)
    except KeyboardInterrupt:
        return
