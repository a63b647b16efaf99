"""What folders mean: parts in their usual spellings, wrappers, levels with two readings, what is no class at all."""

from pathlib import Path

import pytest

from regraft.data.sources.entries import IntakeError
from regraft.data.sources.layout import Layout, LayoutQuestion
from regraft.data.sources.parts import name_parts
from regraft.data.sources.sources import list_source, scan_source
from regraft.data.sources.spelling import SpellingQuestion

JPEG = b"\xff\xd8\xff\xe0 not decoded here"
LINES = [f"{line}/{label}/{n}.jpg" for line in ("line_a", "line_b") for label in ("cat", "dog") for n in range(2)]


def plant(root: Path, *names: str, content: bytes = JPEG) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def plant_workspace(root: Path) -> Path:
    """Make what ``regraft init`` and a first version leave: marks, and golden images that must not become a class."""
    plant(root, "params.yaml", "dvc.yaml", ".dvc/config", content=b"")
    return plant(root, "data/store/feedback/b/x.png", "models/store/versions/v/golden/0.png", ".regraft/images/k.png")


def labels(root: Path, **layout) -> set[str]:
    return {entry.label for entry in list_source(root, Layout(**layout)).entries}


def parts(root: Path) -> dict[str, str | None]:
    return {entry.path: entry.part for entry in list_source(root).entries}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *(
            (name, "train")
            for name in ("train", "Training", "TRAIN", "train_set", "trainset", "train-images", "train1")
        ),
        *((name, "validation") for name in ("val", "Valid", "validation", "dev", "val2017", "dev_set", "Val Data")),
        *((name, "test") for name in ("test", "testing", "TEST", "test_images", "eval", "hold-out", "Holdout Set")),
        *(
            (name, None)
            for name in ("cat", "protest", "latest", "trainer", "contest", "device", "data", "set", "7", "")
        ),
    ],
)
def test_usual_names_of_parts_are_known_and_others_are_not(name, part):
    assert name_parts([name]).get(name) == part


def test_what_is_held_out_beside_a_test_part_chooses():
    assert name_parts(["train", "eval", "test"]) == {"train": "train", "eval": "validation", "test": "test"}


def test_training_and_testing_are_parts_and_that_is_said(tmp_path):
    plant(tmp_path, "training/cat/a.jpg", "training/dog/b.jpg", "testing/cat/c.jpg", "testing/dog/d.jpg")
    assert labels(tmp_path) == {"cat", "dog"}
    assert set(parts(tmp_path).values()) == {"train", "test"}
    assert list_source(tmp_path).notes == ("given parts: testing/ test, training/ train",)


def test_parts_below_the_classes_are_parts(tmp_path):
    plant(tmp_path, "cat/train/a.jpg", "cat/test/b.jpg", "dog/train/c.jpg", "dog/test/d.jpg")
    assert labels(tmp_path) == {"cat", "dog"}
    assert parts(tmp_path)["dog/test/d.jpg"] == "test"


def test_the_same_folders_in_every_folder_are_asked_about(tmp_path):
    plant(tmp_path, *LINES)
    with pytest.raises(LayoutQuestion) as caught:
        list_source(tmp_path)
    for part in ("line_a, line_b: --classes-at 1", "cat, dog: --classes-at 2", "--groups-at 1"):
        assert part in str(caught.value)
    assert labels(tmp_path, classes_at=1) == {"line_a", "line_b"}
    assert labels(tmp_path, classes_at=2) == {"cat", "dog"}
    entries = list_source(tmp_path, Layout(classes_at=2, groups_at=1)).entries
    assert {(entry.group, entry.label) for entry in entries} == {
        (g, c) for g in ("line_a", "line_b") for c in ("cat", "dog")
    }


def test_lines_that_share_one_class_only_are_asked_about(tmp_path):
    plant(tmp_path, "a/good/1.jpg", "a/dent/2.jpg", "b/good/3.jpg", "b/crack/4.jpg")
    with pytest.raises(LayoutQuestion):
        list_source(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("cat/images/a.jpg", "dog/images/b.jpg"),
        ("cat/persian/a.jpg", "cat/tabby/b.jpg", "dog/pug/c.jpg", "dog/terrier/d.jpg"),
        ("cat/old/a.jpg", *(f"cat/{n}.jpg" for n in range(9)), "dog/old/c.jpg", *(f"dog/{n}.jpg" for n in range(9))),
    ],
)
def test_inner_folders_that_do_not_repeat_are_not_asked_about(tmp_path, names):
    assert labels(plant(tmp_path, *names)) == {"cat", "dog"}


def test_groups_may_lie_below_the_classes(tmp_path):
    plant(tmp_path, "cat/p1/a.jpg", "cat/p2/b.jpg", "dog/p1/c.jpg", "dog/d.jpg")
    entries = list_source(tmp_path, Layout(classes_at=1, groups_at=2)).entries
    assert [(entry.label, entry.group) for entry in entries] == [
        ("cat", "p1"),
        ("cat", "p2"),
        ("dog", None),
        ("dog", "p1"),
    ]


def test_folds_are_no_classes(tmp_path):
    plant(tmp_path / "deep", *(f"fold{n}/{label}/a.jpg" for n in range(1, 5) for label in ("cat", "dog")))
    assert labels(tmp_path / "deep") == {"cat", "dog"}
    plant(tmp_path / "flat", *(f"fold{n}/a.jpg" for n in range(1, 5)))
    with pytest.raises(IntakeError, match="fold1, fold2, fold3, fold4 are folds, not classes"):
        list_source(tmp_path / "flat")
    assert len(labels(tmp_path / "flat", classes_at=1)) == 4


def test_flat_parts_beside_a_table_are_refused_and_the_table_is_named(tmp_path):
    plant(tmp_path, "train/c1.jpg", "train/d1.jpg", "test/c2.jpg", "test/d2.jpg")
    rows = "file,class\ntrain/c1.jpg,cat\ntrain/d1.jpg,dog\ntest/c2.jpg,cat\ntest/d2.jpg,dog\n"
    plant(tmp_path, "labels.csv", content=rows.encode())
    with pytest.raises(IntakeError, match=r"test/, train/ are parts.*\n.*\n.*regraft train --data .*labels.csv"):
        list_source(tmp_path)
    listing = list_source(tmp_path / "labels.csv")
    assert [(entry.label, entry.part) for entry in listing.entries] == [
        ("cat", "test"), ("dog", "test"), ("cat", "train"), ("dog", "train"),
    ]  # fmt: skip
    assert "given parts" in listing.notes[0]
    assert labels(tmp_path, classes_at=1) == {"train", "test"}


def test_a_flat_part_beside_one_with_classes_is_named(tmp_path):
    plant(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "test/c.jpg")
    with pytest.raises(IntakeError, match="test/ holds images without class folders"):
        list_source(tmp_path)


def test_a_table_or_an_archive_beside_class_folders_is_named(tmp_path):
    plant(tmp_path, "cat/a.jpg", "dog/b.jpg")
    plant(tmp_path, "labels.csv", "owl.zip", content=b"path,label\n")
    notes = " ".join(list_source(tmp_path).notes)
    assert "labels.csv lies beside the class folders and is not read" in notes
    assert "owl.zip lies beside the class folders" in notes


def test_lone_wrappers_are_entered_and_litter_beside_them_is_ignored(tmp_path):
    plant(tmp_path, "photos/v2/cat/a.jpg", "photos/v2/dog/b.jpg", "__MACOSX/photos/cat/._a.jpg", "photos/@eaDir/a.jpg")
    assert labels(tmp_path) == {"cat", "dog"}
    assert list_source(tmp_path).notes == ("photos/v2/ holds everything and was entered",)
    plant(tmp_path / "parted", "set/train/cat/a.jpg", "set/val/cat/b.jpg")
    assert parts(tmp_path / "parted")["set/val/cat/b.jpg"] == "validation"


@pytest.mark.parametrize(
    "litter",
    [
        "@eaDir",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        ".Trash-1000",
        "lost+found",
        ".ipynb_checkpoints",
    ],
)
def test_what_systems_leave_behind_is_no_class_at_any_level(tmp_path, litter):
    plant(tmp_path, "cat/a.jpg", "dog/b.jpg", f"{litter}/c.jpg", f"cat/{litter}/d.jpg", f"{litter}/x/e.jpg")
    listing = list_source(tmp_path)
    assert [entry.path for entry in listing.entries] == ["cat/a.jpg", "dog/b.jpg"]
    assert not listing.empty


@pytest.mark.parametrize("where", ["", "w", "deep/w"])
def test_a_workspace_in_the_data_or_around_it_gives_no_class(tmp_path, where):
    plant(tmp_path, "cat/a.jpg", "dog/b.jpg")
    before = scan_source(tmp_path, "origin")
    plant_workspace(tmp_path / where)
    after = scan_source(tmp_path, "origin")
    assert (after.labels, after.fingerprint) == (("cat", "dog"), before.fingerprint)
    assert "deep" in after.empty or not after.empty
    assert any("part of a workspace" in note for note in list_source(tmp_path).notes)


def test_data_inside_a_workspace_are_data(tmp_path):
    plant_workspace(tmp_path)
    plant(tmp_path, "data/cat/a.jpg", "data/dog/b.jpg", "photos/cat/a.jpg", "photos/dog/b.jpg")
    assert labels(tmp_path / "data") == labels(tmp_path / "photos") == {"cat", "dog"}


def test_a_class_folder_without_an_image_is_named_with_the_reason(tmp_path):
    plant(tmp_path, "cat/a.jpg", "dog/b.jpg", "elsewhere/owl/c.jpg")
    (tmp_path / "elsewhere").rename(tmp_path.with_name("elsewhere"))
    (tmp_path / "owl").symlink_to(tmp_path.with_name("elsewhere") / "owl")
    (tmp_path / "ape").mkdir()
    plant(tmp_path, "bat/film.mp4", "docs/readme.txt", content=b"text")
    source = scan_source(tmp_path, "origin")
    assert source.labels == ("cat", "dog")
    assert source.empty == {
        "ape": "ape/ holds no image: it is empty",
        "bat": "bat/ holds no image (1 .mp4)",
        "owl": source.empty["owl"],
    }
    assert source.empty["owl"].startswith("owl/ is a link to ")
    listing = list_source(tmp_path)
    assert not listing.refused
    assert "docs/ holds no image, only 1 .txt: it is not a class" in listing.notes


@pytest.mark.parametrize(
    "names", [("Cat/a.jpg", "cat/b.jpg"), ("cat /a.jpg", "cat/b.jpg"), ("train/Hot Dog/a.jpg", "test/hot_dog/b.jpg")]
)
def test_names_that_look_alike_are_asked_about(tmp_path, names):
    plant(
        tmp_path, *names, *(["owl/c.jpg"] if len(names[0].split("/")) == 2 else ["train/owl/c.jpg", "test/owl/d.jpg"])
    )
    with pytest.raises(SpellingQuestion, match="--similar-labels merge"):
        list_source(tmp_path)
    assert len(labels(tmp_path, alike="merge")) == 2


def test_alike_names_in_a_manifest_are_asked_about(tmp_path):
    plant(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    plant(tmp_path, "labels.csv", content=b"path,label\na.jpg,scratch\nb.jpg,Scratch\nc.jpg,dent\n")
    with pytest.raises(SpellingQuestion, match=r"'Scratch' \(1 images\), 'scratch' \(1 images\)"):
        list_source(tmp_path / "labels.csv")


def test_what_was_said_of_a_spelling_holds_for_that_spelling_only(tmp_path):
    plant(tmp_path, "cat/a.jpg", "cat/b.jpg", "Cat/c.jpg", "A/d.jpg", "a/e.jpg")
    merged = scan_source(tmp_path, "origin", Layout(alike="merge"))
    assert merged.labels == ("A", "cat")
    again = scan_source(tmp_path, "origin", merged.layout)
    assert again == merged
    apart = scan_source(tmp_path, "origin", Layout(alike="apart"))
    assert apart.labels == ("A", "Cat", "a", "cat")
    plant(tmp_path, "CAT/f.jpg")
    with pytest.raises(SpellingQuestion, match="'CAT'"):
        scan_source(tmp_path, "origin", merged.layout)


def test_a_spelling_that_a_model_knows_is_preferred(tmp_path):
    plant(tmp_path, "cat/a.jpg", "cat/b.jpg", "Cat/c.jpg", "dog/d.jpg")
    assert scan_source(tmp_path, "origin", Layout(alike="merge"), known=["Cat", "dog"]).labels == ("Cat", "dog")
