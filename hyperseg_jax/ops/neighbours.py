"""Smoothing of class probabilities over image cells with similar features (IFSeg, Yun et al. 2023, section 3.4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int32

from hyperseg_jax.structs import DeviceArray

CHUNK = 1024
"""Number of cells that are compared with all cells at once."""


def nearest_cells(
    features: Float[DeviceArray, "N C"], count: int, valid: Bool[DeviceArray, " N"] | None = None
) -> Int32[jax.Array, "N _"]:
    """Returns the cells with the highest cosine similarity to each cell, most similar first: the cell itself and others; of
    equally similar cells, the first ones.

    The N x N similarities are computed some rows at a time. At most N cells are returned. valid: the cells that may be found;
    if they are fewer than count, the most similar one is repeated.
    """
    unit = jnp.asarray(features, jnp.float32)
    unit = unit / jnp.maximum(jnp.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    number = unit.shape[0]
    count = min(count, number)

    def find(rows: jax.Array) -> jax.Array:
        similarity = jnp.matmul(rows, unit.T, precision="highest")
        if valid is None:
            return jax.lax.top_k(similarity, count)[1]
        found = jax.lax.top_k(jnp.where(valid, similarity, -jnp.inf), count)[1]
        return jnp.where(jnp.asarray(valid)[found], found, found[:, :1])

    if number <= CHUNK:
        return find(unit)
    chunks = jnp.pad(unit, ((0, -number % CHUNK), (0, 0))).reshape(-1, CHUNK, unit.shape[1])
    return jax.lax.map(find, chunks).reshape(-1, count)[:number]


def smooth(
    probabilities: Float[DeviceArray, "N classes"], neighbours: Int32[DeviceArray, "N K"], rounds: int
) -> Float32[jax.Array, "N classes"]:
    """Replaces the probabilities of each cell by the mean of its neighbours', `rounds` times."""

    def average(_: jax.Array, values: jax.Array) -> jax.Array:
        return values[neighbours].mean(axis=1)

    return jax.lax.fori_loop(0, rounds, average, jnp.asarray(probabilities, jnp.float32))
