"""The chain from images to a champion, through the real command line, DVC repository and remote."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from regraft.models.views.shifts import SHIFTS
from regraft.serving.registry.registry import Registry
from regraft.tasks.graph.graph import GraphError, drive_stage, list_stages
from regraft.tasks.settings.params import set_params
from regraft.tasks.stages.evaluate import evaluate
from regraft.tasks.workspace.workspace import init_workspace

BIN = Path(sys.executable).parent


def dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [str(BIN / "dvc"), *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )


def hash_tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_folder_becomes_a_champion_with_evidence(trained) -> None:
    answer = trained.answer
    assert answer["decision"] == "promoted"
    assert answer["version"] == Registry(trained.home.models_store).pointer().champion
    assert answer["metrics"]["test"]["accuracy"] > 0.5  # six classes: chance is a sixth
    assert answer["parity"]["max_abs_diff"] <= 1e-3
    assert [run["name"] for run in answer["stages"]] == list_stages(trained.home)
    assert {run["state"] for run in answer["stages"]} == {"ran"}
    assert Path(answer["report"]).stat().st_size > 10_000


def test_what_a_version_keeps_under_another_lamp_reaches_bundle_and_report(trained) -> None:
    shifts = trained.answer["metrics"]["shifts"]
    assert [row["name"] for row in shifts["rows"][1:]] == [shift.name for shift in SHIFTS]
    assert shifts["n"] == min(100, trained.answer["metrics"]["test"]["n"])
    assert shifts["rows"][0]["accuracy"] == trained.answer["metrics"]["test"]["accuracy"]  # all of them were drawn
    page = Path(trained.answer["report"]).read_text()
    assert "Under another lamp or camera" in page and "an old lamp" in page


@pytest.mark.parametrize("count", [0, 7])
def test_as_many_images_are_looked_at_again_as_asked_for(copied, count) -> None:
    home = copied.home
    set_params(home.params, {"evaluate.shift_images": count})
    checkpoint = json.loads((home.checkpoint / "checkpoint.json").read_text())
    del checkpoint["plain_head_sha256"]  # a checkpoint of before is judged like any other
    (home.checkpoint / "checkpoint.json").write_text(json.dumps(checkpoint))
    evaluate(home)
    metrics = json.loads((home.evaluation / "metrics.json").read_text())
    assert metrics["test"] == copied.answer["metrics"]["test"]
    if not count:
        assert "shifts" not in metrics
        return
    shifts = metrics["shifts"]
    assert (shifts["n"], shifts["of"]) == (count, metrics["test"]["n"])
    assert shifts["alone"] and not any("plain" in row for row in shifts["rows"])


@pytest.mark.slow
def test_a_second_run_does_nothing_and_says_so(trained, run_regraft) -> None:
    result = run_regraft("train", "--workspace", str(trained.home.root), "--json")
    answer = json.loads(result.stdout)
    assert {run["state"] for run in answer["stages"]} == {"cached"}
    assert (answer["version"], answer["decision"]) == (trained.answer["version"], "promoted")
    assert "up to date" in dvc(trained.home.root, "status").stdout
    repro = dvc(trained.home.root, "repro")
    assert repro.returncode == 0
    assert "Running stage" not in repro.stdout


@pytest.mark.slow
def test_dvc_repro_leaves_the_lock_and_the_bytes_of_the_flow(trained, make_workspace) -> None:
    home = make_workspace("repro")
    shutil.copy(trained.home.intake, home.intake)
    shutil.copy(trained.home.code, home.code)
    result = dvc(home.root, "repro")
    assert result.returncode == 0, result.stderr[-3000:]
    assert hash_tree(home.bundle) == hash_tree(trained.home.bundle)
    assert (home.root / "dvc.lock").read_text() == (trained.home.root / "dvc.lock").read_text()


def test_dvc_shows_metrics_and_plots(trained, tmp_path: Path) -> None:
    shown = dvc(trained.home.root, "metrics", "show", "--json")
    metrics = json.loads(shown.stdout)[""]["data"]["models/store/evaluation/metrics.json"]["data"]
    assert metrics["test"]["accuracy"] == trained.answer["metrics"]["test"]["accuracy"]
    plots = dvc(trained.home.root, "plots", "show", "--out", str(tmp_path / "plots"))
    assert plots.returncode == 0, plots.stderr
    assert "confusion" in (tmp_path / "plots" / "index.html").read_text()


@pytest.mark.slow
def test_a_failed_expectation_stops_the_chain_with_exit_code_3(make_workspace, images, tmp_path, run_regraft) -> None:
    poor = tmp_path / "poor"
    shutil.copytree(images, poor)
    for path in sorted((poor / "scratches").iterdir())[2:]:
        path.unlink()
    home = make_workspace("poor")
    result = run_regraft("train", "--workspace", str(home.root), "--data", str(poor), "--json")
    assert result.returncode == 3
    assert "scratches" in result.stderr
    assert not home.split.exists()
    assert not home.bundle.exists()


@pytest.mark.slow
def test_bad_parameters_are_all_named_and_exit_with_2(copied, run_regraft) -> None:
    before = copied.home.params.read_bytes()
    bad = ["--set", "finetune.epocs=3", "--set", "split.test_share=7"]
    result = run_regraft("train", "--workspace", str(copied.home.root), *bad)
    assert result.returncode == 2
    assert "finetune.epocs" in result.stderr
    assert "split.test_share" in result.stderr
    assert copied.home.params.read_bytes() == before


def test_a_stage_that_the_graph_of_an_older_workspace_lacks_is_named_with_the_way_out(make_workspace) -> None:
    home = make_workspace("older")
    whole = home.graph.read_text()
    home.graph.write_text(whole.replace("  certify:\n", "  proof:\n", 1))
    with pytest.raises(GraphError, match=r"no stage certify.*regraft init") as caught:
        drive_stage(home, "certify", lambda _: None)
    assert caught.value.exit_code == 2
    home.graph.unlink()
    assert init_workspace(home.root).graph.read_text() == whole


def test_a_folder_that_is_no_workspace_is_named(tmp_path: Path, run_regraft) -> None:
    result = run_regraft("train", "--workspace", str(tmp_path))
    assert result.returncode == 2
    assert "regraft init" in result.stderr


def test_the_user_folder_is_never_written_to(trained) -> None:
    names = {path.suffix for path in trained.images.rglob("*") if path.is_file()}
    assert names <= {".png", ".jpg"}
    assert len([path for path in trained.images.rglob("*") if path.is_file()]) == 6 * 24


@pytest.mark.slow
def test_a_changed_parameter_runs_what_depends_on_it_and_nothing_else(copied, run_regraft) -> None:
    set_params(copied.home.params, {"evaluate.bootstrap": 300})
    result = run_regraft("train", "--workspace", str(copied.home.root), "--json")
    states = {run["name"]: run["state"] for run in json.loads(result.stdout)["stages"]}
    assert states == dict.fromkeys(states, "cached") | {"evaluate": "ran", "export": "ran"}


def test_the_remote_holds_everything_and_a_corrupted_object_is_refused(copied) -> None:
    root = copied.home.root
    assert "in sync" in dvc(root, "status", "--cloud").stdout
    objects = sorted(
        (path for path in copied.home.remote.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    victim = objects[-1]
    victim.chmod(0o644)
    spoiled = bytearray(victim.read_bytes())
    spoiled[len(spoiled) // 2] ^= 1
    victim.write_bytes(bytes(spoiled))
    shutil.rmtree(root / ".dvc" / "cache")
    for out in (copied.home.dataset, copied.home.bundle, copied.home.checkpoint, copied.home.selection):
        shutil.rmtree(out)
    assert dvc(root, "pull").returncode != 0


def test_the_data_of_a_version_comes_back_byte_for_byte(copied, run_regraft, tmp_path: Path) -> None:
    into = tmp_path / "old"
    version = copied.answer["version"]
    result = run_regraft("restore", version[:6], "--into", str(into), "--workspace", str(copied.home.root), "--json")
    assert result.returncode == 0, result.stderr
    assert hash_tree(into / "data" / "store" / "dataset") == hash_tree(copied.home.dataset)
    assert hash_tree(into / "models" / "store" / "bundle") == hash_tree(copied.home.bundle)


@pytest.mark.slow
def test_changed_code_runs_its_stage_again(copied, run_regraft) -> None:
    hashes = yaml.safe_load(copied.home.code.read_text())
    lock = yaml.safe_load((copied.home.root / "dvc.lock").read_text())
    lock["stages"]["split"]["params"]["code.yaml"]["split"] = "0" * 16
    (copied.home.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    shutil.rmtree(copied.home.root / ".dvc" / "cache" / "runs")  # where DVC knows this code's answer already
    result = run_regraft("train", "--workspace", str(copied.home.root), "--json")
    states = {run["name"]: run["state"] for run in json.loads(result.stdout)["stages"]}
    assert states["split"] == "ran"
    assert states["ingest"] == states["select"] == "cached"
    assert yaml.safe_load(copied.home.code.read_text()) == hashes


def kill_in_stage(command: list[str], stage: str, after_s: float) -> int:
    """Run ``command`` in a group of its own and SIGKILL the group once ``stage`` has been at work for a while."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            if f"{stage} started" in line:
                time.sleep(after_s)
                os.killpg(process.pid, signal.SIGKILL)
                break
    return process.wait()


@pytest.mark.slow
def test_a_run_killed_in_three_stages_converges_to_the_same_version(trained, make_workspace, run_regraft) -> None:
    home = make_workspace("killed")
    arguments = ["train", "--workspace", str(home.root), "--data", str(trained.images), "--json"]
    for moment, after_s in (("ingest", 0.3), ("finetune", 2.0), ("export", 1.0)):
        assert kill_in_stage([str(BIN / "regraft"), *arguments], moment, after_s) == -signal.SIGKILL
    result = run_regraft(*arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout)["version"] == trained.answer["version"]
    assert hash_tree(home.bundle) == hash_tree(trained.home.bundle)


def test_the_command_line_without_a_server_never_starts_one(trained) -> None:
    assert not (trained.home.state / "prefect" / "prefect.db").exists()
