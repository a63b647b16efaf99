"""Before a run: a forecast that never stops it, and a time budget that becomes parameters."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from regraft.models.compute.forecast import FORECAST_STEPS
from regraft.tasks.planning.forecast import forecast_training
from regraft.tasks.planning.intake import take_in
from regraft.tasks.planning.time_budget import CUTS, fit_into
from regraft.tasks.settings.duration import parse_duration
from regraft.tasks.settings.params import ParamsError, load_params, set_params
from regraft.tasks.workspace.workspace import Workspace


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("45", 45), (" 1.5M ", 90)])
def test_a_duration_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "ten", "5d", "-3m", "0", "10 m s"])
def test_what_is_no_duration_is_named_with_what_would_be(text: str) -> None:
    with pytest.raises(ParamsError, match="90s, 10m, 1h"):
        parse_duration(text)


@pytest.fixture(autouse=True)
def quick_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.models.compute.calibration.CALIBRATION_S", 0.05)


@pytest.fixture
def home(make_workspace) -> Workspace:
    fresh = make_workspace("fresh")
    set_params(fresh.params, {"finetune.threads": 1, "finetune.budget_s": 50})
    return fresh


def test_a_first_run_is_forecast_from_the_list_of_its_images(home: Workspace, images: Path) -> None:
    told = forecast_training(home, images)
    assert told.notes == ()
    assert set(told.seconds) == set(FORECAST_STEPS)
    assert all(told.seconds[part] > 0 for part in FORECAST_STEPS)
    assert told.cache_bytes > 1e6
    assert "on this machine" in told.describe()
    assert not home.intake.exists()  # looked at, not taken in


def test_a_time_budget_becomes_parameters_that_fit_and_stay(home: Workspace, images: Path) -> None:
    told = fit_into(home, images, 3600)
    generous = load_params(home.params).finetune
    assert told.total_s < 3600
    assert 0 < generous.stop_s < 3600
    fit_into(home, images, 2)
    tight = load_params(home.params).finetune
    assert (tight.stop_s, tight.budget_s) == (1, 1)  # the clock has nothing left
    assert generous.budget_s > 1
    assert tight.max_epochs == generous.max_epochs
    assert "too short" in fit_into(home, images, 2).describe()
    assert load_params(home.params).finetune == tight  # a second run with the same budget finds its work done


def read_setting(home: Workspace, name: str) -> object:
    value = load_params(home.params)
    for part in name.split("."):
        value = getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


def test_a_short_budget_leaves_out_what_is_worth_least_and_a_longer_one_brings_it_back(
    home: Workspace, images: Path
) -> None:
    set_params(home.params, {"certify.draws": 4, "certify.sizes": [0.5, 1.0]})
    before = {cut.setting: read_setting(home, cut.setting) for cut in CUTS}
    said = fit_into(home, images, 2).describe()
    left_out = CUTS[1:]  # a single candidate is not compared: nothing is saved there
    assert all(read_setting(home, cut.setting) == cut.value and cut.lack in said for cut in left_out)
    assert read_setting(home, CUTS[0].setting) == before[CUTS[0].setting] and CUTS[0].lack not in said
    everything = fit_into(home, images, 36_000).describe()
    assert "left out" not in everything
    assert {cut.setting: read_setting(home, cut.setting) for cut in CUTS} == before


def test_what_a_person_has_set_is_not_brought_back(home: Workspace, images: Path) -> None:
    fit_into(home, images, 2)
    set_params(home.params, {"certify.draws": 5})
    fit_into(home, images, 36_000)
    assert read_setting(home, "certify.draws") == 5


def test_a_long_budget_is_used_on_few_images_too(home: Workspace, images: Path) -> None:
    by_itself = forecast_training(home, images)
    set_params(home.params, {"finetune.max_epochs": 1000})
    long = fit_into(home, images, 3600)
    assert 3600 > long.total_s > 5 * by_itself.total_s


def test_what_cannot_be_forecast_is_said_and_stops_nothing(home: Workspace, images: Path, tmp_path: Path) -> None:
    told = forecast_training(home, tmp_path / "absent")
    assert told.describe().startswith("no forecast; the images could not be listed")
    assert told.to_json()["seconds"]["finetune"] is None
    set_params(home.params, {"select.mirror": "http://127.0.0.1:9/weights"})
    assert "once they are here" in forecast_training(home, images).describe()


def test_a_finished_run_is_forecast_as_done(trained) -> None:
    told = forecast_training(trained.home, None)
    assert told.total_s == 0
    assert re.fullmatch(r"no stage is left to run; the gate asks about \d+ test images once more", told.describe())
    assert trained.answer["forecast"]["seconds"]["finetune"] > 0
    json.dumps(told.to_json())


def test_a_finished_run_is_trained_longer_only_for_a_much_longer_budget(copied) -> None:
    before = load_params(copied.home.params).finetune
    assert fit_into(copied.home, None, 5).total_s == 0
    assert load_params(copied.home.params).finetune == before
    assert fit_into(copied.home, None, 36_000).seconds["finetune"] > 0
    assert load_params(copied.home.params).finetune.budget_s > 2 * before.budget_s


@pytest.mark.parametrize("changed", ["what other runs found", "the code of a stage", "an image of the source"])
def test_what_changes_between_two_runs_is_never_forecast_as_done(copied, tmp_path: Path, changed: str) -> None:
    home = copied.home
    assert forecast_training(home, None).total_s == 0
    if changed == "what other runs found":
        line = json.loads(home.track_record.read_text().splitlines()[0])
        home.track_record.write_text(json.dumps(line | {"dataset": "0" * 64}) + "\n")
    elif changed == "the code of a stage":
        codes = yaml.safe_load(home.code.read_text())
        lock = home.root / "dvc.lock"
        lock.write_text(lock.read_text().replace(codes["finetune"], "0" * 16))
        home.code.write_text(home.code.read_text().replace(codes["finetune"], "0" * 16))
    else:
        shutil.copytree(copied.images, tmp_path / "images")
        take_in(home, tmp_path / "images")  # as the run does before it forecasts
    assert forecast_training(home, None).total_s > 0
