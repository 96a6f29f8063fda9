"""The text loss: next-token cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from hyperseg_jax import axes
from hyperseg_jax.structs import IGNORED, DeviceArray


def count_tokens(labels: Int[DeviceArray, "B L"]) -> Float32[jax.Array, ""]:
    """Returns the number of supervised tokens, the divisor of the losses below."""
    return (labels[:, 1:] != IGNORED).sum().astype(jnp.float32)


def text_cross_entropy(
    logits: Float[DeviceArray, "B L V"], labels: Int[DeviceArray, "B L"], tokens: Float[DeviceArray, ""] | None = None
) -> Float32[jax.Array, ""]:
    """Returns the next-token cross-entropy, averaged over all supervised tokens of the batch; 0 if there are none.

    labels: -100 where unsupervised; the target at position t is the label at t + 1.
    tokens: the divisor, if the batch is a part of a larger one; count_tokens(labels) by default.
    """
    return _summed_cross_entropy(logits[:, :-1], labels[:, 1:]).sum() / jnp.maximum(
        count_tokens(labels) if tokens is None else tokens, 1
    )


def text_cross_entropy_in_chunks(
    head: Callable[[Any, Float[jax.Array, "*B D"]], Float[jax.Array, "*B V"]],
    params: Any,
    hidden: Float[DeviceArray, "B L D"],
    labels: Int[DeviceArray, "B L"],
    chunk: int = 128,
    weights: Float[DeviceArray, " B"] | None = None,
    smoothing: float = 0.0,
) -> Float32[jax.Array, ""]:
    """Returns text_cross_entropy(head(params, hidden), labels), computed for `chunk` positions at a time.

    weights: the weight of the summed cross-entropy of each row; by default one divided by the number of supervised tokens.
    smoothing: share of the target probability that is spread evenly over all words (label smoothing of PyTorch).

    The logits of all positions would be the largest array of a step. Each device processes its rows in shard_map, so that the
    gradient of the head is summed over devices once instead of for every chunk.
    """
    length = hidden.shape[1]
    chunk = min(chunk, length)
    padding = ((0, 0), (0, -length % chunk))
    targets = jnp.pad(jnp.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED), padding, constant_values=IGNORED)
    hidden = jnp.pad(hidden, (*padding, (0, 0)))

    def row_losses(params: Any, hidden: jax.Array, targets: jax.Array) -> jax.Array:
        chunks = lambda x: jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)
        chunk_losses = jax.checkpoint(lambda x: _summed_cross_entropy(head(params, x[0]), x[1], smoothing), prevent_cse=False)
        return jax.lax.map(chunk_losses, (chunks(hidden), chunks(targets))).sum(0)

    rows = axes.map_shards(row_losses, (), ("batch", None, None), ("batch", None), out=("batch",))
    weights = 1 / jnp.maximum(count_tokens(labels), 1) if weights is None else weights
    return (rows(params, hidden, targets) * weights).sum()


def _summed_cross_entropy(
    logits: Float[DeviceArray, "B L V"], targets: Int[DeviceArray, "B L"], smoothing: float = 0.0
) -> Float32[jax.Array, " B"]:
    """Returns the cross-entropy, summed over the supervised positions of each row. smoothing: see above."""
    logits, supervised = logits.astype(jnp.float32), targets != IGNORED
    picked = jnp.take_along_axis(logits, jnp.where(supervised, targets, 0)[..., None], axis=-1)[..., 0]
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * logits.mean(-1)
    return jnp.where(supervised, jax.nn.logsumexp(logits, axis=-1) - picked, 0.0).sum(-1)
