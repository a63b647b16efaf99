"""What enters the graph: the origin, batches of feedback, and the rows that are decided already."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.intake import read_intake
from tasks.intake import add_batch, rescan, take_in
from tasks.workspace import Workspace, init_workspace


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


def test_an_origin_with_other_labels_leaves_the_batches_behind(home: Workspace, folder: Path, tmp_path: Path) -> None:
    take_in(home, folder)
    add_batch(home, make_batch(home, "one"), keep=set())
    for label in ("cats", "dogs"):
        draw(tmp_path / "other" / label / "0.png", 1)
    take_in(home, tmp_path / "other")
    assert names(home) == ["origin"]


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
