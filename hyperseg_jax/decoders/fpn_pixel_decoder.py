"""A feature pyramid network with a transformer encoder on its coarsest level (MaskFormer, Cheng et al. 2021; the pixel decoder
`transformer_encoder_fpn` of X-Decoder and SEEM)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.decoders.pixel_decoder import ConvNorm, named_conv_norm_table
from hyperseg_jax.layers.attention import MultiHeadAttention, fused_attention_table
from hyperseg_jax.layers.conv import Conv, conv_table
from hyperseg_jax.layers.mlp import FeedForward, feed_forward_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import stack_blocks
from hyperseg_jax.ops.positions import sine_positions
from hyperseg_jax.ops.sampling import resize_nearest
from hyperseg_jax.structs import DeviceArray, Pyramid
from hyperseg_jax.tables import Table


class EncoderLayer(nn.Module):
    """A post-norm transformer block; positions are added to queries and keys. Parts: attention, norm1, mlp, norm2."""

    num_heads: int
    feedforward_dim: int
    precision: Precision

    @nn.compact
    def __call__(
        self, x: Float[DeviceArray, "B hw C"], positions: Float[DeviceArray, "hw C"]
    ) -> tuple[Float[jax.Array, "B hw C"], None]:
        p, placed = self.precision, x + positions
        attended = MultiHeadAttention(self.num_heads, precision=p, name="attention")(placed, placed, x)
        x = LayerNorm(precision=p, name="norm1")(x + attended)
        mlp = FeedForward(self.feedforward_dim, "relu", precision=p, name="mlp")
        x = LayerNorm(precision=p, name="norm2")(x + mlp(x))
        return axes.constrain(x, "batch", "tokens", "act_embed"), None


class FPNPixelDecoder(nn.Module):
    """Refines a pyramid of four levels to (mask features at the finest stride, three maps, coarse to fine).

    Padding is treated as part of the image, as in the published system. Corresponds to
    TransformerEncoderPixelDecoder.forward_features.
    Parts: projection, layers (stacked), laterals_i and outputs_i (fine to coarse), mask_features.
    """

    conv_dim: int = 512
    mask_dim: int = 512
    num_heads: int = 8
    feedforward_dim: int = 2048
    num_layers: int = 6
    group_norm_groups: int = 32
    remat: str = "none"
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self, pyramid: Pyramid
    ) -> tuple[Float[jax.Array, "B h w {self.mask_dim}"], tuple[Float[jax.Array, "B _ _ {self.conv_dim}"], ...]]:
        p, last = self.precision, len(pyramid.levels) - 1
        x, maps = self._encode(pyramid.levels[last]), []
        for i in reversed(range(last + 1)):
            if i < last:
                level = pyramid.levels[i]
                lateral = ConvNorm(self.conv_dim, 1, self.group_norm_groups, p, use_bias=False, name=f"laterals_{i}")(level)
                x = lateral + resize_nearest(x, (level.shape[1], level.shape[2]))
            x = ConvNorm(self.conv_dim, 3, self.group_norm_groups, p, use_bias=False, name=f"outputs_{i}")(x)
            x = nn.relu(x)
            maps.append(x)
        features = Conv(self.mask_dim, 3, padding=1, precision=p, name="mask_features")(x)
        return axes.constrain(features, "batch", "height", "width", "act_embed"), tuple(maps[:-1])

    def _encode(self, level: Float[DeviceArray, "B h w C"]) -> Float[jax.Array, "B h w {self.conv_dim}"]:
        """Attends between the cells of the coarsest level."""
        p, (_, h, w, _) = self.precision, level.shape
        x = rearrange(Conv(self.conv_dim, 1, precision=p, name="projection")(level), "b h w c -> b (h w) c")
        positions = p.cast(jnp.asarray(rearrange(sine_positions(h, w, self.conv_dim), "h w c -> (h w) c")))
        layers = stack_blocks(EncoderLayer, self.num_layers, self.remat, (nn.broadcast,))
        x, _ = layers(self.num_heads, self.feedforward_dim, p, name="layers")(x, positions)
        return rearrange(x, "b (h w) c -> b h w c", h=h)


def table(decoder: FPNPixelDecoder, num_levels: int = 4) -> Table:
    """Returns the weight table for the published names ("adapter_1.weight", "layer_1.norm.weight", ...)."""
    rows = conv_table("projection", "input_proj") + conv_table("mask_features", "mask_features")
    name = "transformer.encoder.layers.{i}"
    layer = fused_attention_table("attention", f"{name}.self_attn") + norm_table("norm1", f"{name}.norm1")
    layer += norm_table("norm2", f"{name}.norm2") + feed_forward_table("mlp", f"{name}.linear1", f"{name}.linear2")
    rows += layer.stacked(decoder.num_layers).with_prefix("layers/")
    for i in range(num_levels):
        rows += named_conv_norm_table(f"outputs_{i}", f"layer_{i + 1}")
        rows += named_conv_norm_table(f"laterals_{i}", f"adapter_{i + 1}") if i + 1 < num_levels else Table()
    return rows
