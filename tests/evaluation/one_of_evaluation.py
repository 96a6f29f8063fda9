"""One process of an evaluation of toy benchmarks, with answers made of the pixels in the place of a model. Arguments: the
folder of the toy world, the folder of partial states, names of benchmarks."""

import dataclasses
import json
import pathlib
import sys

import faked
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hyperseg_jax import config as configs
from hyperseg_jax.data.processor import Encoding
from hyperseg_jax.evaluation import benchmark_run, benchmarks
from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.evaluation.features import FeatureCache
from hyperseg_jax.parallel import hosts
from hyperseg_jax.parallel.feed import Feed
from hyperseg_jax.systems import system as systems

QUERIES, LIMIT = 3, 11
VIDEO = benchmarks.BENCHMARKS["toy_video"]
LINES = {
    "toy_packed": dataclasses.replace(VIDEO, fields={**VIDEO.fields, "group_by_video": True})
}  # several prompts an example


def seen(params, part, features):
    """Some of the pixels, [B, h, w, 3]."""
    return part["images"][:, 0, ::4, ::4] / 255.0


def nothing(params, part, features):
    """What predict() does not use, and the cache keeps."""
    return jnp.zeros(len(jax.tree.leaves(part)[0]))


ENCODINGS = {
    "image_tokens": Encoding(nothing),
    "image": Encoding(seen),
    "example": Encoding(nothing),
    "prefix": Encoding(nothing, needs=("image_tokens", "image"), without_memory=True),
}


def predict(params, batch, features, query=None):
    """Each query marks one colour; what it saw of a frame moves its threshold on the next."""
    pixels = features["image"] if "image" in features else seen(params, batch, {})
    memory = jnp.zeros(len(pixels)) if query is None else query
    logits = jnp.moveaxis(pixels, -1, 1) - 0.5 + 0.1 * memory[:, None, None, None]
    classes = 4 * jax.nn.one_hot(jnp.arange(QUERIES), batch["class_valid"].shape[-1] or 2)
    drawn = batch["regions"].mean((1, 3, 4))  # [B, R]: what is asked changes the answer
    regions = jnp.arange(QUERIES)[:, None] * jnp.sin(99 * drawn)[:, None]
    shaped = lambda x: jnp.broadcast_to(x, (len(pixels), 1, 1, *x.shape))
    outputs = {
        "mask_logits": logits[:, None, None],
        "expression": shaped(jnp.arange(QUERIES) + 3.0),
        "class": shaped(classes),
        "region": regions[:, None, None],
    }
    return faked.outputs_of(batch, **outputs), pixels.mean((1, 2, 3))


def renamed(example, number):
    """The example under a name and with questions of its own."""
    prompts = tuple(dataclasses.replace(prompt, key=f"{prompt.key}{number}") for prompt in example.prompts)
    return dataclasses.replace(example, name=f"{number} {example.name}", prompts=prompts)


if __name__ == "__main__":
    world, kept, *names = sys.argv[1:]
    hosts.join(hosts.Timeouts(start=60, barrier=60))
    with hosts.exit_on_error():
        devices = np.array(jax.devices())  # of four, two hold the same rows
        mesh = Mesh(devices.reshape(2, 2) if len(devices) == 4 else devices.reshape(-1, 1), ("data", "tensor"))
        rows = NamedSharding(mesh, PartitionSpec("data"))
        config, system = configs.load("tiny"), systems.get("hyperseg")
        encoded, made = FeatureCache(ENCODINGS), []
        encoded._jitted["image"] = lambda *given: made.append(1) or jax.jit(seen)(*given)
        engine = Engine(jax.jit(predict, out_shardings=rows), None, faked.ANSWERS, None, feed=Feed(rows), feature_cache=encoded)
        hosts.CHUNK = 200  # long states travel in many pieces
        scores = {}
        for name in names:
            line = LINES.get(name) or benchmarks.BENCHMARKS[name]
            task = benchmarks.open_task(name, line, config, system, world)
            many = [task.val[k % len(task.val)] for k in range(LIMIT)]
            named = [renamed(one, k) for k, one in enumerate(many)]
            task = dataclasses.replace(task, val=named)
            found = benchmark_run.run(
                engine, line, task, batch_size=4, save_every=2, state_file=pathlib.Path(kept) / f"{name}.json"
            )
            scores[name] = {
                "scores": found.scorer.compute(),
                "cases": found.cases.rows,
                "rows": len(found.rows),
                "encoded": len(made),
            }
            made.clear()
        if hosts.is_primary():
            print(json.dumps(scores))
    hosts.shut_down()
