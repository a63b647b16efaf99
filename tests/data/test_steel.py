"""The steel line renders the same bytes from the same seed, and drifts in the way its parameters say."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from regraft.data.synthetic.steel import (
    DRIFTED,
    LABELS,
    SteelLine,
    derive_seed,
    encode_image,
    render_folder,
    render_image,
)
from regraft.data.synthetic.steel_defects import DRAWINGS
from regraft.serving.decoding.quality import QUALITY_NAMES, measure_quality

SMALL = SteelLine.default().with_changes(camera={"resolution_px": 48})


def measure_line(line: SteelLine, count: int = 2) -> dict[str, float]:
    """Return the mean quality figures of a few images of each class."""
    images = [render_image(line, label, seed) for label in LABELS for seed in range(count)]
    return dict(zip(QUALITY_NAMES, np.mean([measure_quality(image) for image in images], axis=0), strict=True))


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


def test_there_are_six_classes_and_every_one_renders_an_rgb_image() -> None:
    assert len(LABELS) == 6
    for label in LABELS:
        image = render_image(SMALL, label, 1)
        assert image.shape == (48, 48, 3) and image.dtype == np.uint8 and image.std() > 1


def test_equal_seeds_render_equal_pixels_and_other_seeds_do_not() -> None:
    first, again, other = (render_image(SMALL, "scratches", seed) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_folder_has_a_folder_per_class_and_equal_bytes_when_rendered_again(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    render_folder(tmp_path / "a", SMALL, 2, 3, progress=lambda done, total: seen.append((done, total)))
    render_folder(tmp_path / "b", SMALL, 2, 3)
    assert read_tree(tmp_path / "a") == read_tree(tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == list(LABELS)
    assert seen[-1] == (12, 12) and len(seen) == 12
    assert len(set(read_tree(tmp_path / "a").values())) == 12


def test_rendering_into_a_folder_that_exists_replaces_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old.jpg").write_bytes(b"old")
    render_folder(tmp_path / "a", SMALL, 1, 0)
    assert not (tmp_path / "a" / "old.jpg").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_no_two_images_of_a_folder_share_a_seed() -> None:
    seeds = {derive_seed(seed, label, index) for seed in (0, 1) for label in LABELS for index in range(50)}
    assert len(seeds) == 2 * 6 * 50


def test_the_same_seed_on_a_drifted_line_shows_the_same_strip() -> None:
    quiet = {"camera": {"noise": 0.0, "resolution_px": 64}, "lamp": {"flicker": 0.0}}
    line = SteelLine.default().with_changes(**quiet)
    first = render_image(line, "patches", 3).mean(axis=2).ravel()
    darker = render_image(line.with_changes(lamp={"brightness": 0.6}), "patches", 3).mean(axis=2).ravel()
    assert np.corrcoef(first, darker)[0, 1] > 0.99


def test_the_drifted_line_is_darker_warmer_and_noisier() -> None:
    before, after = measure_line(SteelLine.default()), measure_line(DRIFTED)
    assert after["brightness"] < 0.7 * before["brightness"]
    assert after["warmth"] > before["warmth"] + 0.02
    assert after["noise"] > 1.1 * before["noise"]


def test_a_swapped_camera_is_softer_where_noise_does_not_hide_it() -> None:
    still = {"noise": 0.0}
    before = measure_line(SteelLine.default().with_changes(camera=still))
    after = measure_line(SteelLine.default().swapped_camera().with_changes(camera=still))
    assert after["sharpness"] < before["sharpness"] - 0.3


@pytest.mark.parametrize(
    ("part", "change", "figure", "sign"),
    [
        ("lamp", {"brightness": 1.5}, "brightness", 1),
        ("lamp", {"warmth": -0.2}, "warmth", -1),
        ("camera", {"gain": 0.7}, "brightness", -1),
        ("camera", {"noise": 0.1}, "noise", 1),
        ("camera", {"blur_px": 2.0}, "sharpness", -1),
        ("camera", {"resolution_px": 96}, "log2_pixels", 1),
        ("roll", {"texture_strength": 0.2}, "contrast", 1),
        ("defects", {"contrast": 0.9}, "contrast", 1),
    ],
)
def test_each_knob_moves_the_figure_it_is_named_for(part: str, change: dict, figure: str, sign: int) -> None:
    before, after = measure_line(SMALL, 1)[figure], measure_line(SMALL.with_changes(**{part: change}), 1)[figure]
    assert (after - before) * sign > 0


def test_a_worse_jpeg_quality_makes_smaller_files() -> None:
    image = render_image(SMALL, "crazing", 0)
    small = encode_image(image, SMALL.with_changes(camera={"jpeg_quality": 40}))
    assert len(small) < len(encode_image(image, SMALL))
    assert Image.open(io.BytesIO(small)).format == "JPEG"


def test_every_drawing_marks_some_of_the_strip_and_stays_finite() -> None:
    for name, draw in DRAWINGS.items():
        fields = [draw(np.random.default_rng(seed), 64, 1.0, 1.0) for seed in range(4)]
        assert all(np.isfinite(field).all() and field.shape == (64, 64) for field in fields), name
        assert max(np.abs(field).max() for field in fields) > 0.3, name
        assert all(np.abs(field).max() < 2.0 for field in fields), name


def test_an_unknown_defect_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"'rust'.*crazing.*scratches"):
        render_image(SMALL, "rust", 0)


def test_a_misspelt_part_or_knob_is_refused() -> None:
    with pytest.raises(ValidationError, match="brightnes"):
        SteelLine.default().with_changes(lamp={"brightnes": 1.0})
    with pytest.raises(ValidationError, match="lens"):
        SteelLine.default().with_changes(lens={"blur_px": 1.0})
