"""What a version keeps under another lamp or camera: each shift does what it says, and each head gets what it earns."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from regraft.models.backbones.network import Normalization
from regraft.models.classifier.checkpoint import (
    PLAIN_HEAD_FILE,
    CheckpointError,
    Classifier,
    load_checkpoint,
    load_plain_head,
    read_checkpoint_info,
)
from regraft.models.classifier.robustness import HeldImages, explain_single, measure_robustness
from regraft.models.evaluation.evaluate import EvaluateConfig
from regraft.models.features.linear_probe import Probe
from regraft.models.heads import linear_start
from regraft.models.heads.data import LabelledImages
from regraft.models.report.formats import format_share
from regraft.models.report.shift_plot import draw_shifts, say_shifts
from regraft.models.statistics.intervals import wilson_interval
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.finetune import FinetunePaths, finetune
from regraft.models.views.shifts import SHIFTS, shift
from regraft.serving.decoding.preprocess import PreprocessSpec

DARK, NEAR = shift("half the light", "halved", light=0.5), shift("the camera nearer", "larger", zoom=1.15)
CONFIG = EvaluateConfig(threads=1)


@pytest.fixture
def scene():
    """Return three images alike, ``(3, 64, 64, 3)`` uint8: a soft reddish pattern with a bright square in it."""
    y, x = np.mgrid[:64, :64] / 64
    image = np.stack([120 + 40 * np.sin(20 * x), 90 + 40 * np.sin(20 * y), 70 + 0 * x], axis=-1)
    image[25:41, 25:41] = 230
    return np.repeat(image[None].round().astype(np.uint8), 3, axis=0)


def span(pixels):
    return float(pixels.max()) - float(pixels.min())


def edge(pixels):
    return float(np.abs(np.diff(pixels[0].astype(float), axis=1)).max())


def grain(pixels):
    return float(np.abs(np.diff(pixels[0].astype(float), axis=1)).mean())


def save_jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels[0]).save(file, "JPEG", quality=20)
    return np.asarray(Image.open(file))


def compare_bands(a, b, channel=slice(None)):
    """Return how much of the light of ``b`` ``a`` has in the left eighth and in the right eighth."""
    return tuple(a[:, :, band, channel].mean() / b[:, :, band, channel].mean() for band in (np.s_[:8], np.s_[-8:]))


def compare_colours(a, b):
    return a.mean(axis=(0, 1, 2)) / b.mean(axis=(0, 1, 2))


def is_near(values, wanted):
    return bool(np.allclose(values, wanted, atol=0.05))


SIGNS = {
    "half the light": lambda a, b: np.allclose(a, b / 2, atol=1),
    "half as much light again": lambda a, b: np.allclose(a, np.minimum(255, b * 1.5), atol=1),
    "a warm lamp": lambda a, b: is_near(compare_colours(a, b), (1.25, 1, 0.75)),
    "light from one side": lambda a, b: (
        is_near(compare_bands(a, b), (1.27, 0.73)) and is_near(compare_colours(a, b), (1, 1, 1))
    ),
    "half the contrast": lambda a, b: abs(span(a) - span(b) / 2) <= 1 and abs(a.mean() - b.mean()) < 1,
    "the lens out of focus": lambda a, b: edge(a) < 0.8 * edge(b) and grain(a) < grain(b) and span(a) > 170,
    "a noisy sensor": lambda a, b: 10 < (a.astype(float) - b).std() < 18 and grain(a) > 3 * grain(b),
    "the camera nearer": lambda a, b: 1.1 < (a == 230).all(axis=3).sum() / (b == 230).all(axis=3).sum() < 1.4,
    "strong compression": lambda a, b: np.array_equal(a[0], save_jpeg(b)),
    "an old lamp": lambda a, b: (
        is_near(compare_colours(a, b), (0.69, 0.6, 0.51)) and is_near(compare_bands(a, b, 1), (0.71, 0.49))
    ),
    "a cheap camera": lambda a, b: (
        is_near(compare_bands(a[:, 28:36], b[:, 28:36]), (0.66, 0.66))
        and is_near(compare_bands(a[:, :8], b[:, :8]), (0.55, 0.55))
        and grain(a) > 1.5 * grain(b)
    ),
}


@pytest.mark.parametrize("asked", SHIFTS, ids=lambda each: each.name)
def test_each_shift_does_to_pixels_what_it_says(asked, scene):
    shifted = asked.apply(scene, [0, 0])
    assert SIGNS[asked.name](shifted, scene)
    assert not SIGNS[asked.name](scene, scene)
    assert [name for name, sign in SIGNS.items() if sign(shifted, scene) and name != asked.name] == []
    np.testing.assert_array_equal(shifted, asked.apply(scene, [0, 0]))


def test_every_shift_is_listed_once_and_noise_hangs_on_the_seed(scene):
    assert [each.name for each in SHIFTS] == list(SIGNS)
    noisy = next(each for each in SHIFTS if each.name == "a noisy sensor")
    assert not np.array_equal(noisy.apply(scene, [0, 0]), noisy.apply(scene, [1, 0]))
    assert not np.array_equal(noisy.apply(scene, [0, 0]), noisy.apply(scene, [0, 32]))


class Halves(nn.Module):
    """Two features: how bright the image is, and how much brighter its left half is than its right, as a share."""

    def forward(self, images: Tensor) -> Tensor:
        middle = images.shape[3] // 2
        left, right = images[..., :middle].mean((1, 2, 3)), images[..., middle:].mean((1, 2, 3))
        return torch.stack([left + right, (left - right) / (left + right + 1e-6)], dim=1)


BY_LIGHT = Probe(np.float32([[-9, 0], [9, 0]]), np.float32([0, 0]), np.float32([0.8, 0]), np.ones(2, np.float32), 1.0)
BY_SIDE = replace(BY_LIGHT, weight=np.float32([[0, -9], [0, 9]]))


def make_held(n=60, wrong=0, groups=None):
    """Return images of two classes told by their light and by their lit side; of the first ``wrong`` the side lies."""
    labels = np.arange(n) % 2
    pixels = np.empty((n, 16, 16, 3), np.uint8)
    for image, label, lies in zip(pixels, labels, np.arange(n) < wrong, strict=True):
        lit = bool(label) != lies
        image[:] = 150 if label else 60
        image[:, : 8 if lit else None] += 10
        if not lit:
            image[:, :8] -= 10
    classifier = Classifier(Halves(), Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), 2, 2).eval()
    classifier.load_probe(BY_SIDE)
    with torch.inference_mode():
        embedding = classifier.embed(torch.from_numpy(pixels)).numpy()
    return classifier, HeldImages(pixels, labels, np.arange(n) if groups is None else groups, embedding)


def test_a_head_that_survives_a_shift_is_shown_so_and_the_counts_are_exact():
    classifier, held = make_held(wrong=6)
    found = measure_robustness(classifier, BY_LIGHT, held, CONFIG, [DARK])
    clean, dark = found["rows"]
    assert (found["n"], found["of"], "groups" in found) == (60, 60, False)
    assert (clean["accuracy"], clean["plain"]) == (0.9, 1.0)
    assert (dark["accuracy"], dark["plain"]) == (0.9, 0.5)  # in the dark the plain head calls all of them dark
    assert dark["gain"] == pytest.approx(0.4) and dark["gain_low"] > 0.2
    assert clean["gain"] == pytest.approx(-0.1)
    low, high = wilson_interval(54, 60)
    assert (dark["accuracy_low"], dark["accuracy_high"]) == pytest.approx((float(low), float(high)))
    assert dark["plain_low"] < 0.5 < dark["plain_high"]


def test_intervals_are_those_of_groups_where_images_come_in_groups():
    classifier, held = make_held(wrong=6)
    _, grouped = make_held(wrong=6, groups=np.arange(60) // 6)
    alone, together = (measure_robustness(classifier, BY_LIGHT, each, CONFIG, [DARK]) for each in (held, grouped))
    assert together["groups"] == 10
    for name in ("accuracy", "gain"):
        wide, narrow = (each["rows"][1][f"{name}_high"] - each["rows"][1][f"{name}_low"] for each in (together, alone))
        assert wide > narrow


def test_without_a_plain_head_there_is_one_column_with_the_same_figures():
    classifier, held = make_held(wrong=6)
    both, one = (measure_robustness(classifier, head, held, CONFIG, [DARK, NEAR]) for head in (BY_LIGHT, None))
    for two, single in zip(both["rows"], one["rows"], strict=True):
        assert set(single) == {"name", "describes", "accuracy", "accuracy_low", "accuracy_high"}
        assert single.items() <= two.items()


def test_so_many_images_are_drawn_each_class_in_its_proportion_and_the_same_again():
    classifier, held = make_held(90)
    told = []
    few = EvaluateConfig(threads=1, shift_images=30)
    found = measure_robustness(
        classifier, BY_LIGHT, held, few, [DARK, NEAR], progress=lambda done, all_: told.append((done, all_))
    )
    assert (found["n"], found["of"]) == (30, 90)
    assert told[-1] == (60, 60) and told == sorted(told)
    assert found["rows"][1]["plain"] == 0.5  # fifteen of each class
    assert measure_robustness(classifier, BY_LIGHT, held, few, [DARK, NEAR]) == found
    with pytest.raises(ValueError, match="shift_images is 0"):
        measure_robustness(classifier, BY_LIGHT, held, EvaluateConfig(shift_images=0))


def test_images_are_measured_with_the_network_and_not_taken_from_the_clean_ones():
    """A plant: with the clean embeddings passed on, no head would ever lose by a shift."""
    classifier, held = make_held()
    held = replace(held, embedding=np.zeros_like(held.embedding))
    clean, near = measure_robustness(classifier, BY_LIGHT, held, CONFIG, [NEAR])["rows"]
    assert (clean["plain"], near["plain"]) == (0.5, 1.0)


SPEC = PreprocessSpec(size_px=32, fit="squash", interpolation="bilinear")
PROBE_ONLY = FinetuneConfig(max_epochs=0, device="cpu", threads=1)


@pytest.fixture
def train(make_backbone, stripes, tmp_path):
    pixels, labels = stripes(18, noise=90.0)
    parts = np.array(["train"] * 36 + ["validation"] * 18)
    backbone = make_backbone(tmp_path / "store")

    def run(config=PROBE_ONLY, name="out"):
        images = LabelledImages(pixels, labels, parts, ["a", "b", "c"])
        paths = FinetunePaths(tmp_path / name, tmp_path / f"{name}-state")
        return finetune(backbone, images, SPEC, config, paths), tmp_path / name

    return run


@pytest.fixture
def keep_views(monkeypatch):
    """Views are kept whatever held-out images say of them: what follows from that is looked at here."""
    judge = linear_start.judge_views

    def keep(trial, labels, views):
        return judge(trial, labels, views).model_copy(update={"views": len(views)})

    monkeypatch.setattr(linear_start, "judge_views", keep)


def test_a_checkpoint_with_a_head_on_views_keeps_the_plain_one_of_all_its_images(train, keep_views):
    info, folder = train()
    plain = load_plain_head(folder, info)
    none = PROBE_ONLY.model_copy(update={"head": PROBE_ONLY.head.model_copy(update={"views": 0})})
    ships, bare = train(none, "plain")
    classifier, _ = load_checkpoint(bare)
    np.testing.assert_array_equal(plain.weight, classifier.head.weight.detach().numpy())
    np.testing.assert_array_equal(plain.mean, classifier.feature_mean.numpy())
    assert plain.c == ships.strength
    assert load_plain_head(bare, ships) is None and not (bare / PLAIN_HEAD_FILE).exists()
    viewed, _ = load_checkpoint(folder)
    assert np.abs(viewed.head.weight.detach().numpy() - plain.weight).max() > 1e-3


def test_an_altered_or_missing_plain_head_is_refused_and_an_older_checkpoint_has_none(train, keep_views):
    info, folder = train()
    path = folder / PLAIN_HEAD_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="Run finetune again"):
        load_plain_head(folder, info)
    path.unlink()
    with pytest.raises(CheckpointError, match="absent"):
        load_plain_head(folder, info)
    text = json.loads((folder / "checkpoint.json").read_text())
    del text["plain_head_sha256"]
    (folder / "checkpoint.json").write_text(json.dumps(text))
    older = read_checkpoint_info(folder)
    assert load_plain_head(folder, older) is None
    assert "before plain heads were kept" in explain_single(older)


def test_why_nothing_is_compared_is_said(train, keep_views):
    info, _ = train()
    assert "moved the network" in explain_single(info.model_copy(update={"kept": "finetuned"}))
    head = info.head.model_copy(update={"views": 0, "reason": "they were no gain"})
    assert "is the plain one (they were no gain)" in explain_single(info.model_copy(update={"head": head}))


@pytest.fixture
def shifts():
    classifier, held = make_held(wrong=2)
    bright = shift("<b>half as much light again</b>", "x 1.5", light=1.5)
    return measure_robustness(classifier, BY_LIGHT, held, CONFIG, [NEAR, bright, DARK])


def test_the_chart_has_a_row_for_each_shift_both_heads_and_the_hardest_first(shifts):
    shifts["rows"][2]["accuracy"] = 0.7
    drawn = str(draw_shifts(shifts))
    assert drawn.count('class="range"') == 2 * 4
    assert drawn.index("as they are") < drawn.index("&lt;b&gt;half as much") < drawn.index("the camera nearer")
    assert "<b>" not in drawn
    assert drawn.count('class="gained"') == 1 and drawn.count('class="lost"') == 0
    assert format_share(0.5) in drawn
    single = [{k: v for k, v in row.items() if not k.startswith(("plain", "gain"))} for row in shifts["rows"]]
    alone = str(draw_shifts(shifts | {"rows": single}))
    assert alone.count('class="range"') == 4 and "without views" not in alone


def test_half_the_light_the_hardest_and_what_views_gain_or_cost_are_said(shifts):
    dark = shifts["rows"][3]
    assert say_shifts(shifts)[0].startswith("With half the light 96.7\u00a0% of the answers are right (")
    assert "without views 50.0\u00a0% would be" in say_shifts(shifts)[0]
    assert "better under half the light (+46.7 points" in say_shifts(shifts)[-1]
    dark |= {"gain": -0.4, "gain_low": -0.5, "gain_high": -0.3}
    assert "it is worse under half the light (-40.0 points, -50.0 to -30.0)" in say_shifts(shifts)[-1]
    dark |= {"gain_high": 0.1}
    assert "none of them" in say_shifts(shifts)[-1]
    shifts["rows"][1]["accuracy"] = 0.2
    assert "Hardest for it is the camera nearer (larger): 20.0\u00a0% of" in say_shifts(shifts)[1]
    single = [{k: v for k, v in row.items() if not k.startswith(("plain", "gain"))} for row in shifts["rows"]]
    assert say_shifts({"rows": single, "alone": "it is so"})[-1] == "Nothing is compared: it is so."
