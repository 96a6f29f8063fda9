"""The train state and the one jitted step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.systems.system import System
from hyperseg_jax.training import param_groups
from hyperseg_jax.training.length_buckets import at_its_length

COUNTERS = ("skipped", "bad")
"""Metrics of a step that count since the run began; the others are of that step alone."""


class TrainState(flax.struct.PyTreeNode):
    """step: optimizer steps, each of one batch. skipped: those whose loss or gradient was not finite. bad: elements of all
    batches that could not be read. key: folded with the step for dropout and sampled points. trainable and frozen are the two
    halves of the parameters; only the first has optimizer state. average: a moving average of the trainable half, empty where
    none is kept."""

    step: jax.Array
    skipped: jax.Array
    bad: jax.Array
    key: jax.Array
    trainable: Any
    frozen: Any
    optimizer: Any
    average: Any

    @property
    def params(self) -> dict[str, Any]:
        """What is evaluated and kept as the model."""
        return param_groups.merge(self.average or self.trainable, self.frozen)


def create(
    params: Any,
    table: tuple[param_groups.Group, ...],
    tx: optax.GradientTransformation,
    seed: int,
    *,
    frozen_type: str = "",
    averaged: bool = False,
) -> TrainState:
    """A fresh state around parameters. frozen_type: type to keep frozen floats in, theirs where empty. averaged: keeps a
    moving average."""
    trainable, frozen = param_groups.split(params, table)
    if frozen_type:
        frozen = jax.tree.map(lambda x: x.astype(frozen_type), frozen)
    zero = jnp.zeros((), jnp.int32)
    average = jax.tree.map(jnp.copy, trainable) if averaged else {}
    return TrainState(zero, zero, zero, jax.random.key(seed), trainable, frozen, tx.init(trainable), average)


def shardings(
    state: TrainState, params: Any, table: tuple[param_groups.Group, ...], tx: optax.GradientTransformation, whole: Any
) -> TrainState:
    """Where each leaf of a state lies: moments and averages beside their parameter, counters on every device.

    state: shapes (of `create`). params: shardings of all parameters. whole: the sharding of a copy on each device.
    """
    trainable, frozen = param_groups.split(params, table)
    masked = lambda x: isinstance(x, optax.MaskedNode)  # of another group
    optimizer = optax.tree.map_params(
        tx,
        lambda leaf, at: leaf if masked(leaf) else at,
        state.optimizer,
        trainable,
        transform_non_params=lambda _: whole,
        is_leaf=masked,
    )
    return TrainState(whole, whole, whole, whole, trainable, frozen, optimizer, trainable if state.average else {})


def make_step(
    system: System, model: Any, config: ml_collections.ConfigDict, tx: optax.GradientTransformation
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """step(state, batch) -> (state, metrics): one optimizer step. A batch whose loss or gradient is not finite changes nothing
    but the counters. batch["bad"]: bool [B], which elements could not be read; the loss leaves them out by itself.

    optimizer.accumulate: the step goes through so many slices of its batch, one after the other. All are divided by the counts
    of the whole batch, so their sum is its loss and gradient, however unequal they are. Each slice has a key of its own, the
    step's folded with its number, so its random points and dropout are not those of the batch in one piece.
    train.average: how much of the moving average a step keeps (0.999), where the state has one. It starts quickly: after n
    steps at most (1 + n) / (10 + n) is kept.
    data.length_buckets: lengths that a slice is cut to where all of it fits (training/length_buckets.py).
    """
    counts_of, loss = system.counts(model, config), system.loss(model, config)
    slices, average, length_buckets = config.optimizer.accumulate, config.train.average, config.data.length_buckets

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key, counts = jax.random.fold_in(state.key, state.step), counts_of(batch)

        def gradient_of(batch: Batch, key: jax.Array) -> Any:
            def at_a_length(batch: Batch) -> Any:
                def of_trainable(trainable: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
                    return loss(param_groups.merge(trainable, state.frozen), batch, key, counts)

                return jax.value_and_grad(of_trainable, has_aux=True)(state.trainable)

            return at_its_length(at_a_length, batch, length_buckets, system)

        def add(gradient: Any, number: jax.Array) -> Any:
            found, more = gradient_of(slice_of(batch, number, slices), jax.random.fold_in(key, number))
            return jax.tree.map(jnp.add, gradient, more), found

        if slices == 1:
            (total, metrics), gradient = gradient_of(batch, key)
        else:
            gradient, found = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, state.trainable), jnp.arange(slices))
            total, metrics = jax.tree.map(lambda values: values.sum(0), found)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(total) & jnp.isfinite(norm)
        updates, optimizer = tx.update(gradient, state.optimizer, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        trainable = keep(trainable, state.trainable)
        if state.average:
            share = jnp.minimum(average, (1 + state.step) / (10 + state.step))
            mean = jax.tree.map(lambda old, new: share * old + (1 - share) * new, state.average, trainable)
            state = state.replace(average=keep(mean, state.average))
        state = state.replace(
            step=state.step + 1,
            skipped=state.skipped + (~finite).astype(jnp.int32),
            bad=state.bad + batch["bad"].sum(dtype=jnp.int32),
            trainable=trainable,
            optimizer=keep(optimizer, state.optimizer),
        )
        return state, {"loss": total, "gradient_norm": norm, "skipped": state.skipped, "bad": state.bad, **metrics}

    return train_step


def slice_of(batch: Batch, number: jax.Array, slices: int) -> Batch:
    """The elements `number`, `number` + slices, ... of a batch. Each device has as many of them and keeps its own, and they are
    the same on any number of devices."""

    def of(leaf: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(
            leaf.reshape(leaf.shape[0] // slices, slices, *leaf.shape[1:]), number, 1, keepdims=False
        )

    return jax.tree.map(of, batch)
