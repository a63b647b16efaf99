"""``regraft doctor``: what this machine and this workspace can do, and what stands in the way."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import typer

from regraft.flows.cli.app import JsonOption, WorkspaceOption, answer, app
from regraft.tasks.workspace.workspace import open_workspace

HERE = Path()
LIBRARIES = ("torch", "timm", "prefect", "dvc", "great-expectations", "onnx", "onnxruntime", "bentoml")
PITFALLS = (
    ("fastapi", (0, 154), "prefect's server does not start with it; install fastapi<0.154"),
    ("sqlalchemy", (2, 1), "prefect's schedules never fire with it; install sqlalchemy<2.1"),
)


@app.command(epilog="Example: regraft doctor --workspace W --json")
def doctor(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """Check libraries, devices, disk, workspace and its remote; exit code 1 if something stands in the way."""
    problems = [problem for problem in map(_pitfall, PITFALLS) if problem] + _workspace_problems(workspace)
    from regraft.models.compute.device import choose_device

    result = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "device": str(choose_device("auto")),
        "free_gib": round(shutil.disk_usage(workspace if workspace.exists() else Path()).free / 2**30, 1),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "problems": problems,
    }
    if (workspace / "params.yaml").exists():
        result["mib"] = _measure(workspace)
    lines = [f"{name}: {value}" for name, value in result.items() if name not in ("problems", "libraries", "mib")]
    lines += [f"{name} {version}" for name, version in result["libraries"].items()]
    known = (workspace / "params.yaml").exists()
    lines.append(f"workspace: {workspace.resolve()}" if known else "workspace: none here; regraft init makes one")
    lines += [f"{size:>10,.1f} MiB  {name}" for name, size in result.get("mib", {}).items()]
    lines += [f"PROBLEM: {problem}" for problem in problems] or ["nothing stands in the way"]
    answer(result, as_json, "\n".join(lines))
    if problems:
        raise typer.Exit(1)


def _pitfall(pitfall: tuple[str, tuple[int, int], str]) -> str | None:
    name, bound, advice = pitfall
    version = importlib.metadata.version(name)
    numbers = tuple(int(part) for part in version.split(".")[:2])
    return f"{name} {version}: {advice}" if numbers >= bound else None


def _measure(workspace: Path) -> dict[str, float]:
    from regraft.tasks.retention.retention import measure_sizes

    sizes = measure_sizes(open_workspace(workspace))
    return {name: round(size / 2**20, 1) for name, size in sizes.items() if size}


def _workspace_problems(workspace: Path) -> list[str]:
    if not (workspace / "params.yaml").exists():
        return []
    from regraft.models.backbones.hub import check_mirror
    from regraft.models.backbones.network import BackboneError
    from regraft.serving.bundle.format import BundleError, open_bundle
    from regraft.serving.registry.registry import Registry
    from regraft.tasks.planning.preflight import find_locked, find_remote_problems
    from regraft.tasks.settings.params import ParamsError, load_params

    problems = []
    home = open_workspace(workspace)
    problems += find_locked(home) or find_remote_problems(home, probe=True)
    try:
        mirror = load_params(home.params).select.mirror
        if mirror is not None:
            check_mirror(mirror)
    except (ParamsError, BackboneError) as error:
        problems.append(str(error))
    champion = Registry(home.models_store).pointer().champion
    if champion:
        try:
            open_bundle(home.models_store / "versions" / champion)
        except BundleError as error:
            problems.append(f"the champion cannot be served: {error}")
    return problems
