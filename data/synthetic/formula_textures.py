"""Families of textures: waves, noise of one spectrum, marble, cells, tilings, reaction-diffusion."""

import numpy as np

from regraft.data.synthetic.formula_fields import Field, Paint, grid, noise, turned


def grating(rng: np.random.Generator) -> Paint:
    """Sums of one to three waves (sine, square, saw), whole or under a Gabor envelope."""
    waves = int(rng.integers(1, 4))
    frequency = np.exp(rng.uniform(np.log(2), np.log(22), waves))
    spread = rng.uniform(0, np.pi, waves)
    shape, enveloped = int(rng.integers(0, 3)), rng.random() < 0.4

    def paint(rng: np.random.Generator, size: int) -> Field:
        x, y = grid(size)
        zoom, turn, field = rng.uniform(0.88, 1.12), rng.uniform(0, np.pi), 0.0
        bend = 0.06 * noise(rng, size, 4.5)
        for f, a in zip(frequency, spread, strict=True):
            u, _ = turned(x, y, a + turn, zoom)
            phase = np.pi * f * (u + bend) + rng.uniform(0, 2 * np.pi)
            field = field + (np.sin(phase), np.sign(np.sin(phase)), np.mod(phase / np.pi, 2) - 1)[shape]
        if enveloped:
            centre = rng.uniform(-0.4, 0.4, 2)
            field = field * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / rng.uniform(0.08, 0.4))
        return field

    return paint


def spectral_noise(rng: np.random.Generator) -> Paint:
    """Clouds, grain, streaks, ridges and patches: noise of one spectrum through one non-linearity."""
    slope, low = rng.uniform(0.3, 4.2), rng.choice([0.0, 0.0, 4.0, 9.0])
    stretch = float(rng.choice([1.0, 1.0, 2.0, 5.0, 14.0]))
    kind, level = int(rng.integers(0, 5)), rng.uniform(-0.8, 0.8)

    def paint(rng: np.random.Generator, size: int) -> Field:
        angle = rng.uniform(-0.35, 0.35)
        field = noise(rng, size, slope + rng.uniform(-0.15, 0.15), stretch, angle, low)
        if kind == 1:
            field = -np.abs(field)
        elif kind == 2:
            field = np.tanh(6 * (field - level))
        elif kind == 3:
            field = np.sin(2.5 * field + noise(rng, size, 2.5, stretch, angle, low))
        elif kind == 4:
            field = field * (noise(rng, size, 3.5) > level)
        return field

    return paint


def warped_bands(rng: np.random.Generator) -> Paint:
    """Marble and wood: bands or rings whose coordinates are displaced by smooth noise."""
    bands, slope = rng.uniform(2, 14), rng.uniform(3.2, 5.0)
    strength, ringed, sharp = rng.uniform(0.05, 0.45), rng.random() < 0.5, rng.uniform(1, 6)

    def paint(rng: np.random.Generator, size: int) -> Field:
        x, y = grid(size)
        x, y = turned(x, y, rng.uniform(0, np.pi), rng.uniform(0.88, 1.12))
        x = x + strength * noise(rng, size, slope) + rng.uniform(-0.5, 0.5)
        y = y + strength * noise(rng, size, slope) + rng.uniform(-0.5, 0.5)
        position = np.hypot(x, y) if ringed else x
        return np.tanh(sharp * np.sin(np.pi * bands * position + rng.uniform(0, 6)))

    return paint


def cells(rng: np.random.Generator) -> Paint:
    """Worley cells: distance to the first or second of scattered points under one norm, or the cells' own tones."""
    count, order, kind = (
        float(np.exp(rng.uniform(np.log(6), np.log(70)))),
        rng.choice([1.0, 2.0, 8.0]),
        rng.integers(0, 5),
    )
    aspect, jitter = float(rng.choice([1.0, 1.0, 2.5])), rng.choice([0.15, 0.6, 1.0])

    def paint(rng: np.random.Generator, size: int) -> Field:
        x, y = grid(size)
        x, y = turned(x, y, rng.uniform(0, np.pi))
        side = int(np.ceil(np.sqrt(count * rng.uniform(0.85, 1.15)) * 1.45))
        lattice = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) + 0.5) / side
        points = 2.9 * (lattice + jitter * rng.uniform(-0.5, 0.5, lattice.shape) / side) - 1.45
        delta_x = np.abs(x.reshape(-1, 1) - points[:, 0].astype(np.float32))
        delta_y = aspect * np.abs(y.reshape(-1, 1) - points[:, 1].astype(np.float32))
        distance = _norm(delta_x, delta_y, float(order))
        if kind == 4:
            return rng.uniform(0, 1, len(points))[distance.argmin(1)].reshape(size, size)
        nearest = np.sqrt(np.partition(distance, 1, axis=1)[:, :2] + 1e-9)
        first, second = nearest[:, 0], nearest[:, 1]
        field = (first, second, second - first, -np.exp(-9 * np.sqrt(count) * (second - first)))[int(kind)]
        return field.reshape(size, size)

    return paint


def _norm(x: Field, y: Field, order: float) -> Field:
    """Return a monotone of the L1, L2 or (for 8) maximum norm of two non-negative components."""
    if order == 1.0:
        return (x + y) ** 2
    return x * x + y * y if order == 2.0 else np.maximum(x, y) ** 2


def lattice(rng: np.random.Generator) -> Paint:
    """Regular tilings: dots, rings, crosses, bricks or bars repeated on a sheared grid."""
    repeats, shear = rng.uniform(2.5, 13), rng.choice([0.0, 0.0, 0.5, 0.8])
    kind, fill, aspect = int(rng.integers(0, 6)), rng.uniform(0.25, 0.8), rng.choice([1.0, 1.0, 1.8, 3.0])

    def paint(rng: np.random.Generator, size: int) -> Field:
        x, y = grid(size)
        x, y = turned(x, y, rng.uniform(-0.5, 0.5), rng.uniform(0.85, 1.15))
        bend = 0.03 * noise(rng, size, 4.5)
        v = repeats / 2 * aspect * (y + bend) + rng.uniform(0, 1)
        u = repeats / 2 * (x + bend) + shear * np.floor(v) + rng.uniform(0, 1)
        tone = np.mod(np.sin(np.floor(u) * 12.9898 + np.floor(v) * 78.233) * 43758.5, 1.0)
        u, v = 2 * np.mod(u, 1) - 1, 2 * np.mod(v, 1) - 1
        radius, square = np.hypot(u, v), np.maximum(np.abs(u), np.abs(v))
        near = np.minimum(np.abs(u), np.abs(v))
        shapes = (
            fill - radius,
            0.18 - np.abs(radius - fill),
            fill * 0.5 - near,
            fill - square,
            square - fill,
            fill - radius,
        )
        field = np.clip(shapes[kind] * 0.35 * size / repeats, 0, 1)
        return field * (0.25 + tone) if kind in (3, 5) else field

    return paint


def reaction_diffusion(rng: np.random.Generator) -> Paint:
    """Gray-Scott spots, worms, mazes and corals; one class is one pair of rates, simulated once on a torus.

    Source: Pearson, Complex patterns in a simple system (1993), Science 261.
    """
    kill = rng.uniform(0.056, 0.0645)
    feed = float(np.clip(rng.normal(0.034 + (kill - 0.060) * 2.2, 0.008), 0.016, 0.056))
    tile = _gray_scott(rng, feed, kill, side=128, steps=2600)
    zoom, power = rng.uniform(0.55, 1.1), rng.choice([0.6, 1.0, 2.0])

    def paint(rng: np.random.Generator, size: int) -> Field:
        x, y = grid(size)
        x, y = turned(x, y, rng.uniform(0, 2 * np.pi), 2 / (size * zoom * rng.uniform(0.85, 1.15)))
        x, y = x + 0.5 * noise(rng, size, 4.5) + rng.uniform(0, 128), y + rng.uniform(0, 128)
        return _sample(tile, x, y) ** power

    return paint


def _sample(tile: Field, x: Field, y: Field) -> Field:
    """Read a periodic tile at fractional coordinates, bilinearly."""
    side = len(tile)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    u, v = x - left, y - top
    left, top = left % side, top % side
    right, bottom = (left + 1) % side, (top + 1) % side
    upper = tile[top, left] * (1 - u) + tile[top, right] * u
    return upper * (1 - v) + (tile[bottom, left] * (1 - u) + tile[bottom, right] * u) * v


def _gray_scott(rng: np.random.Generator, feed: float, kill: float, side: int, steps: int) -> Field:
    """Return the second substance, scaled to 0..1, after ``steps`` explicit Euler steps from random seeds."""
    a, b = np.ones((side, side), np.float32), np.zeros((side, side), np.float32)
    for row, column in rng.integers(0, side - 8, (28, 2)):
        b[row : row + 8, column : column + 8] = 0.5
        a[row : row + 8, column : column + 8] = 0.5
    for _ in range(steps):
        reaction = a * b * b
        a = a + 0.20 * _laplacian(a) - reaction + feed * (1 - a)
        b = b + 0.10 * _laplacian(b) + reaction - (feed + kill) * b
    return (b - b.min()) / max(float(b.max() - b.min()), 1e-6)


def _laplacian(field: Field) -> Field:
    """Return the five-point Laplacian on a torus."""
    padded = np.pad(field, 1, mode="wrap")
    return padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * field
