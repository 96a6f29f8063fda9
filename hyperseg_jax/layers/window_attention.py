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

SHIFT_MASK_BIAS = -100.0  # published attention bias between positions that share a window only because of the shift


def partition_windows(x: Shaped[DeviceArray, "B H W C"], window: int) -> Shaped[jax.Array, "B H*W//{window**2} {window**2} C"]:
    """Splits a feature map into windows of tokens; H and W must be multiples of the window."""
    return rearrange(x, "b (rows y) (columns x) c -> b (rows columns) (y x) c", y=window, x=window)


def merge_windows(windows: Float[DeviceArray, "B nW L C"], height: int, width: int) -> Float[jax.Array, "B {height} {width} C"]:
    """Merges windows to a feature map; the inverse of partition."""
    window = round(windows.shape[2] ** 0.5)
    sizes = {"rows": height // window, "columns": width // window, "y": window, "x": window}
    return rearrange(windows, "b (rows columns) (y x) c -> b (rows y) (columns x) c", **sizes)


def relative_position_index(window: int) -> Int[np.ndarray, "{window**2} {window**2}"]:
    """Returns the int64 row of the bias table for each pair of positions in a window."""
    position = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    offset = position[:, :, None] - position[:, None, :] + window - 1
    return (offset[0] * (2 * window - 1) + offset[1]).astype(np.int64)


def shift_mask(height: int, width: int, window: int) -> Float32[np.ndarray, "nW 1 {window**2} {window**2}"]:
    """Returns the attention bias of shifted windows: SHIFT_MASK_BIAS between positions that are not adjacent before the shift,
    else 0."""
    shift = window // 2

    def bands(size: int) -> np.ndarray:
        return (np.arange(size) >= size - window).astype(int) + (np.arange(size) >= size - shift)

    band = 3 * bands(height)[:, None] + bands(width)[None, :]
    band = rearrange(band, "(rows y) (columns x) -> (rows columns) 1 (y x)", y=window, x=window)
    return np.where(band[..., None] == band[..., None, :], np.float32(0), np.float32(SHIFT_MASK_BIAS))


class WindowAttention(nn.Module):
    """Attention inside nW windows of L = window ** 2 positions. mask: added to the scores.

    The input is already partitioned into windows, because splitting heads first would need a six-dimensional transpose.
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
        attended = attend(q, k, v, bias=bias if mask is None else bias + mask, precision=self.precision.matmul)
        attended = rearrange(attended, "... heads d -> ... (heads d)")
        return Linear(width, ("heads", "embed"), precision=self.precision, name="out")(attended)


def window_attention_table(path: str, name: str, window: int) -> Table:
    """Returns the weight table of a WindowAttention."""
    rows = fused_qkv_table(path, f"{name}.qkv.weight", f"{name}.qkv.bias") + linear_table(f"{path}/out", f"{name}.proj")
    return rows + relative_bias_table(path, name, window)


def relative_bias_table(path: str, name: str, window: int) -> Table:
    """Returns the weight table of the relative bias, with its index buffer."""
    return Table(
        [
            Row(f"{path}/relative_bias", f"{name}.relative_position_bias_table", Identity()),
            Row((), f"{name}.relative_position_index", Constant((relative_position_index, window))),
        ]
    )
