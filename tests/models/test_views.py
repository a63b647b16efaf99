"""Views: what an acquisition does to an image, that a view is always the same, what a head makes of them."""

import numpy as np
import pytest
import torch

from regraft.models.classifier.checkpoint import HeadFigures
from regraft.models.compute.snapshots import ResumeFolder
from regraft.models.features.cache import FeatureStore, FrozenBackbone
from regraft.models.features.linear_probe import cross_validate, fit_probe
from regraft.models.features.view_probe import (
    ProbeProblem,
    ViewedFeatures,
    ViewTrial,
    cross_validate_views,
    fit_view_probe,
    hold_out_views,
    weigh_rows,
)
from regraft.models.heads.data import TrainingData
from regraft.models.heads.head_views import HeadConfig, judge_views, plan_head_views, try_mirrors
from regraft.models.heads.linear_start import StartConfig, prepare_start
from regraft.models.training.config import FinetuneConfig
from regraft.models.views.acquisition import Acquisition, take_again
from regraft.models.views.draw import draw_acquisition
from regraft.models.views.view import View, limit_light, plan_views


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def scene():
    """Return two images ``(2, 48, 48, 3)``: a bright square on grey, left of the middle."""
    pixels = np.full((2, 48, 48, 3), 100, np.uint8)
    pixels[:, 8:40, 4:20] = 200
    return pixels


def take(scene, **changes):
    acquisition = Acquisition.unchanged(len(scene)).with_changes(**changes)
    return take_again(torch.from_numpy(scene), acquisition, torch.Generator().manual_seed(0)).numpy()


def test_an_unchanged_acquisition_gives_the_same_bytes(scene):
    np.testing.assert_array_equal(take(scene), scene)


@pytest.mark.parametrize(
    ("change", "shows"),
    [
        ({"light": 0.5}, lambda a, b: np.allclose(a, b / 2, atol=1)),
        ({"warmth": 0.2}, lambda a, b: (a[..., 0] > b[..., 0]).all() and (a[..., 2] < b[..., 2]).all()),
        ({"gamma": 2.0}, lambda a, b: np.allclose(a, b.astype(float) ** 2 / 255, atol=1)),
        ({"contrast": 0.5}, lambda a, b: np.isclose(np.ptp(a), np.ptp(b) / 2, atol=1)),
        ({"fall": 0.5}, lambda a, b: a[:, 0, 0, 0].mean() > b[:, 0, 0, 0].mean() > a[:, 0, -1, 0].mean()),
        ({"vignette": 0.5}, lambda a, b: a[0, 0, -1, 0] < 60 and a[0, 24, 24, 0] >= 99),
        ({"blur": 0.05}, lambda a, b: np.diff(a[0, 24, :, 0].astype(int)).max() < 60),
        ({"noise": 0.05}, lambda a, b: 8 < (a.astype(float) - b).std() < 18),
        ({"zoom": 1.2}, lambda a, b: (a == 200).sum() > 1.2 * (b == 200).sum()),
    ],
)
def test_each_change_does_what_it_says(scene, change, shows):
    assert shows(take(scene, **change), scene)
    assert not shows(scene, scene)


def test_each_image_has_its_own_change(scene):
    drawn = draw_acquisition(200, 1.0, np.random.default_rng(0), brightest=1.2)
    assert drawn.light.max() <= 1.2
    assert drawn.light.min() < 0.5
    assert 0.3 < np.mean(drawn.blur > 0) < 0.7
    one, two = take_again(torch.from_numpy(scene), drawn.take(slice(0, 2)), torch.Generator().manual_seed(0))
    assert not torch.equal(one, two)


def test_a_view_is_the_same_whenever_it_is_made_and_others_differ(scene):
    pixels = np.repeat(scene, 8, axis=0)
    views = plan_views(3, View(0, horizontal=0.5, vertical=0.5))
    assert [view.strength for view in views] == [1.0, 0.4, 1.0]
    made = [view.open(16)(pixels, 0) for view in views]
    np.testing.assert_array_equal(made[0], views[0].open(16)(pixels, 0))
    assert not np.array_equal(made[0], made[2])
    described = [str(view.describe()) for view in [*views, View(1, brightest=1.3), View(1, 1.0, 1.7, 0.5)]]
    assert len(set(described)) == 5


def test_a_view_that_only_mirrors_mirrors_all(scene):
    np.testing.assert_array_equal(View(0, 0.0, horizontal=1.0).open(2)(scene, 0), scene[:, :, ::-1])
    np.testing.assert_array_equal(View(0, 0.0, vertical=1.0).open(2)(scene, 0), scene[:, ::-1])


def test_no_image_is_mirrored_both_ways_at_once():
    corner = np.zeros((64, 8, 8, 3), np.uint8)
    corner[:, 0, 0] = 255
    mirrored = View(1, 0.0, horizontal=0.5, vertical=0.5).open(64)(corner, 0)
    assert mirrored[:, 7, 7].max() == 0
    assert 8 < (mirrored[:, 0, 7, 0] > 0).sum() < 28
    assert 8 < (mirrored[:, 7, 0, 0] > 0).sum() < 28


def test_bright_images_are_not_blown_out():
    rows = np.arange(4)
    assert limit_light(np.full((4, 16, 16, 3), 60, np.uint8), rows) == 1.7
    assert limit_light(np.full((4, 16, 16, 3), 180, np.uint8), rows) == pytest.approx(230 / 180, abs=1e-3)
    assert limit_light(np.full((4, 16, 16, 3), 250, np.uint8), rows) == 1.1


def test_features_of_a_view_are_kept_under_their_own_key(make_backbone, stripes, tmp_path):
    pixels, _ = stripes(4)
    backbone = make_backbone(tmp_path / "store")
    store = FeatureStore(tmp_path / "features")
    frozen = FrozenBackbone(backbone, pixels, adapt_images=0, store=store)
    plain, seen = frozen.embed(pixels).values, frozen.embed(pixels, view=View(1)).values
    assert np.abs(plain - seen).max() > 1e-3
    again = FrozenBackbone(backbone, pixels, adapt_images=0, store=store)
    np.testing.assert_array_equal(again.embed(pixels, view=View(1)).values, seen)
    assert "network" not in again.__dict__  # found, not computed
    assert len(list((tmp_path / "features").iterdir())) == 2


def make_shifting(rng, n=60, views=4, shift=4.0):
    """Return features of two classes, told by a weak number that stands still and a strong one that views move."""
    labels = np.arange(n) % 2
    steady = (2 * labels - 1) * 1.2 + rng.normal(0, 1, n)
    loud = (2 * labels - 1) * 2.0 + rng.normal(0, 0.5, n)
    rest = rng.normal(0, 1, (n, 6))

    def seen(moved):
        return np.column_stack([steady, loud + moved, rest]).astype(np.float32)

    return seen(0), np.stack([seen(rng.normal(0, shift, n)) for _ in range(views)]), labels


def test_a_head_on_views_leans_on_what_stands_still(rng):
    clean, views, labels = make_shifting(rng)
    problem = ProbeProblem(2)
    plain = fit_probe(clean, labels, classes=2, c=0.1)
    viewed = fit_view_probe(ViewedFeatures.of(clean, views), labels, problem, 0.1)
    lean = [abs(probe.weight[1, 0] / probe.weight[1, 1]) for probe in (plain, viewed)]
    assert lean[1] > 2 * lean[0]
    np.testing.assert_array_equal(plain.mean, viewed.mean)


def test_without_views_a_head_is_the_plain_one(rng):
    clean, views, labels = make_shifting(rng)
    plain = fit_probe(clean, labels, classes=2, c=0.1)
    none = fit_view_probe(ViewedFeatures.of(clean, views[:0]), labels, ProbeProblem(2), 0.1)
    np.testing.assert_array_equal(none.weight, plain.weight)


def test_rows_weigh_in_sum_what_the_images_weigh():
    assert weigh_rows(10, 0).sum() == pytest.approx(10)
    assert weigh_rows(10, 7).sum() == pytest.approx(10)
    assert weigh_rows(10, 4)[:10].sum() == pytest.approx(5)


def test_views_of_a_held_out_image_teach_nothing_about_it(rng):
    """Labels that mean nothing: were views of an image in the other folds, they would be known by heart."""
    clean = rng.normal(0, 1, (60, 40)).astype(np.float32)
    views = np.stack([clean + rng.normal(0, 0.01, clean.shape).astype(np.float32) for _ in range(3)])
    labels = rng.permutation(np.arange(60) % 2)
    trial = cross_validate_views(ViewedFeatures.of(clean, views), labels, ProbeProblem(2), 0.1)
    for logits in (trial.viewed[0], hold_out_views(ViewedFeatures.of(clean, views), labels, ProbeProblem(2), 0.1)):
        assert np.mean(logits.argmax(axis=1) == labels) < 0.75


def test_held_out_images_show_what_views_gain_and_what_they_cost(rng):
    clean, views, labels = make_shifting(rng, n=200)
    found = cross_validate(clean, labels, classes=2)
    trial = cross_validate_views(ViewedFeatures.of(clean, views), labels, ProbeProblem(2), found.c)
    figures = judge_views(trial, labels, plan_views(4, View(0)))
    right = [np.mean(each[1:].argmax(axis=2) == labels) for each in (trial.viewed, trial.plain)]
    assert right[0] > right[1] + 0.1
    assert np.mean(trial.plain[0].argmax(axis=1) == labels) > 0.98
    assert (
        figures.views == 0
    )  # the loud number tells the images as they are apart without an error: that is not given up
    assert f"{100 * right[0]:.1f} %" in figures.reason


def answer(hits, labels):
    """Return logits of images answered rightly where ``hits`` says so."""
    said = np.where(hits, labels, 1 - labels)
    return np.eye(2)[said] * 4


@pytest.mark.parametrize(
    ("clean", "clean_plain", "shifted", "shifted_plain", "kept"),
    [
        (100, 100, 90, 60, True),
        (99, 100, 90, 60, True),
        (98, 100, 90, 60, False),
        (100, 98, 60, 60, False),
        (100, 100, 50, 60, False),
    ],
)
def test_views_may_not_cost_what_they_do_not_earn(clean, clean_plain, shifted, shifted_plain, kept):
    labels = np.arange(200) % 2

    def said(percent):
        return answer(np.arange(200) % 100 < percent, labels)

    trial = ViewTrial(0.1, np.stack([said(clean_plain), said(shifted_plain)]), np.stack([said(clean), said(shifted)]))
    figures = judge_views(trial, labels, [View(1, vertical=0.5)])
    assert (figures.views > 0, figures.vertical, figures.horizontal) == (kept, kept, False)
    assert ("the views are kept" in figures.reason) == kept


def test_a_mirroring_that_swaps_classes_is_found(make_backbone, tmp_path, rng):
    """Bars left and right of the middle: mirrored left to right one is the other, top to bottom nothing changes."""
    labels = np.arange(48) % 2
    pixels = rng.integers(0, 60, (48, 32, 32, 3)).astype(np.uint8)
    for number, label in enumerate(labels):
        place = slice(2, 12) if label == 0 else slice(20, 30)
        pixels[number, 4:28, place] = 220
    frozen = FrozenBackbone(
        make_backbone(tmp_path / "store", "test_vit.tiny", img_size=32),
        pixels,
        adapt_images=0,
        store=FeatureStore(None),
    )
    train, held = np.arange(32), np.arange(32, 48)
    probe = fit_probe(frozen.embed(pixels, rows=train).values, labels[train], classes=2, c=0.1)
    clean = frozen.embed(pixels, rows=held).values
    assert np.mean(probe.score(clean).argmax(axis=1) == labels[held]) == 1

    def embed(rows, view):
        return frozen.embed(pixels, rows=rows, view=view).values

    assert try_mirrors(probe, embed, held, labels[held], clean) == (False, True)
    data = TrainingData(pixels, labels, train, held)
    start = prepare_start(frozen, data, 2, ResumeFolder(tmp_path / "state", "key"))
    assert start.mirrors == (False, True)
    assert start.head.horizontal is False
    flips = FinetuneConfig().without_mirrors(start.mirrors).loop.augment
    assert (flips.flip_horizontal, flips.flip_vertical) == (False, False)


def test_as_many_views_as_the_passes_afford_and_one_at_least(scene):
    def planned(**settings):
        return plan_head_views(HeadConfig(**settings), np.repeat(scene, 50, axis=0), np.arange(100), True, False)

    assert len(planned()) == 8
    assert len(planned(passes=350)) == 3
    assert len(planned(passes=10)) == 1
    assert planned(views=0) == []
    assert {(view.horizontal, view.vertical) for view in planned()} == {(0.5, 0.0)}


def test_a_run_after_a_kill_finds_the_views_again(make_backbone, stripes, tmp_path):
    pixels, labels = stripes(12)
    data = TrainingData(pixels, labels, np.arange(24), np.arange(24, 36))
    backbone, resume = make_backbone(tmp_path / "store"), ResumeFolder(tmp_path / "state", "key")

    def begin():
        frozen = FrozenBackbone(backbone, pixels, rows=data.train, adapt_images=8, store=FeatureStore(None))
        return prepare_start(frozen, data, 3, resume), frozen

    first, _ = begin()
    second, frozen = begin()
    assert "network" not in frozen.__dict__
    np.testing.assert_array_equal(first.probe.weight, second.probe.weight)
    np.testing.assert_array_equal(first.views, second.views)
    assert first.head == second.head


def test_without_views_asked_for_none_are_made(make_backbone, stripes, tmp_path):
    pixels, labels = stripes(12)
    data = TrainingData(pixels, labels, np.arange(24), np.arange(24, 36))
    frozen = FrozenBackbone(make_backbone(tmp_path / "s"), pixels, adapt_images=0, store=FeatureStore(tmp_path / "f"))
    plain = StartConfig(HeadConfig(views=0))
    start = prepare_start(frozen, data, 3, ResumeFolder(tmp_path / "state", "key"), plain)
    assert start.head == HeadFigures()
    assert start.views.shape[0] == 0
    assert len(list((tmp_path / "f").iterdir())) == 2
