"""Validation: what passes, and for every expectation a fault that it catches."""

import hashlib
import json
from dataclasses import replace

import pandas as pd
import pytest

from regraft.data.sources.sources import list_source
from regraft.data.validation import expectations
from regraft.data.validation.expectations import ExpectationFault, ValidateConfig, format_failures, validate_dataset

pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")  # great_expectations' import


def make_manifest(**counts: int) -> pd.DataFrame:
    rows = [
        (f"{label}/{n:03}.png", label)
        for label, count in (counts or {"cat": 60, "dog": 60}).items()
        for n in range(count)
    ]
    frame = pd.DataFrame(rows, columns=["path", "label"], dtype=object)
    frame["sha256"] = [f"{n:064}" for n in range(len(frame))]
    return frame.assign(source="origin", group=None, given_part=None, width=64, height=48, constant=False)


def make_quarantine(count: int) -> list[dict]:
    return [{"source": "origin", "path": f"cat/bad{n}.jpg", "label": "cat", "reason": "empty"} for n in range(count)]


def change(frame: pd.DataFrame, column: str, **values) -> pd.DataFrame:
    frame = frame.copy()
    frame[column] = [values.get(f"row{n}", value) for n, value in enumerate(frame[column])]
    return frame


def find_failed(frame, quarantine=(), **config) -> dict:
    return {item.name: item for item in validate_dataset(frame, quarantine, ValidateConfig(**config)).failed}


def test_good_data_pass_every_expectation():
    verdict = validate_dataset(make_manifest(), [], ValidateConfig())
    assert verdict.success
    assert format_failures(verdict) == ""
    assert verdict.counts == {"images": 120, "distinct": 120, "classes": 2, "quarantined": 0, "expectations": 12}
    assert [item.count for item in verdict.expectations] == [0] * 12


def test_allowed_labels_add_two_expectations():
    assert validate_dataset(make_manifest(), [], ValidateConfig(labels=("cat", "dog"))).counts["expectations"] == 14


def test_the_verdict_is_plain_json():
    verdict = validate_dataset(make_manifest(cat=60, dog=7), make_quarantine(2), ValidateConfig())
    said = verdict.to_json()
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said["success"] is False
    assert said["expectations"][0] == {
        "name": "decodable",
        "success": False,
        "expected": "at most 1.0% of the files to be unreadable",
        "observed": round(2 / 69, 6),
        "threshold": 0.01,
        "count": 2,
        "share": round(2 / 69, 6),
        "first_offenders": ["cat/bad0.jpg: empty", "cat/bad1.jpg: empty"],
        "advice": "Repair or remove these files, or raise max_unreadable_share; quarantine.json says what each lacks.",
        "binding": True,
    }


def test_the_share_of_unreadable_files_is_judged_at_its_limit():
    manifest = make_manifest(cat=99, dog=99)
    assert not find_failed(manifest, make_quarantine(2))
    failed = find_failed(manifest, make_quarantine(3))
    assert list(failed) == ["decodable"]
    assert failed["decodable"].count == 3


def test_a_share_that_is_exactly_the_limit_passes():
    assert 1 - 0.18 > 82 / 100  # in floating point
    assert not find_failed(make_manifest(cat=41, dog=41), make_quarantine(18), max_unreadable_share=0.18)
    assert find_failed(make_manifest(cat=41, dog=40), make_quarantine(18), max_unreadable_share=0.18)


@pytest.mark.parametrize(("height", "failed"), [(15, ["min_side"]), (16, []), (20_000, []), (20_001, ["max_side"])])
def test_sides_are_judged_at_their_limits(height, failed):
    found = find_failed(change(make_manifest(), "height", row3=height))
    assert list(found) == failed
    assert [item.first_offenders for item in found.values()] == [(f"cat/003.png: {height} px",)] * len(failed)
    assert [item.observed for item in found.values()] == [height] * len(failed)


def test_an_unknown_label_and_a_missing_class_are_named():
    failed = find_failed(make_manifest(cat=60, dgo=60), labels=("cat", "dog", "ape"))
    assert list(failed) == ["known_labels", "every_label_occurs"]
    assert failed["known_labels"].first_offenders[0] == "dgo/000.png: dgo"
    assert failed["known_labels"].count == 60
    assert failed["every_label_occurs"].first_offenders == ("ape", "dog")


@pytest.mark.parametrize(("repeated", "success"), [(0, True), (2, True), (3, False)])
def test_exact_duplicates_are_allowed_up_to_their_share_and_reported_in_any_case(repeated, success):
    manifest = make_manifest(cat=50, dog=50)
    manifest = change(manifest, "sha256", **{f"row{n + 1}": manifest["sha256"][0] for n in range(repeated)})
    verdict = validate_dataset(manifest, [], ValidateConfig())
    found = next(item for item in verdict.expectations if item.name == "exact_duplicates")
    assert (found.success, verdict.success, found.count) == (success, success, repeated)
    assert found.first_offenders == tuple(f"cat/{n + 1:03}.png = cat/000.png" for n in range(repeated))


def test_one_image_with_two_labels_is_never_allowed():
    manifest = make_manifest(cat=60, dog=60)
    failed = find_failed(change(manifest, "sha256", row60=manifest["sha256"][0]), max_duplicate_share=1)
    assert list(failed) == ["one_label_per_image"]
    assert failed["one_label_per_image"].first_offenders == ("cat/000.png: cat, dog", "dog/000.png: cat, dog")


def test_an_image_in_two_given_parts_is_never_allowed():
    manifest = change(make_manifest(), "given_part", row0="train", row1="test")
    assert not find_failed(manifest)
    failed = find_failed(change(manifest, "sha256", row1=manifest["sha256"][0]))
    assert list(failed) == ["given_parts_share_no_image"]
    assert failed["given_parts_share_no_image"].first_offenders[0] == "cat/000.png: test, train"


def test_a_group_in_two_given_parts_is_never_allowed():
    manifest = change(make_manifest(), "group", row0="lot", row1="lot", row2="lot")
    assert not find_failed(change(manifest, "given_part", row0="train", row1="train"))
    failed = find_failed(change(manifest, "given_part", row0="train", row1="test"))
    assert list(failed) == ["given_parts_share_no_group"]
    assert failed["given_parts_share_no_group"].count == 3
    assert failed["given_parts_share_no_group"].first_offenders[2] == "cat/002.png: group lot: test, train"


def test_one_class_is_not_enough():
    failed = find_failed(make_manifest(cat=60))
    assert list(failed) == ["two_classes"]
    assert failed["two_classes"].observed == 1


def test_an_empty_dataset_fails_and_does_not_crash():
    assert list(find_failed(make_manifest().iloc[:0])) == ["two_classes"]
    assert list(find_failed(make_manifest().iloc[:0], make_quarantine(3))) == ["decodable", "two_classes"]


@pytest.mark.parametrize(("count", "failed"), [(7, ["images_per_class"]), (8, [])])
def test_the_size_of_a_class_counts_distinct_images(count, failed):
    manifest = make_manifest(cat=60, dog=count + 1)
    manifest = change(manifest, "sha256", **{f"row{len(manifest) - 1}": manifest["sha256"][60]})
    found = find_failed(manifest)
    assert list(found) == failed
    assert [item.first_offenders for item in found.values()] == [("dog: 7 images",)] * len(failed)


@pytest.mark.parametrize(("count", "remarked"), [(160, False), (161, True), (952, True)])
def test_imbalance_is_remarked_at_its_limit_and_stops_nothing(count, remarked):
    verdict = validate_dataset(make_manifest(cat=count, dog=8), [], ValidateConfig())
    assert verdict.success
    assert format_failures(verdict) == ""
    assert [line.startswith("class_ratio: dog: 8 images") for line in verdict.remarks] == [True] * remarked
    said = {item["name"]: item for item in verdict.to_json()["expectations"]}["class_ratio"]
    assert (said["success"], said["binding"]) == (not remarked, False)


def test_lost_classes_and_notes_are_remarked_and_written():
    verdict = validate_dataset(make_manifest(), [], ValidateConfig())
    verdict = replace(verdict, lost={"owl": "owl/ is empty"}, notes=("labels.csv lies there",))
    assert verdict.remarks == ["without the class owl, as allowed: owl/ is empty", "labels.csv lies there"]
    assert verdict.to_json()["lost"] == {"owl": "owl/ is empty"}


def test_a_class_that_is_only_in_the_test_part_cannot_be_learnt():
    manifest = make_manifest(cat=20, dog=20)
    parts = {f"row{n}": "test" if n >= 20 else "train" for n in range(40)}
    failed = find_failed(change(manifest, "given_part", **parts))
    assert list(failed) == ["trainable_classes"]
    assert failed["trainable_classes"].first_offenders == ("dog: 0 to learn from, 20 in all",)


def test_offenders_of_several_sources_carry_their_source():
    manifest = change(make_manifest(), "source", row0="second")
    assert find_failed(change(manifest, "height", row0=1))["min_side"].first_offenders == ("second:cat/000.png: 1 px",)


def test_the_text_for_people_says_what_failed_how_often_where_and_what_to_do():
    text = format_failures(validate_dataset(make_manifest(cat=60, dog=2), make_quarantine(9), ValidateConfig()))
    assert text.splitlines()[0] == "2 of 12 expectations failed on 62 images"
    for part in (
        "decodable: expected at most 1.0%",
        "9 offending",
        "and 4 more",
        "dog: 2 images",
        "min_images_per_class is the limit",
    ):
        assert part in text


def test_no_verdict_depends_on_the_index_of_the_manifest():
    manifest = change(make_manifest(), "height", row3=1)
    manifest.index = range(500, 500 + len(manifest))
    assert find_failed(manifest)["min_side"].first_offenders == ("cat/003.png: 1 px",)


def test_an_expectation_that_cannot_be_evaluated_is_a_fault_and_no_verdict(monkeypatch):
    real = expectations.between
    monkeypatch.setattr(expectations, "between", lambda column, **limits: real(f"no_{column}", **limits))
    with pytest.raises(ExpectationFault, match="min_side could not be evaluated"):
        validate_dataset(make_manifest(), [], ValidateConfig())


@pytest.mark.parametrize(("name", "duplicates"), [("neu", 1), ("xsdd", 9), ("mednist", 7), ("hymenoptera", 0)])
def test_real_data_pass_with_the_defaults(shared, name, duplicates):
    entries = list_source(shared / "datasets" / name).entries  # hashed here, not decoded: that would take seconds
    rows = [(e.path, e.label, e.part, hashlib.sha256(e.file.read_bytes()).hexdigest()) for e in entries]
    manifest = pd.DataFrame(rows, columns=["path", "label", "given_part", "sha256"])
    manifest = manifest.assign(source="origin", group=None, width=64, height=64, constant=False)
    verdict = validate_dataset(manifest, [], ValidateConfig())
    assert verdict.success, format_failures(verdict)
    assert next(item.count for item in verdict.expectations if item.name == "exact_duplicates") == duplicates
