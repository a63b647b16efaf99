"""The command line: help, exit codes, and the commands on versions, through the real console script."""

import json
import re
import shutil
import socket
from pathlib import Path

import pytest

from regraft.serving.bundle.format import BundleDraft, open_bundle, seal_bundle
from regraft.serving.registry.registry import Registry
from regraft.tasks.settings.knobs import ParamsError, parse_assignments
from regraft.tasks.settings.params import load_params, set_params
from regraft.tasks.steps.gate import gate
from regraft.tasks.steps.promote import promote

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    "init",
    "demo",
    "train",
    "stage",
    "serve",
    "predict",
    "watch",
    "retrain",
    "models",
    "promote",
    "push",
    "pull",
    "clean",
    "rollback",
    "restore",
    "deploy",
    "up",
    "doctor",
    "pretrain",
]


def test_help_names_every_command_and_each_shows_an_example(run_regraft) -> None:
    listed = run_regraft("-h").stdout
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", listed), command
    for command in ("train", "retrain", "up"):
        assert "Example" in run_regraft(command, "-h").stdout


def test_versions_are_listed_with_their_roles(trained, run_regraft) -> None:
    result = run_regraft("models", "--workspace", str(trained.home.root), "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert [(row["version"], row["role"]) for row in answer["versions"]] == [(trained.answer["version"], "champion")]
    assert answer["versions"][0]["accuracy"] == trained.answer["metrics"]["test"]["accuracy"]
    assert answer["journal"][0]["action"] == "promote"
    shown = run_regraft("models", "--workspace", str(trained.home.root)).stdout
    assert f"promote {trained.answer['version']} by train" in shown


def test_a_rollback_without_a_previous_version_is_refused(trained, run_regraft) -> None:
    result = run_regraft("rollback", "--workspace", str(trained.home.root))
    assert result.returncode == 2
    assert "previous" in result.stderr


def test_a_version_that_was_rolled_back_is_not_promoted_by_a_rerun(copied, tmp_path: Path) -> None:
    home, first = copied.home, copied.answer["version"]
    shutil.copytree(home.bundle, tmp_path / "other")
    (tmp_path / "other" / "bundle.json").unlink()
    info = open_bundle(home.bundle).info
    draft = info.model_dump(include=set(BundleDraft.model_fields)) | {"name": "other"}
    registry = Registry(home.models_store)
    seal_bundle(tmp_path / "other", draft)
    second = registry.register(tmp_path / "other")
    registry.promote(second, by="test", reason="by hand")
    assert "rolled back" not in gate(home, first).reason
    registry.rollback(by="test", reason="it misbehaves")
    assert registry.pointer().champion == first
    verdict = gate(home, second)
    assert (verdict.decision, "rolled back" in verdict.reason) == ("keep", True)
    assert promote(home, second, verdict, "test") == "kept champion"
    assert registry.pointer().champion == first


def test_an_unknown_version_is_refused(trained, run_regraft) -> None:
    assert run_regraft("promote", "ffff", "--workspace", str(trained.home.root)).returncode == 2


def test_predict_answers_as_the_evaluation_did(trained, run_regraft) -> None:
    image = sorted(path for path in trained.images.rglob("*") if path.is_file())[0]
    result = run_regraft("predict", str(image), "--workspace", str(trained.home.root), "--json")
    answer = json.loads(result.stdout)[0]
    assert answer["version"] == trained.answer["version"]
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_answered(trained, run_regraft, tmp_path) -> None:
    good = next(path for path in trained.images.rglob("*") if path.is_file())
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff torn")
    result = run_regraft(
        "predict", str(tmp_path / "torn.jpg"), str(good), "--workspace", str(trained.home.root), "--json"
    )
    assert result.returncode == 2
    torn, answered = json.loads(result.stdout)
    assert torn["image"].endswith("torn.jpg")
    assert torn["code"] == "undecodable"
    assert answered["version"] == trained.answer["version"]


def test_a_folder_of_backbones_that_is_absent_is_bad_usage(copied, run_regraft, tmp_path) -> None:
    before = copied.home.params.read_text()
    result = run_regraft("train", "--workspace", str(copied.home.root), "--backbones", str(tmp_path / "absent"))
    assert result.returncode == 2
    assert "absent is not a folder" in result.stderr
    assert copied.home.params.read_text() == before


@pytest.mark.slow
def test_mistakes_in_the_file_are_not_blamed_on_the_option(copied, run_regraft) -> None:
    copied.home.params.write_text("finetune: {bugdet_s: 3, threads: 0}\n")
    result = run_regraft("train", "--workspace", str(copied.home.root))
    assert result.returncode == 2
    assert "--set" not in result.stderr
    assert all(part in result.stderr for part in ("params.yaml", "finetune.bugdet_s", "finetune.threads"))


def test_a_port_that_is_taken_or_impossible_is_refused(trained, run_regraft) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        taken = run_regraft("serve", "--workspace", str(trained.home.root), "--port", port)
    assert (taken.returncode, f"port {port} of 127.0.0.1 cannot be used" in taken.stderr) == (1, True)
    assert run_regraft("serve", "--workspace", str(trained.home.root), "--port", "99999").returncode == 2


def test_asking_where_nothing_answers_says_so(trained, run_regraft) -> None:
    image = next(path for path in trained.images.rglob("*") if path.is_file())
    result = run_regraft("predict", str(image), "--url", "http://127.0.0.1:9")
    assert result.returncode == 1
    assert "no answer from http://127.0.0.1:9" in result.stderr
    assert "fault" not in result.stderr


@pytest.mark.slow
def test_watching_before_any_traffic_is_insufficient_not_quiet(copied, run_regraft) -> None:
    result = run_regraft("watch", "--workspace", str(copied.home.root), "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["verdict"]["decision"] == "insufficient"


@pytest.mark.slow
def test_retraining_without_labels_is_refused_with_the_number_that_lacks(trained, run_regraft) -> None:
    result = run_regraft("retrain", "--workspace", str(trained.home.root), "--json")
    assert result.returncode == 3
    reason = json.loads(result.stdout)["batch"]["reason"]
    assert reason == "0 new labelled images, but a retraining needs 60; label 60 more"


@pytest.mark.slow
def test_the_doctor_finds_a_damaged_champion(copied, run_regraft) -> None:
    assert run_regraft("doctor", "--workspace", str(copied.home.root)).returncode == 0
    set_params(copied.home.params, {"select.mirror": "/absent"})
    assert "/absent is not a folder" in run_regraft("doctor", "--workspace", str(copied.home.root)).stdout
    set_params(copied.home.params, {"select.mirror": None})
    model = copied.home.models_store / "versions" / copied.answer["version"] / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    result = run_regraft("doctor", "--workspace", str(copied.home.root))
    assert result.returncode == 1
    assert "model.onnx was changed" in result.stdout


def test_a_knob_in_a_group_is_set_and_comments_stay(copied) -> None:
    set_params(copied.home.params, parse_assignments(["finetune.loop.clip_norm=2"]))
    assert load_params(copied.home.params).finetune.loop.clip_norm == 2
    assert "# Every knob" in copied.home.params.read_text()


@pytest.mark.parametrize("text", ["epochs=3", "finetune.budget_s", "finetune.=3", "gate.guarded=["])
def test_a_malformed_assignment_is_named(text: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(text.split("=")[0])):
        parse_assignments([text])


def test_a_file_that_is_not_yaml_is_named(copied) -> None:
    copied.home.params.write_text("finetune: [")
    with pytest.raises(ParamsError, match="not YAML"):
        set_params(copied.home.params, {"finetune.seed": 1})
    with pytest.raises(ParamsError, match="not YAML"):
        load_params(copied.home.params)
