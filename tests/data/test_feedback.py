"""Choosing what to label, and turning labels into a source."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.labelling.feedback import choose_for_labelling, collect_feedback, find_extension
from regraft.data.sources.sources import scan_source
from regraft.data.sources.tables import list_table


@dataclass(frozen=True)
class Answers:
    """The part of a window that choosing reads."""

    ids: list[str]
    probabilities: np.ndarray
    embeddings: np.ndarray
    image_sha256: list[str]

    @property
    def at(self) -> np.ndarray:
        return np.arange(len(self.ids), dtype=float)


@dataclass(frozen=True)
class Row:
    """One label that came back."""

    id: str
    label: str
    image_sha256: str
    sampling: str = "volunteered"


def make_window(n: int, seed: int = 0) -> Answers:
    rng = np.random.default_rng(seed)
    names = [f"p{index}" for index in range(n)]
    return Answers(names, rng.dirichlet(np.ones(3), n), rng.normal(size=(n, 4)), [f"h{index}" for index in range(n)])


def keep_image(images: Path, colour: int, image_format: str = "PNG") -> str:
    """Keep one image as the service does and return its content hash."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, image_format)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    (images / sha256[:2]).mkdir(parents=True, exist_ok=True)
    (images / sha256[:2] / sha256).write_bytes(buffer.getvalue())
    return sha256


def test_half_are_random_and_half_uncertain_and_none_comes_twice() -> None:
    chosen = choose_for_labelling(make_window(200), 20, seed=1)
    assert [why for _, why in chosen] == ["random"] * 10 + ["uncertain"] * 10
    assert len({identity for identity, _ in chosen}) == 20


def test_choices_repeat_with_the_seed_and_vary_without() -> None:
    window = make_window(200)
    assert choose_for_labelling(window, 20, seed=1) == choose_for_labelling(window, 20, seed=1)
    assert choose_for_labelling(window, 20, seed=1) != choose_for_labelling(window, 20, seed=2)


def test_uncertain_answers_have_small_margins_and_are_spread_out() -> None:
    window = make_window(400)
    twins = np.where(np.arange(400)[:, None] < 200, 0.0, window.embeddings)
    window = Answers(window.ids, window.probabilities, twins, window.image_sha256)
    ordered = np.sort(window.probabilities, axis=1)
    margins = dict(zip(window.ids, ordered[:, -1] - ordered[:, -2], strict=True))
    uncertain = [identity for identity, why in choose_for_labelling(window, 20, seed=0) if why == "uncertain"]
    assert max(margins[identity] for identity in uncertain) < np.quantile(list(margins.values()), 0.2)
    assert sum(int(identity[1:]) < 200 for identity in uncertain) <= 1  # they all look alike


def test_random_choices_are_uniform_over_images_not_over_answers() -> None:
    window = make_window(100)
    hashes = ["same"] * 90 + [f"h{index}" for index in range(10)]
    window = Answers(window.ids, window.probabilities, window.embeddings, hashes)
    chosen = [identity for identity, _ in choose_for_labelling(window, 11, seed=0)]
    assert sorted(chosen) == sorted(["p0", *[f"p{index}" for index in range(90, 100)]])


def test_images_that_have_a_label_are_not_asked_for_again() -> None:
    chosen = choose_for_labelling(make_window(20), 20, seed=0, labelled={f"h{index}" for index in range(15)})
    assert sorted(identity for identity, _ in chosen) == sorted(f"p{index}" for index in range(15, 20))


def test_a_later_draw_takes_only_what_came_after_the_earlier_one() -> None:
    chosen = choose_for_labelling(make_window(100), 30, seed=0, random_share=1.0, drawn_after=79.0)
    assert sorted(int(identity[1:]) for identity, _ in chosen) == list(range(80, 100))
    assert {why for _, why in chosen} == {"random"}


def test_how_an_image_was_drawn_travels_with_its_label(tmp_path: Path) -> None:
    first, second = keep_image(tmp_path / "images", 10), keep_image(tmp_path / "images", 20)
    rows = [Row("a", "dent", first, "random"), Row("b", "rust", second, "uncertain"), Row("c", "rust", first)]
    batch = collect_feedback(rows, tmp_path / "images", tmp_path / "into")
    listed = {entry.file.stem: entry.sampling for entry in list_table(batch.folder / "manifest.csv").entries}
    assert listed == {first: "random", second: "uncertain"}


@pytest.mark.parametrize(("n", "wanted"), [(0, 5), (3, 10), (5, 0), (1, 1)])
def test_small_windows_give_what_they_have(n: int, wanted: int) -> None:
    assert len(choose_for_labelling(make_window(n), wanted, seed=0)) == min(n, wanted)


def test_nan_answers_can_be_chosen_too() -> None:
    window = make_window(10)
    window.probabilities[3] = np.nan
    window.embeddings[3] = np.nan
    assert len(choose_for_labelling(window, 10, seed=0)) == 10


def test_labels_become_a_source_that_intake_reads(tmp_path: Path) -> None:
    first, second = keep_image(tmp_path / "images", 10), keep_image(tmp_path / "images", 20, "JPEG")
    batch = collect_feedback(
        [Row("a", "dent", first), Row("b", "rust, deep", second)], tmp_path / "images", tmp_path / "into"
    )
    assert batch.folder is not None and batch.images == 2 and not batch.missing and not batch.conflicts
    assert {path.name for path in batch.folder.iterdir()} == {f"{first}.png", f"{second}.jpg", "manifest.csv"}
    source = scan_source(batch.folder / "manifest.csv", batch.folder.name)
    assert source.files == 2 and source.labels == ("dent", "rust, deep")


def test_the_last_label_of_an_image_wins_and_the_conflict_is_named(tmp_path: Path) -> None:
    image = keep_image(tmp_path / "images", 10)
    rows = [Row("a", "dent", image), Row("b", "rust", image)]
    batch = collect_feedback(rows, tmp_path / "images", tmp_path / "into")
    assert batch.conflicts == (image,)
    assert (batch.folder / "manifest.csv").read_text() == f"path,label,sampling\n{image}.png,rust,volunteered\n"


def test_equal_labels_lead_to_the_same_unchanged_folder_in_any_order(tmp_path: Path) -> None:
    rows = [Row(str(colour), "dent", keep_image(tmp_path / "images", colour)) for colour in (10, 20, 30)]
    first = collect_feedback(rows, tmp_path / "images", tmp_path / "into")
    stamp = (first.folder / "manifest.csv").stat().st_mtime_ns
    again = collect_feedback(rows[::-1], tmp_path / "images", tmp_path / "into")
    assert again.folder == first.folder and (first.folder / "manifest.csv").stat().st_mtime_ns == stamp
    assert [path.name for path in (tmp_path / "into").iterdir()] == [first.folder.name]


def test_another_label_leads_to_another_folder_and_leaves_the_first_alone(tmp_path: Path) -> None:
    image = keep_image(tmp_path / "images", 10)
    first = collect_feedback([Row("a", "dent", image)], tmp_path / "images", tmp_path / "into")
    second = collect_feedback([Row("a", "rust", image)], tmp_path / "images", tmp_path / "into")
    assert first.folder != second.folder and "dent" in (first.folder / "manifest.csv").read_text()


def test_lost_and_damaged_bytes_are_reported_and_left_out(tmp_path: Path) -> None:
    kept, damaged = keep_image(tmp_path / "images", 10), keep_image(tmp_path / "images", 20)
    (tmp_path / "images" / damaged[:2] / damaged).write_bytes(b"other bytes")
    rows = [Row("a", "dent", kept), Row("b", "dent", damaged), Row("c", "dent", "f" * 64)]
    batch = collect_feedback(rows, tmp_path / "images", tmp_path / "into")
    assert batch.images == 1 and set(batch.missing) == {damaged, "f" * 64}


def test_nothing_new_makes_no_folder(tmp_path: Path) -> None:
    image = keep_image(tmp_path / "images", 10)
    for rows, skip in (([], ()), ([Row("a", "dent", image)], {image}), ([Row("a", "dent", "0" * 64)], ())):
        assert collect_feedback(rows, tmp_path / "images", tmp_path / "into", skip=skip).folder is None
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "extension"),
    [("PNG", ".png"), ("JPEG", ".jpg"), ("MPO", ".jpg"), ("TIFF", ".tif"), ("WEBP", ".webp"), ("GIF", ".gif")],
)
def test_the_extension_is_that_of_the_content_however_many_pixels_it_has(kind, extension, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7)).save(buffer, kind, **({"save_all": True} if kind == "MPO" else {}))
    assert find_extension(buffer.getvalue()) == extension
    assert find_extension(b"no image") == ".bin"
