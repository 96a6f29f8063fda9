"""A model's outputs made by hand."""

import jax.numpy as jnp

from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.systems import system as systems

ANSWERS = systems.get("hyperseg").answers


def engine(predict, write=None, **given):
    """An engine that asks predict(params, batch, memory) in the place of a model, and answers as HyperSeg does."""
    return Engine(lambda params, batch, features, memory: predict(params, batch, memory), write, ANSWERS, None, **given)


def outputs_of(batch, **outputs):
    """Outputs [B, T, K, ...] with what the batch asks."""
    frames = next(iter(outputs.values())).shape[1]
    asked = {"asked": batch["uses_expression"], "class_valid": batch["class_valid"], "region_valid": batch["region_valid"]}
    return outputs | {name: jnp.repeat(jnp.asarray(value)[:, None], frames, axis=1) for name, value in asked.items()}
