"""The mixed token stream: one gather that places banks in the sequence, and its inverse, pooling.

Host code (text/layout.py) says for each position which bank it comes from; nothing here depends on the task.
"""

from __future__ import annotations

import enum

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from hyperseg_jax import axes
from hyperseg_jax.structs import TokenStream

Array = jax.Array | np.ndarray


class Source(enum.IntEnum):
    """The bank that a position of the stream comes from."""

    PADDING = 0
    TEXT = 1
    IMAGE = 2
    FINE_GRAINED = 3
    EXPRESSION = 4  # text of the expression, pooled into its embedding
    CLASS = 5  # text of a class name, pooled into the embedding of its class
    REGION = 6
    QUERY = 7


@flax.struct.dataclass
class Layout:
    """A prompt as fixed-length arrays, [L] on the host and [B, K, L] (K prompts of B pictures) on the device.

    text_ids: int32 token ids at TEXT, EXPRESSION and CLASS positions, 0 elsewhere.
    source: int32, a Source. index: int32, the position's number inside its source, from 0.
    segment: int32, what it is pooled into: 1 for the expression, the number of its class or region from 1, else 0.
    labels: int32, the token to be written at this position (not shifted), -100 where none is asked for.
    mask: bool, True where other positions may look.
    """

    text_ids: Array
    source: Array
    index: Array
    segment: Array
    labels: Array
    mask: Array


def splice(
    layout: Layout,
    text: jax.Array,
    *,
    image: jax.Array,
    queries: jax.Array,
    fine_grained: jax.Array | None = None,
    regions: jax.Array | None = None,
) -> TokenStream:
    """Fills a layout of [B, K, L] with embeddings -> TokenStream of B * K rows. Padding gives zero vectors.

    text: embeddings of layout.text_ids [B, K, L, D]. image: [B, N, D], shared by the prompts of a picture. queries: [Q, D].
    fine_grained: [B, F, D], or [B, K, F, D] where each prompt has its own (fed back from the frame before).
    regions: [B, K, R, D]. A source without a bank must not stand in the layout.
    """
    batch, prompts, length = layout.source.shape
    width = text.shape[-1]
    banks = {Source.IMAGE: image, Source.QUERY: queries, Source.FINE_GRAINED: fine_grained, Source.REGION: regions}
    rows, index, offset = [], jnp.full((batch, prompts, length), -1), 0
    for source, bank in banks.items():
        if bank is None:
            continue
        bank = jnp.asarray(bank, text.dtype)
        start = jnp.full((1, prompts, 1), offset)
        if bank.ndim == 4:  # a bank for each prompt: they stand one after the other
            start = start + bank.shape[2] * jnp.arange(prompts)[None, :, None]
            bank = bank.reshape(batch, -1, width)
        rows.append(jnp.broadcast_to(bank, (batch, *bank.shape[-2:])))
        index = jnp.where(layout.source == source, start + layout.index, index)
        offset += rows[-1].shape[1]
    bank = jnp.concatenate(rows, axis=1)
    placed = jax.vmap(lambda rows, index: rows.at[index].get(mode="clip"))(bank, index)  # [B, K, L, D]
    is_text = jnp.isin(layout.source, jnp.array([Source.TEXT, Source.EXPRESSION, Source.CLASS]))
    mixed = jnp.where((index >= 0)[..., None], placed, jnp.where(is_text[..., None], text, 0))

    def flat(x: Array) -> jax.Array:
        return jnp.reshape(x, (batch * prompts, *x.shape[2:]))

    return TokenStream(
        embeddings=axes.constrain(flat(mixed), "batch", "length", "act_embed"),
        positions=jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch * prompts, length)),
        mask=flat(layout.mask),
        source=flat(layout.source),
    )


def pool(
    hidden: jax.Array,
    layout: Layout,
    *,
    num_queries: int,
    num_fine_grained: int = 0,
    num_classes: int = 0,
    num_regions: int = 0,
) -> dict[str, jax.Array]:
    """Hidden states [B * K, L, D] back to banks, by mean over each segment; an empty segment gives zeros.

    Returns "queries" [B * K, Q, D], "fine_grained" [B * K, F, D], "expression" [B * K, D], "classes" [B * K, C, D] and
    "regions" [B * K, R, D].
    """
    source, index, segment = (x.reshape(-1, x.shape[-1]) for x in (layout.source, layout.index, layout.segment))

    def means(kind: Source, number: jax.Array, count: int) -> jax.Array:
        member = (source == kind)[:, None, :] & (number[:, None, :] == jnp.arange(count)[:, None])  # [B * K, count, L]
        total = jnp.einsum("bsl,bld->bsd", member.astype(hidden.dtype), hidden, precision="highest",
                           preferred_element_type=jnp.float32)  # fmt: skip
        return (total / jnp.maximum(member.sum(-1, keepdims=True), 1)).astype(hidden.dtype)

    return {
        "queries": means(Source.QUERY, index, num_queries),
        "fine_grained": means(Source.FINE_GRAINED, index, num_fine_grained),
        "expression": means(Source.EXPRESSION, segment - 1, 1)[:, 0],
        "classes": means(Source.CLASS, segment - 1, num_classes),
        "regions": means(Source.REGION, segment - 1, num_regions),
    }
