"""What ``select`` reads beside DVC's inputs: the backbones on offer, and files that are no code."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

import regraft.tasks.planning.offer
from regraft.models.backbones.network import BackboneError
from regraft.tasks.graph.code_hash import PACKAGE_ROOT, hash_code, list_read_files, refresh_code
from regraft.tasks.graph.graph import list_stages
from regraft.tasks.planning.offer import survey
from regraft.tasks.settings.params import set_params
from regraft.tasks.workspace.dvc_repo import open_repository
from regraft.tasks.workspace.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
NOT_OF_A_STAGE = ("models/embedded/", "tasks/workspace/blueprint/", "serving/http/page.html")
"""On offer as backbones, or the beginning of a workspace, or the endpoint's."""


def offer_backbone(mirror: Path, name: str, weights: bytes = b"w") -> None:
    (mirror / name).mkdir(parents=True, exist_ok=True)
    (mirror / name / "config.json").write_text(json.dumps({"architecture": name.split(".")[0]}))
    (mirror / name / "model.safetensors").write_bytes(weights)


def read_select(home: Workspace) -> str:
    return yaml.safe_load(home.code.read_text())["select"]


@pytest.fixture
def home(make_workspace, tmp_path: Path) -> Workspace:
    made = make_workspace("offer")
    offer_backbone(tmp_path / "mirror", "resnet18.a")
    set_params(made.params, {"select.mirror": str(tmp_path / "mirror")})
    survey(made)
    return made


def test_a_backbone_added_exchanged_or_removed_changes_what_select_depends_on(home: Workspace, tmp_path: Path) -> None:
    seen = [read_select(home)]
    for change in (
        lambda: None,
        lambda: offer_backbone(tmp_path / "mirror", "resnet18.b"),
        lambda: offer_backbone(tmp_path / "mirror", "resnet18.b", b"others"),
        lambda: set_params(home.params, {"select.candidates": ["resnet18.a"]}),
    ):
        change()
        survey(home)
        seen.append(read_select(home))
    assert seen[0] == seen[1]
    assert len(set(seen)) == 4
    others = {name for name in yaml.safe_load(home.code.read_text()) if "+" in str(name)}
    assert others == set()


def test_dvc_sees_it_also_in_a_workspace_whose_graph_is_older(copied, tmp_path: Path) -> None:
    home = copied.home

    def is_current() -> bool:
        with open_repository(home.root) as repo:
            return not repo.status(targets=["select"])

    assert is_current()
    survey(home)
    assert is_current()  # looking changes nothing
    (tmp_path / "more" / "resnet18.new").mkdir(parents=True)
    (tmp_path / "more" / "resnet18.new" / "config.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regraft.models.backbones.hub.embedded_folder", lambda: tmp_path / "more")
        survey(home)
    assert not is_current()


def test_a_mirror_that_cannot_be_asked_leaves_a_finished_selection_alone(home: Workspace, monkeypatch) -> None:
    before = home.code.read_text()

    def fail(mirror: str) -> None:
        raise BackboneError("HTTP 500")

    monkeypatch.setattr(regraft.tasks.planning.offer, "list_offers", fail)
    survey(home)
    refresh_code(home.code, list_stages(home))
    assert home.code.read_text() == before


def test_files_that_are_no_code_count_as_the_code_that_reads_them(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "read.py").write_text('PAGE = "page.html"')
    for name in ("page.html", "style.css", "other.csv"):
        (tmp_path / name).write_text("{% include 'style.css' %}" if name == "page.html" else "")
    assert [file.name for file in list_read_files(tmp_path / "read.py")] == ["page.html", "style.css"]
    before = hash_code("select"), hash_code("split")
    monkeypatch.setattr(
        "regraft.tasks.graph.code_hash.list_read_files",
        lambda module: [tmp_path / "page.html"] if module.name == "imagenet_prior.py" else [],
    )
    assert (hash_code("select") != before[0], hash_code("split") != before[1]) == (True, False)


def test_every_file_that_ships_beside_code_is_in_the_hash_of_some_stage() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "models", "data", "tasks", "serving"], cwd=ROOT, capture_output=True, text=True
    )
    files = {name for name in listed.stdout.split() if not name.endswith(".py") and not name.startswith(NOT_OF_A_STAGE)}
    modules = [path for floor in ("models", "data", "tasks") for path in (PACKAGE_ROOT / floor).rglob("*.py")]
    read = {str(file.relative_to(PACKAGE_ROOT)) for module in modules for file in list_read_files(module)}
    assert files <= read
    assert "models/prior/prior.csv" in read
