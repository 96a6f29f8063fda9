"""Self-attention inside shifted windows (Liu et al. 2021; the WindowAttention of Swin-Transformer)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hyperseg_jax import axes
from hyperseg_jax.layers.linear import Linear, fused_qkv_table, linear_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.ops.attention import attend
from hyperseg_jax.tables import Constant, Identity, Row, Table

HIDDEN = -100.0  # the published bias between positions that meet only through the shift


def partition(x: jax.Array, window: int) -> jax.Array:
    """Feature map [B, H, W, C] -> windows as tokens [B, H/window * W/window, window ** 2, C]; H and W are multiples."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, -1, window * window, c)


def merge(windows: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse of partition: [B, nW, window ** 2, C] -> [B, height, width, C]."""
    b, _, area, c = windows.shape
    window = round(area**0.5)
    x = windows.reshape(b, height // window, width // window, window, window, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, height, width, c)


def relative_position_index(window: int) -> np.ndarray:
    """int64 [window ** 2, window ** 2]: the row of the bias table for each pair of positions in a window."""
    place = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    offset = place[:, :, None] - place[:, None, :] + window - 1
    return (offset[0] * (2 * window - 1) + offset[1]).astype(np.int64)


def shift_mask(height: int, width: int, window: int) -> np.ndarray:
    """float32 [nW, 1, window ** 2, window ** 2]: HIDDEN between positions of a rolled map that are no neighbours, else 0."""
    shift = window // 2

    def bands(size: int) -> np.ndarray:
        return (np.arange(size) >= size - window).astype(int) + (np.arange(size) >= size - shift)

    band = 3 * bands(height)[:, None] + bands(width)[None, :]
    band = band.reshape(height // window, window, width // window, window).transpose(0, 2, 1, 3).reshape(-1, 1, window**2)
    return np.where(band[..., None] == band[..., None, :], 0.0, HIDDEN).astype(np.float32)


class WindowAttention(nn.Module):
    """x [B, nW, window ** 2, C] -> the same; mask [nW, 1, window ** 2, window ** 2] is added to the scores.

    Tokens come already cut into windows: splitting the heads first would cost a six-dimensional transpose.
    """

    num_heads: int
    window: int
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: jax.Array, mask: np.ndarray | None = None) -> jax.Array:
        width = x.shape[-1]
        init = axes.named(nn.initializers.truncated_normal(0.02), "window", None)
        table = self.param("relative_bias", init, ((2 * self.window - 1) ** 2, self.num_heads), self.precision.params)
        bias = jnp.asarray(table, jnp.float32)[relative_position_index(self.window)].transpose(2, 0, 1)
        q, k, v = (
            Linear(width, ("embed", "heads"), precision=self.precision, name=name)(x).reshape(*x.shape[:-1], self.num_heads, -1)
            for name in ("query", "key", "value")
        )
        mixed = attend(q, k, v, bias=bias if mask is None else bias + mask, precision=self.precision.matmul)
        return Linear(width, ("heads", "embed"), precision=self.precision, name="out")(mixed.reshape(x.shape))


def window_attention_table(path: str, name: str, window: int) -> Table:
    """Weight table of one WindowAttention."""
    made = fused_qkv_table(path, f"{name}.qkv.weight", f"{name}.qkv.bias") + linear_table(f"{path}/out", f"{name}.proj")
    return made + relative_bias_table(path, name, window)


def relative_bias_table(path: str, name: str, window: int) -> Table:
    """Weight table of the relative bias alone, with the buffer of its index."""
    return Table(
        [
            Row(f"{path}/relative_bias", f"{name}.relative_position_bias_table", Identity()),
            Row((), f"{name}.relative_position_index", Constant((relative_position_index, window))),
        ]
    )
