"""DaViT: a feature pyramid of window attention and channel attention (Ding et al. 2022; SEEM's backbone `davit`)."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
from einops import rearrange
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.attention import MultiHeadAttention
from hyperseg_jax.layers.conv import Conv, DepthwiseConv, conv_table, pad_to_multiple
from hyperseg_jax.layers.linear import Linear, fused_qkv_table, linear_table
from hyperseg_jax.layers.mlp import FeedForward, feed_forward_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import stack_blocks
from hyperseg_jax.layers.window_attention import merge_windows, partition_windows
from hyperseg_jax.ops.attention import attend
from hyperseg_jax.structs import DeviceArray, Pyramid
from hyperseg_jax.tables import Table


class PaddedWindowAttention(nn.Module):
    """Attention inside windows, without position bias. Zeros that pad the map to whole windows are attended, as published.

    Parts: query, key, value, out.
    """

    num_heads: int
    window: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        h, w = x.shape[1:3]
        x = pad_to_multiple(x, self.window)
        height, width = x.shape[1:3]
        windows = partition_windows(x, self.window)
        attention = MultiHeadAttention(self.num_heads, precision=self.precision)
        nn.share_scope(self, attention)
        return merge_windows(attention(windows, windows, windows), height, width)[:, :h, :w]


class ChannelAttention(nn.Module):
    """Attention between the channels of a group; all positions are the features of a channel. Parts: query, key, value, out."""

    num_groups: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        (_, h, _, width), p = x.shape, self.precision
        project = functools.partial(Linear, width, ("embed", "heads"), precision=p)
        projected = (project(name=name)(x) for name in ("query", "key", "value"))
        query, key, value = (rearrange(y, "b h w (g c) -> b c g (h w)", g=self.num_groups) for y in projected)
        attended = attend(query, key, value, precision=p.matmul)  # [B, channels of a group, groups, positions]
        attended = rearrange(attended, "b c g (h w) -> b h w (g c)", h=h)
        return Linear(width, ("heads", "embed"), precision=p, name="out")(attended)


class DaViTBlock(nn.Module):
    """A block of window attention and a block of channel attention. Each is a depthwise convolution, attention, a second
    depthwise convolution and an MLP, all residual; attention and MLP have a norm before them.

    Parts: spatial, channel, each with attention, mlp, norm1, norm2, conv1, conv2.
    """

    num_heads: int
    num_groups: int
    window: int
    mlp_ratio: float
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> tuple[Float[jax.Array, "B H W C"], None]:
        p = self.precision
        spatial = PaddedWindowAttention(self.num_heads, self.window, p, name="spatial_attention")
        channel = ChannelAttention(self.num_groups, p, name="channel_attention")
        for kind, attention in (("spatial", spatial), ("channel", channel)):
            mlp = FeedForward(int(self.mlp_ratio * x.shape[-1]), "gelu", precision=p, name=f"{kind}_mlp")
            for i, branch in enumerate((attention, mlp), start=1):
                x = x + DepthwiseConv(3, precision=p, name=f"{kind}_conv{i}")(x)
                x = x + branch(LayerNorm(precision=p, name=f"{kind}_norm{i}")(x))
        return axes.constrain(x, "batch", "height", "width", "act_embed"), None


class DaViT(nn.Module):
    """Encodes images to a Pyramid of strides 4, 8, 16, 32; defaults are SEEM's DaViT-d3. The levels have no norm.

    kernels: size of the convolution that begins each stage; stage 1 has its norm after it, the others before it. num_groups:
    groups of channels of each stage, as many as num_heads in the published models.
    Parts: convs_i, conv_norms_i, stages_i (stacked).
    """

    hidden_sizes: tuple[int, ...] = (128, 256, 512, 1024)
    depths: tuple[int, ...] = (1, 1, 9, 1)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    num_groups: tuple[int, ...] = (4, 8, 16, 32)
    kernels: tuple[int, ...] = (7, 2, 2, 2)
    window: int = 7
    mlp_ratio: float = 4.0
    remat: str = "none"
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, image: Float[DeviceArray, "B H W 3"]) -> Pyramid:
        """Encodes normalized images, whose sides are multiples of 32. The levels are [B, H/stride, W/stride, hidden_sizes[i]].

        Raises ValueError if the fields of the stages differ in length.
        """
        fields = (self.hidden_sizes, self.depths, self.num_heads, self.num_groups, self.kernels)
        if len({len(field) for field in fields}) != 1:
            raise ValueError(f"DaViT: hidden_sizes, depths, num_heads, num_groups and kernels differ in length: {fields}")
        x, p, levels = image, self.precision, []
        for i, (width, depth, heads, groups, kernel) in enumerate(zip(*fields, strict=True)):
            norm = LayerNorm(precision=p, name=f"conv_norms_{i}")
            conv = Conv(width, kernel, 2 if i else 4, (kernel - 1) // 2, precision=p, name=f"convs_{i}")
            x = conv(norm(x)) if i else norm(conv(x))
            blocks = stack_blocks(DaViTBlock, depth, self.remat)
            x, _ = blocks(heads, groups, self.window, self.mlp_ratio, p, name=f"stages_{i}")(x)
            levels.append(x)
        return Pyramid(tuple(levels), tuple(4 * 2**i for i in range(len(levels))))


def table(davit: DaViT) -> Table:
    """Returns the weight table for SEEM's backbone ("convs.0.proj.weight", "blocks.0.0.spatial_block.conv1.fn.dw...", ...)."""
    rows = Table()
    for i, depth in enumerate(davit.depths):
        rows += conv_table(f"convs_{i}", f"convs.{i}.proj") + norm_table(f"conv_norms_{i}", f"convs.{i}.norm")
        rows += _block_table(f"blocks.{i}.{{i}}").stacked(depth).with_prefix(f"stages_{i}/")
    return rows


def _block_table(name: str) -> Table:
    rows = Table()
    for kind, attention in (("spatial", "window_attn"), ("channel", "channel_attn")):
        block = f"{name}.{kind}_block"
        for i, branch in enumerate((attention, "ffn"), start=1):
            rows += conv_table(f"{kind}_conv{i}", f"{block}.conv{i}.fn.dw") + norm_table(
                f"{kind}_norm{i}", f"{block}.{branch}.norm"
            )
        qkv = f"{block}.{attention}.fn.qkv"
        rows += fused_qkv_table(f"{kind}_attention", f"{qkv}.weight", f"{qkv}.bias")
        rows += linear_table(f"{kind}_attention/out", f"{block}.{attention}.fn.proj")
        rows += feed_forward_table(f"{kind}_mlp", f"{block}.ffn.fn.net.fc1", f"{block}.ffn.fn.net.fc2")
    return rows
