"""Temperature scaling: one number that makes the stated probabilities honest without changing any answer."""

import numpy as np
from scipy.optimize import minimize_scalar

from models.probe import sum_log_loss

LOWEST, HIGHEST = 0.1, 10.0


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature, 0.1 to 10, that minimises the log loss of softmax(logits / T).

    A weak pull towards 1 (one standard normal on log T) decides where the images do not: a validation part
    without a single mistake would otherwise ask for certainty.

    Args:
        logits: ``(N, K)``, of images that the weights were not fitted on.
        labels: ``(N,)`` integers.

    Raises:
        ValueError: If there is no image or a logit is not finite.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599, section 4.2.
    """
    if len(labels) == 0 or not np.isfinite(logits).all():
        raise ValueError(f"a temperature needs finite logits of at least one image; got {len(labels)} images.")
    wide = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return sum_log_loss(wide / np.exp(log_temperature), labels) + log_temperature**2 / 2

    best = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-5})
    return round(float(np.exp(best.x)), 6)
