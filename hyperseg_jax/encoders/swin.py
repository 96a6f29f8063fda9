"""Swin Transformer: a feature pyramid of windowed attention (Liu et al. 2021; Mask2Former's D2SwinTransformer)."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.conv import Conv, conv_table, pad_to_multiple
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.mlp import FeedForward, feed_forward_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import apply_remat, stack_blocks
from hyperseg_jax.layers.window_attention import (
    WindowAttention,
    merge_windows,
    partition_windows,
    relative_bias_table,
    shift_mask,
    window_attention_table,
)
from hyperseg_jax.structs import DeviceArray, Pyramid
from hyperseg_jax.tables import Table

SCANNED_DEPTH = 4  # an even stage of at least this depth is one scanned stack of pairs


class SwinBlock(nn.Module):
    """One windowed block. shifted: shift the windows by half a window.

    drop: probability that an image skips a branch in training (stochastic depth); a scalar, traced in a scanned stage.
    """

    num_heads: int
    window: int
    mlp_ratio: float
    shifted: bool
    precision: Precision
    deterministic: bool

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"], drop: Float[DeviceArray, ""]) -> Float[jax.Array, "B H W C"]:
        attended = self._attend(LayerNorm(precision=self.precision, name="norm1")(x))
        x = x + self._drop_path(attended, drop)
        mlp = FeedForward(int(self.mlp_ratio * x.shape[-1]), "gelu", precision=self.precision, name="mlp")
        x = x + self._drop_path(mlp(LayerNorm(precision=self.precision, name="norm2")(x)), drop)
        return axes.constrain(x, "batch", "height", "width", "act_embed")

    def _attend(self, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        h, w = x.shape[1:3]
        shift = self.window // 2 if self.shifted else 0
        x = pad_to_multiple(x, self.window)  # padding is not masked, as in the published system
        height, width = x.shape[1:3]
        windows = partition_windows(jnp.roll(x, (-shift, -shift), (1, 2)), self.window)
        mask = shift_mask(height, width, self.window) if self.shifted else None
        windows = WindowAttention(self.num_heads, self.window, self.precision, name="attention")(windows, mask)
        return jnp.roll(merge_windows(windows, height, width), (shift, shift), (1, 2))[:, :h, :w]

    def _drop_path(self, branch: Float[DeviceArray, "B H W C"], drop: Float[DeviceArray, ""]) -> Float[jax.Array, "B H W C"]:
        """Sets a branch to zero for random images, and scales it for the others, so that its mean is unchanged (stochastic
        depth)."""
        if self.deterministic:
            return branch
        mask = jax.random.bernoulli(self.make_rng("dropout"), 1 - drop, (branch.shape[0], 1, 1, 1))
        return jnp.where(mask, branch / (1 - drop).astype(branch.dtype), 0)


class SwinPair(nn.Module):
    """A plain block and a shifted block, the unit of a scanned stage. Parts: plain, shifted."""

    num_heads: int
    window: int
    mlp_ratio: float
    precision: Precision
    deterministic: bool

    @nn.compact
    def __call__(
        self, x: Float[DeviceArray, "B H W C"], drops: Float[DeviceArray, " 2"]
    ) -> tuple[Float[jax.Array, "B H W C"], None]:
        for i, name in enumerate(("plain", "shifted")):
            x = SwinBlock(
                self.num_heads, self.window, self.mlp_ratio, name == "shifted", self.precision, self.deterministic, name=name
            )(x, drops[i])
        return x, None


class SwinStage(nn.Module):
    """All blocks of one stage. Parts: pairs (stacked), or blocks_0, blocks_1, ..."""

    depth: int
    num_heads: int
    window: int
    mlp_ratio: float
    remat: str
    precision: Precision

    @nn.compact
    def __call__(
        self, x: Float[DeviceArray, "B H W C"], drops: Float[DeviceArray, " {self.depth}"], deterministic: bool
    ) -> Float[jax.Array, "B H W C"]:
        fields = (self.num_heads, self.window, self.mlp_ratio)
        if is_scanned(self.depth):
            pairs = stack_blocks(SwinPair, self.depth // 2, self.remat, (0,))
            return pairs(*fields, self.precision, deterministic, name="pairs")(
                x, rearrange(drops, "(pairs blocks) -> pairs blocks", blocks=2)
            )[0]
        block = apply_remat(SwinBlock, self.remat)
        for i in range(self.depth):
            x = block(*fields, i % 2 == 1, self.precision, deterministic, name=f"blocks_{i}")(x, drops[i])
        return x


class PatchMerging(nn.Module):
    """Merges 2 x 2 cells into one. Parts: norm, reduction."""

    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B (H+1)//2 (W+1)//2 2*C"]:
        width = x.shape[-1]
        x = pad_to_multiple(x, 2)
        cells = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        x = LayerNorm(precision=self.precision, name="norm")(jnp.concatenate(cells, axis=-1))
        return Linear(2 * width, use_bias=False, precision=self.precision, name="reduction")(x)


class Swin(nn.Module):
    """Encodes images of any size to a Pyramid of strides 4, 8, 16, 32, with a norm per level; defaults are Swin-B.

    drop_path: stochastic depth of the last block in training; it increases linearly from 0. remat: activations that the
    backward pass of a block saves (layers/remat.py). Parts: patches, patch_norm, stages_i, merging_i, norms_i.
    """

    hidden_size: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 12
    patch_size: int = 4
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    remat: str = "none"
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, image: Float[DeviceArray, "B H W 3"], deterministic: bool = True) -> Pyramid:
        """Encodes normalized images. The levels are [B, ceil(H/stride), ceil(W/stride), hidden_size * 2 ** i].

        deterministic=False needs the "dropout" RNG if drop_path > 0.
        """
        if len(self.depths) != len(self.num_heads):
            raise ValueError(f"Swin: depths {self.depths} and num_heads {self.num_heads} differ in length")
        image = pad_to_multiple(image, self.patch_size)
        x = Conv(self.hidden_size, self.patch_size, self.patch_size, precision=self.precision, name="patches")(image)
        x = LayerNorm(precision=self.precision, name="patch_norm")(x)
        drops = np.split(np.linspace(0, self.drop_path, sum(self.depths), dtype=np.float32), np.cumsum(self.depths)[:-1])
        levels = []
        for i, (depth, heads) in enumerate(zip(self.depths, self.num_heads, strict=True)):
            if i:
                x = PatchMerging(self.precision, name=f"merging_{i - 1}")(x)
            stage = SwinStage(depth, heads, self.window, self.mlp_ratio, self.remat, self.precision, name=f"stages_{i}")
            x = stage(x, jnp.asarray(drops[i]), deterministic or not self.drop_path)
            levels.append(LayerNorm(precision=self.precision, name=f"norms_{i}")(x))
        return Pyramid(tuple(levels), tuple(self.patch_size * 2**i for i in range(len(levels))))


def is_scanned(depth: int) -> bool:
    """Returns whether a stage of this depth is stored as a stack of pairs."""
    return depth >= SCANNED_DEPTH and depth % 2 == 0


def table(swin: Swin) -> Table:
    """Returns the weight table for Mask2Former's backbone ("patch_embed.proj.weight", "layers.0.blocks.0.attn...", ...)."""
    return _table(swin, ("patch_embed.proj", "patch_embed.norm", "layers.{}", "norm{}"), _block_table)


def transformers_table(swin: Swin) -> Table:
    """Returns the weight table for transformers' SwinBackbone ("encoder.layers.0.blocks.0.layernorm_before.weight", ...)."""
    names = ("embeddings.patch_embeddings.projection", "embeddings.norm", "encoder.layers.{}", "hidden_states_norms.stage{}")
    return _table(swin, names, _transformers_block_table, first_norm=1)


def _table(
    swin: Swin, names: tuple[str, str, str, str], block_table: Callable[[str, int], Table], first_norm: int = 0
) -> Table:
    """Builds a weight table.

    names: PyTorch names of the patch embedding, the patch norm, a stage ("layers.{}") and a stage's output norm ("norm{}").
    block_table: returns the table of a block, given its name and window size. first_norm: index of the first output norm.
    """
    patches, patch_norm, stage, norm = names
    rows = conv_table("patches", patches) + norm_table("patch_norm", patch_norm)
    for i, depth in enumerate(swin.depths):
        name = stage.format(i)
        if is_scanned(depth):
            block = block_table(f"{name}.blocks.{{i}}", swin.window)
            for start, part in enumerate(("plain", "shifted")):
                rows += block.with_prefix(f"{part}/").stacked(depth // 2, start, 2).with_prefix(f"stages_{i}/pairs/")
        else:
            for j in range(depth):
                rows += block_table(f"{name}.blocks.{j}", swin.window).with_prefix(f"stages_{i}/blocks_{j}/")
        if i + 1 < len(swin.depths):
            rows += norm_table(f"merging_{i}/norm", f"{name}.downsample.norm")
            rows += linear_table(f"merging_{i}/reduction", f"{name}.downsample.reduction", use_bias=False)
        rows += norm_table(f"norms_{i}", norm.format(i + first_norm))
    return rows


def _block_table(name: str, window: int) -> Table:
    rows = norm_table("norm1", f"{name}.norm1") + norm_table("norm2", f"{name}.norm2")
    rows += window_attention_table("attention", f"{name}.attn", window)
    return rows + feed_forward_table("mlp", f"{name}.mlp.fc1", f"{name}.mlp.fc2")


def _transformers_block_table(name: str, window: int) -> Table:
    rows = norm_table("norm1", f"{name}.layernorm_before") + norm_table("norm2", f"{name}.layernorm_after")
    rows += linear_table("attention/out", f"{name}.attention.output.dense")
    rows += feed_forward_table("mlp", f"{name}.intermediate.dense", f"{name}.output.dense")
    attention = f"{name}.attention.self"
    for part in ("query", "key", "value"):
        rows += linear_table(f"attention/{part}", f"{attention}.{part}")
    return rows + relative_bias_table("attention", attention, window)
