"""Phi, the causal language model of HyperSeg (PhiModel of transformers 4.38.2)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float, Int

from hyperseg_jax import axes
from hyperseg_jax.layers.fused_attention import fused_attend
from hyperseg_jax.layers.linear import Linear, LoRA, linear_table
from hyperseg_jax.layers.mlp import ACTIVATIONS
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import stack_blocks
from hyperseg_jax.layers.rotary import CosSin, rotary_angles, rotate
from hyperseg_jax.layers.token_tables import Embedding, GatheredTable, multiply_table
from hyperseg_jax.llms.cache import KeyValues, write_slots
from hyperseg_jax.ops.attention import attend
from hyperseg_jax.structs import DeviceArray, TokenStream
from hyperseg_jax.tables import Identity, Row, Table, Transpose

# linear -> (its submodule of a layer, its PyTorch name)
LINEARS = {
    "query": ("attention", "self_attn.q_proj"),
    "key": ("attention", "self_attn.k_proj"),
    "value": ("attention", "self_attn.v_proj"),
    "out": ("attention", "self_attn.dense"),
    "up": ("mlp", "mlp.fc1"),
    "down": ("mlp", "mlp.fc2"),
}

LayerSlots = Float[jax.Array, "B S heads head_dim"]
"""Keys or values of one layer."""


class PhiAttention(nn.Module):
    """Causal self-attention with partial rotary embeddings. Returns the output, and keys and values.

    past: cached keys and values of the layer, and the slot for those of x; mask then covers the slots.
    """

    num_heads: int
    lora: LoRA | None
    lora_targets: tuple[str, ...]
    precision: Precision
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        x: Float[DeviceArray, "B L D"],
        cos_sin: CosSin,
        mask: Bool[DeviceArray, "B 1 L S"],
        past: tuple[LayerSlots, LayerSlots, Int[DeviceArray, ""]] | None = None,
    ) -> tuple[Float[jax.Array, "B L D"], tuple[LayerSlots, LayerSlots]]:
        width = x.shape[-1]
        projected = (self._linear(name, width, ("embed", "heads"))(x, self.deterministic) for name in ("query", "key", "value"))
        q, k, v = (rearrange(y, "b l (heads d) -> b l heads d", heads=self.num_heads) for y in projected)
        q, k = rotate(q, cos_sin), rotate(k, cos_sin)
        if past is not None:
            keys, values, slot = past
            k, v = write_slots(keys, k, slot), write_slots(values, v, slot)
            attended = attend(q, k, v, mask=mask, precision=self.precision.matmul)
        else:
            attended = fused_attend(q, k, v, mask=mask, precision=self.precision.matmul)
        attended = rearrange(attended, "b l heads d -> b l (heads d)")
        return self._linear("out", width, ("heads", "embed"))(attended, self.deterministic), (k, v)

    def _linear(self, name: str, features: int, names: tuple[str, str]) -> Linear:
        lora = self.lora if name in self.lora_targets else None
        return Linear(features, names, precision=self.precision, lora=lora, name=name)


class PhiMLP(nn.Module):
    """Linear, tanh GELU, Linear."""

    mlp_size: int
    lora: LoRA | None
    lora_targets: tuple[str, ...]
    precision: Precision
    deterministic: bool

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B L D"]) -> Float[jax.Array, "B L D"]:
        width = x.shape[-1]
        for name, features, names in (("up", self.mlp_size, ("embed", "mlp")), ("down", width, ("mlp", "embed"))):
            lora = self.lora if name in self.lora_targets else None
            x = Linear(features, names, precision=self.precision, lora=lora, name=name)(x, self.deterministic)
            x = ACTIVATIONS["gelu_tanh"](x) if name == "up" else x
        return x


class PhiLayer(nn.Module):
    """The parallel block: x + attention(norm(x)) + mlp(norm(x)).

    collect: additional output: "nothing", the output "hidden" states, or the "keys_values".
    """

    num_heads: int
    mlp_size: int
    epsilon: float
    lora: LoRA | None
    lora_targets: tuple[str, ...]
    precision: Precision
    deterministic: bool
    collect: str

    @nn.compact
    def __call__(
        self,
        x: Float[DeviceArray, "B L D"],
        cos_sin: CosSin,
        mask: Bool[DeviceArray, "B 1 L S"],
        keys: LayerSlots | None = None,
        values: LayerSlots | None = None,
        slot: Int[DeviceArray, ""] | None = None,
    ) -> tuple[Float[jax.Array, "B L D"], Any]:
        shared = (self.lora, self.lora_targets, self.precision, self.deterministic)
        normed = LayerNorm(self.epsilon, self.precision, name="norm")(x)
        past: Any = None if slot is None else (keys, values, slot)
        attention = PhiAttention(self.num_heads, *shared, name="attention")
        attended, keys_values = attention(normed, cos_sin, mask, past)
        x = x + attended
        x = x + PhiMLP(self.mlp_size, *shared, name="mlp")(normed)
        x = axes.constrain(x, "batch", "length", "act_embed")
        return x, {"nothing": None, "hidden": x, "keys_values": keys_values}[self.collect]


Hidden = Float[jax.Array, "B L {self.hidden_size}"]


class Phi(nn.Module):
    """Maps a token stream to hidden states after the final norm.

    vocab_size: rows of the token table (the language head may be larger, see LanguageHead). rotary_fraction: share of each
    head that is rotated, rounded down. embedding_std: of randomly initialized token embeddings; a small model trained from
    scratch needs about 1, else context dominates word identity after the first blocks. remat: see layers/remat.py.
    lora: a low-rank adapter inside the linears named in lora_targets (of query, key, value, out, up, down).
    Parts: tokens, layers (stacked), norm.
    """

    vocab_size: int = 51200
    hidden_size: int = 2560
    mlp_size: int = 10240
    num_layers: int = 32
    num_heads: int = 32
    rotary_fraction: float = 0.4
    rotary_theta: float = 10000.0
    epsilon: float = 1e-5
    embedding_std: float = 0.02
    remat: str = "none"
    lora: LoRA | None = None
    lora_targets: tuple[str, ...] = ("query", "value")
    precision: Precision = Precision()

    def setup(self) -> None:
        unknown = sorted(set(self.lora_targets) - set(LINEARS))
        if unknown:
            raise ValueError(f"lora_targets {unknown}: use some of {', '.join(LINEARS)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        self.tokens = Embedding(self.vocab_size, self.hidden_size, self.precision, self.embedding_std)

    def embed(self, ids: Int[DeviceArray, "*B"]) -> Float[jax.Array, "*B {self.hidden_size}"]:
        """Embeds token ids."""
        return self.tokens(ids)

    @overload
    def __call__(self, stream: TokenStream, deterministic: bool = True, all_hidden: Literal[False] = False) -> Hidden: ...

    @overload
    def __call__(
        self, stream: TokenStream, deterministic: bool = True, *, all_hidden: Literal[True]
    ) -> tuple[Hidden, tuple[Hidden, ...]]: ...

    def __call__(
        self, stream: TokenStream, deterministic: bool = True, all_hidden: bool = False
    ) -> Hidden | tuple[Hidden, tuple[Hidden, ...]]:
        """Returns hidden states of all positions.

        all_hidden: also return the input and output of every layer, the last one after the final norm (transformers'
        hidden_states). A position attends to itself and earlier positions, except those masked by the stream and those of
        other prompts.
        """
        if self.is_initializing():
            self.embed(jnp.zeros((1,), jnp.int32))  # the table is used by embed() only
        collect = "hidden" if all_hidden else "nothing"
        hidden, inner = self._run_layers(stream.embeddings, stream.positions, _causal_mask(stream), deterministic, collect)
        if not all_hidden:
            return hidden
        return hidden, (self.precision.cast(stream.embeddings), *inner[:-1], hidden)

    def prefill(self, stream: TokenStream, empty_slots: int = 0, prefix: KeyValues | None = None) -> tuple[Hidden, KeyValues]:
        """Returns hidden states of all positions, and their cache, followed by `empty_slots` slots for new tokens.

        prefix: cache of the P positions before the stream, which all positions may attend to; the returned cache has P + L
        positions.
        """
        mask = _causal_mask(stream)
        if prefix is None:
            hidden, (keys, values) = self._run_layers(stream.embeddings, stream.positions, mask, True, "keys_values")
            return hidden, KeyValues.from_prompt(keys, values, stream.mask, empty_slots)
        length = stream.mask.shape[1]
        prefix_mask = jnp.broadcast_to(prefix.visible[:, None, None], (*mask.shape[:3], prefix.visible.shape[1]))
        mask = jnp.pad(jnp.concatenate([prefix_mask, mask], axis=-1), ((0, 0), (0, 0), (0, 0), (0, empty_slots)))
        extended_cache = prefix.extended(stream.mask, empty_slots)
        past = extended_cache.keys, extended_cache.values, prefix.used
        hidden, (keys, values) = self._run_layers(stream.embeddings, stream.positions, mask, True, "keys_values", past)
        return hidden, dataclasses.replace(extended_cache, keys=keys, values=values, used=prefix.used + length)

    def step(
        self, embeddings: Float[DeviceArray, "B D"], positions: Int[DeviceArray, " B"], past: KeyValues
    ) -> tuple[Float[jax.Array, "B D"], KeyValues]:
        """Decodes one token per row: its embedding and position -> (its hidden state, the updated cache)."""
        past = past.with_next_visible()
        mask, inputs = past.visible[:, None, None, :], (past.keys, past.values, past.used)
        hidden, (keys, values) = self._run_layers(embeddings[:, None], positions[:, None], mask, True, "keys_values", inputs)
        return hidden[:, 0], dataclasses.replace(past, keys=keys, values=values, used=past.used + 1)

    @nn.compact
    def _run_layers(
        self,
        embeddings: Float[DeviceArray, "B L D"],
        positions: Int[DeviceArray, "B L"],
        mask: Bool[DeviceArray, "B 1 L S"],
        deterministic: bool,
        collect: str,
        past: tuple[DeviceArray, ...] = (),
    ) -> tuple[Float[jax.Array, "B L D"], Any]:
        """Returns (hidden states after the final norm, stacked additional outputs of the layers)."""
        dims = int(self.rotary_fraction * (self.hidden_size // self.num_heads))
        cos_sin = rotary_angles(positions, dims, self.rotary_theta)
        x = axes.constrain(self.precision.cast(embeddings), "batch", "length", "act_embed")
        broadcast, per_layer = nn.broadcast, 0
        layers = stack_blocks(
            PhiLayer, self.num_layers, self.remat, (broadcast, broadcast, per_layer, per_layer, broadcast)[: 2 + len(past)]
        )
        last, collected = layers(
            num_heads=self.num_heads,
            mlp_size=self.mlp_size,
            epsilon=self.epsilon,
            lora=self.lora,
            lora_targets=self.lora_targets,
            precision=self.precision,
            deterministic=deterministic,
            collect=collect,
            name="layers",
        )(x, cos_sin, mask, *past)
        return LayerNorm(self.epsilon, self.precision, name="norm")(last), collected


def _causal_mask(stream: TokenStream) -> Bool[jax.Array, "B 1 L L"]:
    """Returns the attention mask: True if the query position may attend to the key position."""
    length = stream.embeddings.shape[1]
    mask = jnp.tril(jnp.ones((length, length), bool)) & stream.mask[:, None, None, :]
    if stream.prompt is not None:
        query_prompt, key_prompt = stream.prompt[:, None, :, None], stream.prompt[:, None, None, :]
        mask &= (key_prompt == query_prompt) | (key_prompt == 0)
    return mask


class LanguageHead(nn.Module):
    """Maps hidden states to logits over the vocabulary, without bias, in the output dtype."""

    vocab_size: int = 51200
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, hidden: Float[DeviceArray, "*B D"]) -> Float[jax.Array, "*B {self.vocab_size}"]:
        init = axes.named(nn.initializers.normal(0.02), "embed", "vocab")
        kernel = self.param("kernel", init, (hidden.shape[-1], self.vocab_size), self.precision.params)
        return head_logits(hidden, GatheredTable(kernel, self.precision.cast(kernel)), self.precision)


def head_logits(hidden: Float[DeviceArray, "*B D"], kernel: GatheredTable, precision: Precision) -> Float[jax.Array, "*B V"]:
    """Returns the logits of a LanguageHead with this kernel [D, V]."""
    return multiply_table(hidden, kernel, precision).astype(precision.output)


def table(phi: Phi) -> Table:
    """Returns the weight table for PhiModel ("embed_tokens.weight", ...). Adapters are in lora_table."""
    layer = norm_table("norm", "layers.{i}.input_layernorm")
    for ours, (part, name) in LINEARS.items():
        layer += linear_table(f"{part}/{ours}", f"layers.{{i}}.{name}")
    tokens = Table([Row("tokens/embedding", "embed_tokens.weight", Identity())])
    return tokens + layer.stacked(phi.num_layers).with_prefix("layers/") + norm_table("norm", "final_layernorm")


def lora_table(phi: Phi) -> Table:
    """Returns the weight table of the adapters for PEFT's names ("layers.0.self_attn.q_proj.lora_A.weight", ...)."""
    targets = phi.lora_targets if phi.lora is not None else ()
    layer = Table(
        Row(f"{part}/{ours}/lora_{side.lower()}", f"layers.{{i}}.{name}.lora_{side}.weight", Transpose())
        for ours, (part, name) in LINEARS.items()
        if ours in targets
        for side in ("A", "B")
    )
    return layer.stacked(phi.num_layers).with_prefix("layers/")


def head_table() -> Table:
    """Returns the weight table of LanguageHead ("lm_head.weight")."""
    return Table([Row("kernel", "lm_head.weight", Transpose())])
