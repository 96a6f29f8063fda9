"""A batch of eight images with all types of prompts, on one device and on eight."""

import dataclasses
import types
import unittest.mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from hyperseg_jax.data import sources
from hyperseg_jax.decoders import mask2former
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten, unflatten

SYSTEM = systems.get("hyperseg")
ROWS, SEED = 8, 3


@pytest.fixture(scope="session")
def case(micro, shared):
    """config, model, boxed shapes, params, batch, key, and the results of one device: loss, metrics, gradient."""
    config = micro(
        ("referring", "panoptic", "region", "chat"),
        model__precision__matmul="highest",
        loss__points="per_mask",
        model__lora__rank=8,
        model__mask_decoder__num_layers=3,
        data__image_size=64,
    )
    with config.unlocked():
        config.loss.num_points = 32
    tasks = sources.build_tasks(config, SYSTEM, console=Console(quiet=True))
    processor = dataclasses.replace(tasks["panoptic"].processor, prompts=4, length=320, targets=8, classes=9, regions=3)
    panoptic = tasks["panoptic"].train
    rows = [
        dataclasses.replace(panoptic[k], prompts=sum((task.train[k].prompts[:1] for task in tasks.values()), ()))
        for k in range(ROWS)
    ]
    arrays = [processor(row, train=True) for row in rows]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *arrays)
    model = SYSTEM.build(config)
    loss = SYSTEM.full_loss(model, config)
    key = jax.random.key(1)

    def compute(folder):
        params = jax.device_get(jax.jit(lambda: SYSTEM.init_plain(model, config, jax.random.key(SEED)))())
        (total, metrics), gradient = jax.device_get(jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch, key))
        margin = smallest_margin(model, config, params, batch)
        folder.mkdir()
        result = {"params": params, "gradient": gradient, "metrics": metrics, "total": total, "margin": margin}
        np.savez(folder / "one_device.npz", **flatten(result))

    # compiled and run by one worker, read by the others
    with np.load(shared("one_device", compute) / "one_device.npz") as file:
        result = unflatten({name: file[name] for name in file.files})
    return types.SimpleNamespace(
        config=config,
        model=model,
        boxed=SYSTEM.boxed_shapes(config),
        params=result["params"],
        batch=batch,
        key=key,
        loss=loss,
        total=result["total"],
        metrics=result["metrics"],
        gradient=result["gradient"],
        margin=result["margin"],
    )


def smallest_margin(model, config, params, batch):
    """Returns the smallest magnitude of the attention mask logits, relative to the largest."""
    recorded = []

    def record_logits(mask_embedding, features):
        logits = jnp.einsum("bkqc,bhwc->bkqhw", mask_embedding, features, precision="highest")
        recorded.append(logits)
        return negative(mask_embedding, features)

    negative = mask2former._blocked_positions
    with unittest.mock.patch.object(mask2former, "_blocked_positions", record_logits):

        def predict_logits(params, batch):
            recorded.clear()
            SYSTEM.predict(model, config)(params, batch, {})
            return list(recorded)

        result = [np.abs(logits) for logits in jax.jit(predict_logits)(params, batch)]
    # exact zeros belong to padded prompts, whose queries are zero vectors
    return min(values[values > 0].min() for values in result) / max(values.max() for values in result)
