"""Images that show the same thing count together: variances, resamples and intervals are those of groups."""

import numpy as np
import pytest

from models.intervals import join_strata, number_groups, spread_variance


def test_an_image_without_a_group_is_one_by_itself():
    assert number_groups(["coil", None, "reel", "coil", float("nan"), ""]).tolist() == [0, 1, 2, 0, 3, 4]


def test_strata_that_share_a_group_are_joined():
    labels = np.repeat([0, 1, 2], 4)
    assert join_strata(labels, np.repeat(np.arange(6), 2)).tolist() == labels.tolist()
    mixed = join_strata(labels, np.array([0, 0, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5]))
    assert mixed.tolist() == [0] * 8 + [1] * 4


def test_the_variance_of_groups_of_one_image_each_is_that_of_images_to_the_last_bit():
    rng = np.random.default_rng(0)
    influence, labels = rng.normal(size=90), rng.integers(0, 3, 90)
    plain = spread_variance(influence, labels)
    assert plain == spread_variance(influence, labels, rng.permutation(90) * 7)
    assert plain == spread_variance(influence, labels, number_groups([None] * 90))


@pytest.mark.parametrize("mixed", [False, True])
def test_the_variance_with_groups_is_that_of_other_groups(mixed):
    """Nine coils of ten images that share half of their variance; images alone would say a sixth of the truth."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(9), 10)
    labels = np.arange(90) % 3 if mixed else np.repeat([0, 1, 2], 30)
    means, grouped, plain = [], [], []
    for _ in range(3000):
        values = rng.normal(size=9)[groups] + rng.normal(size=90)
        influence = (values - values.mean()) / 90
        means.append(values.mean())
        grouped.append(spread_variance(influence, labels, groups))
        plain.append(spread_variance(influence, labels))
    assert np.mean(grouped) == pytest.approx(np.var(means), rel=0.1)
    assert np.mean(plain) < 0.25 * np.var(means)


def test_one_group_alone_in_its_class_may_be_off_as_a_whole():
    labels, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 2, 3])
    assert spread_variance(np.array([0.1, 0.1, 0.1, 0, 0, 0]), labels, groups) == pytest.approx(0.09)
    centred = np.array([0.1, -0.1, 0.0, 0, 0, 0])
    assert spread_variance(centred, labels, groups) == pytest.approx(3 * 0.02)
