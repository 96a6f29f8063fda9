"""Visual prompts as marked pixels of the model's input (host side, NumPy)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from hyperseg_jax.datasets.regions import has_positive_mark
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry, resize_and_pad_map
from hyperseg_jax.structs import Region

DRAWS = 4
"""Subsets of the marked pixels: for the mean features, and for each level."""
RADIUS = 1
"""By which clicks are dilated at the size of the model: squares of 3 x 3 pixels, as published."""
Masks = Bool[np.ndarray, "N H W"]


def draw_marks(regions: Sequence[Region], shape: tuple[int, int], geometry: Geometry) -> tuple[Masks, Masks]:
    """Returns the pixels of the model's input that each region marks, and those that it excludes: bool [N, S, S] each.

    Clicks are squares; boxes and masks mark all of their pixels. shape: (height, width) of the image that they are drawn on.
    Raises UserError if a region marks nothing, has only negative points, or is outside of the image.
    """
    positive = np.zeros((len(regions), *geometry.padded), bool)
    negative = np.zeros_like(positive)
    for n, region in enumerate(regions):
        _click(positive[n], region.points[region.points[:, 2] == 1], shape, geometry, n)
        _click(negative[n], region.points[region.points[:, 2] == 0], shape, geometry, n)
        rest = Region(region.kind, boxes=region.boxes, scribbles=region.scribbles, mask=region.mask, radius=region.radius or 0)
        if has_positive_mark(rest):
            try:
                drawn = draw_region(rest, shape)
            except UserError as error:
                raise UserError(f"region {n + 1}: {error}") from error
            positive[n] |= _to_model(drawn, geometry)
        elif not has_positive_mark(region):
            why = "has only points beside the object" if len(region.points) else "is empty"
            raise UserError(f"region {n + 1} {why}; add a point on the object, a box, a scribble or a mask")
    return positive, negative


def _to_model(mask: Bool[np.ndarray, "H W"], geometry: Geometry) -> np.ndarray:
    """Resizes a mask; no marked pixel is lost where the image is reduced."""
    resized = resize_and_pad_map(mask, geometry)
    rows, columns = (axis * new // old for axis, new, old in zip(np.nonzero(mask), geometry.filled, mask.shape, strict=True))
    resized[rows, columns] = True
    return resized


def _click(out: np.ndarray, points: np.ndarray, shape: tuple[int, int], geometry: Geometry, region: int) -> None:
    for x, y in points[:, :2].tolist():
        if not (0 <= x < shape[1] and 0 <= y < shape[0]):
            raise UserError(
                f"region {region + 1}: the point ({x:g}, {y:g}) is not inside an image of {shape[1]} x {shape[0]} pixels; "
                "move it inside"
            )
        row, column = (int(at * new / old) for at, new, old in zip((y, x), geometry.filled, shape, strict=True))
        out[max(row - RADIUS, 0) : row + RADIUS + 1, max(column - RADIUS, 0) : column + RADIUS + 1] = True


Pixels = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Prompt, row and column of marked pixels, in raster order."""


def find_pixels(masks: Masks) -> Pixels:
    """Returns all marked pixels; several times faster than np.nonzero."""
    prompt, row, column = np.unravel_index(np.flatnonzero(masks), masks.shape)
    return prompt, row, column


def sample_pixels(pixels: Pixels, count: int, rng: np.random.Generator | None) -> Pixels:
    """Returns at most `count` marked pixels.

    With more pixels, each prompt gets the same share: drawn with rng, as published, or fixed ones without it.
    """
    prompt, row, column = pixels
    if len(prompt) <= count:
        return pixels
    if rng is None:
        share = count // len(np.unique(prompt))
        of_prompt = (np.flatnonzero(prompt == n) for n in np.unique(prompt))
        chosen = np.concatenate([index[_fixed_subset(len(index), share)] for index in of_prompt])
    else:
        weights = 1 / np.bincount(prompt)[prompt]
        chosen = np.sort(rng.choice(len(prompt), count, replace=False, p=weights / weights.sum()))
    return prompt[chosen], row[chosen], column[chosen]


def _fixed_subset(size: int, count: int) -> np.ndarray:
    """Returns at most `count` of the indices below `size`, always the same ones: one of each of equally long runs. At equal
    distances, all could be in one column of a box."""
    bounds = np.arange(min(size, count) + 1) * size // min(size, count)
    return bounds[:-1] + (np.random.default_rng(0).random(len(bounds) - 1) * np.diff(bounds)).astype(int)


def mark_arrays(
    positive: Masks, negative: Masks, capacity: tuple[int, int], rng: np.random.Generator | None
) -> dict[str, np.ndarray]:
    """Returns the marked pixels as decoders.marks.MarkedPoints has them, once for each of DRAWS: marked_points float32
    [DRAWS, P, 2], marked_prompt int32 and marked_positive bool [DRAWS, P]. capacity: of marked and of excluded pixels."""
    height, width = positive.shape[1:]
    draws = 1 if rng is None else DRAWS  # without random choices, all are equal
    points, prompts = np.zeros((draws, sum(capacity), 2), np.float32), np.full((draws, sum(capacity)), -1, np.int32)
    found = (find_pixels(positive), 0, capacity[0]), (find_pixels(negative), capacity[0], capacity[1])
    for draw in range(draws):
        for pixels, start, count in found:
            prompt, row, column = sample_pixels(pixels, count, rng)
            part = slice(start, start + len(prompt))
            points[draw, part] = np.stack([column / np.float32(width), row / np.float32(height)], axis=1)
            prompts[draw, part] = prompt
    signs = np.broadcast_to(np.arange(sum(capacity)) < capacity[0], prompts.shape)
    arrays = {"marked_points": points, "marked_prompt": prompts, "marked_positive": signs}
    return {name: np.repeat(array, DRAWS // draws, axis=0) for name, array in arrays.items()}
