"""A mistake is answered before anything heavy is imported: modules are counted, since seconds depend on the machine."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from regraft.data.sources.sources import scan_source, write_intake
from regraft.tasks.workspace.workspace import Workspace, init_workspace

HEAVY = {
    "bentoml", "dvc", "great_expectations", "httpx", "onnx", "onnxruntime", "pandas", "prefect", "scipy", "sklearn",
    "timm", "torch",
}  # fmt: skip
RUN = """
import json, sys
from regraft.flows.cli import main
sys.argv[0] = "regraft"
code = 0
try:
    main()
except SystemExit as error:
    code = error.code or 0
heavy = sorted({name.partition(".")[0] for name in sys.modules} & set(HEAVY))
sys.stdout.write("\\n" + json.dumps({"code": code, "heavy": heavy}))
"""


def ask(*arguments: str) -> tuple[int, list[str], str]:
    """Return exit code, the heavy packages that were imported, and what was said."""
    code = f"HEAVY = {sorted(HEAVY)!r}\n{RUN}"
    command = [sys.executable, "-P", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={}, check=False)
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["code"], answer["heavy"], done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return init_workspace(tmp_path_factory.mktemp("hasty") / "w")


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield str(other.getsockname()[1])


@pytest.mark.parametrize("arguments", [["--help"], ["train", "-h"], ["stage", "--help"], ["models", "-h"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code, heavy, _ = ask(*arguments)
    assert (code, heavy) == (0, [])


@pytest.mark.parametrize("command", ["train", "watch", "retrain", "serve", "deploy", "up", "models", "stage split"])
def test_a_folder_that_is_no_workspace_is_refused_at_once(command: str, tmp_path: Path) -> None:
    code, heavy, said = ask(*command.split(), "--workspace", str(tmp_path))
    assert (code, heavy) == (2, [])
    assert "is not a workspace" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "trian"),
        (["train", "--dta", "x"], "--dta"),
        (["train", "--data", "/absent"], "/absent"),
        (["train", "--set", "finetune.bugdet_s=3"], "is it finetune.budget_s?"),
        (["train", "--set", "nothing"], "section.key=value"),
        (["train", "--time-budget", "soon"], "90s, 10m, 1h"),
        (["train", "--backbones", "/absent"], "/absent is not a folder"),
        (["train"], "regraft train --data DIR"),
        (["predict", "/absent.jpg"], "not a file: /absent.jpg"),
        (["predict", "/absent.jpg", "--url", "http://127.0.0.1:9"], "not a file: /absent.jpg"),
        (["predict", __file__], "has no champion"),
        (["promote", "ffff"], "fits no version"),
        (["restore", "ffff", "--into", "elsewhere"], "fits no version"),
        (["rollback"], "no previous version"),
        (["stage", "splt"], "no stage 'splt'"),
        (["deploy"], "no Prefect server"),
    ],
)
def test_a_mistake_is_refused_at_once(arguments: list[str], says: str, home: Workspace) -> None:
    known = [] if arguments[0] == "trian" else ["--workspace", str(home.root)]
    code, heavy, said = ask(*arguments, *known)
    assert (code, heavy) == (2, []), said
    assert says in said


def test_a_folder_without_class_folders_is_refused_at_once(home: Workspace, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    code, heavy, said = ask("train", "--workspace", str(home.root), "--data", str(tmp_path))
    assert (code, heavy) == (2, []), said
    assert str(tmp_path) in said


@pytest.mark.parametrize("command", ["serve --port", "up --port", "up --ui-port"])
def test_a_port_that_is_taken_is_refused_at_once(command: str, home: Workspace, taken: str) -> None:
    code, heavy, said = ask(*command.split(), taken, "--workspace", str(home.root))
    assert (code, heavy) == (1, []), said
    assert f"port {taken} of 127.0.0.1 cannot be used" in said


def test_a_folder_in_use_is_no_place_for_the_demo(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    code, heavy, said = ask("demo", "--workspace", str(tmp_path))
    assert (code, heavy, (tmp_path / "mine.txt").exists()) == (2, [], True)
    assert "not an earlier demo" in said


def count_heavy(code: str) -> list[str]:
    """Return the heavy packages that ``code`` imports in a process of its own."""
    code += f"\nimport sys\nprint(*sorted(sys.modules.keys() & set({sorted(HEAVY)!r})))"
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_the_package_imports_nothing_heavy() -> None:
    assert count_heavy("import regraft\ndir(regraft)") == []


@pytest.mark.parametrize(
    ("section", "kind", "needs"),
    [
        ("serve", "regraft.serving.endpoint.settings.ServeConfig", []),
        ("split", "regraft.data.split.split.SplitConfig", ["pandas"]),
        ("validate", "regraft.data.validation.expectations.ValidateConfig", ["pandas"]),
        ("evaluate", "regraft.models.evaluation.evaluate.EvaluateConfig", ["scipy"]),
    ],
)
def test_one_section_is_read_without_what_the_others_configure(
    section: str, kind: str, needs: list[str], home: Workspace
) -> None:
    module, _, name = kind.rpartition(".")
    code = (
        f"import pathlib\nfrom {module} import {name}\nfrom regraft.tasks.settings.knobs import read_section\n"
        f"read_section(pathlib.Path({str(home.params)!r}), {section!r}, {name})"
    )
    assert count_heavy(code) == needs


def test_a_stage_without_a_network_runs_without_torch_and_dvc(tmp_path: Path) -> None:
    home, images = init_workspace(tmp_path / "w"), tmp_path / "images"
    for label in ("red", "blue"):
        (images / label).mkdir(parents=True)
        Image.new("RGB", (32, 32), label).save(images / label / "a.png")
    write_intake(home.intake, [scan_source(images, "origin")])
    code, heavy, said = ask("stage", "ingest", "--workspace", str(home.root))
    assert (code, heavy) == (0, ["pandas", "scipy"]), said


def test_a_prediction_needs_no_torch() -> None:
    code = (
        "import sys, regraft.data.dataset.ingest, regraft.flows.asking, regraft.serving.bundle.runtime\n"
        "assert not {'torch', 'timm', 'prefect', 'dvc', 'bentoml'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], env={}, check=True)


def test_an_endpoint_is_started_without_torch(home: Workspace) -> None:
    code = (
        "import sys, pathlib\n"
        "from regraft.flows.server.stack import endpoint_settings\n"
        "from regraft.tasks.workspace.workspace import open_workspace\n"
        f"endpoint_settings(open_workspace(pathlib.Path({str(home.root)!r})))\n"
        "assert not {'torch', 'timm', 'prefect', 'dvc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], env={}, check=True)
