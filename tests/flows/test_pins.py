"""No setting of a user or a machine makes a workspace impossible, and what would fail at the end fails at the start."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from regraft.serving.bundle.format import REQUIRED_FILES, seal_bundle
from regraft.serving.files.durable import StorageError
from regraft.serving.registry.registry import Registry
from regraft.tasks.graph.graph import drive_stage
from regraft.tasks.planning.preflight import find_remote_problems, preflight
from regraft.tasks.sharing.remote_store import RemoteError
from regraft.tasks.workspace.dvc_repo import open_repository
from regraft.tasks.workspace.pins import pin_settings
from regraft.tasks.workspace.workspace import Workspace, init_workspace

HOSTILE = """
[core]
    autostage = true
    interactive = true
    no_scm = true
    remote = elsewhere
    hardlink_lock = true
    checksum_jobs = 1
[cache]
    type = symlink
    dir = {other}/cache
    shared = group
['remote "elsewhere"']
    url = {other}/remote
[hydra]
    enabled = true
"""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose user set DVC up for other work; returns the folder that no workspace should touch."""
    folder, other = tmp_path / "dvc-config", tmp_path / "other"
    folder.mkdir()
    (folder / "config").write_text(HOSTILE.format(other=other))
    for level in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"DVC_{level}_CONFIG_DIR", str(folder))
    return other


def make_bundle(home: Workspace) -> None:
    home.bundle.mkdir(parents=True, exist_ok=True)
    (home.bundle / "model.onnx").write_text("weights")


def drive_one_stage(home: Workspace) -> None:
    """Drive a graph of one stage, as a training does, and push what it made."""
    stage = {"cmd": "regraft stage export", "outs": ["models/store/bundle"]}
    (home.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"export": stage}}))
    assert drive_stage(home, "export", make_bundle).state == "ran"
    assert drive_stage(home, "export", make_bundle).state == "cached"
    with open_repository(home.root) as repo:
        repo.push()


def test_a_users_settings_change_nothing_in_a_workspace(hostile: Path, tmp_path: Path) -> None:
    home = init_workspace(tmp_path / "w")
    assert find_remote_problems(home, probe=True) == []
    drive_one_stage(home)
    shutil.rmtree(home.bundle)
    with open_repository(home.root) as repo:
        repo.checkout()
    assert not [path for path in home.bundle.rglob("*") if path.is_symlink() or path.stat().st_nlink > 1]
    assert not hostile.exists()
    assert any(home.remote.rglob("files/md5/*/*"))


def test_a_workspace_of_an_earlier_version_gets_the_settings_too(hostile: Path, tmp_path: Path) -> None:
    home = init_workspace(tmp_path / "w")
    config = home.root / ".dvc" / "config"
    config.write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = ../.regraft/remote\n    verify = True\n"
    )
    for name in (".gitignore", ".dvcignore"):
        (home.root / name).write_text("mine\n")
    preflight(home)
    drive_one_stage(home)
    assert not hostile.exists()
    assert (home.root / ".gitignore").read_text().startswith("mine\n")
    assert "/.regraft/" in (home.root / ".gitignore").read_text()


def test_an_earlier_graph_learns_to_keep_the_data_set_and_is_else_left_alone(tmp_path: Path) -> None:
    home = init_workspace(tmp_path / "w")
    graph = home.root / "dvc.yaml"
    now = graph.read_text()
    out = yaml.safe_load(now)["stages"]["ingest"]["outs"]
    assert out == [{"data/store/dataset": {"persist": True}}]
    earlier = [line for line in now.splitlines() if "persist:" not in line]
    graph.write_text("\n".join(line.replace("data/store/dataset:", "data/store/dataset") for line in earlier) + "\n")
    pin_settings(home.root)
    assert graph.read_text() == now


def test_a_second_pinning_writes_nothing(tmp_path: Path) -> None:
    home = init_workspace(tmp_path / "w")
    files = [home.root / name for name in (".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml")]
    before = [path.stat().st_mtime_ns for path in files]
    pin_settings(home.root)
    assert [path.stat().st_mtime_ns for path in files] == before


def test_a_workspace_that_becomes_a_git_repository_is_one_for_dvc_too(tmp_path: Path) -> None:
    home = init_workspace(tmp_path / "w")
    subprocess.run(["git", "init", "-q", str(home.root)], check=True)
    pin_settings(home.root)
    with open_repository(home.root) as repo:
        assert type(repo.scm).__name__ == "Git"
    drive_one_stage(home)


def test_links_that_the_workspace_itself_asks_for_are_told_before_anything_runs(tmp_path: Path) -> None:
    home = init_workspace(tmp_path / "w")
    (home.root / ".dvc" / "config.local").write_text("[cache]\n    type = symlink\n")
    with pytest.raises(RemoteError, match=r"symlinks.*config\.local"):
        preflight(home)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://bucket/w", r"pip install 'regraft\[s3\]'"),
        ("ssh://host/w", r"pip install 'regraft\[ssh\]'"),
        ("gs://bucket/w", r"pip install 'regraft\[gs\]'"),
        ("azure://container/w", r"pip install 'regraft\[azure\]'"),
        ("https://host/w", "cannot be listed"),
    ],
)
def test_a_remote_that_cannot_work_is_told_first(tmp_path: Path, monkeypatch, url: str, said: str) -> None:
    monkeypatch.setattr("regraft.tasks.planning.preflight.find_spec", lambda name: None)
    home = init_workspace(tmp_path / "w", remote=url)
    with pytest.raises(RemoteError, match=said):
        preflight(home)


def test_a_remote_whose_disk_is_not_mounted_is_not_made_anew(tmp_path: Path) -> None:
    home = init_workspace(tmp_path / "w", remote=str(tmp_path / "mnt" / "remote"))
    assert find_remote_problems(home) == []
    (home.models_store / "pointer.json").write_text(
        '{"champion": null, "challenger": null, "previous": null, "seq": 1}'
    )
    assert "mounted" in find_remote_problems(home)[0]


def test_a_file_in_the_place_of_the_remote_is_named(tmp_path: Path) -> None:
    (tmp_path / "remote").write_text("no folder")
    home = init_workspace(tmp_path / "w", remote=str(tmp_path / "remote"))
    assert str(tmp_path / "remote") in find_remote_problems(home, probe=True)[0]


def test_a_workspace_that_may_not_be_written_is_named_at_once(tmp_path: Path, monkeypatch) -> None:
    home = init_workspace(tmp_path / "w")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != home.models_store)
    with pytest.raises(StorageError, match="models/store may not be written"):
        preflight(home)


@pytest.mark.slow
def test_the_command_names_the_missing_extra_first(tmp_path: Path, run_regraft, images: Path) -> None:
    if any((Path(entry) / "dvc_s3").exists() for entry in sys.path):
        pytest.skip("dvc-s3 is installed here")
    home = init_workspace(tmp_path / "w", remote="s3://bucket/w")
    result = run_regraft("train", "--workspace", str(home.root), "--data", str(images))
    assert result.returncode == 1
    assert "pip install 'regraft[s3]'" in result.stderr
    assert "This is a fault" not in result.stderr
    assert not home.intake.exists()


def test_a_second_rollback_is_refused_and_says_what_it_would_have_done(tmp_path: Path, run_regraft) -> None:
    home = init_workspace(tmp_path / "w")
    registry = Registry(home.models_store)
    first, second = (registry.register(seal_tiny_bundle(tmp_path / name)) for name in ("one", "two"))
    registry.promote(first, "a", "b")
    registry.promote(second, "a", "b")
    done = run_regraft("rollback", "--workspace", str(home.root))
    assert done.returncode == 0
    assert f"from {second} to {first}" in done.stdout
    again = run_regraft("rollback", "--workspace", str(home.root))
    assert again.returncode == 2
    assert f"would bring {second} back" in again.stderr
    assert registry.pointer().champion == first


def seal_tiny_bundle(folder: Path) -> Path:
    for name in REQUIRED_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} of {folder.name}")
    spec = {"size_px": 32, "fit": "squash", "interpolation": "bicubic"}
    backbone = {"name": "n", "sha256": None, "licence": None, "source": None}
    seal_bundle(folder, {"name": "n", "labels": ["a"], "preprocess": spec, "backbone": backbone, "embedding_dims": 2})
    return folder


@pytest.mark.slow
def test_the_doctor_tells_sizes_and_tries_the_remote(tmp_path: Path, run_regraft) -> None:
    home = init_workspace(tmp_path / "w", remote=str(tmp_path / "remote"))
    home.features.mkdir(parents=True)
    (home.features / "a.npy").write_bytes(bytes(3 * 2**20))
    told = json.loads(run_regraft("doctor", "--workspace", str(home.root), "--json").stdout)
    assert told["mib"]["cache"] == 3.0
    assert told["problems"] == []
    shutil.rmtree(tmp_path / "remote")
    (tmp_path / "remote").write_text("a file")
    found = run_regraft("doctor", "--workspace", str(home.root))
    assert found.returncode == 1
    assert str(tmp_path / "remote") in found.stdout
