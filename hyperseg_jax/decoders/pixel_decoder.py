"""The deformable pixel decoder of Mask2Former (Cheng et al. 2022): refines a pyramid to mask features and three maps."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.conv import Conv, conv_table
from hyperseg_jax.layers.deformable_attention import DeformableAttention, cell_centers, deformable_attention_table
from hyperseg_jax.layers.mlp import FeedForward, feed_forward_table
from hyperseg_jax.layers.norms import GroupNorm, LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import apply_remat, scan_layers
from hyperseg_jax.ops.deformable import Shapes
from hyperseg_jax.ops.positions import sine_positions
from hyperseg_jax.ops.sampling import resize_bilinear
from hyperseg_jax.structs import DeviceArray, Pyramid
from hyperseg_jax.tables import Identity, Row, Table


class ConvNorm(nn.Module):
    """Convolution and GroupNorm. Parts: conv, norm."""

    features: int
    kernel_size: int
    groups: int
    precision: Precision
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B H W {self.features}"]:
        init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        x = Conv(
            self.features,
            self.kernel_size,
            padding=self.kernel_size // 2,
            use_bias=self.use_bias,
            precision=self.precision,
            kernel_init=init,
            name="conv",
        )(x)
        return GroupNorm(self.groups, precision=self.precision, name="norm")(x)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over all maps and a feed-forward block, each followed by its norm.

    Parts: attention, norm1, mlp, norm2.
    """

    num_heads: int
    num_points: int
    feedforward_dim: int
    shapes: Shapes
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B hw C"], positions: Float[DeviceArray, "hw C"]) -> Float[jax.Array, "B hw C"]:
        attention = DeformableAttention(self.num_heads, self.num_points, self.shapes, self.precision, name="attention")
        attended = attention(x + positions, x, jnp.asarray(cell_centers(self.shapes)))
        x = LayerNorm(precision=self.precision, name="norm1")(x + attended)
        mlp = FeedForward(self.feedforward_dim, "relu", precision=self.precision, name="mlp")
        x = LayerNorm(precision=self.precision, name="norm2")(x + mlp(x))
        return axes.constrain(x, "batch", "tokens", "act_embed")


class DeformablePixelDecoder(nn.Module):
    """Refines a pyramid of four levels to (mask features at the finest stride, three maps, coarse to fine).

    Padding is not masked: it is treated as part of the image, as in the published system.
    merge: how the finest level joins. psalm: its convolutions have biases and the lateral one a ReLU; detectron2: neither.
    Corresponds to MSDeformAttnPixelDecoder.forward_features.
    Parts: projections_i (coarse to fine), level_embed, layers_i, lateral, output, mask_features.
    """

    conv_dim: int = 256
    mask_dim: int = 256
    num_heads: int = 8
    feedforward_dim: int = 1024
    num_layers: int = 6
    num_points: int = 4
    group_norm_groups: int = 32
    merge: Literal["psalm", "detectron2"] = "psalm"
    remat: str = "none"
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self, pyramid: Pyramid
    ) -> tuple[Float[jax.Array, "B h w {self.mask_dim}"], tuple[Float[jax.Array, "B _ _ {self.conv_dim}"], ...]]:
        p, groups = self.precision, self.group_norm_groups
        finest, *rest = pyramid.levels
        coarse_to_fine = rest[::-1]
        shapes = tuple((level.shape[1], level.shape[2]) for level in coarse_to_fine)
        init = axes.named(nn.initializers.normal(1.0), "levels", "embed")
        level_embed = self.param("level_embed", init, (len(shapes), self.conv_dim), p.params)

        tokens, positions = [], []
        for i, level in enumerate(coarse_to_fine):
            x = ConvNorm(self.conv_dim, 1, groups, p, name=f"projections_{i}")(level)
            tokens.append(rearrange(x, "b h w c -> b (h w) c"))
            positions.append(rearrange(sine_positions(*shapes[i], self.conv_dim), "h w c -> (h w) c") + level_embed[i])
        x, positions = jnp.concatenate(tokens, axis=1), p.cast(jnp.concatenate(positions))
        layer = apply_remat(DeformableEncoderLayer, self.remat)
        fields = (self.num_heads, self.num_points, self.feedforward_dim, shapes, p)
        x = scan_layers([layer(*fields, name=f"layers_{i}") for i in range(self.num_layers)], x, positions)

        maps, start = [], 0
        for height, width in shapes:
            flat = x[:, start : start + height * width]
            maps.append(rearrange(flat, "b (h w) c -> b h w c", h=height))
            start += height * width
        psalm = self.merge == "psalm"
        lateral = ConvNorm(self.conv_dim, 1, groups, p, psalm, name="lateral")(finest)
        lateral = nn.relu(lateral) if psalm else lateral
        merged = lateral + resize_bilinear(maps[-1], (lateral.shape[1], lateral.shape[2]))
        merged = nn.relu(ConvNorm(self.conv_dim, 3, groups, p, psalm, name="output")(merged))
        features = Conv(
            self.mask_dim,
            1,
            precision=p,
            name="mask_features",
            kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
        )(merged)
        return axes.constrain(features, "batch", "height", "width", "act_embed"), tuple(maps)


def table(decoder: DeformablePixelDecoder, num_levels: int = 3) -> Table:
    """Returns the weight table for the published names ("input_proj.0.0.weight", "transformer.level_embed", ...)."""
    rows = Table([Row("level_embed", "transformer.level_embed", Identity())])
    rows += Table.join(_conv_norm_table(f"projections_{i}", f"input_proj.{i}") for i in range(num_levels))
    for i in range(decoder.num_layers):
        path, name = f"layers_{i}", f"transformer.encoder.layers.{i}"
        rows += deformable_attention_table(f"{path}/attention", f"{name}.self_attn")
        rows += norm_table(f"{path}/norm1", f"{name}.norm1") + norm_table(f"{path}/norm2", f"{name}.norm2")
        rows += feed_forward_table(f"{path}/mlp", f"{name}.linear1", f"{name}.linear2")
    merge_table = _conv_norm_table if decoder.merge == "psalm" else named_conv_norm_table
    rows += merge_table("lateral", "adapter_1") + merge_table("output", "layer_1")
    return rows + conv_table("mask_features", "mask_features")


def _conv_norm_table(path: str, name: str) -> Table:
    return conv_table(f"{path}/conv", f"{name}.0") + norm_table(f"{path}/norm", f"{name}.1")


def named_conv_norm_table(path: str, name: str) -> Table:
    """Returns the weight table of a ConvNorm without bias that PyTorch stores as detectron2's Conv2d with a norm."""
    return conv_table(f"{path}/conv", name, use_bias=False) + norm_table(f"{path}/norm", f"{name}.norm")
