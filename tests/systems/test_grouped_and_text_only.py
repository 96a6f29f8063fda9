"""Prompts of one image in one sequence have the loss of separate sequences; tasks without masks have no mask branch."""

import dataclasses

import flax.errors
import jax
import numpy as np
import pytest
from rich.console import Console
from sample_inputs import random_params

from hyperseg_jax.data import sources
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten

SYSTEM = systems.get("hyperseg")


@pytest.fixture(scope="module")
def config(micro):
    return micro(("referring", "chat"))


@pytest.fixture(scope="module")
def tasks(config):
    return sources.build_tasks(config, SYSTEM, console=Console(quiet=True))


@pytest.fixture(scope="module")
def loss_of(config):
    """f(batch) -> (total, metrics)."""
    params = random_params(SYSTEM.shapes(config), seed=1)
    loss = jax.jit(SYSTEM.full_loss(SYSTEM.build(config), config))
    return lambda batch: jax.device_get(loss(params, batch, jax.random.key(0)))


def stack(processor, examples):
    return jax.tree.map(lambda *rows: np.stack(rows), *[processor(example, train=True) for example in examples])


def test_grouped_prompts_have_the_loss_of_separate_ones(tasks, loss_of):
    task = tasks["referring"]
    examples = [example for example in (task.train[k] for k in range(8)) if len(example.prompts) == 2][:2]
    single = dataclasses.replace(task.processor, prompts=1)
    alone = [dataclasses.replace(example, prompts=(prompt,)) for example in examples for prompt in example.prompts]
    total, metrics = loss_of(stack(task.processor, examples))
    expected_total, expected = loss_of(stack(single, alone))
    assert metrics.keys() == expected.keys() and metrics["mask"] > 0 and metrics["expression"] > 0
    np.testing.assert_allclose(total, expected_total, rtol=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_a_task_without_masks_has_the_same_text_loss(tasks, loss_of):
    without = tasks["chat"].processor
    with_masks = dataclasses.replace(without, masks=1, targets=1)
    assert not without.masks
    examples = [tasks["chat"].train[k] for k in range(2)]
    batch = stack(without, examples)
    assert batch["images"].size == batch["segments"].size == 0
    assert {name: (x.shape[1:], x.dtype) for name, x in flatten(batch).items()} == {
        name: (x.shape[1:], x.dtype) for name, x in flatten(without.spec(1)).items()
    }
    total, metrics = loss_of(batch)
    expected_total, expected = loss_of(stack(with_masks, examples))
    assert set(metrics) == {"text"} and metrics["text"] > 0
    np.testing.assert_allclose(metrics["text"], expected["text"], rtol=1e-6)
    np.testing.assert_allclose(total, expected_total, rtol=1e-6)


def test_a_task_without_masks_does_not_run_the_mask_branch(tasks, config):
    """Its program needs no parameters of the encoder, the perceiver and the decoders of the mask branch."""
    processor = dataclasses.replace(tasks["chat"].processor, masks=0, targets=0)
    loss = SYSTEM.full_loss(SYSTEM.build(config), config)
    mask_branch = ("mask_encoder", "perceiver", "pixel_decoder", "mask_decoder", "query_projector")
    params = {name: part for name, part in SYSTEM.shapes(config).items() if name not in mask_branch}
    total, metrics = jax.eval_shape(loss, params, processor.spec(1), jax.random.key(0))
    assert total.shape == () and set(metrics) == {"text"}
    with pytest.raises((flax.errors.ScopeParamNotFoundError, KeyError)):
        jax.eval_shape(loss, params, dataclasses.replace(processor, masks=1, targets=1).spec(1), jax.random.key(0))


def test_prompts_with_masks_need_the_mask_branch(tasks, micro):
    processor = dataclasses.replace(tasks["referring"].processor, masks=0, targets=0)
    with pytest.raises(UserError, match="the task has masks = 0, but its prompts of task 'referring' need masks"):
        processor(tasks["referring"].train[0], train=True)
    config = micro(("chat",)).copy_and_resolve_references().unlock()
    config.data.tasks.chat.update({"masks": 0, "frames": 2})
    with pytest.raises(UserError, match=r"data\.tasks\.chat: masks = 0 is for single images"):
        sources.build_tasks(config, SYSTEM, console=Console(quiet=True))


def test_evaluation_and_mixed_batches_have_the_mask_branch(tasks):
    chat, referring = dataclasses.replace(tasks["chat"].processor, masks=0, targets=0), tasks["referring"].processor
    assert chat.for_bucket(chat.bucket(tasks["chat"].train[0])).spec(1)["images"].shape[2] == chat.image_size
    assert chat.with_common_shape([referring]).masks == referring.with_common_shape([chat]).masks == 1
    assert chat.padding(chat(tasks["chat"].train[0], train=True))["pixels"] == (0, 0)
    assert jax.tree.map(np.shape, chat.blank()) == jax.tree.map(np.shape, chat(tasks["chat"].train[0], train=True))
