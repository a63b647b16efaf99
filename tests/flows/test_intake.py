"""What enters the graph: the origin, batches of feedback, and the rows that are decided already."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from regraft.data.dataset.ingest import IngestConfig, ingest_sources
from regraft.data.dataset.manifest import read_manifest
from regraft.data.sources.entries import IntakeError
from regraft.data.sources.layout import Layout, LayoutQuestion
from regraft.data.sources.sources import read_intake, write_intake
from regraft.data.validation.classes import LostClassError, UntaughtClassError
from regraft.flows.train import train
from regraft.tasks.planning import intake as intake_step
from regraft.tasks.planning import sources
from regraft.tasks.planning.intake import add_batch, rescan, take_in
from regraft.tasks.settings.params import set_params
from regraft.tasks.stages.ingest import ingest
from regraft.tasks.stages.split import split
from regraft.tasks.stages.validate import validate
from regraft.tasks.workspace.workspace import Workspace, init_workspace


@pytest.fixture
def home(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "w")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("ants", "bees"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(3):
            draw(tmp_path / "photos" / label / f"{number}.png", number)
    return tmp_path / "photos"


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)


def make_batch(home: Workspace, name: str) -> Path:
    batch = home.feedback / name
    draw(batch / f"{name}.png", 70 + len(name))
    (batch / "manifest.csv").write_text(f"path,label\n{name}.png,ants\n")
    return batch


def names(home: Workspace) -> list[str]:
    return [source.name for source in read_intake(home.intake)]


def decide(home: Workspace, sha256: str, part: str) -> None:
    pd.DataFrame({"sha256": [sha256], "label": ["ants"], "group": [None], "part": [part]}).to_parquet(home.split)


def test_an_unchanged_source_changes_nothing(home: Workspace, folder: Path) -> None:
    take_in(home, folder)
    decide(home, "a" * 64, "test")
    before = home.intake.stat().st_mtime_ns, home.frozen.read_bytes()
    rescan(home)
    take_in(home, folder)
    assert (home.intake.stat().st_mtime_ns, home.frozen.read_bytes()) == before


def test_an_added_image_freezes_what_was_decided(home: Workspace, folder: Path) -> None:
    take_in(home, folder)
    decide(home, "a" * 64, "test")
    draw(folder / "ants" / "new.png", 9)
    rescan(home)
    assert home.frozen.read_text() == f"sha256,part\n{'a' * 64},test\n"


def test_rows_stay_frozen_when_their_images_are_gone(home: Workspace, folder: Path) -> None:
    take_in(home, folder)
    decide(home, "a" * 64, "test")
    draw(folder / "ants" / "new.png", 9)
    rescan(home)
    decide(home, "b" * 64, "train")
    draw(folder / "ants" / "newer.png", 10)
    rescan(home)
    assert home.frozen.read_text() == f"sha256,part\n{'a' * 64},test\n{'b' * 64},train\n"


def test_a_folder_that_was_moved_keeps_every_part(home: Workspace, folder: Path, tmp_path: Path) -> None:
    take_in(home, folder)
    decide(home, "a" * 64, "test")
    folder.rename(tmp_path / "moved")
    take_in(home, tmp_path / "moved")
    assert "a" * 64 + ",test" in home.frozen.read_text()


def test_labels_of_a_class_that_was_away_come_back_with_it(home: Workspace, folder: Path, tmp_path: Path) -> None:
    take_in(home, folder)
    add_batch(home, make_batch(home, "one"), keep=set())
    for label in ("cats", "dogs"):
        draw(tmp_path / "other" / label / "0.png", 1)
    take_in(home, tmp_path / "other")
    assert read_intake(home.intake)[1].without == ("ants",)
    ingest.run(home)
    assert set(read_manifest(home.dataset)["source"]) == {"origin"}
    take_in(home, folder)
    origin, batch = read_intake(home.intake)
    assert (origin.notes, batch.labels, batch.without) == ((), ("ants",), ())
    ingest.run(home)
    assert set(read_manifest(home.dataset)["source"]) == {"origin", "one"}


def test_a_moved_workspace_finds_its_batches(home: Workspace, folder: Path, tmp_path: Path) -> None:
    take_in(home, folder)
    add_batch(home, make_batch(home, "one"), keep=set())
    home.root.rename(tmp_path / "elsewhere")
    moved = Workspace(tmp_path / "elsewhere")
    rescan(moved)
    assert str(read_intake(moved.intake)[1].path).startswith(str(moved.root))


def test_a_batch_joins_the_origin_and_supersedes_one_that_no_version_was_made_with(
    home: Workspace, folder: Path
) -> None:
    take_in(home, folder)
    add_batch(home, make_batch(home, "one"), keep=set())
    first = names(home)
    add_batch(home, make_batch(home, "two"), keep=set())
    assert len(first) == len(names(home)) == 2
    assert first != names(home)
    add_batch(home, make_batch(home, "three"), keep=set(names(home)))
    assert len(names(home)) == 3


def know(monkeypatch: pytest.MonkeyPatch, *labels: str) -> None:
    """Let the champion know these labels."""
    for module in (intake_step, sources):
        monkeypatch.setattr(module, "read_champion", lambda _: list(labels))


def allowed(home: Workspace) -> tuple[str, ...]:
    return read_intake(home.intake)[0].allowed


def test_a_class_that_the_champion_knows_is_not_lost_in_silence(
    home: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(folder / "wasps" / "0.png", 5)
    take_in(home, folder)
    know(monkeypatch, "ants", "bees", "wasps")
    shutil.move(folder / "wasps", folder.parent / "wasps")
    before = home.intake.read_bytes()
    for look in (lambda: rescan(home), lambda: take_in(home, folder), lambda: rescan(home, allow_lost=["bees"])):
        with pytest.raises(LostClassError, match=r"wasps: the champion knows it(.|\n)*--allow-lost wasps"):
            look()
    assert home.intake.read_bytes() == before
    rescan(home, allow_lost=["wasps"])
    assert allowed(home) == ("wasps",)
    rescan(home)
    assert allowed(home) == ("wasps",)


def test_an_allowed_loss_ends_when_the_class_was_seen_again(
    home: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, "ants", "bees", "wasps")
    take_in(home, folder, allow_lost=["wasps"])
    draw(folder / "wasps" / "0.png", 5)
    rescan(home)
    home.dataset.mkdir()
    (home.dataset / "summary.json").write_text(json.dumps({"labels": {"ants": 3, "bees": 3, "wasps": 1}}))
    before = home.intake.read_bytes()
    rescan(home)
    assert home.intake.read_bytes() == before  # nothing changed, so nothing runs again
    shutil.rmtree(folder / "wasps")
    with pytest.raises(LostClassError):
        rescan(home)


def test_an_empty_class_folder_stops_unless_allowed_by_name(home: Workspace, folder: Path) -> None:
    (folder / "wasps").mkdir()
    with pytest.raises(LostClassError, match="wasps/ holds no image: it is empty"):
        take_in(home, folder)
    assert not home.intake.exists()
    take_in(home, folder, allow_lost=["wasps"])
    assert allowed(home) == ("wasps",)


def test_a_renamed_class_is_said_to_look_like_the_lost_one(
    home: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, "Ants", "bees")
    with pytest.raises(LostClassError, match="'ants' looks like it: was it renamed"):
        take_in(home, folder)


def fill(home: Workspace, folder: Path) -> None:
    """Give three classes enough images of 8 px, and let many of them be unreadable."""
    for seed, label in enumerate(("ants", "bees", "wasps")):
        for number in range(12):
            draw(folder / label / f"{number}.png", 100 * seed + number)
    shares = {f"{stage}.max_unreadable_share": 0.9 for stage in ("ingest", "validate")}
    set_params(home.params, {"validate.min_side_px": 4, **shares})


def test_a_class_that_is_all_in_quarantine_stops_unless_allowed_by_name(home: Workspace, folder: Path) -> None:
    fill(home, folder)
    for file in (folder / "wasps").iterdir():
        file.write_bytes(b"\xff\xd8\xff broken")
    take_in(home, folder)
    ingest.run(home)
    with pytest.raises(LostClassError, match=r"wasps: all of its files are in quarantine \(12 "):
        validate.run(home)
    rescan(home, allow_lost=["wasps"])
    ingest.run(home)
    validate.run(home)
    said = json.loads((home.validation / "validation.json").read_text())
    assert list(said["lost"]) == ["wasps"]
    assert said["remarks"][0].startswith("without the class wasps, as allowed: all of its files are in quarantine")
    rescan(home)
    assert allowed(home) == ("wasps",)


def test_test_images_that_move_to_a_new_class_stop_before_any_model_work(home: Workspace, folder: Path) -> None:
    fill(home, folder)
    take_in(home, folder)
    ingest.run(home)
    split.run(home)
    parts = pd.read_parquet(home.split).set_index("sha256")["part"]
    held = pd.read_parquet(home.dataset / "manifest.parquet").to_dict("records")
    for row in held:
        if row["label"] == "wasps" and parts[row["sha256"]] == "test":
            (folder / "hornets").mkdir(exist_ok=True)
            (folder / row["path"]).rename(folder / "hornets" / Path(row["path"]).name)
    rescan(home)
    ingest.run(home)
    with pytest.raises(
        UntaughtClassError, match=r"hornets: 0 of its \d images may be learnt from; \d test(.|\n)*regraft init"
    ):
        split.run(home)


def test_a_known_source_is_read_as_before_where_it_would_be_asked_about_now(home: Workspace, tmp_path: Path) -> None:
    for line in ("north", "south"):
        for label in ("ants", "bees"):
            draw(tmp_path / "lines" / line / label / "0.png", 1)
    with pytest.raises(LayoutQuestion):
        take_in(home, tmp_path / "lines")
    take_in(home, tmp_path / "lines", Layout(classes_at=2))
    rescan(home)
    take_in(home, tmp_path / "lines")
    assert read_intake(home.intake)[0].labels == ("ants", "bees")
    old = replace(read_intake(home.intake)[0], layout=Layout(), labels=("north", "south"))  # of an earlier release
    write_intake(home.intake, [old])
    rescan(home)
    assert read_intake(home.intake)[0].labels == ("north", "south")


def test_a_batch_that_is_left_behind_is_said(home: Workspace, folder: Path, tmp_path: Path) -> None:
    take_in(home, folder)
    add_batch(home, make_batch(home, "one"), keep=set())
    for label in ("cats", "dogs"):
        draw(tmp_path / "other" / label / "0.png", 1)
    take_in(home, tmp_path / "other")
    assert read_intake(home.intake)[0].notes == (
        "labelled production images of batch one are passed over for now: the data have no class ants",
    )
    ingest.run(home)
    assert "batch one are passed over" in json.loads((home.dataset / "summary.json").read_text())["notes"][0]


@pytest.mark.slow
def test_the_command_asks_which_level_names_the_classes_and_changes_nothing(
    run_regraft: Callable[..., CompletedProcess[str]], home: Workspace, tmp_path: Path
) -> None:
    for line in ("north", "south"):
        for label in ("ants", "bees"):
            draw(tmp_path / "lines" / line / label / "0.png", 1)
    before = home.params.read_bytes()
    train = ("train", "--workspace", str(home.root), "--data", str(tmp_path / "lines"))
    asked = run_regraft(*train)
    assert asked.returncode == 2
    for part in ("north, south: --classes-at 1", "ants, bees: --classes-at 2", "--groups-at 1"):
        assert part in asked.stderr
    assert (home.intake.exists(), home.params.read_bytes()) == (False, before)
    contradiction = run_regraft(*train, "--classes-at", "2", "--groups-at", "2", "--similar-labels", "both")
    assert contradiction.returncode == 2
    assert "--similar-labels takes merge or apart, not 'both'" in contradiction.stderr


def test_the_flow_takes_what_the_command_says() -> None:
    given = {"workspace": Path("w"), "layout": Layout(classes_at=2, alike="merge"), "allow_lost": ("owl",)}
    taken = train.validate_parameters(given)
    assert (taken["layout"], taken["allow_lost"]) == (given["layout"], ("owl",))


def read_in(home: Workspace) -> dict[str, bytes]:
    """Do what a training does with the sources, and leave the lock that says so; return the data set."""
    ingest_sources(read_intake(home.intake), home.dataset, IngestConfig())
    md5 = hashlib.md5(home.intake.read_bytes()).hexdigest()
    lock = {"stages": {"ingest": {"deps": [{"path": "data/store/intake.json", "md5": md5}]}}}
    (home.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    return {str(path): path.read_bytes() for path in sorted(home.dataset.rglob("*")) if path.is_file()}


def held(home: Workspace) -> set[tuple[str, str]]:
    rows = read_manifest(home.dataset)
    return set(zip(rows["source"], rows["path"], strict=True))


def kinds(home: Workspace) -> list[str]:
    return [source.kind for source in read_intake(home.intake)]


def test_a_training_goes_on_with_the_data_set_when_the_folder_is_gone(home, folder, tmp_path, caplog) -> None:
    take_in(home, folder)
    before = read_in(home)
    folder.rename(tmp_path / "moved")
    rescan(home)
    assert kinds(home) == ["stored"]
    assert f"{folder} is not there" in caplog.text
    assert read_in(home) == before
    rescan(home)
    (tmp_path / "moved").rename(folder)
    rescan(home)
    assert kinds(home) == ["folder"]
    assert read_in(home) == before


def test_a_training_refuses_a_folder_that_is_there_and_empty(home, folder) -> None:
    take_in(home, folder)
    read_in(home)
    shutil.rmtree(folder)
    folder.mkdir()  # a disk that is not mounted
    with pytest.raises(IntakeError, match="no class folder"):
        rescan(home)


@pytest.mark.parametrize("lost", ["gone", "empty", "one file", "one class"])
def test_a_retraining_loses_no_image_whatever_became_of_the_folder(home, folder, caplog, lost) -> None:
    take_in(home, folder)
    read_in(home)
    before = held(home)
    if lost == "one file":
        (folder / "ants" / "1.png").unlink()
    else:
        shutil.rmtree(folder if lost != "one class" else folder / "ants")
    if lost == "empty":
        folder.mkdir()
    add_batch(home, make_batch(home, "one"), keep=set())
    read_in(home)
    assert kinds(home) == ["stored", "manifest"]
    assert held(home) == before | {("one", "one.png")}
    assert "going on with the data set" in caplog.text


def test_a_retraining_reads_what_is_new_in_the_folder(home, folder) -> None:
    take_in(home, folder)
    read_in(home)
    draw(folder / "ants" / "new.png", 9)
    add_batch(home, make_batch(home, "one"), keep=set())
    read_in(home)
    assert ("origin", "ants/new.png") in held(home)
    assert kinds(home) == ["folder", "manifest"]


def test_batches_that_a_clone_lacks_come_from_the_data_set(home, folder) -> None:
    take_in(home, folder)
    add_batch(home, make_batch(home, "one"), keep=set())
    before = read_in(home)
    shutil.rmtree(home.feedback)
    rescan(home)
    assert kinds(home) == ["folder", "stored"]
    assert read_in(home) == before
    take_in(home, folder)
    assert names(home) == ["origin", "one"]
    add_batch(home, make_batch(home, "two"), keep={"one"})
    read_in(home)
    assert {("one", "one.png"), ("two", "two.png")} <= held(home)


def test_an_origin_that_was_named_but_never_read_is_not_replaced_by_the_one_before(home, folder, tmp_path) -> None:
    take_in(home, folder)
    read_in(home)
    for label in ("ants", "bees"):
        draw(tmp_path / "other" / label / "other.png", 3)
    take_in(home, tmp_path / "other")  # killed here, before it was read
    add_batch(home, make_batch(home, "one"), keep=set())
    read_in(home)
    assert held(home) == {("origin", "ants/other.png"), ("origin", "bees/other.png"), ("one", "one.png")}
