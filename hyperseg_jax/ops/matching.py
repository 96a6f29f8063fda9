"""Optimal assignment of queries to targets, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from hyperseg_jax.structs import DeviceArray


def hungarian(cost: Float[DeviceArray, "Q N"], valid: Bool[DeviceArray, " N"]) -> Int32[jax.Array, " N"]:
    """Assigns a different query to each valid target with minimal total cost.

    valid: False for padding targets.
    Returns the query of each target; -1 for padding, and for unassigned targets if there are more targets than queries.
    Pairs with non-finite costs are used as rarely as possible.

    Shortest augmenting paths with dual variables (Crouse 2016, as scipy.optimize.linear_sum_assignment), in float32.
    Works under jit and vmap. If the batch is sharded, call it inside shard_map; otherwise every loop iteration
    synchronizes all devices.
    """
    queries, targets = cost.shape
    if not queries or not targets:
        return jnp.full(targets, -1, jnp.int32)
    cost, valid = _replace_non_finite(cost.astype(jnp.float32)).T, jnp.asarray(valid)  # [N, Q]
    # If there are more targets than queries, each target has a private dummy column (the bench).
    bench = targets if targets > queries else 0

    def assign(target, state):
        u, v, target_of, column_of = state
        # Dummy columns are enabled once every query is assigned. From then on the number of unassigned targets is fixed, so
        # their cost only has to keep the duals feasible, and remains on the scale of the costs.
        bench_enabled = jnp.all(target_of[:queries] >= 0)
        bench_cost = jnp.where(bench_enabled, jnp.max(jnp.where(column_of >= 0, u, -jnp.inf)), jnp.inf)

        def edges(row):
            bench_costs = jnp.where(jnp.arange(bench) == row, bench_cost, jnp.inf)
            return jnp.concatenate([cost[row], bench_costs]) - u[row] - v

        sink, length, distance, before, visited = _search_path(edges, target, target_of, valid[target])
        slack = jnp.where(visited, length - distance, 0.0)
        u = (u + jnp.where(column_of >= 0, slack[column_of], 0.0)).at[target].add(length)
        return u, v - slack, *_flip_path(sink, before, target_of, column_of)

    columns = queries + bench
    unassigned = (jnp.full(columns, -1, jnp.int32), jnp.full(targets, -1, jnp.int32))
    duals = (jnp.zeros(targets), jnp.zeros(columns))
    *_, column_of = jax.lax.fori_loop(0, targets, assign, (*duals, *unassigned))
    return jnp.where(column_of < queries, column_of, -1)


def _replace_non_finite(cost: DeviceArray) -> jax.Array:
    """Replaces non-finite costs by a value so large that one such pair costs more than any assignment without it."""
    finite = jnp.isfinite(cost)
    cost = jnp.clip(jnp.where(finite, cost, 0.0), -1e30, 1e30)
    highest = jnp.max(jnp.where(finite, cost, -1e30))
    lowest = jnp.min(jnp.where(finite, cost, 1e30))
    span = jnp.maximum(highest - lowest, 0.0)
    return jnp.where(finite, cost, jnp.where(jnp.any(finite), highest, 0.0) + min(cost.shape) * span + 1.0)


def _search_path(edges, target, target_of, active):
    """Searches with Dijkstra's algorithm from a target to the nearest free column; does nothing for an inactive target.
    edges(row): reduced costs of the columns of a row. Returns the free column (-1 if inactive), the length of the path to it,
    the distance of each column, the row before each column on its path, and which columns were visited."""
    columns = target_of.shape[0]

    def searching(state):
        return active & (state[0] < 0)

    def grow(state):
        _, row, length, distance, before, visited = state
        reach = jnp.where(visited, jnp.inf, length + edges(row))
        nearer = reach < distance
        distance = jnp.where(nearer, reach, distance)
        before = jnp.where(nearer, row, before)
        front = jnp.where(visited, jnp.inf, distance)
        length = jnp.min(front)
        # Of columns at the same distance, a free one is preferred because it ends the search.
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


def _flip_path(sink, before, target_of, column_of):
    """Flips the assignments along the path from the free column back to its target, which had no column before."""

    def flip(state):
        column, target_of, column_of = state
        row = before[column]
        return column_of[row], target_of.at[column].set(row), column_of.at[row].set(column)

    _, target_of, column_of = jax.lax.while_loop(lambda state: state[0] >= 0, flip, (sink, target_of, column_of))
    return target_of, column_of
