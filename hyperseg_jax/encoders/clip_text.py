"""CLIP's text transformer (Radford et al. 2021; transformers' CLIPTextModel, and SEEM's language encoder)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from hyperseg_jax import axes
from hyperseg_jax.layers.attention import MultiHeadAttention, fused_attention_table
from hyperseg_jax.layers.linear import linear_table
from hyperseg_jax.layers.mlp import FeedForward, feed_forward_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import stack_blocks
from hyperseg_jax.layers.token_tables import Embedding
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Identity, Row, Table


class ClipTextLayer(nn.Module):
    """A pre-norm block with causal attention. Parts: norm1, attention, norm2, mlp."""

    num_heads: int
    epsilon: float
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B L D"]) -> tuple[Float[jax.Array, "B L D"], None]:
        p, length = self.precision, x.shape[1]
        causal = np.tril(np.ones((1, 1, length, length), bool))
        y = LayerNorm(self.epsilon, p, name="norm1")(x)
        x = x + MultiHeadAttention(self.num_heads, precision=p, name="attention")(y, y, y, jnp.asarray(causal))
        y = LayerNorm(self.epsilon, p, name="norm2")(x)
        x = x + FeedForward(4 * x.shape[-1], "quick_gelu", precision=p, name="mlp")(y)
        return x, None


class ClipText(nn.Module):
    """Encodes texts of `context` tokens to one feature per token, after the final norm; defaults are SEEM's encoder.

    Attention is causal, so tokens after the end token do not change those before it; padding is not masked, as published. Texts
    are not split over devices: those of a class list have any number.
    epsilon: of the norms (SEEM 1e-12, transformers 1e-5). end_id: the end token, which also fills texts up to a common length.
    Parts: tokens, positions, layers (stacked), norm.
    """

    vocab_size: int = 49408
    end_id: int = 49407
    context: int = 77
    hidden_size: int = 512
    num_layers: int = 12
    num_heads: int = 8
    epsilon: float = 1e-12
    remat: str = "none"
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, ids: Int[DeviceArray, "B L"]) -> Float[jax.Array, "B L {self.hidden_size}"]:
        """Raises ValueError if there are more positions than `context`."""
        if ids.shape[1] > self.context:
            raise ValueError(f"CLIP's text encoder has {self.context} positions, got {ids.shape[1]}")
        p = self.precision
        x = Embedding(self.vocab_size, self.hidden_size, p, name="tokens")(ids)
        init = axes.named(nn.initializers.normal(0.02), "patch", "embed")
        positions = self.param("positions", init, (self.context, self.hidden_size), p.params)
        x = x + p.cast(positions)[: ids.shape[1]]
        layers = stack_blocks(ClipTextLayer, self.num_layers, self.remat)
        x, _ = layers(self.num_heads, self.epsilon, p, name="layers")(x)
        return LayerNorm(self.epsilon, p, name="norm")(x)


def select_end(hidden: Float[DeviceArray, "B L D"], ids: Int[DeviceArray, "B L"], end_id: int) -> Float[jax.Array, "B D"]:
    """Returns the features at the first end token of each text, which stand for the text."""
    first = jnp.argmax(ids == end_id, axis=1)
    return jnp.take_along_axis(hidden, first[:, None, None], axis=1)[:, 0]


def table(text: ClipText) -> Table:
    """Returns the weight table for SEEM's language encoder ("token_embedding.weight", "resblocks.0.attn...", ...)."""
    name = "resblocks.{i}"
    layer = norm_table("norm1", f"{name}.ln_1") + norm_table("norm2", f"{name}.ln_2")
    layer += fused_attention_table("attention", f"{name}.attn")
    layer += feed_forward_table("mlp", f"{name}.mlp.c_fc", f"{name}.mlp.c_proj")
    return _table(text, layer, ("token_embedding.weight", "positional_embedding", "ln_final"))


def transformers_table(text: ClipText) -> Table:
    """Returns the weight table for transformers' CLIPTextModel ("text_model.embeddings.token_embedding.weight", ...)."""
    name = "text_model.encoder.layers.{i}"
    layer = norm_table("norm1", f"{name}.layer_norm1") + norm_table("norm2", f"{name}.layer_norm2")
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
        layer += linear_table(f"attention/{ours}", f"{name}.self_attn.{theirs}")
    layer += feed_forward_table("mlp", f"{name}.mlp.fc1", f"{name}.mlp.fc2")
    names = ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight", "final_layer_norm")
    return _table(text, layer, tuple(f"text_model.{name}" for name in names))


def _table(text: ClipText, layer: Table, names: tuple[str, ...]) -> Table:
    tokens, positions, norm = names
    rows = Table([Row("tokens/embedding", tokens, Identity()), Row("positions", positions, Identity())])
    return rows + layer.stacked(text.num_layers).with_prefix("layers/") + norm_table("norm", norm)
