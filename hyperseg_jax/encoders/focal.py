"""FocalNet: a feature pyramid of focal modulation (Yang et al. 2022), in two forms: SEEM's backbones `focal` and `focal_dw`."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.conv import Conv, DepthwiseConv, conv_table, pad_to_multiple
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.mlp import FeedForward, feed_forward_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import stack_blocks
from hyperseg_jax.structs import DeviceArray, Pyramid
from hyperseg_jax.tables import Identity, Row, Table

Form = Literal["focal", "focal_dw"]
STEM_PADDING = {"focal": 2, "focal_dw": 3}


class FocalModulation(nn.Module):
    """Modulates each position by gated contexts of growing size and by the mean of the image.

    levels: number of contexts. window: kernel size of the smallest; each further one is larger by 2.
    Parts: input, contexts_i, modulator, out.
    """

    levels: int
    window: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        width, p = x.shape[-1], self.precision
        projected = Linear(2 * width + self.levels + 1, precision=p, name="input")(x)
        query, context, gates = jnp.split(projected, (width, 2 * width), axis=-1)
        modulator = jnp.zeros_like(query)
        for level in range(self.levels):
            conv = DepthwiseConv(self.window + 2 * level, use_bias=False, precision=p, name=f"contexts_{level}")
            context = jax.nn.gelu(conv(context), approximate=False)
            modulator = modulator + context * gates[..., level : level + 1]
        mean = p.cast(context.mean((1, 2), keepdims=True, dtype=jnp.float32))
        modulator = modulator + jax.nn.gelu(mean, approximate=False) * gates[..., self.levels :]
        modulator = Conv(width, 1, precision=p, name="modulator")(modulator / (self.levels + 1))
        return Linear(width, ("mlp", "embed"), precision=p, name="out")(query * modulator)


class FocalBlock(nn.Module):
    """A block of one of the two forms, whose branches are scaled by learned vectors.

    focal: the norms act on the branches. focal_dw: a depthwise convolution before each branch, and norms after each sum.
    Parts: modulation, mlp, norm1, norm2, scale1, scale2; conv1 and conv2 of focal_dw.
    """

    form: Form
    levels: int
    window: int
    mlp_ratio: float
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> tuple[Float[jax.Array, "B H W C"], None]:
        width, p = x.shape[-1], self.precision
        branches = (
            FocalModulation(self.levels, self.window, p, name="modulation"),
            FeedForward(int(self.mlp_ratio * width), "gelu", precision=p, name="mlp"),
        )
        for i, branch in enumerate(branches, start=1):
            norm = LayerNorm(precision=p, name=f"norm{i}")
            init = axes.named(nn.initializers.constant(1e-4), "norm")
            scale = p.cast(self.param(f"scale{i}", init, (width,), p.params))
            if self.form == "focal":
                x = x + scale * norm(branch(x))
            else:
                x = x + DepthwiseConv(3, precision=p, name=f"conv{i}")(x)
                x = norm(x + scale * branch(x))
        return axes.constrain(x, "batch", "height", "width", "act_embed"), None


class Downsample(nn.Module):
    """An overlapping convolution with stride, and a norm. Parts: conv, norm."""

    features: int
    kernel_size: int
    stride: int
    padding: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B h w {self.features}"]:
        x = pad_to_multiple(x, self.stride)
        x = Conv(self.features, self.kernel_size, self.stride, self.padding, precision=self.precision, name="conv")(x)
        return LayerNorm(precision=self.precision, name="norm")(x)


class FocalNet(nn.Module):
    """Encodes images of any size to a Pyramid of strides 4, 8, 16, 32, with a norm per level; defaults are SEEM's Focal-T.

    levels, windows: focal levels and smallest kernel of each stage. remat: activations that the backward pass of a block saves
    (layers/remat.py). Parts: stem, stages_i (stacked), downsamples_i, norms_i.
    """

    form: Form = "focal_dw"
    hidden_size: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    levels: tuple[int, ...] = (3, 3, 3, 3)
    windows: tuple[int, ...] = (3, 3, 3, 3)
    mlp_ratio: float = 4.0
    remat: str = "none"
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, image: Float[DeviceArray, "B H W 3"]) -> Pyramid:
        """Encodes normalized images. The levels are [B, ceil(H/stride), ceil(W/stride), hidden_size * 2 ** i].

        Raises ValueError if the fields of the stages differ in length, or if the form is unknown.
        """
        if not len(self.depths) == len(self.levels) == len(self.windows):
            raise ValueError(
                f"FocalNet: depths {self.depths}, levels {self.levels} and windows {self.windows} differ in length"
            )
        if self.form not in STEM_PADDING:
            raise ValueError(f"FocalNet: form = {self.form!r}; use one of {', '.join(STEM_PADDING)}")
        p = self.precision
        x = Downsample(self.hidden_size, 7, 4, STEM_PADDING[self.form], p, name="stem")(image)
        levels = []
        for i, depth in enumerate(self.depths):
            if i:
                x = Downsample(self.hidden_size * 2**i, 3, 2, 1, p, name=f"downsamples_{i - 1}")(x)
            blocks = stack_blocks(FocalBlock, depth, self.remat)
            x, _ = blocks(self.form, self.levels[i], self.windows[i], self.mlp_ratio, p, name=f"stages_{i}")(x)
            levels.append(LayerNorm(precision=p, name=f"norms_{i}")(x))
        return Pyramid(tuple(levels), tuple(4 * 2**i for i in range(len(levels))))


def table(focal: FocalNet) -> Table:
    """Returns the weight table for SEEM's backbone ("patch_embed.proj.weight", "layers.0.blocks.0.modulation.f...", ...)."""
    rows = _downsample_table("stem", "patch_embed")
    for i, depth in enumerate(focal.depths):
        block = _block_table(f"layers.{i}.blocks.{{i}}", focal.form, focal.levels[i])
        rows += block.stacked(depth).with_prefix(f"stages_{i}/")
        if i + 1 < len(focal.depths):
            rows += _downsample_table(f"downsamples_{i}", f"layers.{i}.downsample")
        rows += norm_table(f"norms_{i}", f"norm{i}")
    return rows


def _downsample_table(path: str, name: str) -> Table:
    return conv_table(f"{path}/conv", f"{name}.proj") + norm_table(f"{path}/norm", f"{name}.norm")


def _block_table(name: str, form: Form, levels: int) -> Table:
    rows = feed_forward_table("mlp", f"{name}.mlp.fc1", f"{name}.mlp.fc2")
    for i in (1, 2):
        rows += norm_table(f"norm{i}", f"{name}.norm{i}") + Table([Row(f"scale{i}", f"{name}.gamma_{i}", Identity())])
        if form == "focal_dw":
            rows += conv_table(f"conv{i}", f"{name}.dw{i}")
    name = f"{name}.modulation"
    rows += linear_table("modulation/input", f"{name}.f") + conv_table("modulation/modulator", f"{name}.h")
    rows += linear_table("modulation/out", f"{name}.proj")
    contexts = (conv_table(f"modulation/contexts_{i}", f"{name}.focal_layers.{i}.0", use_bias=False) for i in range(levels))
    return rows + Table.join(contexts)
