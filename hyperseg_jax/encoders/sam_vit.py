"""SAM's image encoder: a vision transformer with window attention and a few global layers (Kirillov et al. 2023), SAM's neck,
and the neck that makes a feature pyramid of it (SEEM's SAM-ViT backbones)."""

from __future__ import annotations

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.conv import Conv, UpConv, conv_table, pad_to_multiple, up_conv_table
from hyperseg_jax.layers.linear import Linear, fused_qkv_table, linear_table
from hyperseg_jax.layers.mlp import FeedForward, feed_forward_table
from hyperseg_jax.layers.norms import GroupNorm, LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import stack_blocks
from hyperseg_jax.layers.window_attention import merge_windows, partition_windows
from hyperseg_jax.ops.attention import attend
from hyperseg_jax.structs import DeviceArray, Pyramid
from hyperseg_jax.tables import Identity, Row, Squeeze, Table


class RelativeAttention(nn.Module):
    """Self-attention over square maps whose scores have a learned term for the row offset and one for the column offset.

    The terms depend on the query, so they are added as further entries of queries and keys: those of a key say its row and
    column. Parts: query, key, value, out, row_offsets, column_offsets.
    """

    num_heads: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "*B H W C"]) -> Float[jax.Array, "*B H W C"]:
        (*_, h, w, width), p = x.shape, self.precision
        tokens = rearrange(x, "... h w c -> ... (h w) c")
        projected = (Linear(width, ("embed", "heads"), precision=p, name=name)(tokens) for name in ("query", "key", "value"))
        query, key, value = (rearrange(y, "... (heads d) -> ... heads d", heads=self.num_heads) for y in projected)
        size = query.shape[-1]
        cells = rearrange(query, "... (h w) heads d -> ... h w heads d", h=h)
        offsets = (
            p.einsum("...hwnd,hkd->...hwnk", cells, self._offsets("row_offsets", h, size)),
            p.einsum("...hwnd,wkd->...hwnk", cells, self._offsets("column_offsets", w, size)),
        )
        terms = rearrange(jnp.concatenate(offsets, axis=-1), "... h w heads k -> ... (h w) heads k")
        row, column = np.divmod(np.arange(h * w), w)
        places = p.cast(np.concatenate([np.eye(h)[row], np.eye(w)[column]], axis=-1)[:, None])
        places = jnp.broadcast_to(places, (*key.shape[:-1], h + w))
        scale = (size + h + w) ** 0.5  # attend divides by it
        query = jnp.concatenate([query * (scale * size**-0.5), terms * scale], axis=-1)
        attended = attend(query, jnp.concatenate([key, places], axis=-1), value, precision=p.matmul)
        attended = rearrange(attended, "... (h w) heads d -> ... h w (heads d)", h=h)
        return Linear(width, ("heads", "embed"), precision=p, name="out")(attended)

    def _offsets(self, name: str, cells: int, size: int) -> Float[jax.Array, "{cells} {cells} {size}"]:
        """Returns the learned vector of each offset from a query's cell to a key's cell."""
        init = axes.named(nn.initializers.zeros, "window", None)
        offsets = self.param(name, init, (2 * cells - 1, size), self.precision.params)
        return jnp.asarray(offsets)[np.arange(cells)[:, None] - np.arange(cells)[None, :] + cells - 1]


class SamBlock(nn.Module):
    """A pre-norm block. window: size of the windows; 0: attention over the whole map. Parts: norm1, attention, norm2, mlp."""

    num_heads: int
    mlp_ratio: float
    window: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> tuple[Float[jax.Array, "B H W C"], None]:
        p = self.precision
        y = LayerNorm(1e-6, p, name="norm1")(x)
        attention = RelativeAttention(self.num_heads, p, name="attention")
        x = x + (self._attend_in_windows(attention, y) if self.window else attention(y))
        mlp = FeedForward(int(self.mlp_ratio * x.shape[-1]), "gelu", precision=p, name="mlp")
        x = x + mlp(LayerNorm(1e-6, p, name="norm2")(x))
        return axes.constrain(x, "batch", "height", "width", "act_embed"), None

    def _attend_in_windows(self, attention: RelativeAttention, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        """Zeros that pad the map to whole windows are attended, as published."""
        h, w = x.shape[1:3]
        x = pad_to_multiple(x, self.window)
        height, width = x.shape[1:3]
        windows = rearrange(partition_windows(x, self.window), "b n (y x) c -> b n y x c", y=self.window)
        windows = rearrange(attention(windows), "b n y x c -> b n (y x) c")
        return merge_windows(windows, height, width)[:, :h, :w]


class SamVit(nn.Module):
    """Encodes square images of image_size to the map of the last block, at stride 16; defaults are ViT-B.

    global_layers: indices of the blocks without windows. Consecutive blocks of one kind are one stack.
    Corresponds to ImageEncoderViT without its neck. Parts: patches, positions, runs_i (stacked).
    """

    image_size: int = 1024
    patch_size: int = 16
    hidden_size: int = 768
    num_layers: int = 12
    heads: int = 12
    window: int = 14
    global_layers: tuple[int, ...] = (2, 5, 8, 11)
    mlp_ratio: float = 4.0
    remat: str = "none"
    precision: Precision = Precision()

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(window size or 0, number of blocks) of each run of consecutive blocks of one kind."""
        windows = (0 if i in self.global_layers else self.window for i in range(self.num_layers))
        return tuple((window, len(list(blocks))) for window, blocks in itertools.groupby(windows))

    @nn.compact
    def __call__(self, image: Float[DeviceArray, "B H W 3"]) -> Float[jax.Array, "B h w {self.hidden_size}"]:
        """Encodes normalized images. Raises ValueError if they are not of image_size."""
        if image.shape[1:3] != (self.image_size, self.image_size):
            raise ValueError(f"SAM's encoder expects images of {self.image_size} x {self.image_size}, got {image.shape}")
        p = self.precision
        x = Conv(self.hidden_size, self.patch_size, self.patch_size, precision=p, name="patches")(image)
        init = axes.named(nn.initializers.zeros, "patch", None, "embed")
        x = x + p.cast(self.param("positions", init, x.shape[1:], p.params))
        x = axes.constrain(x, "batch", "height", "width", "act_embed")
        for i, (window, count) in enumerate(self.runs):
            blocks = stack_blocks(SamBlock, count, self.remat)
            x, _ = blocks(self.heads, self.mlp_ratio, window, p, name=f"runs_{i}")(x)
        return x


class SamNeck(nn.Module):
    """Reduces the channels of the map. Corresponds to SamVisionNeck. Parts: conv0, norm0, conv1, norm1."""

    features: int = 256
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B h w C"]) -> Float[jax.Array, "B h w {self.features}"]:
        p = self.precision
        x = LayerNorm(1e-6, p, name="norm0")(Conv(self.features, 1, use_bias=False, precision=p, name="conv0")(x))
        x = Conv(self.features, 3, padding=1, use_bias=False, precision=p, name="conv1")(x)
        return LayerNorm(1e-6, p, name="norm1")(x)


class SamEncoder(nn.Module):
    """SAM's encoder and neck (SamVisionEncoder). Parts: vit, neck."""

    vit: SamVit
    neck: SamNeck

    def __call__(self, image: Float[DeviceArray, "B H W 3"]) -> Float[jax.Array, "B h w {self.neck.features}"]:
        return self.neck(self.vit(image))


class PyramidNeck(nn.Module):
    """Makes maps of strides 4, 8, 16, 32 from one of stride 16, each with its own convolutions. GroupNorms have one group.

    Parts: finest_*, fine_*, coarse_* and coarsest_*, the layers of each map in order.
    """

    features: tuple[int, int, int, int] = (128, 256, 512, 1024)
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B h w C"]) -> Pyramid:
        p, width = self.precision, x.shape[-1]
        norm = lambda name, y: GroupNorm(1, precision=p, name=name)(y)
        conv = lambda name, features, size, y: Conv(features, size, size, precision=p, name=name)(y)
        gelu = lambda y: jax.nn.gelu(y, approximate=False)

        hidden = max(2 * self.features[0], width // 2)
        y = gelu(norm("finest_norm0", UpConv(hidden, precision=p, name="finest_up0")(x)))
        y = norm("finest_norm1", UpConv(hidden // 2, precision=p, name="finest_up1")(y))
        finest = gelu(norm("finest_norm2", conv("finest_conv", self.features[0], 1, y)))
        y = norm("fine_norm0", UpConv(max(self.features[1], width // 2), precision=p, name="fine_up")(x))
        fine = gelu(norm("fine_norm1", conv("fine_conv", self.features[1], 1, y)))
        coarse = gelu(norm("coarse_norm", conv("coarse_conv", self.features[2], 1, x)))
        y = norm("coarsest_norm0", conv("coarsest_down", 2 * width, 2, x))
        coarsest = gelu(norm("coarsest_norm1", conv("coarsest_conv", self.features[3], 1, y)))
        return Pyramid((finest, fine, coarse, coarsest), (4, 8, 16, 32))


class SamPyramid(nn.Module):
    """SAM's encoder and the neck (SEEM's D2ViT). Parts: vit, neck."""

    vit: SamVit
    neck: PyramidNeck

    def __call__(self, image: Float[DeviceArray, "B H W 3"]) -> Pyramid:
        return self.neck(self.vit(image))


@dataclasses.dataclass(frozen=True)
class Names:
    """PyTorch names of the layers."""

    patches: str
    block: str
    norm: str


ORIGINAL = Names("patch_embed.proj", "blocks.{i}", "norm")
"""Those of the authors' ImageEncoderViT."""
TRANSFORMERS = Names("patch_embed.projection", "layers.{i}", "layer_norm")
"""Those of transformers' SamVisionEncoder."""


def table(vit: SamVit, names: Names = ORIGINAL) -> Table:
    """Returns the weight table for ImageEncoderViT ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", ...)."""
    rows = conv_table("patches", names.patches) + Table([Row("positions", "pos_embed", Squeeze())])
    start = 0
    for i, (_, count) in enumerate(vit.runs):
        rows += _block_table(names).stacked(count, start).with_prefix(f"runs_{i}/")
        start += count
    return rows


def encoder_table(encoder: SamEncoder) -> Table:
    """Returns the weight table for SamVisionEncoder ("layers.0.attn.qkv.weight", "neck.conv1.weight", ...)."""
    neck = Table.join(
        conv_table(f"conv{i}", f"conv{i + 1}", False) + norm_table(f"norm{i}", f"layer_norm{i + 1}") for i in (0, 1)
    )
    return table(encoder.vit, TRANSFORMERS).with_prefix("vit/") + neck.with_prefix("neck/", "neck.")


def _block_table(names: Names) -> Table:
    name = names.block
    rows = Table.join(norm_table(f"norm{i}", f"{name}.{names.norm}{i}") for i in (1, 2))
    rows += feed_forward_table("mlp", f"{name}.mlp.lin1", f"{name}.mlp.lin2")
    rows += fused_qkv_table("attention", f"{name}.attn.qkv.weight", f"{name}.attn.qkv.bias")
    rows += linear_table("attention/out", f"{name}.attn.proj")
    offsets = (("attention/row_offsets", f"{name}.attn.rel_pos_h"), ("attention/column_offsets", f"{name}.attn.rel_pos_w"))
    return rows + Table(Row(path, theirs, Identity()) for path, theirs in offsets)


def neck_table() -> Table:
    """Returns the weight table for the neck of SEEM's SAM-ViT backbones ("down_4.0.weight", ...)."""
    rows = (
        up_conv_table("finest_up0", "down_4.0") + up_conv_table("finest_up1", "down_4.3") + up_conv_table("fine_up", "down_8.0")
    )
    convs = {"finest_conv": "down_4.5", "fine_conv": "down_8.2", "coarse_conv": "down_16.0"}
    convs |= {"coarsest_down": "down_32.0", "coarsest_conv": "down_32.2"}
    norms = {"finest_norm0": "down_4.1", "finest_norm1": "down_4.4", "finest_norm2": "down_4.6"}
    norms |= {"fine_norm0": "down_8.1", "fine_norm1": "down_8.3", "coarse_norm": "down_16.1"}
    norms |= {"coarsest_norm0": "down_32.1", "coarsest_norm1": "down_32.3"}
    rows += Table.join(conv_table(path, name) for path, name in convs.items())
    return rows + Table.join(norm_table(path, name) for path, name in norms.items())
