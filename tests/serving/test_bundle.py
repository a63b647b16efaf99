"""A bundle says everything that is wrong with it, all at once."""

import json
import pickle
import shutil

import pytest

from regraft.serving.bundle.format import BundleError, hash_labels, open_bundle, seal_bundle


def problems(folder) -> list[str]:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    return caught.value.problems


def edit(folder, **changes) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_equal_contents_have_equal_versions_wherever_they_lie(tmp_path, make_bundle):
    first, second = make_bundle(tmp_path / "a"), make_bundle(tmp_path / "deep" / "b")
    assert open_bundle(first).info == open_bundle(second).info
    assert (first / "bundle.json").read_bytes() == (second / "bundle.json").read_bytes()


def test_every_change_of_the_contents_changes_the_version(tmp_path, make_bundle):
    versions = {open_bundle(make_bundle(tmp_path / str(bias), bias=bias)).info.version for bias in (0.0, 0.1)}
    versions.add(open_bundle(make_bundle(tmp_path / "named", name="other")).info.version)
    assert len(versions) == 3 and all(len(version) == 12 for version in versions)


def test_missing_changed_and_extra_files_are_all_named(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    (folder / "CARD.md").unlink()
    (folder / "model.onnx").write_bytes(b"other")
    (folder / "golden" / "more.png").write_bytes(b"")
    found = problems(folder)
    assert found == ["CARD.md is missing", "model.onnx was changed", "golden/more.png is not part of the bundle"]


def test_one_flipped_bit_in_any_file_is_found(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    for path in [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "bundle.json"]:
        original = path.read_bytes()
        path.write_bytes(bytes([original[0] ^ 1]) + original[1:])
        assert problems(folder) == [f"{path.relative_to(folder).as_posix()} was changed"]
        path.write_bytes(original)
    open_bundle(folder)


def test_a_file_swapped_for_a_link_to_an_equal_one_is_refused(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    shutil.move(folder / "model.onnx", tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    assert problems(folder) == ["model.onnx was changed"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ["red", "green"]}, "labels_sha256"),
        ({"metrics": {"test": {"accuracy": 0.5}}}, "the contents make"),
        ({"version": "0" * 12}, "the contents make"),
        ({"format": 2}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"labels": []}, "labels"),
    ],
)
def test_an_edited_description_is_refused(tmp_path, make_bundle, changes, said):
    folder = make_bundle(tmp_path / "b")
    edit(folder, **changes)
    assert any(said in problem for problem in problems(folder))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_description_that_is_not_one_is_refused(tmp_path, make_bundle, content):
    folder = make_bundle(tmp_path / "b")
    (folder / "bundle.json").write_bytes(content)
    assert problems(folder)[0].startswith("bundle.json")


def test_a_folder_without_a_bundle_says_so(tmp_path):
    assert "bundle.json is missing" in problems(tmp_path)[0]
    assert "bundle.json is missing" in problems(tmp_path / "nowhere")[0]


def test_without_verify_only_the_description_is_read(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    (folder / "model.onnx").write_bytes(b"other")
    assert open_bundle(folder, verify=False).info.labels == ["red", "green", "blue"]


def test_sealing_names_what_is_missing_and_what_is_double(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    draft = open_bundle(folder).info.model_dump(exclude={"version", "files", "labels_sha256", "preprocess_sha256"})
    (folder / "reference.npz").unlink()
    with pytest.raises(BundleError, match=r"reference.npz is missing; label 'a' occurs twice"):
        seal_bundle(folder, draft | {"labels": ["a", "b", "a"]})
    with pytest.raises(BundleError, match="lables"):
        seal_bundle(folder, draft | {"lables": ["a"]})


def test_numbers_that_json_cannot_carry_are_refused(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    draft = open_bundle(folder).info.model_dump(exclude={"version", "files", "labels_sha256", "preprocess_sha256"})
    with pytest.raises(BundleError, match="JSON"):
        seal_bundle(folder, draft | {"metrics": {"auc": float("nan")}})


def test_the_hash_of_labels_depends_on_their_order():
    assert hash_labels(["a", "b"]) != hash_labels(["b", "a"])


def test_the_error_survives_a_process_border(tmp_path):
    error = BundleError(tmp_path, ["one", "two"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
