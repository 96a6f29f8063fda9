"""Self-attention inside shifted windows (Liu et al. 2021; the WindowAttention of Swin-Transformer)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32, Int, Shaped

from hyperseg_jax import axes
from hyperseg_jax.layers.linear import Linear, fused_qkv_table, linear_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.ops.attention import attend
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Constant, Identity, Row, Table

HIDDEN = -100.0  # the published bias between positions that meet only through the shift


def partition(x: Shaped[DeviceArray, "B H W C"], window: int) -> Shaped[jax.Array, "B H*W//{window**2} {window**2} C"]:
    """Feature map -> windows as tokens; H and W are multiples."""
    return rearrange(x, "b (rows y) (columns x) c -> b (rows columns) (y x) c", y=window, x=window)


def merge(windows: Float[DeviceArray, "B nW L C"], height: int, width: int) -> Float[jax.Array, "B {height} {width} C"]:
    """The inverse of partition."""
    window = round(windows.shape[2] ** 0.5)
    sizes = {"rows": height // window, "columns": width // window, "y": window, "x": window}
    return rearrange(windows, "b (rows columns) (y x) c -> b (rows y) (columns x) c", **sizes)


def relative_position_index(window: int) -> Int[np.ndarray, "{window**2} {window**2}"]:
    """The row of the bias table for each pair of positions in a window; int64."""
    place = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    offset = place[:, :, None] - place[:, None, :] + window - 1
    return (offset[0] * (2 * window - 1) + offset[1]).astype(np.int64)


def shift_mask(height: int, width: int, window: int) -> Float32[np.ndarray, "nW 1 {window**2} {window**2}"]:
    """HIDDEN between positions of a rolled map that are no neighbours, else 0."""
    shift = window // 2

    def bands(size: int) -> np.ndarray:
        return (np.arange(size) >= size - window).astype(int) + (np.arange(size) >= size - shift)

    band = 3 * bands(height)[:, None] + bands(width)[None, :]
    band = rearrange(band, "(rows y) (columns x) -> (rows columns) 1 (y x)", y=window, x=window)
    return np.where(band[..., None] == band[..., None, :], 0.0, HIDDEN).astype(np.float32)


class WindowAttention(nn.Module):
    """nW windows of L = window ** 2 positions. mask: is added to the scores.

    Tokens come already cut into windows: splitting the heads first would cost a six-dimensional transpose.
    """

    num_heads: int
    window: int
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self, x: Float[DeviceArray, "B nW L C"], mask: Float[np.ndarray, "nW 1 L L"] | None = None
    ) -> Float[jax.Array, "B nW L C"]:
        width = x.shape[-1]
        init = axes.named(nn.initializers.truncated_normal(0.02), "window", None)
        table = self.param("relative_bias", init, ((2 * self.window - 1) ** 2, self.num_heads), self.precision.params)
        bias = jnp.asarray(table, jnp.float32)[relative_position_index(self.window)]
        bias = rearrange(bias, "query key heads -> heads query key")
        projected = (
            Linear(width, ("embed", "heads"), precision=self.precision, name=name)(x) for name in ("query", "key", "value")
        )
        q, k, v = (rearrange(y, "... (heads d) -> ... heads d", heads=self.num_heads) for y in projected)
        mixed = attend(q, k, v, bias=bias if mask is None else bias + mask, precision=self.precision.matmul)
        mixed = rearrange(mixed, "... heads d -> ... (heads d)")
        return Linear(width, ("heads", "embed"), precision=self.precision, name="out")(mixed)


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
