"""Cleaning tells first, removes only what nothing kept needs, and never a label that nobody learned from."""

import hashlib
import json
import os
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from regraft.serving.bundle.format import REQUIRED_FILES, seal_bundle
from regraft.serving.log.pruning import count_old, prune_log
from regraft.serving.log.writer import PredictionLog, PredictionRecord
from regraft.serving.registry.registry import Registry
from regraft.tasks.retention.needed_objects import UnknownNeedsError, list_needed
from regraft.tasks.retention.retention import apply_cleaning, measure_sizes, plan_cleaning
from regraft.tasks.settings.params import set_params
from regraft.tasks.settings.retention_config import RetentionConfig
from regraft.tasks.sharing.sharing import follow, share
from regraft.tasks.workspace.dvc_repo import open_repository
from regraft.tasks.workspace.lineage import keep_lineage
from regraft.tasks.workspace.workspace import Workspace, init_workspace

OLD = time.time() - 400 * 86_400
"""Seconds since the epoch; older than every default."""


@pytest.fixture
def home(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "w", remote=str(tmp_path / "remote"))


def make_bundle(folder: Path, content: str) -> Path:
    for name in REQUIRED_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} of {content}")
    draft = {
        "name": content,
        "labels": ["a", "b"],
        "preprocess": {"size_px": 32, "fit": "squash", "interpolation": "bicubic"},
        "backbone": {"name": "n", "sha256": None, "licence": None, "source": None},
        "embedding_dims": 2,
    }
    seal_bundle(folder, draft)
    return folder


def age(*places: Path) -> None:
    for place in places:
        for path in [place, *place.rglob("*")]:
            os.utime(path, (OLD, OLD))


def make_version(home: Workspace, content: str, number: int) -> str:
    """Register a version whose data is one object of DVC's cache."""
    registry = Registry(home.models_store)
    version = registry.register(make_bundle(home.state / "made" / content, content))
    keep_lineage(home, version, {"dvc.lock": lock_of(home, content).encode()})
    os.utime(registry.path(version), (OLD + number, OLD + number))
    return version


def lock_of(home: Workspace, content: str) -> str:
    """Return a lock that needs ``content``, which is in the cache from now on."""
    md5 = hashlib.md5(content.encode()).hexdigest()
    with open_repository(home.root) as repo:
        place = Path(repo.cache.local.path) / md5[:2] / md5[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)
    return yaml.safe_dump({"stages": {"ingest": {"outs": [{"path": "data.txt", "md5": md5}]}}})


def list_objects(home: Workspace) -> set[str]:
    return {path.parent.name + path.name for path in (home.root / ".dvc/cache/files").rglob("*") if path.is_file()}


def counts(pieces) -> dict[str, int]:
    return {piece.what: piece.count for piece in pieces}


def test_nothing_is_found_in_a_young_workspace(home: Workspace) -> None:
    make_version(home, "one", 0)
    assert plan_cleaning(home, RetentionConfig(versions=0)) != []
    assert plan_cleaning(home, RetentionConfig()) == []


def test_old_versions_go_but_none_that_has_a_place_and_no_lineage(home: Workspace) -> None:
    made = [make_version(home, f"number {n}", n) for n in range(6)]
    registry = Registry(home.models_store)
    for version in made[:2]:
        registry.promote(version, "a", "b")
    registry.challenge(made[2], "a", "b")
    pieces = plan_cleaning(home, RetentionConfig(versions=1))
    assert {entry.version for entry in registry.versions()} == set(made)
    assert counts(pieces)["versions"] == 2
    apply_cleaning(home, pieces)
    assert {entry.version for entry in registry.versions()} == {*made[:3], made[5]}
    assert len(list(home.lineage.iterdir())) == 6


def test_no_object_that_a_kept_version_or_the_present_data_needs_goes(home: Workspace) -> None:
    made = [make_version(home, f"number {n}", n) for n in range(3)]
    Registry(home.models_store).promote(made[0], "a", "b")
    age(home.root / ".dvc" / "cache")
    (home.root / "dvc.lock").write_text(lock_of(home, "number 2"))
    before = list_objects(home)
    pieces = plan_cleaning(home, RetentionConfig(versions=0))
    assert counts(pieces)["cache objects"] == 1  # of the second: the first answers, the third is at work
    apply_cleaning(home, pieces)
    gone = before - list_objects(home)
    assert gone == list_needed((home.lineage / made[1] / "dvc.lock").read_text(), lambda _: None)


def test_the_remote_keeps_what_a_kept_version_needs_and_its_lineage(home: Workspace, tmp_path: Path) -> None:
    made = [make_version(home, f"number {n}", n) for n in range(3)]
    Registry(home.models_store).promote(made[0], "a", "b")
    share(home)
    age(tmp_path / "remote")
    pieces = plan_cleaning(home, RetentionConfig(versions=1), remote=True)
    assert counts(pieces)["remote objects"] == 4  # the second's own files
    apply_cleaning(home, pieces)
    other = init_workspace(tmp_path / "other", remote=str(tmp_path / "remote"))
    assert follow(other).pointer.champion == made[0]
    assert sorted(path.name for path in other.lineage.iterdir()) == sorted(made)
    share(home)
    assert counts(plan_cleaning(home, RetentionConfig(versions=1), remote=True)) == {}


def test_a_version_that_was_cleaned_from_the_remote_is_sent_again_when_it_answers(home, tmp_path: Path) -> None:
    made = [make_version(home, f"number {n}", n) for n in range(3)]
    Registry(home.models_store).promote(made[0], "a", "b")
    share(home)
    age(tmp_path / "remote")
    pieces = [p for p in plan_cleaning(home, RetentionConfig(versions=1), remote=True) if p.what == "remote objects"]
    apply_cleaning(home, pieces)
    Registry(home.models_store).promote(made[1], "a", "again")
    share(home)
    other = init_workspace(tmp_path / "other", remote=str(tmp_path / "remote"))
    assert follow(other).pointer.champion == made[1]


def test_nothing_goes_when_it_cannot_be_told_what_a_version_needs(home: Workspace) -> None:
    version = make_version(home, "one", 0)
    Registry(home.models_store).promote(version, "a", "b")
    lock = {"stages": {"ingest": {"outs": [{"path": "data", "md5": "f" * 32 + ".dir"}]}}}
    (home.lineage / version / "dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(UnknownNeedsError, match="neither in the cache nor the remote"):
        plan_cleaning(home, RetentionConfig())


def test_a_cache_that_others_share_is_left_alone(home: Workspace, tmp_path: Path) -> None:
    (home.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {tmp_path / 'shared'}\n")
    make_version(home, "one", 0)
    age(tmp_path / "shared")
    assert "cache objects" not in counts(plan_cleaning(home, RetentionConfig(versions=0)))


def test_old_caches_and_logs_go_with_their_empty_folders(home: Workspace) -> None:
    for path in (home.features / "a" / "1.npy", home.logs / "old.log", home.cache / "new.npy"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    age(home.features, home.logs)
    assert measure_sizes(home)["cache"] == 2000
    pieces = plan_cleaning(home, RetentionConfig())
    assert {piece.what: piece.bytes for piece in pieces} == {"cache": 1000, "logs": 1000}
    apply_cleaning(home, pieces)
    assert [path.name for path in home.cache.rglob("*")] == ["new.npy"]


def log_answers(path: Path, count: int, at: float) -> list[str]:
    log = PredictionLog(path)
    for number in range(count):
        arrays = {name: np.zeros(2, dtype=np.float32) for name in ("probabilities", "embedding", "quality")}
        record = PredictionRecord(
            id=f"{at}-{number}",
            at=at,
            version="v",
            labels=("a", "b"),
            label="a",
            image_sha256=f"{number:064x}",
            **arrays,
        )
        log.append_now(record)
    log.close()
    return [f"{at}-{number}" for number in range(count)]


def test_an_old_answer_goes_unless_its_label_was_not_learned_yet(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("regraft.serving.log.pruning.NEWEST_KEPT", 3)
    path = tmp_path / "p.db"
    old, new = log_answers(path, 6, OLD), log_answers(path, 4, time.time())
    log = PredictionLog(path)
    for identity in (old[0], old[1]):
        log.record_feedback(identity, "b")
    log.close()
    unlearned = [f"{0:064x}", f"{2:064x}"]  # the second was learned, the third has no label
    assert count_old(path, time.time() - 86_400, unlearned)[0] == 5
    assert prune_log(path, time.time() - 86_400, unlearned) == 5
    with sqlite3.connect(path) as connection:
        assert {row[0] for row in connection.execute("SELECT id FROM predictions")} == {old[0], *new}
        assert [row[0] for row in connection.execute("SELECT id FROM feedback")] == [old[0]]
    assert prune_log(tmp_path / "absent.db", time.time(), []) == 0


def test_the_latest_answers_stay_whatever_their_age(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("regraft.serving.log.pruning.NEWEST_KEPT", 4)
    log_answers(tmp_path / "p.db", 6, OLD)
    assert prune_log(tmp_path / "p.db", time.time(), []) == 2


@pytest.mark.slow
def test_the_command_tells_first_and_removes_when_asked(home: Workspace, run_regraft) -> None:
    for number in range(3):
        make_version(home, f"number {number}", number)
    set_params(home.params, {"retention.versions": 1})
    told = run_regraft("clean", "--workspace", str(home.root), "--json")
    assert json.loads(told.stdout)["pieces"][0]["count"] == 2
    assert len(Registry(home.models_store).versions()) == 3
    done = run_regraft("clean", "--workspace", str(home.root), "--apply")
    assert "removed" in done.stdout
    assert len(Registry(home.models_store).versions()) == 1
