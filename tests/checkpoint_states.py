"""Small train states, to save and restore in tests."""

import json
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


def edit_array(name, **changed):
    """Changes fields of an array's description."""

    def change(path):
        import tensorstore

        base = {"driver": "file", "path": f"{path}/"}
        store, key = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result(), f"{name}/zarr.json"
        store[key] = json.dumps(json.loads(store[key]) | changed).encode()

    return change


def edit_chunks(*chunk):
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}
