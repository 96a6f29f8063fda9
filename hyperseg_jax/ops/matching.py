"""Optimal assignment of queries to targets, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from hyperseg_jax.structs import DeviceArray


def hungarian(cost: Float[DeviceArray, "Q N"], valid: Bool[DeviceArray, " N"]) -> Int32[jax.Array, " N"]:
    """Gives each valid target a query of its own, so that the total cost is the least.

    valid: False where the target is padding.
    Returns the query of each target; -1 where the target is padding, or where there are more targets than
    queries and this one goes without. As few costs as possible that are not finite are used.

    Shortest augmenting paths with dual variables (Crouse 2016, as scipy.optimize.linear_sum_assignment), in float32.
    Works under jit and vmap. Where the batch is sharded, call it inside shard_map: otherwise every turn of its loops
    waits for all devices.
    """
    queries, targets = cost.shape
    if not queries or not targets:
        return jnp.full(targets, -1, jnp.int32)
    cost, valid = _finite(cost.astype(jnp.float32)).T, jnp.asarray(valid)  # [N, Q]
    # With more targets than queries some sit on a bench, one private column each.
    bench = targets if targets > queries else 0

    def assign(target, state):
        u, v, target_of, column_of = state
        # The bench opens when every query is taken. From then on the number of targets on it is settled, so its price
        # only has to keep the duals feasible, and stays of the size of the costs.
        open_ = jnp.all(target_of[:queries] >= 0)
        price = jnp.where(open_, jnp.max(jnp.where(column_of >= 0, u, -jnp.inf)), jnp.inf)

        def edges(row):
            benches = jnp.where(jnp.arange(bench) == row, price, jnp.inf)
            return jnp.concatenate([cost[row], benches]) - u[row] - v

        sink, length, distance, before, visited = _search(edges, target, target_of, valid[target])
        slack = jnp.where(visited, length - distance, 0.0)
        u = (u + jnp.where(column_of >= 0, slack[column_of], 0.0)).at[target].add(length)
        return u, v - slack, *_augment(sink, before, target_of, column_of)

    columns = queries + bench
    nobody = (jnp.full(columns, -1, jnp.int32), jnp.full(targets, -1, jnp.int32))
    duals = (jnp.zeros(targets), jnp.zeros(columns))
    *_, column_of = jax.lax.fori_loop(0, targets, assign, (*duals, *nobody))
    return jnp.where(column_of < queries, column_of, -1)


def _finite(cost: DeviceArray) -> jax.Array:
    """Replaces what is not finite by a price at which one such pair is dearer than any assignment without it."""
    known = jnp.isfinite(cost)
    cost = jnp.clip(jnp.where(known, cost, 0.0), -1e30, 1e30)
    highest = jnp.max(jnp.where(known, cost, -1e30))
    lowest = jnp.min(jnp.where(known, cost, 1e30))
    span = jnp.maximum(highest - lowest, 0.0)
    return jnp.where(known, cost, jnp.where(jnp.any(known), highest, 0.0) + min(cost.shape) * span + 1.0)


def _search(edges, target, target_of, wanted):
    """Dijkstra from a target to the nearest free column; no step where the target is not wanted.

    edges: row -> reduced costs of its columns. Returns the free column (-1 where not wanted), the length of the way to it,
    the distance of each column, the row before each column, and which columns the tree holds.
    """
    columns = target_of.shape[0]

    def searching(state):
        return wanted & (state[0] < 0)

    def grow(state):
        _, row, length, distance, before, visited = state
        reach = jnp.where(visited, jnp.inf, length + edges(row))
        nearer = reach < distance
        distance = jnp.where(nearer, reach, distance)
        before = jnp.where(nearer, row, before)
        front = jnp.where(visited, jnp.inf, distance)
        length = jnp.min(front)
        # Among columns at the same distance a free one ends the search.
        nearest = jnp.argmax(jnp.where(front == length, 1 + (target_of < 0), 0)).astype(jnp.int32)
        row = target_of[nearest]
        return jnp.where(row < 0, nearest, -1), row, length, distance, before, visited.at[nearest].set(True)

    sink, _, length, distance, before, visited = jax.lax.while_loop(
        searching,
        grow,
        (
            jnp.int32(-1),
            jnp.int32(target),
            jnp.float32(0.0),
            jnp.full(columns, jnp.inf),
            jnp.full(columns, -1, jnp.int32),
            jnp.zeros(columns, bool),
        ),
    )
    return sink, length, distance, before, visited


def _augment(sink, before, target_of, column_of):
    """Flips the way from the free column back to its target, which is the row that had no column yet."""

    def flip(state):
        column, target_of, column_of = state
        row = before[column]
        return column_of[row], target_of.at[column].set(row), column_of.at[row].set(column)

    _, target_of, column_of = jax.lax.while_loop(lambda state: state[0] >= 0, flip, (sink, target_of, column_of))
    return target_of, column_of
