"""Multi-head attention with separate query, key, value and out projections."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
from einops import rearrange
from jaxtyping import Bool, Float

from hyperseg_jax.layers.linear import Linear, fused_qkv_table, linear_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.ops.attention import attend
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Table


class MultiHeadAttention(nn.Module):
    """torch.nn.MultiheadAttention, batch first. Parts: query, key, value, out.

    mask: True = may attend. head_dim: None means C / heads. Leading axes broadcast, so the queries of several prompts can
    share the keys of one image.
    """

    num_heads: int
    head_dim: int | None = None
    use_bias: bool = True
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self,
        query: Float[DeviceArray, "*#B Lq C"],
        key: Float[DeviceArray, "*#B Lk _"],
        value: Float[DeviceArray, "*#B Lk _"],
        mask: Bool[DeviceArray, "*#B #heads #Lq #Lk"] | None = None,
        bias: Float[DeviceArray, "*#B #heads #Lq #Lk"] | None = None,
    ) -> Float[jax.Array, "*#B Lq C"]:
        width = query.shape[-1]
        inner = self.num_heads * (self.head_dim or width // self.num_heads)
        project = functools.partial(Linear, inner, ("embed", "heads"), self.use_bias, self.precision)
        projected = (project(name=name)(x) for name, x in (("query", query), ("key", key), ("value", value)))
        q, k, v = (rearrange(y, "... (heads d) -> ... heads d", heads=self.num_heads) for y in projected)
        attended = attend(q, k, v, mask=mask, bias=bias, precision=self.precision.matmul)
        attended = rearrange(attended, "... heads d -> ... (heads d)")
        return Linear(width, ("heads", "embed"), self.use_bias, self.precision, name="out")(attended)


def fused_attention_table(path: str, name: str) -> Table:
    """Returns the weight table for torch.nn.MultiheadAttention (in_proj_weight, in_proj_bias, out_proj)."""
    fused = fused_qkv_table(path, f"{name}.in_proj_weight", f"{name}.in_proj_bias")
    return fused + linear_table(f"{path}/out", f"{name}.out_proj")
