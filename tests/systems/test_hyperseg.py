"""The complete system: padding and other rows have no effect, new adapters are the identity, frozen parameters have no
optimizer state."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from rich.console import Console
from sample_inputs import random_params

from hyperseg_jax.data import sources
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten, unflatten
from hyperseg_jax.training import param_groups
from hyperseg_jax.training.initial_state import trace_initial_state
from hyperseg_jax.weights import model_folder

SYSTEM = systems.get("hyperseg")


@pytest.fixture(scope="module")
def params(trained):
    return unflatten(model_folder.read_arrays(trained / "model"))


@pytest.fixture(scope="module")
def config(micro):
    return micro(("referring", "panoptic", "region", "chat"))


@pytest.fixture(scope="module")
def task_and_examples(config):
    """Two examples, each an image with an expression, a class list, regions and a conversation."""
    tasks = sources.build_tasks(config, SYSTEM, console=Console(quiet=True))
    first_prompt = lambda name, k: tasks[name].train[k].prompts[:1]
    panoptic = tasks["panoptic"].train
    return tasks["panoptic"], [
        dataclasses.replace(panoptic[k], prompts=sum((first_prompt(name, k) for name in tasks), ())) for k in range(2)
    ]


SIZES = {"prompts": 4, "length": 320, "targets": 8, "classes": 9, "regions": 3}
LARGER = {"prompts": 6, "length": 400, "targets": 11, "classes": 12, "regions": 5}


def make_batch(task_and_examples, examples, sizes=SIZES):
    task, _ = task_and_examples
    processor = dataclasses.replace(task.processor, **sizes)
    return jax.tree.map(lambda *rows: np.stack(rows), *[processor(example, train=True) for example in examples])


def test_padding_never_changes_the_loss(config, params, task_and_examples):
    loss = jax.jit(SYSTEM.full_loss(SYSTEM.build(config), config))
    key = jax.random.key(0)
    total, terms = loss(params, make_batch(task_and_examples, task_and_examples[1]), key)
    more_total, more_terms = loss(params, make_batch(task_and_examples, task_and_examples[1], LARGER), key)
    assert {"mask", "dice", "expression", "class", "region", "text"} <= terms.keys()
    assert all(float(value) > 0 for name, value in terms.items() if not name.startswith("gates/"))
    for name in terms:
        np.testing.assert_allclose(more_terms[name], terms[name], rtol=2e-4, err_msg=name)
    np.testing.assert_allclose(more_total, total, rtol=2e-4)


@pytest.fixture(scope="module")
def predicted(config, params, task_and_examples):
    """predict, and its outputs for a batch of two examples."""
    predict = make_predict(config)
    return predict, jax.device_get(predict(params, make_batch(task_and_examples, task_and_examples[1])))


def make_predict(config):
    """f(params, batch, memory) -> outputs, with the memory for the next frame as "memory"."""
    predict = jax.jit(SYSTEM.predict(SYSTEM.build(config), config))

    def predict_with_memory(params, batch, memory=None):
        outputs, memory = predict(params, batch, {}, memory)
        return {**outputs, "memory": memory}

    return predict_with_memory


def assert_close(found, expected, name, tolerance=1e-4):
    """Compares arrays, or structs of arrays."""
    compare = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance, err_msg=name)
    jax.tree.map(compare, found, expected)


def test_a_batch_equals_its_samples(predicted, params, task_and_examples):
    predict, together = predicted
    for k, example in enumerate(task_and_examples[1]):
        alone = predict(params, make_batch(task_and_examples, [example] * 2))
        for name in together:
            row = lambda tree, k=k: jax.tree.map(lambda leaf: leaf[k], tree)
            assert_close(row(alone[name]), row(together[name]), name)
    assert not np.allclose(together["mask_logits"][0], together["mask_logits"][1], atol=1e-2)


def test_a_video_equals_its_frames(predicted, params, task_and_examples):
    predict, first = predicted
    alone = make_batch(task_and_examples, task_and_examples[1])
    other = alone | {name: alone[name][:, :, ::-1] for name in ("images", "clip_images")}
    video = alone | {name: np.concatenate([alone[name], other[name]], 1) for name in ("images", "clip_images", "frame_valid")}
    second = predict(params, other, first["memory"])
    result = predict(params, video)
    for name in first:
        expected = second[name] if name == "memory" else np.concatenate([first[name], second[name]], 1)
        assert_close(result[name], expected, name)
    assert not np.allclose(result["mask_logits"][:, 0], result["mask_logits"][:, 1], atol=1e-2)


def test_regions_may_be_drawn_on_another_image(predicted, params, task_and_examples):
    """The same image changes nothing; another one changes the outputs of its regions, and not those of other prompts."""
    predict, first = predicted
    batch = make_batch(task_and_examples, task_and_examples[1])
    same = predict(params, batch | {"region_images": batch["clip_images"]})
    for name in first:
        assert_close(same[name], first[name], name)
    other = predict(params, batch | {"region_images": 255 - batch["clip_images"]})
    about_regions = batch["uses_regions"]
    changed = np.abs(np.asarray(other["mask_logits"])[:, 0] - first["mask_logits"][:, 0]).max((-1, -2, -3))
    assert about_regions.any() and (changed[about_regions] > 1e-3).all() and (changed[~about_regions] < 1e-3).all()


def test_untrained_heads_have_no_effect(config, task_and_examples):
    """The outputs are the same with other weights of the box, IoU and re-identification heads."""
    config = config.copy_and_resolve_references().unlock()
    config.model.mask_decoder.heads = ("box", "box_iou", "reid")
    params, other = (flatten(random_params(SYSTEM.shapes(config), seed)) for seed in (1, 2))
    heads = [path for path in params if re.match(r"mask_decoder/(box|box_iou|reid)\b", path)]
    assert len(heads) == 14
    predict, batch = make_predict(config), make_batch(task_and_examples, task_and_examples[1])
    outputs = [
        jax.device_get(predict(unflatten(params | changed), batch)) for changed in ({}, {path: other[path] for path in heads})
    ]
    jax.tree.map(np.testing.assert_array_equal, *outputs)


def lora_config(config):
    config = config.copy_and_resolve_references().unlock()
    config.model.lora.rank = 4
    config.optimizer.param_groups = ({"pattern": ".*/lora_.*"}, {"pattern": ".*", "rate": 0.0})
    return config.lock()


def test_fresh_adapters_change_nothing(predicted, config, params, task_and_examples):
    config = lora_config(config)
    model = SYSTEM.build(config)
    lora = lambda: {k: v for k, v in flatten(SYSTEM.init_plain(model, config, jax.random.key(1))).items() if "lora" in k}
    fresh = jax.jit(lora)()
    assert fresh and any(np.abs(value).max() > 0 for value in fresh.values())
    result = make_predict(config)(
        model_folder.replace_leaves(params, unflatten(fresh)), make_batch(task_and_examples, task_and_examples[1])
    )
    for name, value in predicted[1].items():
        assert_close(result[name], value, name, 1e-5)


def test_a_missing_config_block_is_one_line(config):
    lacking = config.copy_and_resolve_references().unlock()
    del lacking.model["llm"]
    with pytest.raises(UserError, match="model: invalid for system hyperseg"):
        SYSTEM.tokenizer(lacking)


def test_frozen_parameters_have_no_optimizer_state(config):
    config = lora_config(config)
    rules = tuple(param_groups.ParamGroup(**dict(rule)) for rule in config.optimizer.param_groups)
    mesh, model = placement.make("single"), SYSTEM.build(config)
    state = trace_initial_state(config, SYSTEM, model, rules, lambda step: 1e-3, mesh).abstract
    assert state.trainable and all("lora" in path for path in flatten(state.trainable))
    assert not any("lora" in path for path in flatten(state.frozen))
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim]
    assert len(moments) == 2 * len(flatten(state.trainable))  # Adam's two moments of each adapter, and nothing else
