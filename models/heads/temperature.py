"""Temperature scaling: one number that makes the stated probabilities honest without changing any answer."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from regraft.models.features.linear_probe import list_log_losses

LOWEST, HIGHEST = 0.1, 10.0


def fit_temperature(logits: np.ndarray, labels: np.ndarray, alike: bool = False) -> float:
    """Return the temperature, 0.1 to 10, that minimises the log loss of softmax(logits / T).

    Beside the images stands one more whose label could be any, as Platt's targets do: fourteen images without a mistake
    do not speak for 99.9 %. A weak pull towards 1 (one standard normal on log T) decides where nothing else does.

    Args:
        logits: ``(N, K)``, of images that the weights were not fitted on.
        labels: ``(N,)`` integers.
        alike: Every class weighs alike, however many images it has: for logits that were adjusted to such a mix.

    Raises:
        ValueError: If there is no image or a logit is not finite.

    Sources: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599, section 4.2; Platt 1999,
    "Probabilistic outputs for support vector machines", on targets short of 0 and 1.
    """
    if len(labels) == 0 or not np.isfinite(logits).all():
        raise ValueError(f"a temperature needs finite logits of at least one image; got {len(labels)} images.")
    wide, weights = logits.astype(np.float64), np.ones(len(labels))
    if alike:
        _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        weights = len(labels) / (len(counts) * counts[places])

    def loss(log_temperature: float) -> float:
        scaled = wide / np.exp(log_temperature)
        unknown = np.mean(logsumexp(scaled, axis=1) - scaled.mean(axis=1))  # mean over images and all labels
        return float(weights @ list_log_losses(scaled, labels)) + float(unknown) + log_temperature**2 / 2

    best = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-5})
    return round(float(np.exp(best.x)), 6)
