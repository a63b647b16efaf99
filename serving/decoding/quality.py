"""Ten cheap figures about how an image was taken; drift of lamp, camera and lens shows here first."""

import numpy as np

QUALITY_NAMES: tuple[str, ...] = (
    "brightness",
    "contrast",
    "sharpness",
    "noise",
    "dark_share",
    "bright_share",
    "saturation",
    "warmth",
    "log2_pixels",
    "log2_aspect",
)
MEASURED_SIDE_PX = 512
DARK, BRIGHT = 0.05, 0.95
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32) / 255  # ITU-R BT.601, the weights of Pillow's "L"


def measure_quality(pixels: np.ndarray) -> np.ndarray:
    """Return float32 (len(QUALITY_NAMES),) from uint8 (H, W, 3); always finite.

    brightness, contrast (standard deviation), dark_share, bright_share and saturation lie in 0-1, warmth (mean red
    minus mean blue) in -1 to 1; sharpness is the log of the variance of the Laplacian; noise is a robust sigma in 0-1.
    Large images are measured on every n-th pixel, so neither sharpness nor noise is smoothed away.
    """
    height, width = pixels.shape[:2]
    step = max(1, -(-max(height, width) // MEASURED_SIDE_PX))
    sample = pixels[::step, ::step]
    grey = sample @ _LUMA
    red, blue = (sample[..., channel].mean(dtype=np.float64) / 255 for channel in (0, 2))
    figures = (
        grey.mean(dtype=np.float64),
        grey.std(dtype=np.float64),
        _measure_sharpness(grey),
        _measure_noise(grey),
        np.mean(grey < DARK),
        np.mean(grey > BRIGHT),
        _measure_saturation(sample),
        red - blue,
        np.log2(height * width),
        np.log2(width / height),
    )
    return np.array(figures, dtype=np.float32)


def _measure_sharpness(grey: np.ndarray) -> float:
    """Return log(variance of the Laplacian + 1e-8); images under 3 px count as perfectly flat."""
    if min(grey.shape) < 3:
        return float(np.log(1e-8))
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(np.log(laplacian.var(dtype=np.float64) + 1e-8))


def _measure_noise(grey: np.ndarray) -> float:
    """Return the sigma of pixel noise, 0-1, from the median absolute diagonal (Haar HH) difference.

    Source: Donoho and Johnstone 1994, the median estimator with its constant 0.6745.
    """
    if min(grey.shape) < 2:
        return 0.0
    diagonal = (grey[1:, 1:] - grey[1:, :-1] - grey[:-1, 1:] + grey[:-1, :-1]) / 2
    return float(np.median(np.abs(diagonal)) / 0.6745)


def _measure_saturation(sample: np.ndarray) -> float:
    """Return the mean HSV saturation, 0-1; black counts as unsaturated."""
    red, green, blue = (sample[..., channel] for channel in range(3))
    # Ten times as fast as max and min along an axis of three.
    high = np.maximum(np.maximum(red, green), blue).astype(np.float32)
    low = np.minimum(np.minimum(red, green), blue)
    return float(np.mean((high - low) / np.maximum(high, 1), dtype=np.float64))
