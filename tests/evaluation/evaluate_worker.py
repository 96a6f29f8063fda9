"""One process of a multi-process evaluation of toy benchmarks. Predictions are computed from the pixels, without a model.
Arguments: folder of the toy world, folder of partial states, benchmark names. TEST_SIGTERM: with batches of two examples that
take a second, the last process gets SIGTERM after the second one."""

import dataclasses
import json
import os
import pathlib
import signal
import sys
import time

import fake_engine
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
}  # several prompts per example


def subsample_pixels(params, part, features):
    """Returns every fourth pixel, [B, h, w, 3]."""
    return part["images"][:, 0, ::4, ::4] / 255.0


def encode_nothing(params, part, features):
    """An encoding that predict() does not use but the cache stores."""
    return jnp.zeros(len(jax.tree.leaves(part)[0]))


ENCODINGS = {
    "image_tokens": Encoding(encode_nothing),
    "image": Encoding(subsample_pixels),
    "example": Encoding(encode_nothing),
    "prefix": Encoding(encode_nothing, needs=("image_tokens", "image"), without_memory=True),
}


def predict(params, batch, features, query=None):
    """Each query segments one colour; the mean of a frame shifts the threshold of the next frame."""
    pixels = features["image"] if "image" in features else subsample_pixels(params, batch, {})
    memory = jnp.zeros(len(pixels)) if query is None else query
    logits = jnp.moveaxis(pixels, -1, 1) - 0.5 + 0.1 * memory[:, None, None, None]
    classes = 4 * jax.nn.one_hot(jnp.arange(QUERIES), batch["class_valid"].shape[-1] or 2)
    region_area = batch["regions"].mean((1, 3, 4))  # [B, R]: what is asked changes the answer
    regions = jnp.arange(QUERIES)[:, None] * jnp.sin(99 * region_area)[:, None]
    broadcast = lambda x: jnp.broadcast_to(x, (len(pixels), 1, 1, *x.shape))
    outputs = {
        "mask_logits": logits[:, None, None],
        "expression": broadcast(jnp.arange(QUERIES) + 3.0),
        "class": broadcast(classes),
        "region": regions[:, None, None],
    }
    return fake_engine.make_outputs(batch, **outputs), pixels.mean((1, 2, 3))


def rename_example(example, number):
    """Returns the example with a unique name and unique prompt keys."""
    prompts = tuple(dataclasses.replace(prompt, key=f"{prompt.key}{number}") for prompt in example.prompts)
    return dataclasses.replace(example, name=f"{number} {example.name}", prompts=prompts)


def stop_soon(done, count):
    """Sends SIGTERM to the last process after two batches."""
    time.sleep(1)
    if done == 4 and hosts.jax.process_index() == jax.process_count() - 1:
        os.kill(os.getpid(), signal.SIGTERM)


STOPPED = {"batch_size": 2, "save_every": 20, "progress": stop_soon}


if __name__ == "__main__":
    world, saved, *names = sys.argv[1:]
    hosts.connect(hosts.Timeouts(start=60, barrier=60))
    with hosts.exit_on_error():
        devices = np.array(jax.devices())  # of four, two hold the same rows
        mesh = Mesh(devices.reshape(2, 2) if len(devices) == 4 else devices.reshape(-1, 1), ("data", "tensor"))
        rows = NamedSharding(mesh, PartitionSpec("data"))
        config, system = configs.load("tiny"), systems.get("hyperseg")
        feature_cache, encode_calls = FeatureCache(ENCODINGS), []
        feature_cache._jitted["image"] = lambda *args: encode_calls.append(1) or jax.jit(subsample_pixels)(*args)
        make_engine = Engine(
            jax.jit(predict, out_shardings=rows), None, fake_engine.ANSWERS, None, feed=Feed(rows), feature_cache=feature_cache
        )
        hosts.CHUNK = 200  # long states travel in many pieces
        scores = {}
        for name in names:
            benchmark = LINES.get(name) or benchmarks.BENCHMARKS[name]
            task = benchmarks.open_task(name, benchmark, config, system, world)
            examples = [task.val[k % len(task.val)] for k in range(LIMIT)]
            renamed = [rename_example(one, k) for k, one in enumerate(examples)]
            task = dataclasses.replace(task, val=renamed)
            result = benchmark_run.run(
                make_engine,
                benchmark,
                task,
                state_file=pathlib.Path(saved) / f"{name}.json",
                **(STOPPED if "TEST_SIGTERM" in os.environ else {"batch_size": 4, "save_every": 2}),
            )
            scores[name] = {
                "scores": result.scorer.compute(),
                "cases": result.cases.rows,
                "rows": len(result.rows),
                "encoded": len(encode_calls),
            }
            encode_calls.clear()
        if hosts.is_primary():
            print(json.dumps(scores))
    hosts.shut_down()
