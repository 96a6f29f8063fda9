"""Images made of words: what IFSeg trains on (Yun et al. 2023, section 3.2; option rand_k-1-33 of the published scripts).

A small random grid of classes is enlarged to the cells of an image, each of which is the mean of the word embeddings of its
class, and to the pixels of the target.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32

MAX_SIDE = 32
"""Maximum number of rows and columns of a random grid."""


def random_grid(rng: np.random.Generator, num_classes: int, cells: int = MAX_SIDE) -> Int32[np.ndarray, "rows columns"]:
    """Returns a grid of random classes, with 1 to MAX_SIDE rows and columns, but no more than the cells of a side."""
    rows, columns = rng.integers(1, min(cells, MAX_SIDE) + 1, size=2)
    return rng.integers(num_classes, size=(rows, columns), dtype=np.int32)


def random_names(
    rng: np.random.Generator, grid: Int[np.ndarray, "rows columns"], owners: Sequence[int]
) -> Int32[np.ndarray, "rows columns"]:
    """Returns a random name of the class of each cell. owners: the class of each name, in order; a class has one name, or
    several synonyms. Without synonyms, nothing is drawn."""
    names = np.bincount(owners)
    first = np.cumsum(names) - names
    if len(names) == len(owners):
        return grid.astype(np.int32)
    return (first[grid] + rng.integers(names[grid])).astype(np.int32)


def enlarge(grid: Int[np.ndarray, "rows columns"], size: int) -> Int[np.ndarray, "{size} {size}"]:
    """Resizes a grid of classes to a square, each cell of which gets the class of the nearest one."""
    rows, columns = (np.arange(size) * n // size for n in grid.shape)
    return grid[rows[:, None], columns]
