"""Random visual prompts on an object: points, polygons, scribbles and blobs, as SEEM is trained and evaluated with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageDraw

SMALLEST = 10
"""Objects with fewer pixels get no prompt."""
POINTS, CORNERS, STROKES = 20, 9, 5
"""Maximum number of points, of corners of a polygon, and of strokes of a scribble or blob."""
ROUNDNESS, EDGINESS, SAMPLES = 0.2, 0.05, 100
"""Of polygons: distance of the control points, smoothness at the corners, and points of a side."""


@dataclasses.dataclass(frozen=True)
class Brush:
    """How a stroke is drawn: a walk of `vertices` steps (from, below), whose speed and direction change by up to
    `acceleration` and stay below `speed`, with a brush of `width` (from, below), and finally shifted by about
    `initial_speed` / 2, half of its vertices by up to `jitter`. Lengths in pixels, directions in radians."""

    vertices: tuple[int, int]
    speed: float
    acceleration: tuple[float, float]
    width: tuple[int, int]
    jitter: int
    initial_speed: float


SCRIBBLES = (Brush((10, 30), 20, (15, 0.5), (3, 10), 3, 6), Brush((6, 22), 12, (8, 0.5), (2, 5), 1, 3))
BLOBS = (
    Brush((5, 30), 15, (10, 1.5), (20, 50), 10, 10),
    Brush((5, 15), 8, (4, 1.5), (20, 50), 5, 10),
    Brush((5, 20), 7, (3.5, 1.5), (10, 30), 5, 4),
)
"""The published kinds of strokes, with equal probability."""

Mask = Bool[np.ndarray, "H W"]


def draw_random_shape(mask: Mask, rng: np.random.Generator) -> Mask:
    """Returns a random prompt of one of four kinds; empty for an object of fewer than SMALLEST pixels. It may be empty."""
    if mask.sum() < SMALLEST:
        return np.zeros_like(mask)
    return SHAPES[int(rng.integers(len(SHAPES)))](mask, rng)


def draw_points(mask: Mask, rng: np.random.Generator) -> Mask:
    """Marks 1 to POINTS pixels of the object."""
    x, y = _random_pixels(mask, int(rng.integers(1, POINTS + 1)), rng).T
    points = np.zeros_like(mask)
    points[y, x] = True
    return points


def draw_polygon(mask: Mask, rng: np.random.Generator) -> Mask:
    """Marks a smooth outline through 1 to CORNERS pixels of the object; it may leave the object."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left, height, width = rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1
    corners = _random_pixels(mask[top : top + height, left : left + width], int(rng.integers(1, CORNERS + 1)), rng)
    x, y = np.clip(smooth_outline(corners / [width + 1, height + 1]), 0.0, 1.0)
    outline = np.zeros_like(mask)
    outline[(top + y * (height - 1)).astype(int), (left + x * (width - 1)).astype(int)] = True
    return outline


def draw_scribble(mask: Mask, rng: np.random.Generator) -> Mask:
    """Marks 1 to STROKES thin strokes inside of the object."""
    return draw_strokes(mask, SCRIBBLES, rng)


def draw_blob(mask: Mask, rng: np.random.Generator) -> Mask:
    """Marks 1 to STROKES wide strokes inside of the object."""
    return draw_strokes(mask, BLOBS, rng)


SHAPES: tuple[Callable[[Mask, np.random.Generator], Mask], ...] = (draw_points, draw_polygon, draw_scribble, draw_blob)


def smooth_outline(corners: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "2 _"]:
    """Returns x and y of SAMPLES points on each side of a closed curve through the corners, counterclockwise: cubic Bezier
    curves whose direction at a corner is between those of its two sides."""
    offset = corners - corners.mean(0)
    corners = corners[np.argsort(np.arctan2(offset[:, 0], offset[:, 1]))]
    sides = np.roll(corners, -1, axis=0) - corners
    forward = np.arctan2(sides[:, 1], sides[:, 0]) % (2 * np.pi)
    backward, share = np.roll(forward, 1), np.arctan(EDGINESS) / np.pi + 0.5
    angle = share * forward + (1 - share) * backward + np.pi * (np.abs(backward - forward) > np.pi)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1) * ROUNDNESS
    length = np.linalg.norm(sides, axis=1, keepdims=True)
    ends, end_direction = np.roll(corners, -1, axis=0), np.roll(direction, -1, axis=0)
    controls = (corners, corners + length * direction, ends - length * end_direction, ends)
    t = np.linspace(0, 1, SAMPLES)
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    curve = sum(weight[:, None] * control[:, None] for weight, control in zip(weights, controls, strict=True))
    return np.asarray(curve).reshape(-1, 2).T


def draw_stroke(vertices: Float[np.ndarray, "N 2"], width: int, size: tuple[int, int]) -> Mask:
    """Draws lines of a width in pixels through the vertices (x, y), with a disk at each, on a mask of this (height, width)."""
    image = Image.new("1", (size[1], size[0]))
    pen, radius = ImageDraw.Draw(image), width // 2 - 1
    points = [tuple(vertex) for vertex in vertices.tolist()]
    pen.line(points, fill=1, width=width)
    for x, y in points if radius >= 0 else ():
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return np.array(image)


def draw_strokes(
    mask: Mask, brushes: tuple[Brush, ...], rng: np.random.Generator, starts: Int[np.ndarray, "N 2"] | None = None
) -> Mask:
    """Marks strokes inside of the object, of one of the brushes. starts: where they start, (x, y) each; by default at 1 to
    STROKES random pixels of the object."""
    brush = brushes[int(rng.integers(len(brushes)))]
    strokes = np.zeros_like(mask)
    for start in _random_pixels(mask, int(rng.integers(1, STROKES + 1)), rng) if starts is None else starts:
        width = int(rng.integers(*brush.width))
        strokes |= draw_stroke(_random_walk(start, brush, rng), width, mask.shape)
    return strokes & mask


def _random_walk(start: np.ndarray, brush: Brush, rng: np.random.Generator) -> Float[np.ndarray, "N 2"]:
    """Returns the vertices of a stroke (free-form strokes, Yu et al. 2019)."""
    angle, speed, vertices = rng.uniform(0, 2 * np.pi), rng.uniform(0, brush.speed), [start.astype(float)]
    for _ in range(int(rng.integers(*brush.vertices))):
        speed = np.clip(speed + rng.uniform(-1, 1) * brush.acceleration[0], 0, brush.speed)
        angle += rng.uniform(-1, 1) * brush.acceleration[1]
        vertices.append(vertices[-1] + speed * np.array([np.sin(angle), np.cos(angle)]))
    walk = np.stack(vertices)
    shift, direction = abs(rng.normal(0, brush.initial_speed / 2)), rng.uniform(0, 2 * np.pi)
    walk += np.trunc(shift * np.array([np.cos(direction), np.sin(direction)]))
    moved = rng.permutation(len(walk))[: len(walk) // 2]
    walk[moved] += rng.integers(-brush.jitter, max(brush.jitter, 1 - brush.jitter), (len(moved), 2))
    return walk


def _random_pixels(mask: Mask, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns (x, y) of up to `count` different pixels of a mask, int [n, 2]."""
    pixels = np.flatnonzero(mask)
    y, x = np.divmod(rng.permutation(pixels)[:count], mask.shape[1])
    return np.stack([x, y], axis=1)
