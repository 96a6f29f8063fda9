"""Relative positions of a text and of the cells of an image grid (OFA, Wang et al. 2022; fairseq's OFA modules).

A learned table has one row for each offset between two tokens, or between two cells of a grid. OFA looks offsets up on a base
grid and resizes the bias matrix bilinearly to the grid of the image, for keys and for queries. The resizing is separable, so the
bias of some rows of queries is computed without the matrix of all pairs.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int

from hyperseg_jax.structs import DeviceArray

Grid = tuple[int, int]
"""(rows, columns) of the cells of an image."""
FURTHEST = 1023
"""Offsets of texts are in logarithmic buckets up to this one."""


def text_offsets(length: int, buckets: int) -> Int[np.ndarray, "{length} {length}"]:
    """Returns the table row of each pair (query, key) of tokens. The table has 2 * buckets - 1 rows.

    Offsets up to half of the buckets have a row each, and larger ones share rows.
    """
    offset, half = np.subtract.outer(np.arange(length), np.arange(length)), buckets // 2
    distance = np.maximum(np.abs(offset), 1)
    logarithmic = np.ceil(np.log(distance / half) / math.log(FURTHEST / half) * (half - 1)) + half
    far = np.sign(offset) * logarithmic.astype(int)
    return np.where(np.abs(offset) <= half, offset, far) + buckets - 1


def resize_weights(count: int, size: int) -> Float32[np.ndarray, "{size} {count}"]:
    """Returns the matrix that resizes `count` values to `size` values linearly (interpolate with align_corners=False)."""
    place = np.maximum((np.arange(size) + 0.5) * (count / size) - 0.5, 0)
    lower = np.minimum(place.astype(int), count - 1)
    fraction, rows = place - lower, np.arange(size)
    weights = np.zeros((size, count))
    weights[rows, lower] += 1 - fraction
    weights[rows, np.minimum(lower + 1, count - 1)] += fraction
    return weights.astype(np.float32)


def grid_table_rows(side: int) -> int:
    """Returns the number of rows of the table of a square grid with this side: one for each offset, and three for the token
    that stands before the grid."""
    return (2 * side - 1) ** 2 + 3


def cell_offsets(side: int) -> Int[np.ndarray, "_ _"]:
    """Returns the table row of each pair (query, key) of the token before a square grid and its cells: OFA's index table."""
    rows, columns = np.divmod(np.arange(side**2), side)
    steps, count = 2 * side - 1, grid_table_rows(side)
    index = np.empty((side**2 + 1,) * 2, np.int64)
    index[1:, 1:] = (np.subtract.outer(rows, rows) + side - 1) * steps + np.subtract.outer(columns, columns) + side - 1
    index[0], index[:, 0] = count - 3, count - 2
    index[0, 0] = count - 1
    return index


def token_to_grid(table: Float[DeviceArray, "rows heads"]) -> tuple[Float[jax.Array, " heads"], ...]:
    """Returns the biases of the token before the grid: from it to all cells, from all cells to it, and to itself."""
    return table[-3], table[-2], table[-1]


def grid_bias(
    table: Float[DeviceArray, "rows heads"], side: int, base: Grid, grid: Grid, start: int | jax.Array, count: int
) -> Float[jax.Array, "heads _ _"]:
    """Returns the bias from the cells of `count` grid rows, the first of which is `start`, to all cells of the grid.

    side: of the square grid whose offsets the table has. base: the grid on which offsets are looked up.
    """
    offsets = table[: (2 * side - 1) ** 2].reshape(2 * side - 1, 2 * side - 1, -1)
    down, across = (np.subtract.outer(np.arange(n), np.arange(n)) + side - 1 for n in base)
    rows, columns = (jnp.asarray(resize_weights(*sizes)) for sizes in zip(base, grid, strict=True))
    query_rows = jax.lax.dynamic_slice_in_dim(rows, start, count)
    # Cells of queries are (q, r), of keys (k, l), in rows and columns; upper case on the base grid.
    bias = jnp.einsum("qQ,QKxn->qKxn", query_rows, offsets[down], precision="highest")
    bias = jnp.einsum("kK,qKxn->qkxn", rows, bias, precision="highest")
    bias = jnp.einsum("rR,qkRLn->qkrLn", columns, bias[:, :, across], precision="highest")
    bias = jnp.einsum("lL,qkrLn->nqrkl", columns, bias, precision="highest")
    return bias.reshape(bias.shape[0], count * grid[1], grid[0] * grid[1])
