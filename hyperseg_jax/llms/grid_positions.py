"""Relative positions of a text and of the cells of an image grid (OFA, Wang et al. 2022; fairseq's OFA modules).

A learned table has one row for each offset between two tokens, or between two cells of a grid. OFA looks offsets up on a base
grid and resizes the bias matrix bilinearly to the grid of the image, for keys and for queries. The resizing is separable, so
the bias of some rows of queries is computed without the matrix of all pairs. Images of many sizes lie on few canvases, and
their own size is data, so that few programs are compiled.
"""

from __future__ import annotations

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from hyperseg_jax.ops.sampling import linear_weights
from hyperseg_jax.structs import DeviceArray

Grid = tuple[int, int]
"""(rows, columns) of the cells of an image."""
FURTHEST = 1023
"""Offsets of texts are in logarithmic buckets up to this one."""


def text_offsets(length: int, buckets: int) -> Int[np.ndarray, "{length} {length}"]:
    """Returns the table row of each pair (query, key) of tokens. The table has 2 * buckets - 1 rows.

    Offsets up to half of the buckets have a row each, and larger ones share rows; all beyond FURTHEST have the last one.
    """
    offset, half = np.subtract.outer(np.arange(length), np.arange(length)), buckets // 2
    distance = np.maximum(np.abs(offset), 1)
    logarithmic = np.ceil(np.log(distance / half) / math.log(FURTHEST / half) * (half - 1)) + half
    far = np.sign(offset) * np.minimum(logarithmic, buckets - 1).astype(int)
    return np.where(np.abs(offset) <= half, offset, far) + buckets - 1


@flax.struct.dataclass
class Canvas:
    """The cells of images, each at the top left of a grid that may be larger.

    used: (rows, columns) of each image, or of all images. grid: of the canvas.
    """

    used: Int[DeviceArray, "*B 2"]
    grid: Grid = flax.struct.field(pytree_node=False)

    @classmethod
    def full(cls, grid: Grid) -> Canvas:
        """Returns the canvas that all images fill."""
        return cls(np.asarray(grid, np.int32), grid)  # type: ignore[arg-type]

    @property
    def valid(self) -> Bool[jax.Array, "*B cells"]:
        """Which cells belong to the image."""
        rows, columns = (jnp.arange(self.grid[axis]) < self.used[..., axis, None] for axis in (0, 1))
        valid = rows[..., :, None] & columns[..., None, :]
        return valid.reshape(*valid.shape[:-2], -1)

    @property
    def before(self) -> Int[jax.Array, "*B cells"]:
        """The number of the cell before each cell, in row-major order of the image, plus 1; 0 for the first cell."""
        number, column = np.arange(self.grid[0] * self.grid[1]), np.tile(np.arange(self.grid[1]), self.grid[0])
        return jnp.maximum(number - jnp.where(column == 0, self.grid[1] - self.used[..., 1, None], 0), 0)

    def resize_from(self, base: Grid) -> Resize:
        """Returns how values on a base grid are resized to the image."""
        rows, columns = (
            jnp.vectorize(functools.partial(linear_weights, count, canvas=(most, count)), signature="()->(m,n)")(
                jnp.asarray(self.used[..., axis])
            )
            for axis, (count, most) in enumerate(zip(base, self.grid, strict=True))
        )
        return Resize(rows, columns)

    def look_up(self) -> Resize:
        """Returns the resize that keeps the values of the canvas."""
        return Resize(*(jnp.eye(count, dtype=jnp.float32) for count in self.grid))


@flax.struct.dataclass
class Resize:
    """How values on a base grid become values on a canvas: a matrix for the rows, and one for the columns."""

    rows: Float32[DeviceArray, "*B h base_h"]
    columns: Float32[DeviceArray, "*B w base_w"]


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
    table: Float[DeviceArray, "rows heads"], side: int, resize: Resize, start: int | Int[DeviceArray, ""], count: int
) -> Float[jax.Array, "*B heads _ _"]:
    """Returns the bias from the cells of `count` rows of a canvas, the first of which is `start`, to all of its cells.

    side: of the square grid whose offsets the table has. resize: from the base grid on which offsets are looked up.
    """
    rows, columns = resize.rows, resize.columns
    offsets = table[: (2 * side - 1) ** 2].reshape(2 * side - 1, 2 * side - 1, -1)
    down, across = (np.subtract.outer(np.arange(n), np.arange(n)) + side - 1 for n in (rows.shape[-1], columns.shape[-1]))
    query_rows = jax.lax.dynamic_slice_in_dim(rows, start, count, axis=-2)
    # Cells of queries are (q, r), of keys (k, l), in rows and columns; upper case on the base grid.
    bias = jnp.einsum("...qQ,QKxn->...qKxn", query_rows, offsets[down], precision="highest")
    bias = jnp.einsum("...kK,...qKxn->...qkxn", rows, bias, precision="highest")
    bias = jnp.einsum("...rR,...qkRLn->...qkrLn", columns, jnp.take(bias, across, axis=-2), precision="highest")
    bias = jnp.einsum("...lL,...qkrLn->...nqrkl", columns, bias, precision="highest")
    return bias.reshape(*bias.shape[:-4], count * columns.shape[-2], rows.shape[-2] * columns.shape[-2])
