"""Formula-driven images: the same bytes for the same numbers, classes that differ, every class equally often."""

import numpy as np
import pytest
from pydantic import ValidationError

from regraft.data.synthetic.formula import FAMILIES, FormulaConfig, render_bank, render_class
from regraft.data.synthetic.formula_fields import noise

QUICK = [name for name in FAMILIES if name != "reaction_diffusion"]  # a simulation takes a second
NONE = dict.fromkeys(FAMILIES, 0)


def small_config(**changes: int) -> FormulaConfig:
    return FormulaConfig(
        **(NONE | {"radial_contour": 2, "grating": 1, "size_px": 32, "samples_per_class": 3} | changes)
    )


def test_same_config_renders_the_same_bytes_and_another_seed_does_not():
    first, second, other = render_bank(small_config()), render_bank(small_config()), render_bank(small_config(seed=1))
    assert first.fields.tobytes() == second.fields.tobytes()
    assert first.fields.tobytes() != other.fields.tobytes()


def test_every_class_has_the_same_number_of_samples_and_its_name():
    seen = []
    bank = render_bank(small_config(), progress=lambda done, total: seen.append((done, total)))
    assert bank.fields.shape == (9, 32, 32) and bank.fields.dtype == np.uint8
    assert np.bincount(bank.labels).tolist() == [3, 3, 3]
    assert bank.class_names == ("radial_contour_000", "radial_contour_001", "grating_000")
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_class_does_not_depend_on_which_others_are_rendered():
    alone = render_bank(small_config(radial_contour=0))
    among = render_bank(small_config())
    assert np.array_equal(alone.fields, among.fields[among.labels == 2])


def test_more_samples_leave_the_first_ones_as_they_were():
    few, many = (np.stack(list(render_class("marks", 0, count, 32, 0))) for count in (2, 4))
    assert np.array_equal(few, many[:2])


@pytest.mark.parametrize("family", QUICK)
def test_samples_of_a_family_vary_and_are_never_blank(family):
    samples = np.stack(list(render_class(family, 1, 3, 48, 0)))
    assert (samples.reshape(3, -1).std(axis=1) > 2).all()
    assert not np.array_equal(samples[0], samples[1])


def test_two_classes_of_textures_differ_more_than_their_samples():
    bank = render_bank(FormulaConfig(**(NONE | {"lattice": 4, "size_px": 48, "samples_per_class": 8})))
    spectra = np.log1p(np.abs(np.fft.fft2(bank.fields - bank.fields.mean((1, 2), keepdims=True)))).reshape(32, -1)
    distance = ((spectra[:, None] - spectra[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    assert (bank.labels[distance.argmin(1)] == bank.labels).mean() > 0.6  # chance is 0.23


def test_noise_follows_the_spectrum_asked_for():
    rng = np.random.default_rng(0)
    rough, smooth = noise(rng, 64, 0.5), noise(rng, 64, 4.0)
    assert np.diff(smooth).std() < 0.5 * np.diff(rough).std()
    assert abs(float(rough.std()) - 1) < 0.01


def test_no_class_at_all_is_refused_with_advice():
    with pytest.raises(ValueError, match="at least one"):
        render_bank(FormulaConfig(**NONE))


def test_an_unknown_family_is_refused_by_name():
    with pytest.raises(ValidationError, match="grateing"):
        FormulaConfig(grateing=3)
