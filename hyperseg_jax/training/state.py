"""The train state and the train step."""

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
from hyperseg_jax.training.length_buckets import apply_at_bucket_length

COUNTERS = ("skipped", "bad")
"""Metrics that are cumulative over the run; all others describe a single step."""


class TrainState(flax.struct.PyTreeNode):
    """The state of a run.

    step: number of optimizer steps, one batch each. skipped: number of steps with a non-finite loss or gradient. bad: number of
    unreadable elements in all batches. key: base key; folded with the step for dropout and sampled points. trainable, frozen:
    the two parts of the parameters; only `trainable` has optimizer state. average: moving average of `trainable`, empty if
    disabled.
    """

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
        """The parameters to evaluate and save: the moving average, if there is one."""
        return param_groups.merge_params(self.average or self.trainable, self.frozen)


def create_state(
    params: Any,
    groups: tuple[param_groups.ParamGroup, ...],
    tx: optax.GradientTransformation,
    seed: int,
    *,
    frozen_type: str = "",
    averaged: bool = False,
) -> TrainState:
    """Returns a new state with these parameters. frozen_type: type of the stored frozen parameters, "" to keep theirs.
    averaged: whether to keep a moving average."""
    trainable, frozen = param_groups.split_params(params, groups)
    if frozen_type:
        frozen = jax.tree.map(lambda x: x.astype(frozen_type), frozen)
    zero = jnp.zeros((), jnp.int32)
    average = jax.tree.map(jnp.copy, trainable) if averaged else {}
    return TrainState(zero, zero, zero, jax.random.key(seed), trainable, frozen, tx.init(trainable), average)


def state_shardings(
    state: TrainState,
    params: Any,
    groups: tuple[param_groups.ParamGroup, ...],
    tx: optax.GradientTransformation,
    replicated: Any,
) -> TrainState:
    """Returns the sharding of each leaf of a state: moments and averages as their parameter, counters replicated.

    state: shapes, from `create_state`. params: shardings of all parameters. replicated: the replicated sharding.
    """
    trainable, frozen = param_groups.split_params(params, groups)
    masked = lambda x: isinstance(x, optax.MaskedNode)  # belongs to another param group
    optimizer = optax.tree.map_params(
        tx,
        lambda leaf, at: leaf if masked(leaf) else at,
        state.optimizer,
        trainable,
        transform_non_params=lambda _: replicated,
        is_leaf=masked,
    )
    return TrainState(
        replicated, replicated, replicated, replicated, trainable, frozen, optimizer, trainable if state.average else {}
    )


def make_step(
    system: System, model: Any, config: ml_collections.ConfigDict, tx: optax.GradientTransformation
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns step(state, batch) -> (state, metrics), one optimizer step. With a non-finite loss or gradient, only counters
    change.

    batch["bad"]: bool [B], the unreadable elements; the loss ignores them.

    optimizer.accumulate: number of slices for gradient accumulation. Losses are normalized by the counts of the full batch, so
    that losses and gradients of the slices sum to those of the full batch, even if slices have different numbers of targets.
    Each slice folds its index into the key, so its random points and dropout differ from those of the unsliced batch.
    train.average: decay of the moving average (0.999), if the state has one. After n steps the decay is at most
    (1 + n) / (10 + n), so the average warms up quickly.
    data.length_buckets: lengths to truncate a slice to, if all of it fits (training/length_buckets.py).
    """
    count_targets, loss = system.training_functions(model, config)
    slices, average, length_buckets = config.optimizer.accumulate, config.train.average, config.data.length_buckets

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key, counts = jax.random.fold_in(state.key, state.step), count_targets(batch)

        def loss_and_gradient(batch: Batch, key: jax.Array) -> Any:
            def truncated_loss_and_gradient(batch: Batch) -> Any:
                def loss_fn(trainable: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
                    return loss(param_groups.merge_params(trainable, state.frozen), batch, key, counts)

                return jax.value_and_grad(loss_fn, has_aux=True)(state.trainable)

            return apply_at_bucket_length(truncated_loss_and_gradient, batch, length_buckets, system)

        def accumulate(gradient: Any, index: jax.Array) -> Any:
            output, slice_gradient = loss_and_gradient(take_slice(batch, index, slices), jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, gradient, slice_gradient), output

        if slices == 1:
            (total, metrics), gradient = loss_and_gradient(batch, key)
        else:
            gradient, outputs = jax.lax.scan(accumulate, jax.tree.map(jnp.zeros_like, state.trainable), jnp.arange(slices))
            total, metrics = jax.tree.map(lambda values: values.sum(0), outputs)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(total) & jnp.isfinite(norm)
        updates, optimizer = tx.update(gradient, state.optimizer, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        if_finite = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        trainable = if_finite(trainable, state.trainable)
        if state.average:
            decay = jnp.minimum(average, (1 + state.step) / (10 + state.step))
            mean = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.average, trainable)
            state = state.replace(average=if_finite(mean, state.average))
        state = state.replace(
            step=state.step + 1,
            skipped=state.skipped + (~finite).astype(jnp.int32),
            bad=state.bad + batch["bad"].sum(dtype=jnp.int32),
            trainable=trainable,
            optimizer=if_finite(optimizer, state.optimizer),
        )
        return state, {"loss": total, "gradient_norm": norm, "skipped": state.skipped, "bad": state.bad, **metrics}

    return train_step


def take_slice(batch: Batch, index: jax.Array, slices: int) -> Batch:
    """Returns the elements index, index + slices, ... of a batch. Every device has equally many of them, so no data moves
    between devices, and the slices do not depend on the number of devices."""

    def take(leaf: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(
            leaf.reshape(leaf.shape[0] // slices, slices, *leaf.shape[1:]), index, 1, keepdims=False
        )

    return jax.tree.map(take, batch)
