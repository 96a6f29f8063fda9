"""The train state and the one jitted step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from hyperseg_jax.training import groups

Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class TrainState(flax.struct.PyTreeNode):
    """step: batches taken. skipped: batches whose loss or gradient was not finite. key: folded with the step for dropout and
    sampled points. trainable and frozen are the two halves of the parameters; only the first has optimizer state."""

    step: jax.Array
    skipped: jax.Array
    key: jax.Array
    trainable: Any
    frozen: Any
    optimizer: Any

    @property
    def params(self) -> dict[str, Any]:
        return groups.merge(self.trainable, self.frozen)


def create(params: Any, table: tuple[groups.Group, ...], tx: optax.GradientTransformation, seed: int) -> TrainState:
    """A fresh state around parameters."""
    trainable, frozen = groups.split(params, table)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, zero, jax.random.key(seed), trainable, frozen, tx.init(trainable))


def make_step(loss: Loss, tx: optax.GradientTransformation) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]:
    """step(state, batch) -> (state, metrics). A batch that is not finite changes nothing but the counters."""

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)

        def of_trainable(trainable: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            return loss(groups.merge(trainable, state.frozen), batch, key)

        (total, metrics), gradient = jax.value_and_grad(of_trainable, has_aux=True)(state.trainable)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(total) & jnp.isfinite(norm)
        updates, optimizer = tx.update(gradient, state.optimizer, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        state = state.replace(
            step=state.step + 1,
            skipped=state.skipped + (~finite).astype(jnp.int32),
            trainable=keep(trainable, state.trainable),
            optimizer=keep(optimizer, state.optimizer),
        )
        return state, {"loss": total, "gradient_norm": norm, "skipped": state.skipped, **metrics}

    return train_step
