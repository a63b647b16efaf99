"""Multinomial logistic regression under an L2 penalty, for features along their principal directions.

The optimum is scikit-learn's; the way there is shorter. Features of a backbone spread over directions that differ a
thousandfold in strength, so that plain L-BFGS takes hundreds of steps; scaled by the curvature that each direction
has at the start it takes a few dozen.
"""

import numpy as np
from scipy.optimize import minimize

MOST_STEPS = 500
GRADIENT = 1e-4
"""Largest slope, in nats for each unit of a scaled weight, at which the fit has converged."""


def fit_softmax(
    x: np.ndarray, y: np.ndarray, c: float, row_weights: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """Return weights ``(R + 1, K)``, the last row being the bias, that minimise the penalised log loss.

    The loss is the sum over rows of ``row_weights`` times the negative log probability, and the squared weights over
    ``2 c``; the bias is not penalised. The minimum is unique up to one number added to all biases.

    Args:
        x: ``(N, R)`` float64, best along principal directions: any others cost steps, not accuracy.
        y: ``(N,)`` integers in 0..K-1, each of them present.
        c: Inverse penalty.
        row_weights: ``(N,)``, not negative.
        start: Weights to start from; zeros when None.

    Source: L-BFGS, Liu and Nocedal 1989; scaling by Boehning's bound on the curvature, Boehning 1992.
    """
    classes, width = int(y.max()) + 1, x.shape[1]
    bound = 0.5 * (1 - 1 / classes)
    curvature = bound * np.einsum("n,nr,nr->r", row_weights, x, x) + 1 / c
    scale = 1 / np.sqrt(np.append(curvature, bound * row_weights.sum()))[:, None]
    x, penalty = np.ascontiguousarray(x), np.append(np.full(width, 1 / c), 0.0)[:, None]
    rows = np.arange(len(y))

    def lose(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(width + 1, classes) * scale
        logits = x @ weights[:-1] + weights[-1]
        logits -= logits.max(axis=1, keepdims=True)
        slopes = np.exp(logits)
        total = slopes.sum(axis=1)
        loss = float(row_weights @ (np.log(total) - logits[rows, y])) + 0.5 * float(np.sum(penalty * weights**2))
        slopes /= total[:, None]
        slopes[rows, y] -= 1
        slopes *= row_weights[:, None]
        gradient = np.concatenate([x.T @ slopes, slopes.sum(axis=0)[None]]) + penalty * weights
        return loss, (gradient * scale).ravel()

    first = np.zeros((width + 1, classes)) if start is None else start / scale
    options = {"maxiter": MOST_STEPS, "gtol": GRADIENT, "ftol": 1e-12}
    found = minimize(lose, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(width + 1, classes) * scale
