"""Weights of rare classes: none where nothing is rare, and more of the rare found where something is."""

import numpy as np
import pytest

from regraft.models.features.linear_probe import fit_probe
from regraft.models.statistics.class_weights import weigh_classes


def test_classes_of_one_size_are_not_weighed():
    assert weigh_classes(np.repeat([0, 1, 2], 8), 3, 1.0) is None
    assert weigh_classes(np.repeat([0, 2], 8), 3, 1.0) is None  # class 1 has no image


def test_no_weight_is_asked_for_by_default():
    assert weigh_classes(np.repeat([0, 1], [90, 10]), 2, 0.0) is None


@pytest.mark.parametrize("rare_weight", [0.5, 1.0])
def test_weights_grow_with_rarity_and_leave_the_loss_of_an_even_model_as_it_was(rare_weight):
    labels = np.repeat([0, 1], [90, 10])
    weights = weigh_classes(labels, 2, rare_weight)
    assert weights[1] / weights[0] == pytest.approx(9**rare_weight, rel=1e-5)
    assert weights[labels].mean() == pytest.approx(1)


def test_a_weighed_probe_finds_more_of_the_rare_class():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [380, 10])
    features = (rng.normal(size=(390, 6)) + labels[:, None] * 0.7).astype(np.float32)

    def find(rare_weight: float) -> int:
        probe = fit_probe(features, labels, classes=2, c=0.1, rare_weight=rare_weight)
        return int(np.sum(probe.score(features).argmax(axis=1)[labels == 1]))

    assert find(0.0) < find(0.5) <= find(1.0)
