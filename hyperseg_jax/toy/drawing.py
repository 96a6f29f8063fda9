"""Rasterizes objects: pixel coverage of shapes, and textures.

NumPy only, so that images are identical on all machines (rounding of drawing libraries may change between releases)."""

from __future__ import annotations

import math

import numpy as np

from hyperseg_jax.toy.vocabulary import BACKGROUNDS, COLORS, SIZE

SUBROWS = 4
"""Scan lines per pixel row; along a row, the coverage is exact."""

RING_HOLE = 0.5
"""Inner radius over outer radius."""

RIM_DARKNESS = 0.45
"""Darkening of the outermost pixels of an object, so that overlapping objects of one colour can be distinguished."""

COLOR_JITTER = {"default": 10.0, "hard": 34.0}
OBJECT_TEXTURE = {"default": 0.06, "hard": 0.22}
BACKGROUND_TEXTURE = {"default": 9.0, "hard": 30.0}


def _regular_corners(count: int, radii: tuple[float, ...], shift: float = 0.0) -> np.ndarray:
    """Returns `count` corners at equal angles around the center, [V, 2], with the radii in turn: one radius for a regular
    polygon, two for a star. shift: moves the corners down."""
    angles = np.arange(count) * (2 * math.pi / count) - math.pi / 2
    lengths = np.resize(np.asarray(radii), count)
    return np.stack([lengths * np.cos(angles), lengths * np.sin(angles) + shift], axis=1)


def _heart_corners() -> np.ndarray:
    """Returns the corners of a heart, [V, 2]."""
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], axis=1) / 15.5


_ARM = 0.34
_POLYGONS = {
    "square": np.array([(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]),
    "triangle": _regular_corners(3, (1.2,), shift=0.22),
    "star": _regular_corners(10, (1.14, 0.5), shift=0.06),
    "cross": np.array(
        [
            *[(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)],
            *[(_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)],
        ]
    ),
    "heart": _heart_corners(),
}
"""Corners with x to the right and y down, about one unit from the center."""


def _polygon_spans(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the spans of scan lines inside a polygon (even-odd rule). points [V, 2], rows [S] -> [S, P, 2] as (from, to)."""
    x, y = points[:, 0], points[:, 1]
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    below = rows[:, None] >= y
    crossed = below != (rows[:, None] >= y_next)
    slope = (x_next - x) / np.where(y_next == y, 1.0, y_next - y)
    crossings = np.sort(np.where(crossed, x + (rows[:, None] - y) * slope, np.inf), axis=1)
    pairs = int(crossed.sum(axis=1).max(initial=0) + 1) // 2
    return crossings[:, : 2 * pairs].reshape(len(rows), pairs, 2)


def _disc_spans(x: float, y: float, radius: float, hole: float, rows: np.ndarray) -> np.ndarray:
    """Returns the spans of scan lines inside a ring, [S, 2, 2] as (from, to). hole: the inner radius, 0 for a disc. rows: y of
    the scan lines, [S]."""
    squared = (rows - y) ** 2
    outer = np.sqrt(np.maximum(radius**2 - squared, 0.0))
    inner = np.sqrt(np.maximum(hole**2 - squared, 0.0))
    return np.stack([np.stack([x - outer, x - inner], -1), np.stack([x + inner, x + outer], -1)], axis=1)


def pixel_coverage(shape: str, x: float, y: float, diameter: float, angle: float) -> np.ndarray:
    """Returns the share of each pixel that a shape covers, without occlusion.

    shape: one of vocabulary.SHAPES. x, y: its center, diameter: its extent, in pixels. angle: radians.
    Returns float64 [SIZE, SIZE] in 0..1.
    """
    radius = diameter / 2
    top, bottom = max(0, int(y - 1.3 * radius) - 1), min(SIZE, int(y + 1.3 * radius) + 2)
    left, right = max(0, int(x - 1.3 * radius) - 1), min(SIZE, int(x + 1.3 * radius) + 2)
    canvas = np.zeros((SIZE, SIZE))
    if top >= bottom or left >= right:
        return canvas
    rows = top + (np.arange((bottom - top) * SUBROWS) + 0.5) / SUBROWS
    if shape in _POLYGONS:
        rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        spans = _polygon_spans(_POLYGONS[shape] @ rotation * radius + (x, y), rows)
    else:
        spans = _disc_spans(x, y, radius, RING_HOLE * radius if shape == "ring" else 0.0, rows)
    columns = np.arange(left, right, dtype=np.float64)
    overlap = np.minimum(spans[..., 1:], columns + 1) - np.maximum(spans[..., :1], columns)  # [S, P, W]
    inside = np.clip(overlap, 0.0, 1.0).sum(axis=1)
    canvas[top:bottom, left:right] = inside.reshape(bottom - top, SUBROWS, -1).mean(axis=1)
    return canvas


def _block_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns noise in -1..1 that is constant over blocks of height x width pixels."""
    coarse = rng.random((-(-SIZE // height), -(-SIZE // width))) * 2 - 1
    return np.repeat(np.repeat(coarse, height, axis=0), width, axis=1)[:SIZE, :SIZE]


def _background_pattern(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Returns the texture of a background, [SIZE, SIZE], about -1..1."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    if kind == "sand":
        return _block_noise(rng, 2, 2)
    if kind == "grass":
        return 0.8 * _block_noise(rng, 14, 2) + 0.4 * _block_noise(rng, 3, 2)
    if kind == "water":
        phase, length = rng.random() * 6.28, 11 + 6 * rng.random()
        return np.sin(y * (6.28 / length) + phase + 0.8 * np.sin(x / 17)) + 0.2 * _block_noise(rng, 2, 4)
    if kind == "brick":
        row = np.floor(y / 16)
        joint = (y % 16 < 2) | ((x + 16 * (row % 2)) % 32 < 2)
        return np.where(joint, 1.4, 0.35 * _block_noise(rng, 16, 16))
    return 0.7 * _block_noise(rng, 16, 16) + 0.5 * _block_noise(rng, 5, 5)  # stone


def _jitter_color(color: tuple[int, int, int], amount: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the color with uniform noise of up to `amount` per channel."""
    return np.asarray(color, np.float64) + (rng.random(3) * 2 - 1) * amount


def _min_filter(values: np.ndarray) -> np.ndarray:
    """Returns the minimum over 3x3 pixels."""
    padded = np.pad(values, 1)
    rows = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    return np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def paint_background(kind: str, level: str, rng: np.random.Generator) -> np.ndarray:
    """Renders a background, float64 [SIZE, SIZE, 3] in 0..255."""
    color = _jitter_color(BACKGROUNDS[kind], 8.0, rng)
    return color + (_background_pattern(kind, rng) * BACKGROUND_TEXTURE[level])[..., None]


def paint_thing(canvas: np.ndarray, covered: np.ndarray, color: str, level: str, rng: np.random.Generator) -> None:
    """Renders one textured object onto the canvas, in place.

    canvas: float64 [SIZE, SIZE, 3]. covered: its pixel coverage [SIZE, SIZE]. color: a word of vocabulary.COLORS.
    """
    strength = OBJECT_TEXTURE[level]
    base = _jitter_color(COLORS[color], COLOR_JITTER[level], rng)
    direction = rng.random() * 2 * math.pi
    period = 5 + 5 * rng.random()
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    if not rows.size:
        return
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    y, x = np.mgrid[box].astype(np.float64)
    along = x * math.cos(direction) + y * math.sin(direction)
    along -= along.mean()  # the texture moves with the object
    shading = 0.5 * along / (np.ptp(along) + 1e-9) + 0.35 * np.sin(along * (6.28 / period))
    shading += 0.5 * _block_noise(rng, 3, 3)[: y.shape[0], : y.shape[1]]
    inner = 1 - RIM_DARKNESS * (1 - _min_filter(covered)[box])
    share = covered[box][..., None]
    canvas[box] = canvas[box] * (1 - share) + base * ((1 + strength * shading) * inner)[..., None] * share
