"""SigLIP's vision tower: a vision transformer (Zhai et al. 2023; transformers' SiglipVisionModel)."""

from __future__ import annotations

from typing import Literal, overload

import flax.linen as nn
import jax
from einops import rearrange
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.attention import MultiHeadAttention, fused_attention_table
from hyperseg_jax.layers.conv import Conv, conv_table
from hyperseg_jax.layers.linear import linear_table
from hyperseg_jax.layers.mlp import FeedForward, feed_forward_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import stack_blocks
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Identity, Row, Table


class SiglipLayer(nn.Module):
    """Pre-norm block. collect: also return the output for stacking over the layers."""

    num_heads: int
    mlp_size: int
    epsilon: float
    precision: Precision
    collect: bool

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B N D"]) -> tuple[Float[jax.Array, "B N D"], Float[jax.Array, "B N D"] | None]:
        y = LayerNorm(self.epsilon, self.precision, name="norm1")(x)
        x = x + MultiHeadAttention(self.num_heads, precision=self.precision, name="attention")(y, y, y)
        y = LayerNorm(self.epsilon, self.precision, name="norm2")(x)
        x = x + FeedForward(self.mlp_size, "gelu_tanh", precision=self.precision, name="mlp")(y)
        x = axes.constrain(x, "batch", "tokens", "act_embed")
        return x, (x if self.collect else None)


class SiglipHead(nn.Module):
    """The pooling head: one learned probe attends to all patches."""

    num_heads: int
    mlp_size: int
    epsilon: float
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B N D"]) -> Float[jax.Array, "B D"]:
        init = axes.named(nn.initializers.normal(0.02), None, None, "embed")
        probe = self.param("probe", init, (1, 1, x.shape[-1]), self.precision.params)
        attention = MultiHeadAttention(self.num_heads, precision=self.precision, name="attention")
        pooled = attention(self.precision.cast(probe), x, x)
        normed = LayerNorm(self.epsilon, self.precision, name="norm")(pooled)
        return (pooled + FeedForward(self.mlp_size, "gelu_tanh", precision=self.precision, name="mlp")(normed))[:, 0]


Tokens = Float[jax.Array, "B {self.num_tokens} {self.hidden_size}"]
"""SigLIP tokens, one per patch in row-major order."""


class Siglip(nn.Module):
    """Encodes images to the patch features of one layer, without the final norm.

    feature_layer: index of the hidden state as in transformers' hidden_states: 0 is the patch embedding, num_layers or -1 the
    output of the last layer. Later layers are not run. keep_unused: keep the parameters of later layers and the pooling head
    ("unused_layers", "unused_norm", "unused_head"), so that published weights are imported and exported completely.
    Parts: patches, positions, layers (stacked).
    """

    image_size: int = 384
    patch_size: int = 14
    hidden_size: int = 1152
    mlp_size: int = 4304
    num_layers: int = 27
    num_heads: int = 16
    feature_layer: int = -2
    keep_unused: bool = False
    epsilon: float = 1e-6
    remat: str = "none"
    precision: Precision = Precision()

    @property
    def num_tokens(self) -> int:
        """The number of patches per image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_used(self) -> int:
        """The number of layers that are run."""
        if not -self.num_layers - 1 <= self.feature_layer <= self.num_layers:
            raise ValueError(f"feature_layer = {self.feature_layer} is out of range for {self.num_layers} layers")
        return self.feature_layer % (self.num_layers + 1)

    @overload
    def __call__(self, image: Float[DeviceArray, "B H W 3"], all_hidden: Literal[False] = False) -> Tokens: ...

    @overload
    def __call__(
        self, image: Float[DeviceArray, "B H W 3"], all_hidden: Literal[True]
    ) -> tuple[Tokens, tuple[Tokens, ...]]: ...

    @nn.compact
    def __call__(
        self, image: Float[DeviceArray, "B H W 3"], all_hidden: bool = False
    ) -> Tokens | tuple[Tokens, tuple[Tokens, ...]]:
        """Encodes images.

        image: of image_size, normalized to -1..1. all_hidden: also return all hidden states that have weights.
        """
        if image.shape[1:3] != (self.image_size, self.image_size):
            raise ValueError(f"SigLIP expects images of {self.image_size} x {self.image_size}, got {image.shape}")
        x = Conv(self.hidden_size, self.patch_size, self.patch_size, precision=self.precision, name="patches")(image)
        x = rearrange(x, "b h w c -> b (h w) c")
        init = axes.named(nn.initializers.normal(0.02), "patch", "embed")
        positions = self.param("positions", init, (self.num_tokens, self.hidden_size), self.precision.params)
        x = axes.constrain(x + self.precision.cast(positions), "batch", "tokens", "act_embed")

        feature, inner = self._run_layers("layers", self.num_used, x, all_hidden)
        hidden = (x, *inner)
        if self.keep_unused and (all_hidden or self.is_initializing()):
            last, inner = self._run_layers("unused_layers", self.num_layers - self.num_used, feature, all_hidden)
            hidden += inner
            normed = LayerNorm(self.epsilon, self.precision, name="unused_norm")(last)
            SiglipHead(self.num_heads, self.mlp_size, self.epsilon, self.precision, name="unused_head")(normed)
        return (feature, hidden) if all_hidden else feature

    def _run_layers(self, name: str, count: int, x: jax.Array, collect: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        if not count:
            return x, ()
        layers = stack_blocks(SiglipLayer, count, self.remat)
        x, inner = layers(self.num_heads, self.mlp_size, self.epsilon, self.precision, collect, name=name)(x)
        return x, (tuple(inner) if collect else ())


def table(siglip: Siglip) -> Table:
    """Returns the weight table for SiglipVisionModel ("vision_model.embeddings.patch_embedding.weight", ...)."""
    name = "encoder.layers.{i}"
    layer = norm_table("norm1", f"{name}.layer_norm1") + norm_table("norm2", f"{name}.layer_norm2")
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
        layer += linear_table(f"attention/{ours}", f"{name}.self_attn.{theirs}")
    layer += feed_forward_table("mlp", f"{name}.mlp.fc1", f"{name}.mlp.fc2")

    rows = conv_table("patches", "embeddings.patch_embedding")
    rows += Table([Row("positions", "embeddings.position_embedding.weight", Identity())])
    rows += layer.stacked(siglip.num_used).with_prefix("layers/") if siglip.num_used else Table()
    if siglip.keep_unused:
        unused = siglip.num_layers - siglip.num_used
        rows += layer.stacked(unused, start=siglip.num_used).with_prefix("unused_layers/") if unused else Table()
        rows += norm_table("unused_norm", "post_layernorm") + _head_table().with_prefix("unused_head/", "head.")
    return rows.with_prefix(name="vision_model.")


def _head_table() -> Table:
    probe = Table([Row("probe", "probe", Identity())])
    return (
        probe
        + fused_attention_table("attention", "attention")
        + norm_table("norm", "layernorm")
        + feed_forward_table("mlp", "mlp.fc1", "mlp.fc2")
    )
