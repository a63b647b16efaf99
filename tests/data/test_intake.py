"""Sources: folders and manifests, listed without opening an image."""

import json
import os
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft.data.sources.entries import IntakeError
from regraft.data.sources.sources import check_sources, list_source, read_intake, scan_source, write_intake

JPEG = b"\xff\xd8\xff\xe0 not decoded here"


def plant(root: Path, *names: str, content: bytes = JPEG) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def list_rows(path: Path) -> list[tuple]:
    return [(entry.path, entry.label, entry.group, entry.part) for entry in list_source(path).entries]


def write_table(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / name
    table.write_bytes(text.encode() if isinstance(text, str) else text)
    return table


def test_a_folder_per_class_gives_the_labels(tmp_path):
    plant(tmp_path, "cat/b.jpg", "cat/a.png", "dog/deep/er/c.jpeg")
    assert list_rows(tmp_path) == [
        ("cat/a.png", "cat", None, None),
        ("cat/b.jpg", "cat", None, None),
        ("dog/deep/er/c.jpeg", "dog", None, None),
    ]


@pytest.mark.parametrize("held_out", ["val", "Valid", "VALIDATION"])
def test_part_folders_are_known_by_every_usual_name(tmp_path, held_out):
    plant(tmp_path, "Train/cat/a.jpg", f"{held_out}/cat/b.jpg", "test/cat/c.jpg")
    assert {path.split("/")[0]: part for path, _, _, part in list_rows(tmp_path)} == {
        "Train": "train",
        held_out: "validation",
        "test": "test",
    }


def test_a_class_may_be_called_test_where_no_parts_are_given(tmp_path):
    plant(tmp_path, "test/a.jpg", "good/b.jpg")
    assert [(label, part) for _, label, _, part in list_rows(tmp_path)] == [("good", None), ("test", None)]


def test_part_folders_beside_class_folders_are_refused(tmp_path):
    plant(tmp_path, "train/cat/a.jpg", "dog/b.jpg")
    with pytest.raises(IntakeError, match=r"dog/ lies beside train/"):
        list_source(tmp_path)


def test_parts_without_train_are_refused(tmp_path):
    plant(tmp_path, "val/cat/a.jpg", "test/cat/b.jpg")
    with pytest.raises(IntakeError, match="no train/"):
        list_source(tmp_path)


def test_other_files_are_ignored_and_counted_by_extension(tmp_path):
    plant(tmp_path, "cat/a.jpg", "dog/b.jpg", ".cache/x/c.jpg", "__MACOSX/cat/._a.jpg")
    plant(tmp_path, "cat/.DS_Store", "cat/Thumbs.db", "readme.txt", "dog/notes.TXT", "dog/LICENSE", content=b"text")
    listing = list_source(tmp_path)
    assert len(listing.entries) == 2
    assert listing.ignored == {"hidden": 1, ".db": 1, ".txt": 2, "none": 1}
    assert not listing.refused


def test_images_with_a_wrong_or_no_extension_are_judged_by_content(tmp_path):
    plant(tmp_path, "cat/a.dat", "dog/b")
    assert [path for path, *_ in list_rows(tmp_path)] == ["cat/a.dat", "dog/b"]


def test_text_with_an_image_extension_is_listed_so_that_ingest_quarantines_it(tmp_path):
    plant(tmp_path, "cat/a.jpg", content=b"<html>")
    assert len(list_source(tmp_path).entries) == 1


def test_images_outside_of_a_class_folder_are_refused_by_name(tmp_path):
    plant(tmp_path, "cat/a.jpg", "loose.jpg")
    refused = list_source(tmp_path).refused
    assert [(item.path, item.reason) for item in refused] == [("loose.jpg", "no_label")]


def test_special_files_and_symlinks_that_lead_out_are_never_opened(tmp_path):
    plant(tmp_path, "outside/secret.jpg")
    source = plant(tmp_path / "source", "cat/a.jpg", "dog/b.jpg")
    os.mkfifo(source / "cat/pipe.jpg")
    os.mkfifo(source / "cat/pipe")
    os.mkfifo(tmp_path / "outside/pipe")
    (source / "cat/out.jpg").symlink_to(tmp_path / "outside/secret.jpg")
    (source / "cat/dangling.jpg").symlink_to(source / "cat/gone.jpg")
    (source / "cat/folder.jpg").symlink_to(source / "dog")
    (source / "cat/device.jpg").symlink_to("/dev/zero")
    (source / "cat/inside.jpg").symlink_to("a.jpg")
    (source / "cat/to_pipe.jpg").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(source / "cat")  # the name of a socket is limited to 108 bytes
        try:
            server.bind("socket.jpg")
        finally:
            os.chdir(here)
    listing = list_source(source)
    assert [entry.path for entry in listing.entries] == ["cat/a.jpg", "cat/inside.jpg", "dog/b.jpg"]
    assert {item.path: item.reason for item in listing.refused} == {
        "cat/dangling.jpg": "symlink",
        "cat/device.jpg": "symlink",
        "cat/folder.jpg": "linked_folder",
        "cat/out.jpg": "symlink",
        "cat/pipe": "special_file",
        "cat/pipe.jpg": "special_file",
        "cat/socket.jpg": "special_file",
        "cat/to_pipe.jpg": "special_file",
    }


def test_a_folder_that_links_to_itself_ends(tmp_path):
    plant(tmp_path, "cat/a.jpg", "dog/b.jpg")
    (tmp_path / "cat/loop").symlink_to(tmp_path)
    assert [item.reason for item in list_source(tmp_path).refused] == ["linked_folder"]


def test_strange_names_are_listed(tmp_path):
    names = ["-rf.jpg", "a b.jpg", "new\nline.jpg", "émoji 🐱.jpg", "x" * 251 + ".jpg"]
    plant(tmp_path, *(f"cat/{name}" for name in names))
    with Path(os.fsdecode(os.fsencode(tmp_path) + b"/cat/\xff\xfe.jpg")).open("wb") as file:
        file.write(JPEG)
    paths = [path for path, *_ in list_rows(tmp_path)]
    assert sorted(paths) == sorted([f"cat/{name}" for name in names] + [r"cat/\xff\xfe.jpg"])
    "".join(paths).encode()


def test_labels_that_look_the_same_are_the_same(tmp_path):
    plant(tmp_path, "caf\u00e9/a.jpg", "cafe\u0301/b.jpg")
    assert {label for _, label, *_ in list_rows(tmp_path)} == {"caf\u00e9"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "found nothing"),
        (("a.jpg", "b.jpg"), "2 no_label"),
        (("cat/notes.txt",), "1 ignored .txt"),
    ],
)
def test_a_folder_without_classes_says_what_was_found(tmp_path, names, message):
    plant(tmp_path, *names, content=b"text")
    with pytest.raises(IntakeError, match=message):
        list_source(tmp_path)


def test_a_folder_with_a_manifest_in_it_points_to_the_manifest(tmp_path):
    plant(tmp_path, "a.jpg")
    write_table(tmp_path, "path,label\na.jpg,cat\n")
    with pytest.raises(IntakeError, match=r"To learn from it: regraft train --data .*labels\.csv"):
        list_source(tmp_path)


def test_what_does_not_exist_or_is_no_source_is_said(tmp_path):
    with pytest.raises(IntakeError, match="does not exist"):
        scan_source(tmp_path / "gone", "origin")
    with pytest.raises(IntakeError, match="neither a folder nor a manifest"):
        scan_source(plant(tmp_path, "photos.zip") / "photos.zip", "origin")


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_csv_dialects_give_the_same_rows(tmp_path, start, end, comma):
    plant(tmp_path, "images/a.jpg", "images/b.jpg")
    lines = ["path,label,group,split", "images/b.jpg,dog,lot 2,", "images/a.jpg,cat,,Val", ""]
    table = write_table(tmp_path, start + end.join(lines).replace(",", comma).encode())
    assert list_rows(table) == [
        ("images/a.jpg", "cat", None, "validation"),
        ("images/b.jpg", "dog", "lot 2", None),
    ]


def test_quoted_line_ends_and_further_columns_are_understood(tmp_path):
    plant(tmp_path, "a.jpg")
    table = write_table(tmp_path, 'Label , note,path\n"two\nlines","x, y",a.jpg\n')
    assert list_rows(table) == [("a.jpg", "two\nlines", None, None)]


def test_paths_are_absolute_or_relative_to_the_manifest(tmp_path):
    plant(tmp_path, "set/a.jpg", "elsewhere/b.jpg", "c.jpg")
    table = write_table(
        tmp_path / "set",
        f"path,label\n{tmp_path}/set/a.jpg,x\n{tmp_path}/elsewhere/b.jpg,y\n../c.jpg,z\n",
    )
    assert {label: path for path, label, *_ in list_rows(table)} == {
        "x": "a.jpg",
        "y": f"{tmp_path}/elsewhere/b.jpg",
        "z": "../c.jpg",
    }


def test_every_bad_row_of_a_manifest_is_in_one_error(tmp_path):
    plant(tmp_path, "a.jpg", "folder/b.jpg")
    rows = ["path,label,group,split", "a.jpg,cat,,", "gone.jpg,cat,,", "a.jpg,,,", "a.jpg,NaN,,", "a.jpg,cat,,third"]
    table = write_table(tmp_path, "\n".join([*rows, "folder,cat,,", "a.jpg,cat", ",dog,,", "a\0.jpg,cat,,"]))
    with pytest.raises(IntakeError) as caught:
        list_source(table)
    assert len(caught.value.problems) == 8
    text = str(caught.value)
    for part in ("gone.jpg", "row 4: no label", "row 5: no label", "'third'", "is a folder", "2 fields", "no path"):
        assert part in text


def test_an_error_shows_the_first_problems_and_counts_the_rest(tmp_path):
    table = write_table(tmp_path, "path,label\n" + "".join(f"gone{n}.jpg,cat\n" for n in range(25)))
    with pytest.raises(IntakeError, match="25 problems") as caught:
        list_source(table)
    assert "and 15 more" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"path,label,Label\n", "'label' occurs 2 times"),
        (b"picture,label\n", "'path' is missing"),
        (b"", "'path' is missing"),
        (b"path,label\n", "holds no rows"),
        ("path,label\nä.jpg,x\n".encode("latin-1"), "not UTF-8 at byte 11"),
        (b'path,label\n"a.jpg,x\n', "line 2"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(tmp_path, text, message):
    with pytest.raises(IntakeError, match=message):
        list_source(write_table(tmp_path, text))


def test_a_parquet_manifest_turns_whole_numbers_into_text_labels(tmp_path):
    plant(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    table = tmp_path / "labels.parquet"
    columns = {"path": ["a.jpg", "b.jpg", "c.jpg"], "label": [1.0, 2.0, 2.5], "group": [None, 7, 7]}
    pq.write_table(pa.table(columns), table)
    assert list_rows(table) == [("a.jpg", "1", None, None), ("b.jpg", "2", "7", None), ("c.jpg", "2.5", "7", None)]


def test_a_parquet_label_that_is_nan_or_null_is_a_problem(tmp_path):
    plant(tmp_path, "a.jpg")
    table = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"path": ["a.jpg", "a.jpg", "a.jpg"], "label": [float("nan"), None, 1.0]}), table)
    with pytest.raises(IntakeError, match="2 problems"):
        list_source(table)


def test_bytes_that_are_no_parquet_are_said(tmp_path):
    with pytest.raises(IntakeError, match="not readable as Parquet"):
        list_source(write_table(tmp_path, b"nonsense", "labels.parquet"))


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_damaged_parquet_manifest_is_bad_input_whatever_broke(tmp_path, keep, zeros):
    plant(tmp_path, "a.jpg")
    table = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"path": ["a.jpg"] * 500, "label": [f"class {n}" for n in range(500)]}), table)
    whole = table.read_bytes()
    cut = int(len(whole) * keep)
    table.write_bytes(whole[:cut] + bytes(len(whole) - cut - 8) + whole[-8:] if zeros else whole[:cut])
    with pytest.raises(IntakeError, match="not readable as Parquet"):
        list_source(table)


def test_usual_names_of_columns_are_taken_where_they_are_clear(tmp_path):
    plant(tmp_path, "a.jpg", "b.jpg")
    table = write_table(tmp_path, "Filename,class,part\na.jpg,cat,train\nb.jpg,dog,dev\n")
    assert [(path, label) for path, label, *_ in list_rows(table)] == [("a.jpg", "cat"), ("b.jpg", "dog")]
    with pytest.raises(IntakeError, match="'path' is missing"):
        list_source(write_table(tmp_path, "file,image,label\na.jpg,b.jpg,cat\n"))


def test_a_manifest_that_may_not_be_read_is_bad_input(tmp_path, monkeypatch):
    table = write_table(tmp_path, "path,label\n")
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(IntakeError, match="cannot be read"):
        list_source(table)


def test_an_intake_of_an_earlier_release_is_read(tmp_path):
    source = scan_source(plant(tmp_path / "set", "cat/a.jpg", "dog/b.jpg"), "origin")
    write_intake(tmp_path / "intake.json", [source])
    written = json.loads((tmp_path / "intake.json").read_text())
    for name in ("layout", "empty", "allowed", "notes"):
        del written["sources"][0][name]
    (tmp_path / "intake.json").write_text(json.dumps(written))
    assert read_intake(tmp_path / "intake.json") == [source]


def test_a_manifest_may_name_special_files_without_blocking(tmp_path):
    plant(tmp_path, "set/a.jpg", "outside.jpg")
    os.mkfifo(tmp_path / "set/pipe.jpg")
    (tmp_path / "set/link.jpg").symlink_to(tmp_path / "outside.jpg")
    table = write_table(tmp_path / "set", "path,label\na.jpg,x\npipe.jpg,x\nlink.jpg,y\n/dev/zero,y\n")
    listing = list_source(table)
    assert [entry.path for entry in listing.entries] == ["a.jpg"]
    assert {item.path: item.reason for item in listing.refused} == {
        "/dev/zero": "special_file",
        "link.jpg": "symlink",
        "pipe.jpg": "special_file",
    }


def test_the_fingerprint_notices_every_kind_of_change(tmp_path):
    plant(tmp_path, "cat/a.jpg", "dog/b.jpg")
    first = scan_source(tmp_path, "origin")
    assert first == scan_source(tmp_path, "origin")
    seen = {first.fingerprint}
    plant(tmp_path, "dog/c.jpg")
    seen.add(scan_source(tmp_path, "origin").fingerprint)
    os.utime(tmp_path / "dog/c.jpg", ns=(1, 1))
    seen.add(scan_source(tmp_path, "origin").fingerprint)
    (tmp_path / "dog/c.jpg").rename(tmp_path / "cat/c.jpg")
    seen.add(scan_source(tmp_path, "origin").fingerprint)
    os.mkfifo(tmp_path / "cat/d.jpg")
    seen.add(scan_source(tmp_path, "origin").fingerprint)
    assert len(seen) == 5


def test_the_fingerprint_of_a_manifest_covers_its_labels(tmp_path):
    plant(tmp_path, "a.jpg", "b.jpg")
    first = scan_source(write_table(tmp_path, "path,label\na.jpg,x\nb.jpg,y\n"), "origin")
    second = scan_source(write_table(tmp_path, "path,label\na.jpg,y\nb.jpg,x\n"), "origin")
    assert (first.kind, first.files, first.labels) == ("manifest", 2, ("x", "y"))
    assert first.fingerprint != second.fingerprint


def test_an_intake_is_read_back_as_written(tmp_path):
    source = scan_source(plant(tmp_path / "set", "cat/a.jpg", "dog/b.jpg"), "origin")
    write_intake(tmp_path / "intake.json", [source])
    assert read_intake(tmp_path / "intake.json") == [source]


def test_an_intake_that_is_missing_or_damaged_says_what_to_run(tmp_path):
    with pytest.raises(IntakeError, match="regraft train --data"):
        read_intake(tmp_path / "intake.json")
    (tmp_path / "intake.json").write_text('{"sources": [{"name": 1}]}')
    with pytest.raises(IntakeError, match="not an intake file"):
        read_intake(tmp_path / "intake.json")


def test_one_class_only_is_refused_over_all_sources(tmp_path):
    cats = scan_source(plant(tmp_path / "one", "cat/a.jpg"), "one")
    dogs = scan_source(plant(tmp_path / "two", "dog/a.jpg"), "two")
    with pytest.raises(IntakeError, match="only one class, 'cat'"):
        write_intake(tmp_path / "intake.json", [cats])
    assert not (tmp_path / "intake.json").exists()
    check_sources([cats, dogs])
    with pytest.raises(IntakeError, match="two sources are called 'two'"):
        check_sources([cats, dogs, dogs])
    with pytest.raises(IntakeError, match="no source"):
        check_sources([])


def test_real_part_folders_are_scanned(shared):
    source = scan_source(shared / "datasets/hymenoptera", "origin")
    assert (source.files, source.labels) == (398, ("ants", "bees"))
