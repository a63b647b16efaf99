"""Families of things: fractals, contours, dropped shapes, scattered marks, curves."""

from dataclasses import dataclass

import numpy as np

from regraft.data.synthetic.formula_fields import Field, Paint, grid, noise, turned


@dataclass(frozen=True, slots=True)
class Polygon:
    """A filled shape as a class draws it, whatever its size and place.

    Attributes:
        corners: Of a regular polygon; from 40 on it is a disc.
        aspect: Length over width.
        soft: Width of its edge as a share of its radius; 0 is as sharp as pixels allow.
    """

    corners: int
    aspect: float
    soft: float = 0.0


def iterated_function(rng: np.random.Generator) -> Paint:
    """Fractal of an iterated function system (chaos game), the FractalDB idea; classes with a thin image are redrawn.

    Source: Kataoka et al., Pre-training without natural images (2020), arXiv 2101.08515.
    """
    while True:
        maps = int(rng.integers(2, 7))
        linear = rng.uniform(-1, 1, (maps, 2, 2))
        norms = np.linalg.norm(linear, ord=2, axis=(1, 2))
        linear *= (rng.uniform(0.45, 0.95, maps) / norms)[:, None, None]
        shift = rng.uniform(-1, 1, (maps, 2))
        weights = np.abs(np.linalg.det(linear)) + 0.03
        points = _chaos_game(np.random.default_rng(0), linear, shift, weights)
        if (_density(points, 32, 0.0, 0.9) > 0).mean() > 0.22:
            break

    def paint(rng: np.random.Generator, size: int) -> Field:
        bent = linear * rng.uniform(0.93, 1.05, (maps, 1, 1))
        points = _chaos_game(rng, bent, shift, weights)
        counts = _density(points, size, rng.uniform(-0.5, 0.5), rng.uniform(0.7, 1.0))
        return np.log1p(counts) if rng.random() < 0.6 else np.minimum(counts, 1.0)

    return paint


def _chaos_game(rng: np.random.Generator, linear: Field, shift: Field, weights: Field) -> Field:
    """Return ``(20000, 2)`` points of the attractor of affine maps drawn with the given weights."""
    points = np.zeros((1000, 2))
    kept = []
    for step in range(32):
        chosen = rng.choice(len(weights), size=len(points), p=weights / weights.sum())
        points = np.einsum("nij,nj->ni", linear[chosen], points) + shift[chosen]
        if step >= 12:
            kept.append(points)
    return np.concatenate(kept)


def _density(points: Field, size: int, angle: float, share: float) -> Field:
    """Count the points per pixel after turning them by ``angle`` and fitting them into ``share`` of the image."""
    x, y = turned(points[:, 0], points[:, 1], angle)
    low, high = np.percentile(np.stack([x, y]), [0.5, 99.5], axis=1)
    scale = share * size / max(float((high - low).max()), 1e-6)
    middle = (low + high) / 2
    column = np.floor((x - middle[0]) * scale + size / 2).astype(np.int64)
    row = np.floor((y - middle[1]) * scale + size / 2).astype(np.int64)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    flat = np.bincount(row[inside] * size + column[inside], minlength=size * size)
    return flat.reshape(size, size).astype(np.float32)


def radial_contour(rng: np.random.Generator) -> Paint:
    """Nested polygon-like contours with harmonics, the RCDB idea.

    Source: Kataoka et al., Replacing labeled real-image datasets with auto-generated contours (2022), arXiv 2206.09132.
    """
    corners, harmonics = int(rng.integers(3, 12)), rng.integers(1, 16, 3)
    depth = rng.uniform(0.0, 0.22, 3)
    sharp, squeeze = rng.uniform(0, 1), rng.uniform(0.4, 1.0)
    rings, filled = rng.uniform(1.0, 9.0), rng.random() < 0.35

    def paint(rng: np.random.Generator, size: int) -> Field:
        x, y = grid(size)
        x, y = turned(x - rng.uniform(-0.25, 0.25), y - rng.uniform(-0.25, 0.25), rng.uniform(0, 2 * np.pi))
        y = y / (squeeze * rng.uniform(0.9, 1.1))
        angle, radius = np.arctan2(y, x), np.hypot(x, y)
        polygon = np.cos(np.pi / corners) / np.cos(np.mod(angle, 2 * np.pi / corners) - np.pi / corners)
        edge = 1 + sharp * (polygon - 1)
        for k, a in zip(harmonics, depth, strict=True):
            edge = edge + a * rng.uniform(0.8, 1.2) * np.cos(k * angle + 0.3 * k)
        distance = radius / (np.maximum(edge, 0.1) * rng.uniform(0.5, 0.95))
        inside = 1 / (1 + np.exp(np.clip((distance - 1) * size / 3, -30, 30)))
        if filled:
            return inside
        return inside * (0.5 + 0.5 * np.cos(2 * np.pi * rings * distance + rng.uniform(0, 1)))

    return paint


def dead_leaves(rng: np.random.Generator) -> Paint:
    """Opaque shapes dropped on one another with a power law of sizes: edges, corners and occlusion as in photographs.

    Source: Baradad et al., Learning to see by looking at noise (2021), arXiv 2106.05963.
    """
    shape = Polygon(int(rng.choice([3, 4, 6, 40])), rng.choice([1.0, 1.0, 2.0, 6.0]))
    small, power = rng.uniform(0.03, 0.16), rng.uniform(1.2, 3.2)
    aligned, textured = rng.random() < 0.4, rng.random() < 0.4

    def paint(rng: np.random.Generator, size: int) -> Field:
        field = np.full((size, size), 0.5, np.float32)
        texture = 0.15 * noise(rng, size, 1.5) if textured else None
        count = int(min(2.2 / (small * small), 160))
        radii = np.clip(small * rng.pareto(power, count) + small, 0, 0.8)
        for radius in radii:
            angle = 0.0 if aligned else rng.uniform(0, np.pi)
            _drop(field, shape, rng.uniform(-1.1, 1.1, 2), radius, angle, rng.uniform(0, 1))
        return field if texture is None else field + texture

    return paint


def _drop(field: Field, shape: Polygon, centre: Field, radius: float, angle: float, tone: float) -> None:
    """Paint one shape in place, within its bounding box; lengths in half-widths of the image."""
    size = len(field)
    middle, reach = (centre + 1) / 2 * size, radius * np.sqrt(shape.aspect) * size / 2 + 1
    left, top = np.maximum(np.floor(middle - reach), 0).astype(int)
    right, bottom = np.minimum(np.ceil(middle + reach), size).astype(int)
    if left >= right or top >= bottom:
        return
    x = (np.arange(left, right, dtype=np.float32)[None, :] - middle[0]) / (size / 2)
    y = (np.arange(top, bottom, dtype=np.float32)[:, None] - middle[1]) / (size / 2)
    x, y = turned(x, y, angle)
    x, y = x / np.sqrt(shape.aspect), y * np.sqrt(shape.aspect)
    if shape.corners >= 40:
        distance = np.hypot(x, y)
    else:
        sector = 2 * np.pi / shape.corners
        distance = np.hypot(x, y) * np.cos(np.mod(np.arctan2(y, x), sector) - sector / 2)
    alpha = np.clip((radius - distance) / (shape.soft * radius + 1.0 / size) + 0.5, 0, 1)
    box = field[top:bottom, left:right]
    box += alpha * (tone - box)


def marks(rng: np.random.Generator) -> Paint:
    """Few or many small marks (dots, dashes, curls, smears) of one kind scattered on a ground of one grain."""
    count, radius = (
        int(np.exp(rng.uniform(np.log(1), np.log(45)))),
        float(np.exp(rng.uniform(np.log(0.025), np.log(0.2)))),
    )
    aspect = float(np.exp(rng.uniform(0, np.log(30)))) if rng.random() < 0.6 else 1.0
    shape = Polygon(int(rng.choice([3, 4, 40, 40])), aspect, rng.choice([0.0, 0.3, 1.2]))
    grain, slope, clustered = rng.uniform(0, 0.25), rng.uniform(0.5, 3.5), rng.random() < 0.3
    aligned, both = rng.random() < 0.5, rng.random() < 0.3

    def paint(rng: np.random.Generator, size: int) -> Field:
        field = 0.5 + grain * noise(rng, size, slope)
        turn, heart = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5, 2)
        for _ in range(max(1, round(count * rng.uniform(0.75, 1.25)))):
            centre = heart + rng.normal(0, 0.25, 2) if clustered else rng.uniform(-0.95, 0.95, 2)
            angle = turn + rng.normal(0, 0.1) if aligned else rng.uniform(0, np.pi)
            tone = rng.choice([-0.4, 1.4]) if both else rng.uniform(1.1, 1.6)
            _drop(field, shape, centre, radius * rng.uniform(0.6, 1.5), angle, tone)
        return field

    return paint


def strokes(rng: np.random.Generator) -> Paint:
    """Smooth random curves: hairs, cracks, roots; class decides number, curl, width and branching roughness."""
    count, curl = int(np.exp(rng.uniform(np.log(1), np.log(26)))), float(np.exp(rng.uniform(np.log(0.02), np.log(0.5))))
    width, length = rng.uniform(0.5, 2.6), rng.uniform(0.5, 2.2)
    aligned, grain = rng.random() < 0.4, rng.uniform(0, 0.2)

    def paint(rng: np.random.Generator, size: int) -> Field:
        turn, steps = rng.uniform(0, 2 * np.pi), int(length * size)
        heading = turn + rng.normal(0, 0.15 if aligned else 3.0, (count, 1))
        heading = heading + np.cumsum(rng.normal(0, curl, (count, steps)), 1)
        start = rng.uniform(0.1, 0.9, (count, 2, 1)) * size
        path = start + np.cumsum(0.7 * np.stack([np.cos(heading), np.sin(heading)], 1), 2)
        path = (path + rng.normal(0, width / 3, (6, *path.shape))).transpose(0, 1, 3, 2).reshape(-1, 2)
        cell = np.floor(path).astype(np.int64)
        inside = ((cell >= 0) & (cell < size)).all(1)
        ink = np.bincount(cell[inside] @ np.array([1, size]), minlength=size * size).reshape(size, size)
        return np.minimum(ink / 4.0, 1.0).astype(np.float32) + grain * noise(rng, size, 2.0)

    return paint
