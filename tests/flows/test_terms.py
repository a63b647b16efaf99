"""A run's settings and sources are its own until a version is made; who does not hold the lock changes nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from regraft.data.sources.entries import IntakeError
from regraft.tasks.graph.graph import GraphError, drive_stage, run_stage_alone
from regraft.tasks.settings.params import ParamsError, load_params
from regraft.tasks.settings.terms import Terms, amend_terms, hold_terms, keep_terms, list_changed
from regraft.tasks.stages.evaluate import evaluate
from regraft.tasks.workspace.dvc_repo import open_repository
from regraft.tasks.workspace.locks import WorkspaceBusy, hold_lock
from regraft.tasks.workspace.workspace import Workspace

BIN = Path(sys.executable).parent


def snapshot(home: Workspace) -> dict[str, bytes | None]:
    return {path.name: path.read_bytes() if path.exists() else None for path in list_changed(home)}


@pytest.fixture
def home(make_workspace) -> Workspace:
    return make_workspace("terms")


@pytest.mark.slow
def test_a_busy_workspace_is_left_as_it_is_and_names_who_is_at_work(copied, run_regraft) -> None:
    before = snapshot(copied.home)
    with hold_lock(copied.home, "make"):
        result = run_regraft("train", "-w", str(copied.home.root), "--set", "export.name=other", "--time-budget", "1h")
        with pytest.raises(WorkspaceBusy, match=f"process {os.getpid()} on"):
            run_stage_alone(copied.home, "split")
    assert result.returncode == 4  # neither a fault nor an answer
    assert f"process {os.getpid()}" in result.stderr
    assert "fault" not in result.stderr
    assert snapshot(copied.home) == before


def test_dvc_repro_beside_a_training_is_refused_before_it_deletes_an_output(copied) -> None:
    home = copied.home
    home.params.write_text(home.params.read_text().replace("bootstrap: 200", "bootstrap: 201"))
    environment = dict(os.environ) | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    with hold_lock(home, "make"):
        result = subprocess.run(
            [str(BIN / "dvc"), "repro"], cwd=home.root, env=environment, capture_output=True, text=True, check=False
        )
    assert result.returncode != 0
    assert f"PID {os.getpid()}" in result.stderr
    assert (home.evaluation / "metrics.json").exists()


def test_the_turn_of_a_holder_that_died_is_free_though_its_number_lives(copied) -> None:
    home, command = copied.home, "regraft train -w x"
    (home.state / "make.holder.json").write_text(json.dumps({"pid": 1, "command": command, "host": "h", "at": 0.0}))
    locks = home.root / ".dvc" / "tmp" / "rwlock"
    locks.parent.mkdir(exist_ok=True)
    locks.write_text(json.dumps({"write": {str(home.split): {"pid": 1, "cmd": command}}, "read": {}}))
    with hold_lock(home, "make"):
        assert "1" not in {str(holder["pid"]) for holder in json.loads(locks.read_text())["write"].values()}
    locks.write_text(json.dumps({"write": {str(home.split): {"pid": 1, "cmd": "dvc repro"}}, "read": {}}))
    with pytest.raises(WorkspaceBusy, match="dvc repro"), hold_lock(home, "make"):
        pass
    locks.unlink()
    with hold_lock(home, "make"):
        pass


@pytest.mark.slow
def test_a_refused_run_puts_back_settings_sources_and_outputs(copied, images, tmp_path, run_regraft) -> None:
    poor, home = tmp_path / "poor", copied.home
    shutil.copytree(images, poor)
    for path in sorted((poor / "scratches").iterdir())[2:]:
        path.unlink()
    before = snapshot(home) | {"code.yaml": None}
    manifest = (home.dataset / "manifest.parquet").read_bytes()
    result = run_regraft("train", "-w", str(home.root), "--data", str(poor), "--set", "finetune.seed=7")
    assert result.returncode == 3, result.stderr
    assert snapshot(home) | {"code.yaml": None} == before
    assert (home.dataset / "manifest.parquet").read_bytes() == manifest  # ingest had run before validate said no
    assert not (home.state / "terms").exists()


def test_a_stage_that_had_these_inputs_before_is_not_run_again(copied) -> None:
    home, text = copied.home, copied.home.params.read_text()
    metrics = (home.evaluation / "metrics.json").read_bytes()
    home.params.write_text(text.replace("bootstrap: 200", "bootstrap: 201"))
    assert drive_stage(home, "evaluate", evaluate.run).state == "ran"
    assert (home.evaluation / "metrics.json").read_bytes() != metrics
    home.params.write_text(text)
    assert drive_stage(home, "evaluate", evaluate.run).state == "cached"
    assert (home.evaluation / "metrics.json").read_bytes() == metrics
    with open_repository(home.root) as repo:
        assert not repo.status(targets=["evaluate"])


def test_a_refused_first_source_does_not_stand_in_the_way_of_the_next(home: Workspace, tmp_path: Path) -> None:
    before = snapshot(home)
    with pytest.raises(IntakeError), hold_terms(home, Terms("train", {"finetune.seed": 7}, str(tmp_path))):
        assert load_params(home.params).finetune.seed == 7
        home.intake.write_text("{}")
        home.split.write_bytes(b"of refused images")
        (home.root / "dvc.lock").write_text("schema: '2.0'\n")
        raise IntakeError(str(tmp_path), ["is refused"])
    assert snapshot(home) == before
    assert not home.split.exists()


def test_wrong_settings_change_nothing(home: Workspace) -> None:
    before = snapshot(home)
    with pytest.raises(ParamsError), hold_terms(home, Terms("train", {"finetune.seeds": 7})):
        pass
    assert snapshot(home) == before
    assert not (home.state / "terms").exists()


def cut_short(home: Workspace, terms: Terms) -> None:
    with pytest.raises(KeyboardInterrupt), hold_terms(home, terms):
        raise KeyboardInterrupt


def test_what_was_cut_short_is_gone_on_with_when_nothing_else_is_asked(home: Workspace) -> None:
    asked = Terms("train", {"finetune.seed": 7}, "/photos", 60.0)
    cut_short(home, asked)
    with hold_terms(home, Terms("train")) as held:
        assert held == asked
    assert load_params(home.params).finetune.seed == 7
    with hold_terms(home, Terms("train")) as held:
        assert held == Terms("train")


def test_what_was_allowed_to_a_run_that_was_cut_short_is_not_allowed_to_another(home: Workspace) -> None:
    cut_short(home, Terms("train", {}, "/photos", allow_lost=("owl",)))
    home.intake.write_text("without the owls")
    with hold_terms(home, Terms("train", {}, "/photos")) as held:
        assert held.allow_lost == ()
        assert not home.intake.exists()


@pytest.mark.parametrize("other", [Terms("retrain"), Terms("train", {"finetune.threads": 1})])
def test_what_was_cut_short_is_put_back_when_something_else_is_asked(home: Workspace, other: Terms) -> None:
    cut_short(home, Terms("train", {"finetune.seed": 7}))
    with hold_terms(home, other) as held:
        assert held == other
        assert load_params(home.params).finetune.seed == 0


def test_terms_that_set_anew_what_was_cut_short_take_its_place(home: Workspace) -> None:
    cut_short(home, Terms("train", {"finetune.seed": 7}))
    cut_short(home, Terms("train", {"finetune.seed": 8, "finetune.threads": 1}))
    with hold_terms(home, Terms("retrain")):
        assert load_params(home.params).finetune.seed == 0  # what stood before the first of them


def test_a_fault_leaves_the_terms_for_the_next_run_to_finish(home: Workspace) -> None:
    with pytest.raises(OSError, match="disk"), hold_terms(home, Terms("train", {"finetune.seed": 7})):
        raise OSError("disk full")
    with hold_terms(home, Terms("train")) as held:
        assert held.settings == {"finetune.seed": 7}


def test_an_edit_by_hand_is_never_put_back(home: Workspace) -> None:
    with pytest.raises(ParamsError), hold_terms(home, Terms("train", {"finetune.seed": 7})):
        amend_terms(home, {"finetune.budget_s": 3})
        home.params.write_text(home.params.read_text() + "# mine\n")
        raise ParamsError("no")
    assert home.params.read_text().endswith("# mine\n")
    assert load_params(home.params).finetune.seed == 7


def test_the_terms_of_a_version_stand(home: Workspace) -> None:
    with pytest.raises(ParamsError), hold_terms(home, Terms("train", {"finetune.seed": 7})):
        keep_terms(home)  # as register does
        raise ParamsError("afterwards")
    assert load_params(home.params).finetune.seed == 7


def test_parameters_edited_while_a_stage_runs_are_not_written_down_as_its_own(copied) -> None:
    home = copied.home
    lock = (home.root / "dvc.lock").read_bytes()
    home.params.write_text(home.params.read_text().replace("bootstrap: 200", "bootstrap: 201"))

    def edit(home: Workspace) -> None:
        home.params.write_text(home.params.read_text().replace("bootstrap: 201", "bootstrap: 202"))

    with pytest.raises(GraphError, match=r"section evaluate of .* was edited while the stage ran"):
        drive_stage(home, "evaluate", edit)
    assert (home.root / "dvc.lock").read_bytes() == lock
