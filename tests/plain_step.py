"""A training step for a plain loss function, without a system."""

import types

import jax.numpy as jnp
import ml_collections

from hyperseg_jax.training.state import make_step


def make_plain_step(
    loss, tx, *, counts=lambda batch: jnp.float32(1), accumulate=1, average=0.0, length_buckets=(), **functions
):
    """Returns make_step for loss(params, batch, key, counts). functions: further fields of the system."""
    system = types.SimpleNamespace(
        training_functions=lambda model, config: (counts, loss),
        **{"shorten": lambda batch, length: None, **functions},
    )
    config = {
        "optimizer": {"accumulate": accumulate},
        "train": {"average": average},
        "data": {"length_buckets": length_buckets},
    }
    return make_step(system, None, ml_collections.ConfigDict(config), tx)
