"""Splits: stratified, grouped, and no image ever moves."""

import hashlib

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from regraft.data.dataset.manifest import DatasetError
from regraft.data.split.split import SplitConfig, SplitError, read_split, split_dataset, write_split

CONFIG = SplitConfig()
COLUMNS = ["sha256", "path", "source", "label", "group", "given_part"]


def hash_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def make_manifest(rows: list[tuple]) -> pd.DataFrame:
    """Return a manifest of (content, label, group, given part) rows, shorter ones filled with None."""
    filled = [(*row, None, None)[:4] for row in rows]
    values = [(hash_of(c), f"{label}/{c}", "origin", label, group, part) for c, label, group, part in filled]
    return pd.DataFrame(values, columns=COLUMNS, dtype=object)


def make_classes(**counts: int) -> list[tuple]:
    return [(f"{label}{n}", label) for label, count in counts.items() for n in range(count)]


def parts_of(split: pd.DataFrame) -> dict[str, str]:
    return dict(zip(split["sha256"], split["part"], strict=True))


def count_parts(split: pd.DataFrame, label: str) -> tuple[int, ...]:
    parts = list(split[split["label"] == label]["part"])
    return tuple(parts.count(part) for part in ("train", "validation", "test"))


def test_every_class_meets_its_shares():
    split = split_dataset(make_manifest(make_classes(cat=200, dog=40, ape=7)), {}, CONFIG)
    assert count_parts(split, "cat") == (130, 30, 40)
    assert count_parts(split, "dog") == (26, 6, 8)
    assert count_parts(split, "ape") in {(5, 1, 1), (4, 1, 2)}


def test_rows_are_ordered_by_hash_and_hold_each_content_once():
    split = split_dataset(make_manifest([*make_classes(cat=20, dog=20), ("cat0", "cat", "lot")]), {}, CONFIG)
    assert list(split.columns) == ["sha256", "label", "group", "part", "sampling"]
    assert list(split["sha256"]) == sorted(set(split["sha256"]))
    assert list(split[split["sha256"] == hash_of("cat0")]["group"]) == ["lot"]
    assert split["group"].isna().sum() == 39


def test_another_seed_is_another_split():
    manifest = make_manifest(make_classes(cat=50, dog=50))
    splits = [parts_of(split_dataset(manifest, {}, SplitConfig(seed=seed))) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_classes_of_three_images_have_one_in_every_part():
    split = split_dataset(make_manifest(make_classes(cat=3, dog=3, ape=300)), {}, CONFIG)
    assert count_parts(split, "cat") == count_parts(split, "dog") == (1, 1, 1)


def test_three_groups_of_a_class_go_to_three_parts_and_the_largest_trains():
    rows = [(f"cat{n}", "cat", "big" if n < 30 else "mid" if n < 35 else "low") for n in range(40)]
    split = split_dataset(make_manifest(rows + make_classes(dog=50)), {}, CONFIG)
    assert sorted(count_parts(split, "cat")) == [5, 5, 30]
    assert count_parts(split, "cat")[0] == 30


def test_groups_joined_by_a_duplicate_stay_together():
    rows = [(f"a{n}", "cat", f"lot{n % 10}") for n in range(60)] + make_classes(dog=60)
    rows += [("a0", "cat", "lot1"), ("a1", "cat", "lot2")]
    parts = parts_of(split_dataset(make_manifest(rows), {}, CONFIG))
    assert len({parts[hash_of(f"a{n}")] for n in range(60) if n % 10 < 3}) == 1


def test_all_three_given_parts_are_respected():
    parts = ["train", "validation", "test"]
    rows = [(f"{label}{n}", label, None, parts[n % 3]) for label in ("cat", "dog") for n in range(30)]
    split = parts_of(split_dataset(make_manifest(rows), {}, CONFIG))
    assert all(split[hash_of(content)] == part for content, _, _, part in rows)


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_of_two_given_parts_the_second_is_test_and_validation_comes_from_train(held_out):
    rows = [
        (f"{label}{n}", label, None, "train" if n < 80 else held_out) for label in ("cat", "dog") for n in range(120)
    ]
    split = split_dataset(make_manifest(rows), {}, CONFIG)
    assert count_parts(split, "cat") == count_parts(split, "dog") == (65, 15, 40)
    parts = parts_of(split)
    assert all((parts[hash_of(content)] == "test") == (part == held_out) for content, _, _, part in rows)


def test_given_parts_count_source_by_source():
    first = make_manifest(
        [(f"{label}{n}", label, None, ("train", "validation")[n % 2]) for label in "ab" for n in range(40)]
    )
    more = make_manifest([(f"new{label}{n}", label) for label in "ab" for n in range(40)]).assign(source="feedback")
    parts = parts_of(split_dataset(pd.concat([first, more]), {}, CONFIG))
    assert {parts[hash_of(f"a{n}")] for n in range(1, 40, 2)} == {"test"}
    assert {parts[hash_of(f"newa{n}")] for n in range(40)} == {"train", "validation", "test"}


def test_rows_without_a_given_part_are_split_as_usual():
    rows = [(f"{label}{n}", label, None, "test" if n < 10 else None) for label in ("cat", "dog") for n in range(110)]
    split = split_dataset(make_manifest(rows), {}, CONFIG)
    assert count_parts(split, "cat") == (65, 15, 30)


def test_a_source_that_only_gives_train_holds_nothing_out_itself():
    rows = [(f"{label}{n}", label, None, "train") for label in ("cat", "dog") for n in range(20)]
    assert count_parts(split_dataset(make_manifest(rows), {}, CONFIG), "cat") == (13, 3, 4)


def test_a_frozen_part_wins_over_a_given_one():
    rows = [(f"{label}{n}", label, None, ("train", "test")[n % 2]) for label in ("cat", "dog") for n in range(20)]
    frozen = {hash_of("cat1"): "train", hash_of("cat0"): "test", hash_of("gone"): "test"}
    parts = parts_of(split_dataset(make_manifest(rows), frozen, CONFIG))
    assert (parts[hash_of("cat1")], parts[hash_of("cat0")]) == ("train", "test")
    assert len(parts) == 40


def test_new_images_of_a_frozen_group_follow_it():
    rows = make_classes(cat=20, dog=20) + [(f"late{n}", "cat", "lot") for n in range(5)] + [("old", "cat", "lot")]
    parts = parts_of(split_dataset(make_manifest(rows), {hash_of("old"): "validation"}, CONFIG))
    assert {parts[hash_of(f"late{n}")] for n in range(5)} == {"validation"}


def test_frozen_images_count_towards_the_quotas():
    manifest = make_manifest(make_classes(cat=100, dog=100))
    frozen = {hash_of(f"cat{n}"): "test" for n in range(20)}
    assert count_parts(split_dataset(manifest, frozen, CONFIG), "cat") == (65, 15, 20)


def test_every_promise_that_cannot_be_kept_is_named_at_once():
    rows = [*make_classes(cat=20, dog=20), ("cat0", "dog"), ("cat1", "dog")]
    with pytest.raises(SplitError, match="2 problems") as caught:
        split_dataset(make_manifest(rows), {}, CONFIG)
    assert "cat/cat0 has the labels cat, dog" in str(caught.value)
    rows = [*make_classes(cat=20, dog=20), ("a", "cat", "lot", "train"), ("b", "cat", "lot", "test")]
    rows += [("c", "cat", "old"), ("d", "cat", "old"), ("e", "cat", None, "validation")]
    with pytest.raises(SplitError, match="2 problems") as caught:
        split_dataset(make_manifest(rows), {hash_of("c"): "train", hash_of("d"): "test"}, CONFIG)
    assert "the group 'lot' is given to test and train" in str(caught.value)
    assert "the group 'old' joins images that are in test and train for ever" in str(caught.value)


def test_an_unknown_frozen_part_and_an_empty_part_are_said():
    manifest = make_manifest(make_classes(cat=20, dog=20))
    with pytest.raises(SplitError, match="'val'"):
        split_dataset(manifest, {hash_of("cat0"): "val"}, CONFIG)
    with pytest.raises(SplitError, match="no image is left for validation"):
        split_dataset(make_manifest(make_classes(cat=1, dog=1)), {}, CONFIG)


def test_shares_must_leave_something_to_learn():
    with pytest.raises(ValidationError, match="leave nothing for train"):
        SplitConfig(validation_share=0.5, test_share=0.5)


def test_a_split_is_read_back_as_written_and_equal_splits_have_equal_bytes(tmp_path):
    split = split_dataset(make_manifest([*make_classes(cat=20, dog=20), ("x", "cat", "lot")]), {}, CONFIG)
    for name in "ab":
        write_split(tmp_path / name, split)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    pd.testing.assert_frame_equal(read_split(tmp_path / "a"), split)
    with pytest.raises(DatasetError, match="run the stage split again"):
        read_split(tmp_path / "gone")


contents = st.integers(0, 400)


@st.composite
def manifests(draw, count: int = 1) -> list[list[tuple]]:
    """Return manifests in which label and group follow from the content, as they do in the world."""
    grouped = draw(st.booleans())
    made = []
    for _ in range(count):
        chosen = sorted(draw(st.sets(contents, min_size=30, max_size=150)))
        rows = [(str(c), f"class{c % 3}", f"lot{c // 9}" if grouped and c % 2 else None) for c in chosen]
        made.append(rows + draw(st.lists(st.sampled_from(rows), max_size=10)))
    return made


def split_or_none(rows: list[tuple], frozen: dict[str, str]) -> dict[str, str] | None:
    try:
        return parts_of(split_dataset(make_manifest(rows), frozen, CONFIG))
    except SplitError:
        return None


@settings(max_examples=60, deadline=None)
@given(manifests(count=2))
def test_adding_images_never_moves_an_old_one(made):
    old, new = made
    before = split_or_none(old, {})
    after = split_or_none(old + new, before or {})
    assert before is not None
    assert after is not None
    assert {sha256: after[sha256] for sha256 in before} == before


@settings(max_examples=60, deadline=None)
@given(manifests(), st.randoms())
def test_the_order_of_the_rows_does_not_matter(made, random):
    rows = made[0]
    shuffled = random.sample(rows, len(rows))
    assert split_or_none(rows, {}) == split_or_none(shuffled, {})


@settings(max_examples=60, deadline=None)
@given(manifests())
def test_groups_are_never_apart_and_no_class_misses_a_part(made):
    split = split_dataset(make_manifest(made[0]), {}, CONFIG)
    assert (split.dropna(subset=["group"]).groupby("group")["part"].nunique() <= 1).all()
    for label, members in split.groupby("label"):
        components = {row.group or row.sha256 for row in members.itertuples()}
        if len(components) >= 8:
            assert members["part"].nunique() == 3, label


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 300), st.integers(3, 300), st.floats(0.05, 0.4), st.floats(0.05, 0.4), st.integers(0, 9))
def test_shares_are_met_within_two_images(cats, dogs, validation, test, seed):
    config = SplitConfig(validation_share=validation, test_share=test, seed=seed)
    split = split_dataset(make_manifest(make_classes(cat=cats, dog=dogs)), {}, config)
    for label, total in (("cat", cats), ("dog", dogs)):
        for count, share in zip(count_parts(split, label), config.shares.values(), strict=True):
            assert abs(count - share * total) <= 2
            assert count >= 1
