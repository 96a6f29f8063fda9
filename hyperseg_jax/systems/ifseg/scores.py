"""How well the cells of an image match each class."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray

from hyperseg_jax.losses import words
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.systems.ifseg.inputs import Classes
from hyperseg_jax.systems.ifseg.model import Cells, IfSeg

ABSENT = -1e9
"""The logit of padding."""


def class_logits(names: Float[DeviceArray, "B cells N"], of_name: Int[DeviceArray, "B N"]) -> Float32[jax.Array, "B cells N"]:
    """Returns the logits of the classes from those of their names: the probability of a class is the sum over its names. ABSENT
    for classes without a name, so that there are as many classes as names.

    of_name: the class of each name, -1 for padding.
    """
    names = jnp.moveaxis(jnp.asarray(names, jnp.float32), 2, 1)

    def of_one(logits: jax.Array, number: jax.Array) -> jax.Array:
        count = len(number)
        largest = jnp.full(logits.shape, ABSENT).at[number].max(logits, mode="drop")
        largest = jax.lax.stop_gradient(largest)
        below = jnp.where((number < count)[:, None], logits - largest.at[number].get(mode="clip"), 0)
        total = jnp.zeros(logits.shape).at[number].add(jnp.exp(below), mode="drop")
        # not `total > 0`: of damaged weights, which give NaN, ABSENT would look like an answer
        return jnp.where(total == 0, ABSENT, largest + jnp.log(jnp.where(total == 0, 1, total)))

    numbers = jnp.where(of_name < 0, of_name.shape[1], of_name)
    return jnp.moveaxis(jax.vmap(of_one)(names, numbers), 1, 2)


def present_classes(of_name: Int[DeviceArray, "B N"]) -> Bool[jax.Array, "B N"]:
    """Returns which classes have a name."""
    return (of_name[:, None] == jnp.arange(of_name.shape[1])[:, None]).any(-1)


def word_cosines(model: IfSeg, params: Any, cells: Cells) -> Float32[jax.Array, "B cells V"]:
    """Returns the cosine between the embedding of each cell and that of each token of the vocabulary."""
    apply: Any = lambda *inputs, method: model.apply({"params": params}, *inputs, method=method)
    vocabulary = apply(jnp.arange(model.tokens.rows)[:, None], method="mean_words")
    return apply(cells.embedding, vocabulary, method="compare")  # type: ignore[no-any-return]


def cell_logits(
    model: IfSeg, params: Any, cells: Cells, classes: Classes, *, key: PRNGKeyArray | None = None
) -> Float32[jax.Array, "B cells N"]:
    """Returns the logits of the classes of each cell; classes are means of word embeddings. key: of dropout, in training."""
    apply: Any = lambda *inputs, **options: model.apply({"params": params}, *inputs, **options)
    rows = apply(classes.words, method="mean_words")
    if model.scores == "embedding":
        names = words.SCALE * apply(cells.embedding, rows, method="compare")
        return class_logits(names, classes.of_name)
    rngs = None if key is None else {"dropout": key}
    features = apply(cells, classes.text, key is None, rngs=rngs, method="decode")
    # The published classifier has no bias, and does not scale or normalize.
    names = model.encoder.precision.einsum("bld,bnd->bln", features, rows)
    return class_logits(names, classes.of_name)
