"""What the causal language models have in common: the run over their layers, with and without a cache."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from hyperseg_jax import axes
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import stack_blocks
from hyperseg_jax.layers.rotary import CosSin
from hyperseg_jax.layers.token_tables import Embedding
from hyperseg_jax.llms.cache import KeyValues
from hyperseg_jax.structs import DeviceArray, TokenStream

Hidden = Float[jax.Array, "B L {self.hidden_size}"]


class CausalLM(nn.Module):
    """Maps a token stream to hidden states after the final norm. Base class of the language models.

    vocab_size: rows of the token table. embedding_std: of randomly initialized token embeddings; a small model trained from
    scratch needs about 1, else context dominates word identity after the first blocks. remat: see layers/remat.py.
    Parts: tokens, layers (stacked), norm.

    A subclass creates `norm` in setup, and implements _begin and _layer.
    """

    vocab_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    embedding_std: float = dataclasses.field(default=0.02, kw_only=True)
    remat: str = dataclasses.field(default="none", kw_only=True)
    precision: Precision = dataclasses.field(default=Precision(), kw_only=True)

    def setup(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        self.tokens = Embedding(self.vocab_size, self.hidden_size, self.precision, self.embedding_std)

    def _begin(
        self, embeddings: Float[DeviceArray, "B L D"], positions: Int[DeviceArray, "B L"], deterministic: bool
    ) -> tuple[Float[jax.Array, "B L D"], CosSin | None]:
        """Returns the input of the first layer, and the rotary angles of the positions, if queries and keys are rotated."""
        raise NotImplementedError

    def _layer(self) -> tuple[type[nn.Module], dict[str, Any]]:
        """Returns the class of a layer and its fields, except `deterministic` and `collect`."""
        raise NotImplementedError

    def _use_tables(self) -> None:
        """Uses the tables that __call__ does not use, so that they are initialized."""
        self.embed(jnp.zeros((1,), jnp.int32))

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

        deterministic: False applies dropout, with the RNG "dropout". all_hidden: also return the input and output of every
        layer, the last one after the final norm (transformers' hidden_states). A position attends to itself and earlier
        positions, except those masked by the stream and those of other prompts.
        """
        if self.is_initializing():
            self._use_tables()
        collect = "hidden" if all_hidden else "nothing"
        inputs = stream.embeddings, stream.positions, _causal_mask(stream), deterministic, collect
        hidden, first, inner = self._run_layers(*inputs)
        return (hidden, (first, *inner[:-1], hidden)) if all_hidden else hidden

    def prefill(self, stream: TokenStream, empty_slots: int = 0, prefix: KeyValues | None = None) -> tuple[Hidden, KeyValues]:
        """Returns hidden states of all positions, and their cache, followed by `empty_slots` slots for new tokens.

        prefix: cache of the P positions before the stream, which all positions may attend to; the returned cache has P + L
        positions.
        """
        mask = _causal_mask(stream)
        if prefix is None:
            hidden, _, (keys, values) = self._run_layers(stream.embeddings, stream.positions, mask, True, "keys_values")
            return hidden, KeyValues.from_prompt(keys, values, stream.mask, empty_slots)
        length = stream.mask.shape[1]
        prefix_mask = jnp.broadcast_to(prefix.visible[:, None, None], (*mask.shape[:3], prefix.visible.shape[1]))
        mask = jnp.pad(jnp.concatenate([prefix_mask, mask], axis=-1), ((0, 0), (0, 0), (0, 0), (0, empty_slots)))
        extended_cache = prefix.extended(stream.mask, empty_slots)
        past = extended_cache.keys, extended_cache.values, prefix.used
        hidden, _, (keys, values) = self._run_layers(stream.embeddings, stream.positions, mask, True, "keys_values", past)
        return hidden, dataclasses.replace(extended_cache, keys=keys, values=values, used=prefix.used + length)

    def step(
        self, embeddings: Float[DeviceArray, "B D"], positions: Int[DeviceArray, " B"], past: KeyValues
    ) -> tuple[Float[jax.Array, "B D"], KeyValues]:
        """Decodes one token per row: its embedding and position -> (its hidden state, the updated cache)."""
        past = past.with_next_visible()
        mask, inputs = past.visible[:, None, None, :], (past.keys, past.values, past.used)
        hidden, _, (keys, values) = self._run_layers(embeddings[:, None], positions[:, None], mask, True, "keys_values", inputs)
        return hidden[:, 0], dataclasses.replace(past, keys=keys, values=values, used=past.used + 1)

    def logits(self, hidden: Float[DeviceArray, "*B D"]) -> Float[jax.Array, "*B {self.vocab_size}"]:
        """Returns the logits of the next token. Models without a head of their own do not have it."""
        raise NotImplementedError

    def begin_text(
        self, embeddings: Float[DeviceArray, "B L D"], empty_slots: int
    ) -> tuple[Float[jax.Array, "B {self.vocab_size}"], KeyValues]:
        """Reads the embeddings before a text, all of them valid. Returns the logits of its first token, and the cache."""
        hidden, cache = self.prefill(TokenStream.of_text(embeddings), empty_slots)
        return self.logits(hidden[:, -1]), cache

    def continue_text(
        self, ids: Int[DeviceArray, " B"], past: KeyValues
    ) -> tuple[Float[jax.Array, "B {self.vocab_size}"], KeyValues]:
        """Reads one token of each text of begin_text. Returns the logits of the next one, and the updated cache."""
        hidden, cache = self.step(self.embed(ids), jnp.broadcast_to(past.used, ids.shape), past)
        return self.logits(hidden), cache

    @nn.compact
    def _run_layers(
        self,
        embeddings: Float[DeviceArray, "B L D"],
        positions: Int[DeviceArray, "B L"],
        mask: Bool[DeviceArray, "B 1 L S"],
        deterministic: bool,
        collect: str,
        past: tuple[DeviceArray, ...] = (),
    ) -> tuple[Float[jax.Array, "B L D"], Float[jax.Array, "B L D"], Any]:
        """Returns (hidden states after the final norm, input of the first layer, stacked additional outputs of the layers)."""
        first, cos_sin = self._begin(self.precision.cast(embeddings), positions, deterministic)
        x = axes.constrain(first, "batch", "length", "act_embed")
        broadcast, per_layer = nn.broadcast, 0
        block, fields = self._layer()
        layers = stack_blocks(
            block, self.num_layers, self.remat, (broadcast, broadcast, per_layer, per_layer, broadcast)[: 2 + len(past)]
        )
        fields |= {"deterministic": deterministic, "collect": collect, "name": "layers"}
        last, collected = layers(**fields)(x, cos_sin, mask, *past)
        return self.norm(last), first, collected


def _causal_mask(stream: TokenStream) -> Bool[jax.Array, "B 1 L L"]:
    """Returns the attention mask: True if the query position may attend to the key position."""
    length = stream.embeddings.shape[1]
    mask = jnp.tril(jnp.ones((length, length), bool)) & stream.mask[:, None, None, :]
    if stream.prompt is not None:
        query_prompt, key_prompt = stream.prompt[:, None, :, None], stream.prompt[:, None, None, :]
        mask &= (key_prompt == query_prompt) | (key_prompt == 0)
    return mask
