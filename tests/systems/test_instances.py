"""HyperSeg's losses of instances on toy videos with class lists: every head is trained, padding has no effect, and without
weights nothing changes."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from rich.console import Console
from sample_inputs import random_params

from hyperseg_jax.data import sources
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import validation
from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.hyperseg.checkpoints import untrained
from hyperseg_jax.tables import flatten

SYSTEM = systems.get("hyperseg")
WEIGHTS = {"box_weight": 5.0, "giou_weight": 2.0, "box_iou_weight": 1.0, "reid_weight": 2.0, "reid_cosine_weight": 3.0}
HEADS = ("box", "box_iou", "reid")


@pytest.fixture(scope="module")
def config(micro):
    config = micro(("panoptic",)).copy_and_resolve_references().unlock()
    config.model.mask_decoder.heads = HEADS
    config.loss.update(WEIGHTS)
    read = {"folder": "{root}", "task": "instances", "frames": 2, "max_classes": 8}
    blocks = {"train": {**read, "split": "train"}, "val": {**read, "split": "val"}}
    sizes = {"length": 160, "frames": 2, "targets": 8, "classes": 9}
    config.data.tasks = {"instances": {"reader": "toy", "ratio": 1, **blocks, **sizes}}
    return config.lock()


@pytest.fixture(scope="module")
def task(config):
    return sources.build_tasks(config, SYSTEM, console=Console(quiet=True))["instances"]


def make_batch(task, **sizes):
    processor = dataclasses.replace(task.processor, **sizes)
    return jax.tree.map(lambda *rows: np.stack(rows), *[processor(task.train[k], train=True) for k in range(2)])


@pytest.fixture(scope="module")
def trained_step(config, task):
    """The parameters, and the loss, its terms and gradients on a batch, for other parameters."""
    params, batch = random_params(SYSTEM.shapes(config), seed=1), make_batch(task)
    step = jax.jit(jax.value_and_grad(SYSTEM.full_loss(SYSTEM.build(config), config), has_aux=True))
    run = lambda params: step(params, batch, jax.random.key(0))
    return params, run


def test_every_head_is_trained_and_its_losses_fall(trained_step):
    params, run = trained_step
    (_, first), gradients = run(params)
    assert {"box", "giou", "box_iou", "reid", "reid_cosine"} < first.keys()
    flat = flatten(gradients)
    assert all(np.isfinite(gradient).all() for gradient in flat.values())
    for head in HEADS:
        of_head = [np.abs(gradient).max() for path, gradient in flat.items() if path.startswith(f"mask_decoder/{head}/")]
        assert len(of_head) >= 2 and min(of_head) > 0, head
    for _ in range(10):  # only the heads, which do not change the matching
        step = lambda values, gradient: values - 0.01 * gradient / (1e-6 + np.abs(gradient).max())
        decoder, gradient = jax.device_get((params["mask_decoder"], gradients["mask_decoder"]))
        trained = {head: jax.tree.map(step, decoder[head], gradient[head]) for head in HEADS}
        params = {**params, "mask_decoder": decoder | trained}
        (_, terms), gradients = run(params)
    boxes = lambda terms: sum(WEIGHTS[f"{name}_weight"] * terms[name] for name in ("box", "giou"))
    assert boxes(terms) < boxes(first) and terms["reid"] < first["reid"]


def test_padding_changes_no_loss(config, task, trained_step):
    """More frames, prompts, targets and classes than the examples have."""
    params, run = trained_step
    (total, terms), _ = run(params)
    loss = jax.jit(SYSTEM.full_loss(SYSTEM.build(config), config))
    padded = make_batch(task, frames=3, prompts=2, targets=10, classes=11)
    more_total, more = loss(params, padded, jax.random.key(0))
    for name in ("box", "giou", "box_iou", "reid", "mask"):  # the queries of reid_cosine are random
        np.testing.assert_allclose(more[name], terms[name], rtol=3e-4, err_msg=name)
    rest = 3.0 * (more["reid_cosine"] - terms["reid_cosine"])
    np.testing.assert_allclose(more_total - rest, total, rtol=3e-4)


def test_nothing_changes_without_weights(config):
    """The traced loss of a model with heads is the same without the fields as with weights of 0."""

    def trace(change):
        other = config.copy_and_resolve_references().unlock()
        change(other.loss)
        batch = sources.make_processor(other, SYSTEM, None, "instances").spec(1)
        loss = SYSTEM.full_loss(SYSTEM.build(other), other)
        traced = jax.make_jaxpr(lambda *inputs: loss(*inputs, jax.random.key(0)))(SYSTEM.shapes(other), batch)
        return re.sub("0x[0-9a-f]+", "", str(traced))  # addresses of functions

    def remove(block):
        for name in WEIGHTS:
            del block[name]

    assert trace(remove) == trace(lambda block: block.update(dict.fromkeys(WEIGHTS, 0.0)))


def test_a_model_without_the_head_is_one_line(config):
    config = config.copy_and_resolve_references().unlock()
    config.model.mask_decoder.heads = ("box", "box_iou")
    for make in (SYSTEM.loss, SYSTEM.counts, SYSTEM.predict):
        with pytest.raises(UserError, match="the decoder has no head 'reid'; add it to"):
            make(SYSTEM.build(config), config)


def test_exports_name_the_heads_that_nothing_trains(config):
    assert untrained(config) == ()
    config = config.copy_and_resolve_references().unlock()
    config.loss.update({"reid_weight": 0.0, "reid_cosine_weight": 0.0})
    assert [rule.pattern for rule in untrained(config)] == [r"predictor\.(reid_embed_head)\..*"]


def test_validation_tracks_class_lists_on_videos(config, task):
    """Random weights find nothing, on every frame of every clip."""
    params = random_params(SYSTEM.shapes(config), seed=1)
    scores = validation.evaluate(Engine.from_system(SYSTEM, config, params), {"instances": task}, limit=2).scores
    assert scores["instances"]["count"] == 2 and {"ap", "ap50", "switches"} < scores["instances"].keys()
