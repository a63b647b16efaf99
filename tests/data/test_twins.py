"""Twins: a PNG and its JPEG are one picture, two exposures of one scene are not, and one picture has one part."""

import io

import numpy as np
import pytest
from PIL import Image

from regraft.data.dataset.twins import describe_look, describe_twins, find_twins, read_twins, write_twins
from regraft.data.split.stratify import Component
from regraft.data.split.twins import join_twins


def draw(seed: int, noise: int = 0, size: int = 64) -> np.ndarray:
    """Return soft shapes of their own for each seed, with noise of the camera of their own for each ``noise``."""
    rng = np.random.default_rng([seed, 1])
    small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    grain = np.random.default_rng([seed, noise, 2]).normal(0, 9, (size, size, 1))
    return np.clip(np.asarray(small) + grain, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, kind: str, **options) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))


def find(pictures: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    looks = {name: describe_look(pixels) for name, pixels in pictures.items()}
    pairs, crowd = find_twins(looks, lambda names: (pictures[name] for name in names))
    assert not crowd
    return pairs


@pytest.mark.parametrize(
    "copy",
    [
        lambda pixels: encode(pixels, "JPEG", quality=92),
        lambda pixels: encode(pixels, "WEBP", quality=80),
        lambda pixels: np.asarray(Image.fromarray(pixels).resize((200, 200), Image.Resampling.BICUBIC)),
    ],
)
def test_one_picture_in_two_files_is_found(copy):
    pictures = {f"{n}": draw(n, size=128) for n in range(12)}
    copies = {f"{n} copy": copy(pictures[f"{n}"]) for n in range(4)}
    assert find(pictures | copies) == [(f"{n}", f"{n} copy") for n in range(4)]


def test_pictures_of_their_own_are_no_twins():
    assert find({f"{n}": draw(n) for n in range(60)}) == []


def test_many_shots_of_one_scene_are_counted_and_not_joined():
    shots = {f"{n}": draw(1, noise=n, size=256) for n in range(6)} | {
        "7": draw(7),
        "7 copy": encode(draw(7), "JPEG", quality=92),
    }
    looks = {name: describe_look(pixels) for name, pixels in shots.items()}
    assert find_twins(looks, lambda names: (shots[name] for name in names)) == ([("7", "7 copy")], 6)


def test_flat_images_are_no_twins():
    assert find({f"{n}": np.full((64, 64, 3), n, np.uint8) for n in range(20)}) == []


def make(name: str, label: str = "cat", allowed=("train", "validation", "test"), decided=None) -> Component:
    return Component(name, (name,), {label: 1}, allowed, decided)


def test_twins_and_twins_of_twins_become_one_component():
    joined = join_twins([make("a"), make("b"), make("c", "dog"), make("d")], [("a", "b"), ("b", "c")])
    assert [(one.key, one.images, one.labels) for one in joined] == [
        ("a", ("a", "b", "c"), {"cat": 2, "dog": 1}),
        ("d", ("d",), {"cat": 1}),
    ]


def test_what_is_decided_apart_stays_apart_and_draws_the_rest_along():
    components = [make("a", decided="train"), make("b", decided="test"), make("c"), make("d", allowed=("train",))]
    joined = join_twins(components, [("a", "b"), ("b", "c"), ("c", "d"), ("x", "a")])
    assert [(one.images, one.decided) for one in joined] == [(("a",), "train"), (("b", "c"), "test"), (("d",), None)]


def test_twins_are_read_back_and_said(tmp_path):
    assert read_twins(tmp_path) == []
    write_twins(tmp_path, [("a", "b"), ("c", "d")])
    pairs = read_twins(tmp_path)
    paths = {name: f"{name}.png" for name in "abcd"}
    said = describe_twins(pairs, 0, paths, {"a": "cat", "b": "cat", "c": "cat", "d": "dog"})
    assert said[0].startswith("2 pairs of different files show one picture each")
    assert said[1] == "1 of these pairs have two labels, for instance c.png (cat) = d.png (dog)"
    assert describe_twins([], 0, {}, {}) == []
    assert "9 images look like more than 3 others" in describe_twins([], 9, {}, {})[0]
