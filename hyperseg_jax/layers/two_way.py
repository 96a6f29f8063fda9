"""The two-way transformer of SAM (Kirillov et al. 2023): prompt tokens and the positions of an image attend to each other."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from hyperseg_jax import axes
from hyperseg_jax.layers.attention import MultiHeadAttention
from hyperseg_jax.layers.linear import linear_table
from hyperseg_jax.layers.mlp import FeedForward, feed_forward_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import apply_remat, stack_blocks
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Table

Tokens = Float[jax.Array, "B R T C"]
Image = Float[jax.Array, "B R N C"]
Stages = tuple[Float[jax.Array, "layers B R _ C"], Float[jax.Array, "layers B R _ C"]]
"""Tokens and images after each layer."""


class TwoWayLayer(nn.Module):
    """Self-attention of the tokens, tokens attend to the image, MLP, the image attends to the tokens; post-norm.

    first: the layer adds no positions in the self-attention, whose output replaces the tokens.
    Corresponds to SamTwoWayAttentionBlock. Parts: self_attention, to_image, mlp, to_tokens, norm1 to norm4.
    """

    num_heads: int
    mlp_dim: int
    downsample: int
    epsilon: float
    first: bool
    collect: bool
    precision: Precision

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[DeviceArray, "B R T C"], Float[DeviceArray, "B _ N C"]],
        positions: Float[DeviceArray, "B R T C"],
        image_positions: Float[DeviceArray, "N C"],
        mask: Bool[DeviceArray, "B R 1 1 T"] | None,
    ) -> tuple[tuple[Tokens, Image], tuple[Tokens, Image] | None]:
        tokens, image = carry
        width = tokens.shape[-1]
        full = functools.partial(MultiHeadAttention, self.num_heads, precision=self.precision)
        cross = functools.partial(full, width // self.downsample // self.num_heads)
        norm = functools.partial(LayerNorm, self.epsilon, self.precision)

        placed = tokens if self.first else tokens + positions
        attended = full(name="self_attention")(placed, placed, tokens, mask)
        tokens = norm(name="norm1")(attended if self.first else tokens + attended)
        image_keys = image + image_positions
        tokens = norm(name="norm2")(tokens + cross(name="to_image")(tokens + positions, image_keys, image))
        mlp = FeedForward(self.mlp_dim, "relu", precision=self.precision, name="mlp")
        tokens = norm(name="norm3")(tokens + mlp(tokens))
        image = norm(name="norm4")(image + cross(name="to_tokens")(image_keys, tokens + positions, tokens, mask))
        image = axes.constrain(image, "batch", None, "tokens", "act_embed")
        return (tokens, image), (tokens, image) if self.collect else None


class TwoWayTransformer(nn.Module):
    """Layers of TwoWayLayer, and a last attention of the tokens to the image.

    downsample: the cross-attentions have C / downsample channels. collect: also return the outputs of all layers.
    Corresponds to SamTwoWayTransformer; the last norm has PyTorch's default epsilon, as published. Parts: first, rest
    (stacked), to_image, norm.
    """

    num_layers: int = 2
    num_heads: int = 8
    mlp_dim: int = 2048
    downsample: int = 2
    epsilon: float = 1e-6
    remat: str = "none"
    collect: bool = False
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self,
        tokens: Float[DeviceArray, "B R T C"],
        image: Float[DeviceArray, "B _ N C"],
        image_positions: Float[DeviceArray, "N C"],
        valid: Bool[DeviceArray, "B R T"] | None = None,
    ) -> tuple[Tokens, Image, Stages | None]:
        """Returns tokens and images of R regions, and the outputs of all layers if they are collected.

        image: one for each region, or one that the regions share. valid: False for tokens that do not exist.
        """
        p = self.precision
        tokens, image, image_positions = p.cast(tokens, image, image_positions)
        mask = None if valid is None else valid[:, :, None, None, :]
        fields = (self.num_heads, self.mlp_dim, self.downsample, self.epsilon)
        positions, inputs = tokens, (tokens, image_positions, mask)
        first = apply_remat(TwoWayLayer, self.remat)
        carry, stages = first(*fields, True, self.collect, p, name="first")((tokens, image), *inputs)
        stages = jax.tree.map(lambda x: x[None], stages)
        if self.num_layers > 1:
            layers = stack_blocks(TwoWayLayer, self.num_layers - 1, self.remat, (nn.broadcast,) * len(inputs))
            carry, later = layers(*fields, False, self.collect, p, name="rest")(carry, *inputs)
            if self.collect:
                stages = jax.tree.map(lambda one, more: jnp.concatenate([one, more]), stages, later)
        tokens, image = carry
        head_dim = tokens.shape[-1] // self.downsample // self.num_heads
        attention = MultiHeadAttention(self.num_heads, head_dim, precision=p, name="to_image")
        tokens = tokens + attention(tokens + positions, image + image_positions, image)
        return LayerNorm(1e-5, p, name="norm")(tokens), image, stages


def _attention_table(path: str, name: str) -> Table:
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return Table.join(linear_table(f"{path}/{ours}", f"{name}.{theirs}") for ours, theirs in parts.items())


def table(transformer: TwoWayTransformer) -> Table:
    """Returns the weight table for SamTwoWayTransformer ("layers.0.self_attn.q_proj.weight", ...)."""
    layer = _attention_table("self_attention", "layers.{i}.self_attn")
    layer += _attention_table("to_image", "layers.{i}.cross_attn_token_to_image")
    layer += _attention_table("to_tokens", "layers.{i}.cross_attn_image_to_token")
    layer += feed_forward_table("mlp", "layers.{i}.mlp.lin1", "layers.{i}.mlp.lin2")
    layer += Table.join(norm_table(f"norm{n}", f"layers.{{i}}.layer_norm{n}") for n in (1, 2, 3, 4))
    rows = layer.numbered(0).with_prefix("first/")
    if transformer.num_layers > 1:
        rows += layer.stacked(transformer.num_layers - 1, 1).with_prefix("rest/")
    rows += _attention_table("to_image", "final_attn_token_to_image")
    return rows + norm_table("norm", "layer_norm_final_attn")
