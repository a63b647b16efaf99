"""The quality figures against values computed by hand."""

import numpy as np
import pytest

from regraft.serving.decoding.quality import QUALITY_NAMES, measure_quality


def figures(pixels: np.ndarray) -> dict[str, float]:
    return dict(zip(QUALITY_NAMES, map(float, measure_quality(pixels)), strict=True))


def test_a_flat_colour_has_its_own_brightness_and_no_contrast():
    flat = figures(np.full((20, 40, 3), (200, 100, 50), np.uint8))
    assert flat["brightness"] == pytest.approx((0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255, abs=1e-5)
    assert flat["contrast"] == pytest.approx(0, abs=1e-5) and flat["noise"] == pytest.approx(0, abs=1e-6)
    assert flat["saturation"] == pytest.approx(150 / 200)
    assert flat["warmth"] == pytest.approx(150 / 255)
    assert (flat["log2_pixels"], flat["log2_aspect"]) == (pytest.approx(np.log2(800)), pytest.approx(1))


def test_dark_and_bright_shares_count_pixels():
    pixels = np.full((10, 10, 3), 128, np.uint8)
    pixels[:2], pixels[2:5] = 0, 255
    assert (figures(pixels)["dark_share"], figures(pixels)["bright_share"]) == (pytest.approx(0.2), pytest.approx(0.3))


@pytest.mark.parametrize("sigma", [4, 12, 25])
def test_noise_is_recovered_in_its_own_unit(sigma):
    grey = np.random.default_rng(0).normal(128, sigma, (300, 300, 1)).clip(0, 255)
    noisy = np.repeat(np.round(grey), 3, axis=2).astype(np.uint8)
    assert figures(noisy)["noise"] == pytest.approx(
        sigma / 255, rel=0.05, abs=0.6 / 255
    )  # rounding to 8 bits costs up to 0.6


def test_blur_lowers_sharpness_and_warm_light_raises_warmth():
    sharp = np.kron(np.indices((32, 32)).sum(0) % 2, np.ones((4, 4)))[:, :, None] * np.full(3, 200)
    blurred = (sharp + np.roll(sharp, 1, 0) + np.roll(sharp, 1, 1) + np.roll(sharp, (1, 1), (0, 1))) / 4
    assert figures(blurred.astype(np.uint8))["sharpness"] < figures(sharp.astype(np.uint8))["sharpness"] - 0.5
    warm = np.full((8, 8, 3), (200, 150, 100), np.uint8)
    assert figures(warm)["warmth"] > 0 > figures(warm[:, :, ::-1])["warmth"]


def test_large_images_are_sampled_but_keep_their_true_size():
    large = np.random.default_rng(0).integers(0, 255, (1500, 3000, 3), dtype=np.uint8)
    assert figures(large)["log2_pixels"] == pytest.approx(np.log2(4_500_000))
    assert figures(large)["brightness"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3), (1, 65500)])
def test_tiny_and_thin_images_have_finite_figures(shape):
    values = measure_quality(np.zeros((*shape, 3), np.uint8))
    assert values.dtype == np.float32 and values.shape == (len(QUALITY_NAMES),) and np.isfinite(values).all()


def test_measuring_leaves_the_pixels_alone():
    pixels = np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8)
    copy = pixels.copy()
    measure_quality(pixels)
    assert np.array_equal(pixels, copy)
