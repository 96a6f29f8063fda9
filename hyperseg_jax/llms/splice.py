"""The mixed token stream: one gather that places banks in the sequence, and its inverse, pooling.

Host code (text/layout.py) says for each position which bank it comes from; nothing here depends on the task.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from hyperseg_jax import axes
from hyperseg_jax.structs import Layout, Source, TokenStream

Array = jax.Array | np.ndarray


def splice(
    layout: Layout,
    text: jax.Array,
    *,
    image: jax.Array,
    queries: jax.Array,
    fine_grained: jax.Array | None = None,
    regions: jax.Array | None = None,
) -> TokenStream:
    """Fills a layout of [B, L] with embeddings. Padding gives zero vectors.

    text: embeddings of layout.text_ids [B, L, D]. image: [B, N, D]. queries: [Q, D]. fine_grained: [B, F, D].
    regions: [B, K, R, D], those of each prompt. A source without a bank must not stand in the layout.
    """
    batch = text.shape[0]
    banks = {Source.IMAGE: image, Source.QUERY: queries, Source.FINE_GRAINED: fine_grained, Source.REGION: regions}
    rows, index, offset = [], jnp.full(layout.source.shape, -1), 0
    for source, bank in banks.items():
        if bank is None:
            continue
        inside = layout.index
        if source == Source.REGION:
            inside = inside + (layout.prompt - 1) * bank.shape[2]
            bank = rearrange(bank, "b prompts regions d -> b (prompts regions) d")
        rows.append(jnp.broadcast_to(jnp.asarray(bank, text.dtype), (batch, *bank.shape[-2:])))
        index = jnp.where(layout.source == source, offset + inside, index)
        offset += rows[-1].shape[1]
    bank = jnp.concatenate(rows, axis=1)
    placed = jax.vmap(lambda rows, index: rows.at[index].get(mode="clip"))(bank, index)  # [B, L, D]
    is_text = jnp.isin(layout.source, jnp.array([Source.TEXT, Source.EXPRESSION, Source.CLASS]))
    mixed = jnp.where((index >= 0)[..., None], placed, jnp.where(is_text[..., None], text, 0))
    return TokenStream(
        embeddings=axes.constrain(mixed, "batch", "length", "act_embed"),
        positions=jnp.asarray(layout.position),
        mask=jnp.asarray(layout.mask),
        source=jnp.asarray(layout.source),
        prompt=jnp.asarray(layout.prompt),
    )


def pool(
    hidden: jax.Array,
    layout: Layout,
    *,
    num_prompts: int,
    num_queries: int,
    num_fine_grained: int = 0,
    num_classes: int = 0,
    num_regions: int = 0,
) -> dict[str, jax.Array]:
    """Hidden states [B, L, D] back to banks, by mean over each segment; an empty segment gives zeros.

    Returns "queries" [B, K, Q, D], "expression" [B, K, D], "classes" [B, K, C, D] and "regions" [B, K, R, D] of K prompts, and
    "fine_grained" [B, F, D] (of the first prompt, where they are not shared).
    """

    def means(kind: Source, number: Array, count: int) -> jax.Array:
        member = (layout.source == kind)[:, None, :] & (number[:, None, :] == jnp.arange(count)[:, None])  # [B, count, L]
        total = jnp.einsum(
            "bsl,bld->bsd", member.astype(hidden.dtype), hidden, precision="highest", preferred_element_type=jnp.float32
        )
        return (total / jnp.maximum(member.sum(-1, keepdims=True), 1)).astype(hidden.dtype)

    def of_prompts(kind: Source, number: Array, count: int) -> jax.Array:
        apart = jnp.where((number >= 0) & (number < count), (layout.prompt - 1) * count + number, -1)
        found = means(kind, apart, num_prompts * count)
        return rearrange(found, "b (prompts count) d -> b prompts count d", prompts=num_prompts, count=count)

    first = jnp.where(layout.prompt <= 1, layout.index, -1)
    return {
        "queries": of_prompts(Source.QUERY, layout.index, num_queries),
        "fine_grained": means(Source.FINE_GRAINED, first, num_fine_grained),
        "expression": of_prompts(Source.EXPRESSION, layout.segment - 1, 1)[:, :, 0],
        "classes": of_prompts(Source.CLASS, layout.segment - 1, num_classes),
        "regions": of_prompts(Source.REGION, layout.segment - 1, num_regions),
    }
