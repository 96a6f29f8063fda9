"""Builds the mixed token stream by one gather from token banks; pooling is its inverse.

Host code (text/layout.py) defines the bank of each position; nothing here depends on the task.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float, Int

from hyperseg_jax import axes
from hyperseg_jax.structs import DeviceArray, Layout, Source, TokenStream


def splice(
    layout: Layout, text: Float[DeviceArray, "B L D"], banks: Mapping[Source, Float[DeviceArray, "... D"]]
) -> TokenStream:
    """Fills a layout [B, L] with embeddings. Padding positions get zero vectors.

    text: embeddings of layout.text_ids. banks: embeddings of each other source, [N, D] or [B, N, D], or [B, K, N, D] if they
    differ by prompt. The layout must not contain sources without a bank.
    """
    batch = text.shape[0]
    rows, index, offset = [], jnp.full(layout.source.shape, -1), 0
    for source, bank in banks.items():
        inside = layout.index
        if bank.ndim == 4:
            inside = inside + (layout.prompt - 1) * bank.shape[2]
            bank = rearrange(bank, "b prompts count d -> b (prompts count) d")
        rows.append(jnp.broadcast_to(jnp.asarray(bank, text.dtype), (batch, *bank.shape[-2:])))
        index = jnp.where(layout.source == source, offset + inside, index)
        offset += rows[-1].shape[1]
    bank = jnp.concatenate(rows, axis=1)
    placed = jax.vmap(lambda rows, index: rows.at[index].get(mode="clip"))(bank, index)  # [B, L, D]
    is_text = jnp.isin(layout.source, jnp.array([Source.TEXT, Source.EXPRESSION, Source.CLASS, Source.NAME]))
    embeddings = jnp.where((index >= 0)[..., None], placed, jnp.where(is_text[..., None], text, 0))
    return TokenStream(
        embeddings=axes.constrain(embeddings, "batch", "length", "act_embed"),
        positions=jnp.asarray(layout.position),
        mask=jnp.asarray(layout.mask),
        source=jnp.asarray(layout.source),
        prompt=jnp.asarray(layout.prompt),
    )


def pick(
    hidden: Float[DeviceArray, "B L D"], layout: Layout, source: Source, count: int, *, num_prompts: int
) -> Float[jax.Array, "B K {count} D"]:
    """Returns the hidden states at the positions of a source, by prompt and index; zero where a prompt has fewer than count."""
    wanted = (layout.source == source) & (layout.index < count)
    entry = jnp.where(wanted, (layout.prompt - 1) * count + layout.index, -1)
    member = entry[:, None, :] == jnp.arange(num_prompts * count)[:, None]  # [B, K * count, L]
    picked = jnp.einsum("bsl,bld->bsd", member.astype(hidden.dtype), hidden, precision="highest")
    return rearrange(picked, "b (prompts count) d -> b prompts count d", prompts=num_prompts)


def pool(
    hidden: Float[DeviceArray, "B L D"],
    layout: Layout,
    counts: Mapping[Source, int],
    *,
    num_prompts: int,
    shared: Collection[Source] = (),
) -> dict[Source, Float[jax.Array, "B ... D"]]:
    """Pools hidden states to banks [B, K, count, D] of K prompts: the mean over each segment, or over each index of a source
    without segments. Empty ones are zero. Names without a segment, such as the separators between names, are in none.

    counts: number of entries of each source. shared: sources that all prompts share, [B, count, D]; if prompts have separate
    ones, those of the first prompt are used.
    """
    without_segment = jnp.where(layout.source == Source.NAME, -1, layout.index)
    entry = jnp.where(layout.segment > 0, layout.segment - 1, without_segment)

    def means(source: Source, number: Int[DeviceArray, "B L"], count: int) -> Float[jax.Array, "B {count} D"]:
        member = (layout.source == source)[:, None, :] & (number[:, None, :] == jnp.arange(count)[:, None])  # [B, count, L]
        total = jnp.einsum(
            "bsl,bld->bsd", member.astype(hidden.dtype), hidden, precision="highest", preferred_element_type=jnp.float32
        )
        return (total / jnp.maximum(member.sum(-1, keepdims=True), 1)).astype(hidden.dtype)

    def pool_by_prompt(source: Source, count: int) -> Float[jax.Array, "B K {count} D"]:
        prompt_entry = jnp.where((entry >= 0) & (entry < count), (layout.prompt - 1) * count + entry, -1)
        pooled = means(source, prompt_entry, num_prompts * count)
        return rearrange(pooled, "b (prompts count) d -> b prompts count d", prompts=num_prompts, count=count)

    first = jnp.where(layout.prompt <= 1, entry, -1)
    return {
        source: means(source, first, count) if source in shared else pool_by_prompt(source, count)
        for source, count in counts.items()
    }
