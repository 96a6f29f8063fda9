"""An engine without a model: tests define its outputs."""

import jax.numpy as jnp

from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.systems import system as systems

ANSWERS = systems.get("hyperseg").answers


def make_engine(predict, write=None, **kwargs):
    """Returns an engine that calls predict(params, batch, memory) instead of a model and post-processes as HyperSeg does."""
    return Engine(lambda params, batch, features, memory: predict(params, batch, memory), write, ANSWERS, None, **kwargs)


def make_outputs(batch, **outputs):
    """Returns outputs [B, T, K, ...] with the prompted entries of the batch."""
    frames = next(iter(outputs.values())).shape[1]
    prompted = {"asked": batch["uses_expression"], "class_valid": batch["class_valid"], "region_valid": batch["region_valid"]}
    return outputs | {name: jnp.repeat(jnp.asarray(value)[:, None], frames, axis=1) for name, value in prompted.items()}
