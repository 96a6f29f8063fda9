"""One process of a multi-process `hyperseg train`, with a model of a few matrices that compiles quickly. TEST_ROWS: a folder
for digests of the rows that each process feeds. TEST_PAUSE: seconds to sleep at each step."""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hyperseg_jax.commands import main
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training import loop
from hyperseg_jax.weights import model_folder

SIDE, HIDDEN = 32, 256


def init(model, config, key):
    key_one, key_two, key_three = jax.random.split(key, 3)
    make_kernel = lambda key, *shape, names: nn.LogicallyPartitioned(
        jax.random.normal(key, shape) / shape[-2] ** 0.5, names=names
    )
    return {
        "first": {"kernel": make_kernel(key_one, SIDE * SIDE * 3, HIDDEN, names=("embed", "mlp"))},
        "stack": {"kernel": make_kernel(key_three, 4, HIDDEN, HIDDEN, names=("layers", "embed", "mlp"))},
        "second": {"kernel": make_kernel(key_two, HIDDEN, SIDE * SIDE, names=("mlp", "embed"))},
    }


def logits(params, batch):
    pixels = batch["images"][:, 0].reshape(-1, SIDE * SIDE * 3) / 255.0 - 0.5
    hidden = jnp.tanh(pixels @ params["first"]["kernel"])
    for kernel in params["stack"]["kernel"]:
        hidden = hidden + jnp.tanh(hidden @ kernel)
    return hidden @ params["second"]["kernel"]


def counts(model, config):
    return lambda batch: jnp.float32(batch["images"].shape[0])


def loss(model, config):
    def batch_fn(params, batch, key, counts):
        result = logits(params, batch) + 0.1 * jax.random.normal(key, (batch["images"].shape[0], SIDE * SIDE))
        expected = batch["segments"][:, 0, 0, 0].reshape(result.shape) > 0
        total = jnp.mean(jnp.logaddexp(0.0, result) - expected * result, axis=1).sum() / counts
        return total, {"mask": total}

    return batch_fn


def predict(model, config):
    def batch_fn(params, batch, features, memory):
        rows, prompts = batch["uses_expression"].shape
        result = logits(params, batch)
        result -= result.mean(1, keepdims=True)  # about half of the pixels are predicted: all scores are above zero
        masks = jnp.broadcast_to(result.reshape(rows, 1, 1, 1, SIDE, SIDE), (rows, 1, prompts, 1, SIDE, SIDE))
        prompted = {"asked": jnp.ones((rows, 1, prompts), bool)}
        return {"mask_logits": masks, "expression": jnp.full((rows, 1, prompts, 1), 5.0), **prompted}, jnp.zeros((rows, 1))

    return batch_fn


def hash_row(arrays, row):
    result = hashlib.sha256()
    for leaf in jax.tree.leaves(arrays):
        result.update(np.ascontiguousarray(leaf[row]).tobytes())
    return result.hexdigest()


class RecordingStream(loop.Stream):
    def __init__(self, mixture, batch_size, *, rows, **options):
        super().__init__(mixture, batch_size, rows=rows, **options)
        self.rows = rows
        self.file = pathlib.Path(os.environ["TEST_ROWS"]) / f"{jax.process_index()}-{os.getpid()}.jsonl"

    def __next__(self):
        start = self.position
        batch = super().__next__()
        with self.file.open("a") as file:
            for row in range(len(batch["images"])):
                file.write(json.dumps([start + self.rows[row], hash_row(batch, row)]) + "\n")
        time.sleep(float(os.environ.get("TEST_PAUSE", 0)))
        return batch


if __name__ == "__main__":
    full = systems.get("hyperseg")
    systems.get = lambda name: dataclasses.replace(full, init=init, counts=counts, loss=loss, predict=predict)
    loop.Stream = RecordingStream
    model_folder.LARGE, model_folder.LAYERS = 2**20, 8  # the stack is gathered layer by layer
    main.main(sys.argv[1:])
