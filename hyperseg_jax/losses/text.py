"""The loss of the written answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from hyperseg_jax import axes
from hyperseg_jax.structs import IGNORED, DeviceArray


def count_tokens(labels: Int[DeviceArray, "B L"]) -> Float32[jax.Array, ""]:
    """The supervised tokens: the divisor of the losses below."""
    return (labels[:, 1:] != IGNORED).sum().astype(jnp.float32)


def text_cross_entropy(
    logits: Float[DeviceArray, "B L V"], labels: Int[DeviceArray, "B L"], tokens: Float[DeviceArray, ""] | None = None
) -> Float32[jax.Array, ""]:
    """Cross-entropy of the next token, mean over all supervised tokens of the batch; 0 where there is none.

    labels: -100 where nothing is taught; position t is taught the label at t + 1.
    tokens: the divisor, where the batch is a part of another; by default its own count_tokens.
    """
    return _sum(logits[:, :-1], labels[:, 1:]).sum() / jnp.maximum(count_tokens(labels) if tokens is None else tokens, 1)


def text_cross_entropy_in_chunks(
    head: Callable[[Any, Float[jax.Array, "*B D"]], Float[jax.Array, "*B V"]],
    params: Any,
    hidden: Float[DeviceArray, "B L D"],
    labels: Int[DeviceArray, "B L"],
    chunk: int = 128,
    tokens: Float[DeviceArray, ""] | None = None,
) -> Float32[jax.Array, ""]:
    """text_cross_entropy(head(params, hidden), labels, tokens), of `chunk` positions at a time.

    All logits of a step at once would be its largest array. Each device goes
    through its own rows, so that the gradient of the head is summed over devices once and not with every chunk.
    """
    length = hidden.shape[1]
    chunk = min(chunk, length)
    more = ((0, 0), (0, -length % chunk))
    wanted = jnp.pad(jnp.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED), more, constant_values=IGNORED)
    hidden = jnp.pad(hidden, (*more, (0, 0)))

    def of_rows(params: Any, hidden: jax.Array, wanted: jax.Array) -> jax.Array:
        chunks = lambda x: jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)
        of_chunk = jax.checkpoint(lambda x: _sum(head(params, x[0]), x[1]), prevent_cse=False)
        return jax.lax.map(of_chunk, (chunks(hidden), chunks(wanted))).sum(0)

    rows = axes.map_shards(of_rows, (), ("batch", None, None), ("batch", None), out=("batch",))
    return rows(params, hidden, wanted).sum() / jnp.maximum(count_tokens(labels) if tokens is None else tokens, 1)


def _sum(logits: Float[DeviceArray, "B L V"], wanted: Int[DeviceArray, "B L"]) -> Float32[jax.Array, " B"]:
    """Cross-entropy, summed over the positions of each row where something is wanted."""
    logits, taught = logits.astype(jnp.float32), wanted != IGNORED
    picked = jnp.take_along_axis(logits, jnp.where(taught, wanted, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(taught, jax.nn.logsumexp(logits, axis=-1) - picked, 0.0).sum(-1)
