"""Trivial predictions. A model must score well above the best of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hyperseg_jax.metrics.ciou_giou import ReferringScores


def disc(row: float, column: float, radius: float, size: tuple[int, int]) -> np.ndarray:
    """Returns bool [H, W]: the pixels within a radius of a point, all in pixels. size: (height, width)."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    return np.hypot(rows + 0.5 - row, columns + 0.5 - column) <= radius


CELLS = 64
"""Cells of a mean shape along a length of sqrt(height * width) of an image."""


class MeanShape:
    """The mean size and shape of objects, relative to a point of each, in units of the square root of their image's area."""

    def __init__(self) -> None:
        self._count, self._area = 0, 0.0
        self._sum = np.zeros((2 * CELLS + 1,) * 2)

    def add(self, mask: np.ndarray, row: float, column: float) -> None:
        """Adds an object. mask: bool [H, W]. row, column: its point, in pixels."""
        height, width = mask.shape
        offset = np.arange(-CELLS, CELLS + 1) * np.sqrt(height * width) / CELLS
        rows, columns = (np.floor(at + offset).astype(int) for at in (row, column))
        padded = np.pad(mask, 1)
        self._sum += padded[np.ix_(np.clip(rows + 1, 0, height + 1), np.clip(columns + 1, 0, width + 1))]
        self._area += mask.mean()
        self._count += 1

    def radius(self, size: tuple[int, int]) -> float:
        """Returns the radius in pixels of a disc with the mean area of the objects in an image of this (height, width)."""
        return float(np.sqrt(self._area / max(self._count, 1) * size[0] * size[1] / np.pi))

    def at(self, row: float, column: float, size: tuple[int, int]) -> np.ndarray:
        """Returns bool [H, W]: the pixels, relative to a point, that belong to at least half of the objects."""
        scale = CELLS / np.sqrt(size[0] * size[1])
        cells = [np.rint((np.arange(n) + 0.5 - at) * scale).astype(int) for n, at in zip(size, (row, column), strict=True)]
        inside = [np.abs(index) <= CELLS for index in cells]
        shape = 2 * self._sum >= max(self._count, 1)
        return shape[np.ix_(*(np.clip(index, -CELLS, CELLS) + CELLS for index in cells))] & np.outer(*inside)


def blind_answers(objects: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the prediction of each baseline for an image.

    objects: bool [N, H, W], the ground-truth masks of its objects, N > 0. rng: for the "random" baseline.
    Returns bool [H, W] for "all_foreground", "largest", "most_central", "random" and "nothing".
    """
    height, width = objects.shape[1:]
    rows, columns = np.mgrid[0:height, 0:width]
    areas = np.maximum(objects.sum((1, 2)), 1)
    y, x = ((objects * grid).sum((1, 2)) / areas for grid in (rows, columns))
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    return {
        "all_foreground": objects.any(0),
        "largest": objects[int(areas.argmax())],
        "most_central": objects[int(distance.argmin())],
        "random": objects[int(rng.integers(len(objects)))],
        "nothing": np.zeros((height, width), bool),
    }


def text_blind_scores(images: Iterable[tuple[np.ndarray, Iterable[np.ndarray]]], seed: int = 0) -> dict[str, dict[str, float]]:
    """Returns cIoU and gIoU of every baseline, scored like a model (including absent targets), and of the "best" one.

    images: for each image the masks of its objects [N, H, W] and the target [H, W] of each expression, all False if nothing
    matches. seed: of the random choices. Returns {baseline: ReferringScores.compute()}; "best" has the maximum of each score.
    """
    scores: dict[str, ReferringScores] = {}
    for number, (objects, targets) in enumerate(images):
        for k, target in enumerate(targets):
            for name, answer in blind_answers(objects, np.random.default_rng([seed, number, k])).items():
                scores.setdefault(name, ReferringScores()).update(answer, target)
    computed = {name: score.compute() for name, score in scores.items()}
    best = {key: max((score[key] for score in computed.values()), default=0.0) for key in ("ciou", "giou")}
    return computed | {"best": best}


def shuffled_order(texts: list[str], seed: int = 0) -> list[int]:
    """Returns a permutation that gives every prompt another text: prompt i gets texts[order[i]].

    Equal texts count as the same. If one text makes up more than half of all, as few prompts as possible keep their text.
    """
    start = np.random.default_rng(seed).permutation(len(texts))
    by_text: dict[str, list[int]] = {}
    for i in start:
        by_text.setdefault(texts[i], []).append(int(i))
    blocks = sorted(by_text.values(), key=len, reverse=True)
    # Equal texts are adjacent here, so a rotation by the longest run separates them.
    grouped = [i for block in blocks for i in block]
    shift = len(blocks[0]) if blocks else 0
    order = [0] * len(texts)
    for k, i in enumerate(grouped):
        order[i] = grouped[(k + shift) % len(grouped)]
    return order
