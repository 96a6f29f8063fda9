"""Unreadable records and missing frames change no loss, gradient or divisor; a mixed batch trains each task like a separate
batch, and slices of a batch add up to it."""

import dataclasses

import jax
import numpy as np
import pytest
from rich.console import Console
from sample_inputs import random_params

from hyperseg_jax.data import sources
from hyperseg_jax.parallel import placement
from hyperseg_jax.parallel.feed import Feed
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training import loop, param_groups
from hyperseg_jax.training.initial_state import trace_initial_state
from hyperseg_jax.training.state import make_step

SYSTEM = systems.get("hyperseg")


@pytest.fixture(scope="module")
def elements(micro):
    """Elements by task with the sizes of a mixed batch of two frames; their loss function, by default with their own counts;
    and their counts."""
    config = micro(("referring", "panoptic", "region", "video"), data__batches="mixed")
    tasks = sources.build_tasks(config, SYSTEM, console=Console(quiet=True))
    params = random_params(SYSTEM.shapes(config), seed=1, spread=0.3)
    rows = {name: task.prepare(task.train[0], np.random.default_rng(0)) for name, task in tasks.items()}
    rows["blank"] = tasks["region"].blank()
    model = SYSTEM.build(config)
    counts_of, loss_of = jax.jit(SYSTEM.counts(model, config)), jax.jit(SYSTEM.loss(model, config))
    counts = lambda *rows: counts_of(stack_rows(*rows))

    def loss(*rows, divisors=None):
        return loss_of(params, stack_rows(*rows), jax.random.key(0), counts(*rows) if divisors is None else divisors)

    return rows, loss, counts


def stack_rows(*rows):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def assert_close(one, other, rtol=2e-5, atol=1e-6):
    for (path, ours), theirs in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * scale + atol, err_msg=str(path))


@pytest.fixture(scope="module")
def step(micro):
    """An element, a blank, and a function for the first training step on rows: its metrics and gradient moments."""
    config = micro()
    task = sources.build_tasks(config, SYSTEM, console=Console(quiet=True))["referring"]
    rules = tuple(param_groups.ParamGroup(**dict(rule)) for rule in config.optimizer.param_groups)
    rate = param_groups.schedule(
        config.optimizer.learning_rate, config.optimizer.warmup_steps, config.train.steps, config.optimizer.final_rate
    )
    mesh, model = placement.make(config.train.preset, config.train.mesh), SYSTEM.build(config)
    initial_state = trace_initial_state(config, SYSTEM, model, rules, rate, mesh)
    state, tx = initial_state.create(), initial_state.tx
    full = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = loop.jit_step(make_step(SYSTEM, model, config, tx), full, mesh)
    feed = Feed(mesh.batch)

    def first_step(*rows):
        inputs = jax.tree.map(lambda leaf: leaf.copy(), state.replace(key=None))  # donated to the step
        with placement.use(mesh):
            changed, metrics = step(inputs, state.key, feed.put(stack_rows(*rows), feed.rows(2)))
        return {"metrics": metrics, "moments": changed.optimizer}

    return task.prepare(task.train[0], np.random.default_rng(0)), task.blank(), first_step


def test_an_unreadable_record_has_no_effect(step):
    """The same element twice has the means and the gradient of one."""
    row, blank, first_step = step
    alone, left_out, nothing = first_step(row, row), first_step(row, blank), first_step(blank, blank)
    counts = [int(result["metrics"].pop("bad")) for result in (alone, left_out, nothing)]
    assert counts == [0, 1, 2]
    assert all(float(alone["metrics"][name]) > 0 for name in ("loss", "gradient_norm", "text", "mask", "expression"))
    assert_close(left_out, alone, rtol=2e-4)
    gates = {name for name in nothing["metrics"] if name.startswith("gates/")}  # without a value, which is not 0
    assert all(np.isnan(nothing["metrics"].pop(name)) for name in gates) and gates
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(nothing["metrics"]))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(nothing["moments"]) if leaf.ndim)


def test_slices_with_the_counts_of_the_batch_add_up_to_it(elements):
    rows, loss, counts = elements
    num_targets = {name: float(counts(rows[name]).targets.targets.sum()) for name in rows}
    assert num_targets["panoptic"] > num_targets["referring"] > num_targets["blank"] == 0
    for names in (("panoptic", "referring"), ("video", "panoptic"), ("region", "video")):
        one, other = (rows[name] for name in names)
        divisors = counts(one, other)
        parts = [loss(row, rows["blank"], divisors=divisors) for row in (one, other)]
        total, terms = jax.tree.map(lambda *values: sum(values), *parts)
        assert_close((total, terms), loss(one, other), rtol=1e-5)
        means = [loss(row, rows["blank"])[0] for row in (one, other)]
        assert abs(np.mean(means) - total) > 0.01 * total  # the result of slices with their own counts


def test_gradients_of_unequal_slices_add_up_to_that_of_the_batch(micro, elements):
    """Slices with many, few and no targets."""
    rows, _, counts = elements
    config = micro(("referring", "panoptic", "region", "video"), data__batches="mixed")
    params = random_params(SYSTEM.shapes(config), seed=1, spread=0.3)
    of_total = lambda params, batch, divisors: loss_of(params, batch, jax.random.key(0), divisors)[0]
    loss_of = SYSTEM.loss(SYSTEM.build(config), config)
    gradient = jax.jit(jax.grad(of_total))
    one, other, blank = (rows[name] for name in ("panoptic", "referring", "blank"))
    divisors = counts(one, other)
    slices = [gradient(params, stack_rows(row, blank), divisors) for row in (one, other, blank)]
    added = jax.tree.map(lambda *leaves: sum(leaves), *slices)
    full = gradient(params, stack_rows(one, other), divisors)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(full))
    assert_close(added, full, rtol=1e-5, atol=1e-7 * largest)  # the gradient of key biases is zero up to rounding
    separate = [gradient(params, stack_rows(row, blank), counts(row)) for row in (one, other)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *separate)  # the result of slices with their own counts
    difference = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (mean, full)), strict=True))
    assert difference > 0.01 * largest


def test_an_unreadable_video_or_class_list_has_no_effect(elements):
    rows, loss, _ = elements
    for name in ("video", "panoptic", "region"):
        total, terms = loss(rows[name], rows[name])
        assert float(total) > 0
        assert_close(loss(rows[name], rows["blank"]), (total, terms))


def first_frame(row):
    cut = {name: row[name][:1] for name in ("images", "clip_images", "frame_valid")}
    return {**row, **cut, "segments": row["segments"][:, :, :1]}


def test_missing_frames_have_no_effect(elements):
    rows, loss, _ = elements
    image, video, blank = rows["panoptic"], rows["video"], rows["blank"]
    noisy = {
        **image,
        "images": np.concatenate([image["images"][:1], video["images"][1:]]),
        "segments": np.repeat(image["segments"][:, :, :1], 2, axis=2),
    }
    expected = loss(first_frame(rows["referring"]), first_frame(image))
    assert_close(loss(rows["referring"], image), expected)
    assert_close(loss(rows["referring"], noisy), expected)

    # for an image and a video, the first frame counts for both and the second for the video
    both, first_frame_loss = (loss(first_frame(video), first_frame(other))[0] for other in (image, blank))
    clip_second = 2 * loss(video, blank)[0] - first_frame_loss
    assert abs(float(clip_second - first_frame_loss)) > 0.01
    for other in (image, noisy):
        assert_close(loss(video, other)[0], (2 * both + clip_second) / 3, rtol=1e-4)


def test_a_mixed_batch_trains_each_task_like_a_separate_batch(elements):
    rows, loss, _ = elements
    terms = lambda *names: loss(*(rows[name] for name in names))[1]
    both, spoken, listed = terms("referring", "panoptic"), terms("referring", "blank"), terms("blank", "panoptic")
    assert_close(both["expression"], spoken["expression"])
    assert_close(both["class"], listed["class"])
    assert float(spoken["class"]) == float(listed["expression"]) == 0
    targets = [int(rows[name]["valid"].sum()) for name in ("referring", "panoptic")]
    for name in ("mask", "dice"):
        expected = (targets[0] * spoken[name] + targets[1] * listed[name]) / sum(targets)
        assert_close(both[name], expected)


def test_shared_sizes_hold_every_task(micro):
    config = micro(("referring", "panoptic", "region", "video"), data__batches="mixed")
    separate = {name: sources.make_processor(config, SYSTEM, None, name) for name in config.data.tasks}
    first, *rest = separate.values()
    shared = first.with_common_shape(rest)
    assert (shared.frames, shared.targets, shared.classes, shared.regions, shared.prompts) == (2, 8, 9, 3, 2)
    assert shared.length == max(sizes.length for sizes in separate.values())
    tasks = sources.build_tasks(config, SYSTEM, console=Console(quiet=True))
    untold = lambda processor: dataclasses.replace(processor, tokenizer=None)
    for name, task in tasks.items():
        assert untold(task.processor) == separate[name] and untold(task.train_processor) == shared
        result = task.prepare(task.train[0], np.random.default_rng(0))
        assert jax.tree.map(np.shape, result) == jax.tree.map(lambda leaf: leaf.shape[1:], shared.spec(1))
        assert result["frame_valid"].tolist() == [True, name == "video"]
    many = dataclasses.replace(tasks["region"].train[0], prompts=tasks["region"].train[0].prompts * 2)
    assert tasks["region"].prepare(many, np.random.default_rng(0))["uses_regions"].tolist() == [True, False]
