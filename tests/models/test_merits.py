"""Comparisons know merits and strata only: rights and wrongs are a case of them."""

import numpy as np
import pytest
from scipy.stats import binomtest

from regraft.models.certificate.paired_difference import measure_difference
from regraft.models.promotion.first_gate import judge_first
from regraft.models.promotion.gate import Sample, compare_versions
from regraft.models.statistics.merits import measure_lead, rate_hits, weigh_strata, weigh_total


def test_sign_flips_of_rights_and_wrongs_are_mcnemars_exact_test() -> None:
    first, second = np.array([1, 1, 0, 0, 0, 0, 1, 1]), np.array([1, 0, 1, 1, 1, 1, 1, 1])
    lead = measure_lead(first, second)
    assert (lead.value, lead.gained, lead.lost) == (3, 4, 1)
    assert lead.p_value == binomtest(4, 5).pvalue
    assert measure_lead(first, first).p_value == 1.0


def test_of_shares_the_size_of_each_difference_counts() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0.2, 0.8, 40)
    small, large = rng.normal(0, 0.02, 40), rng.uniform(0.05, 0.2, 40)
    assert measure_lead(first, first + small).p_value > 0.05
    ahead = measure_lead(first, first + large)
    assert ahead.p_value < 0.001 and ahead.value == pytest.approx(large.sum())
    assert ahead.p_value == measure_lead(first, first + large).p_value


def test_five_percent_of_pairs_that_do_not_differ_are_called_different() -> None:
    rng = np.random.default_rng(1)
    found = [measure_lead(np.zeros(25), rng.laplace(0, 0.1, 25)).p_value < 0.05 for _ in range(200)]
    assert 0.01 < np.mean(found) < 0.1


def test_gate_and_certificate_judge_shares_as_they_judge_rights() -> None:
    rng, strata = np.random.default_rng(2), np.repeat(["a", "b", "c"], 60)
    old = rng.uniform(0.3, 0.7, 180)
    verdict = compare_versions(Sample(old, old + 0.1, strata))
    assert verdict.decision == "promote" and verdict.statistic == pytest.approx(0.1)
    assert compare_versions(Sample(old, rng.permutation(old), strata)).decision != "promote"
    assert judge_first(old, strata).challenger_accuracy == pytest.approx(weigh_total(old, strata))
    codes = np.repeat([0, 1, 2], 60)
    gain = measure_difference(np.stack([old + 0.1, old + 0.12]), np.stack([old, old]), codes)
    assert gain.low < 0.11 < gain.high


def test_every_stratum_weighs_alike_however_large() -> None:
    weights, codes = weigh_strata(np.array(["x"] * 9 + ["y"]))
    assert weights @ (codes == 0) == pytest.approx(0.5) and codes.tolist() == [0] * 9 + [1]
    assert rate_hits(np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([1, 1])).tolist() == [True, False]
