"""Small train states, to save and restore in tests."""

import os

import jax
import jax.numpy as jnp

from hyperseg_jax.training.checkpoint import Checkpoints
from hyperseg_jax.training.param_groups import ParamGroup, optimizer
from hyperseg_jax.training.state import create_state

RULES = (ParamGroup("frozen/.*", rate=0), ParamGroup(".*"))


def make_state(size=64):
    params = {"a": {"kernel": jnp.zeros((size, size))}, "frozen": {"kernel": jnp.full((3,), 7.0)}}
    tx = optimizer({"a": params["a"]}, RULES, lambda step: 1e-3)
    return create_state(params, RULES, tx, seed=5)


@jax.jit
def advance(state):
    return state.replace(step=state.step + 1, trainable=jax.tree.map(lambda x: x + 1, state.trainable))


def restore(workdir, state=None):
    messages = []
    with Checkpoints(workdir, log=messages.append) as checkpoints:
        result, run = checkpoints.restore(state or make_state())
    return result, run, messages


def replace_by_pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)
