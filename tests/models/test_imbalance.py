"""Rare classes: when they are answered oftener, and that nothing else moves."""

import numpy as np
import pytest

from regraft.models.compute.snapshots import Snapshot
from regraft.models.heads.data import TrainingData
from regraft.models.heads.head_views import HeadConfig
from regraft.models.heads.imbalance import judge_imbalance, list_offsets
from regraft.models.heads.linear_start import StartConfig, fit_start
from regraft.models.heads.temperature import fit_temperature

PLAIN = HeadConfig(views=0)


def draw(counts, seed=0, dims=6):
    """Return features ``(N, D)`` of overlapping classes, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = np.random.default_rng(9).normal(size=(len(counts), dims))
    return (centres[labels] + 0.8 * rng.normal(size=(len(labels), dims))).astype(np.float32), labels


def start_from(counts, config):
    import torch

    features, labels = draw(counts)
    held, truth = draw([20] * len(counts), seed=1)
    snapshot = Snapshot(
        {"features": {"train": torch.from_numpy(features), "held": torch.from_numpy(held)}},
        {"widths": [features.shape[1]], "mirrors": None},
    )
    every = np.concatenate([labels, truth])
    places = np.arange(len(every))
    data = TrainingData(np.zeros((len(every), 2, 2, 3), np.uint8), every, places[: len(labels)], places[len(labels) :])
    return fit_start(snapshot, data, len(counts), config), data, held, truth


def recall(logits, truth):
    return [float(np.mean(logits[truth == label].argmax(axis=1) == label)) for label in np.unique(truth)]


def test_offsets_are_nothing_for_even_classes_and_favour_the_rare_one():
    assert np.allclose(list_offsets(np.arange(30) % 3, 3), 0)
    offsets = list_offsets(np.repeat([0, 1, 2], [80, 15, 5]), 4)
    assert offsets[0] > offsets[1] > offsets[2]
    assert offsets[3] == 0  # no image of it: nothing is known


def test_a_long_tail_is_adjusted_and_the_rare_class_gains():
    start, data, held, truth = start_from([150, 60, 8], StartConfig(PLAIN))
    assert start.imbalance.way == "logit_adjustment"
    assert start.imbalance.worst_adjusted > start.imbalance.worst_plain
    before = recall(start.logits, truth)
    after = recall(start.logits - start.list_offsets(data.labels[data.train]), truth)
    assert after[2] > before[2] + 0.1
    assert np.array_equal(start.probe.score(held).astype(np.float32), start.logits)  # the probe itself is as fitted


def test_even_classes_and_those_who_weigh_them_themselves_stay_to_the_bit():
    for counts, config in (
        ([60, 60, 60], StartConfig(PLAIN)),
        ([150, 60, 8], StartConfig(PLAIN, rare_weight=1.0)),
        ([150, 60, 8], StartConfig(PLAIN.model_copy(update={"imbalance": "plain"}))),
    ):
        start, data, _, _ = start_from(counts, config)
        assert start.imbalance.way == "plain"
        assert not start.list_offsets(data.labels[data.train]).any()


def test_what_costs_more_than_a_point_over_all_images_is_left():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [190, 10])
    logits = rng.normal(0, 1.5, (200, 2)) + np.array([1.5, 0.0])  # says nothing about the classes
    found = judge_imbalance(logits, labels, 2, "auto")
    assert found.way == "plain" and "stay as they were" in found.reason
    assert judge_imbalance(logits, labels, 2, "logit_adjustment").way == "logit_adjustment"


def test_the_temperature_of_an_even_mix_is_that_of_the_images_drawn_evenly():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [900, 100])
    logits = np.eye(2)[labels] * 2 + rng.normal(0, np.where(labels == 1, 3.0, 1.0)[:, None], (1000, 2))
    even = np.concatenate([np.flatnonzero(labels == 0)[:100], np.flatnonzero(labels == 1)])
    assert fit_temperature(logits, labels, alike=True) == pytest.approx(
        fit_temperature(logits[even], labels[even]), rel=0.15
    )
    assert fit_temperature(logits, labels) < fit_temperature(logits, labels, alike=True)
