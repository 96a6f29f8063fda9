"""What cannot be read, and the frames that an image has less than a clip, change no loss, gradient or divisor; a batch of
several tasks teaches each as a batch of its own, and slices of a batch add up to it."""

import dataclasses

import jax
import numpy as np
import pytest
from drawn import drawn_params
from rich.console import Console

from hyperseg_jax.data import sources
from hyperseg_jax.parallel import placement
from hyperseg_jax.parallel.feed import Feed
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training import loop, param_groups
from hyperseg_jax.training.initial_state import trace_initial_state
from hyperseg_jax.training.state import make_step

SYSTEM = systems.get("hyperseg")


@pytest.fixture(scope="module")
def ready(micro):
    """Elements by task with the sizes of a mixed batch of two frames; the loss of some of them, by default with their own
    counts; the counts of some of them."""
    config = micro(("referring", "panoptic", "region", "video"), data__batches="mixed")
    tasks = sources.build(config, SYSTEM, console=Console(quiet=True))
    params = drawn_params(SYSTEM.shapes(config), seed=1, spread=0.3)
    rows = {name: task.prepare(task.train[0], np.random.default_rng(0)) for name, task in tasks.items()}
    rows["blank"] = tasks["region"].blank()
    model = SYSTEM.build(config)
    counts_of, loss_of = jax.jit(SYSTEM.counts(model, config)), jax.jit(SYSTEM.loss(model, config))
    counts = lambda *rows: counts_of(stacked(*rows))

    def loss(*rows, divisors=None):
        return loss_of(params, stacked(*rows), jax.random.key(0), counts(*rows) if divisors is None else divisors)

    return rows, loss, counts


def stacked(*rows):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def close(one, other, rtol=2e-5, atol=1e-6):
    for (path, ours), theirs in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * scale + atol, err_msg=str(path))


@pytest.fixture(scope="module")
def step(micro):
    """An element, a blank, and the first step of a training on some: its metrics, and the moments of its gradient."""
    config = micro()
    task = sources.build(config, SYSTEM, console=Console(quiet=True))["referring"]
    rules = tuple(param_groups.ParamGroup(**dict(rule)) for rule in config.optimizer.param_groups)
    rate = param_groups.schedule(
        config.optimizer.learning_rate, config.optimizer.warmup_steps, config.train.steps, config.optimizer.final_rate
    )
    mesh, model = placement.make(config.train.preset, config.train.mesh), SYSTEM.build(config)
    begun = trace_initial_state(config, SYSTEM, model, rules, rate, mesh)
    state, tx = begun.create(), begun.tx
    whole = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = loop.jit_step(make_step(SYSTEM, model, config, tx), whole, mesh)
    feed = Feed(mesh.batch)

    def of(*rows):
        given = jax.tree.map(lambda leaf: leaf.copy(), state.replace(key=None))  # which the step takes for itself
        with placement.use(mesh):
            changed, metrics = step(given, state.key, feed.put(stacked(*rows), feed.rows(2)))
        return {"metrics": metrics, "moments": changed.optimizer}

    return task.prepare(task.train[0], np.random.default_rng(0)), task.blank(), of


def test_a_record_that_cannot_be_read_is_as_if_it_were_not_there(step):
    """Twice the same element has the means and the gradient of that element alone."""
    row, blank, of = step
    alone, left_out, nothing = of(row, row), of(row, blank), of(blank, blank)
    counts = [int(made["metrics"].pop("bad")) for made in (alone, left_out, nothing)]
    assert counts == [0, 1, 2]
    assert all(float(alone["metrics"][name]) > 0 for name in ("loss", "gradient_norm", "text", "mask", "expression"))
    close(left_out, alone, rtol=2e-4)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(nothing["metrics"]))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(nothing["moments"]) if leaf.ndim)


def test_slices_with_the_counts_of_the_batch_add_up_to_it(ready):
    rows, loss, counts = ready
    taught = {name: float(counts(rows[name]).targets.targets.sum()) for name in rows}
    assert taught["panoptic"] > taught["referring"] > taught["blank"] == 0
    for names in (("panoptic", "referring"), ("video", "panoptic"), ("region", "video")):
        one, other = (rows[name] for name in names)
        divisors = counts(one, other)
        parts = [loss(row, rows["blank"], divisors=divisors) for row in (one, other)]
        total, terms = jax.tree.map(lambda *values: sum(values), *parts)
        close((total, terms), loss(one, other), rtol=1e-5)
        means = [loss(row, rows["blank"])[0] for row in (one, other)]
        assert abs(np.mean(means) - total) > 0.01 * total  # which slices with counts of their own would give


def test_gradients_of_unequal_slices_add_up_to_that_of_the_batch(micro, ready):
    """One slice has many targets, one has few, one has none."""
    rows, _, counts = ready
    config = micro(("referring", "panoptic", "region", "video"), data__batches="mixed")
    params = drawn_params(SYSTEM.shapes(config), seed=1, spread=0.3)
    of_total = lambda params, batch, divisors: loss_of(params, batch, jax.random.key(0), divisors)[0]
    loss_of = SYSTEM.loss(SYSTEM.build(config), config)
    gradient = jax.jit(jax.grad(of_total))
    one, other, blank = (rows[name] for name in ("panoptic", "referring", "blank"))
    divisors = counts(one, other)
    slices = [gradient(params, stacked(row, blank), divisors) for row in (one, other, blank)]
    added = jax.tree.map(lambda *leaves: sum(leaves), *slices)
    whole = gradient(params, stacked(one, other), divisors)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole))
    close(added, whole, rtol=1e-5, atol=1e-7 * largest)  # biases of keys have no gradient but for rounding
    own = [gradient(params, stacked(row, blank), counts(row)) for row in (one, other)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *own)  # which slices with counts of their own would give
    apart = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (mean, whole)), strict=True))
    assert apart > 0.01 * largest


def test_an_unreadable_clip_or_list_counts_for_nothing_either(ready):
    rows, loss, _ = ready
    for name in ("video", "panoptic", "region"):
        total, terms = loss(rows[name], rows[name])
        assert float(total) > 0
        close(loss(rows[name], rows["blank"]), (total, terms))


def first_frame(row):
    cut = {name: row[name][:1] for name in ("images", "clip_images", "frame_valid")}
    return {**row, **cut, "segments": row["segments"][:, :, :1]}


def test_frames_that_an_image_lacks_count_for_nothing(ready):
    rows, loss, _ = ready
    image, clip, blank = rows["panoptic"], rows["video"], rows["blank"]
    noisy = {
        **image,
        "images": np.concatenate([image["images"][:1], clip["images"][1:]]),
        "segments": np.repeat(image["segments"][:, :, :1], 2, axis=2),
    }
    wanted = loss(first_frame(rows["referring"]), first_frame(image))
    close(loss(rows["referring"], image), wanted)
    close(loss(rows["referring"], noisy), wanted)

    # of an image and a clip, the first frame counts for both and the second for the clip
    both, clip_first = (loss(first_frame(clip), first_frame(other))[0] for other in (image, blank))
    clip_second = 2 * loss(clip, blank)[0] - clip_first
    assert abs(float(clip_second - clip_first)) > 0.01
    for other in (image, noisy):
        close(loss(clip, other)[0], (2 * both + clip_second) / 3, rtol=1e-4)


def test_a_mixed_batch_teaches_each_task_what_it_would_teach_alone(ready):
    rows, loss, _ = ready
    terms = lambda *names: loss(*(rows[name] for name in names))[1]
    both, spoken, listed = terms("referring", "panoptic"), terms("referring", "blank"), terms("blank", "panoptic")
    close(both["expression"], spoken["expression"])
    close(both["class"], listed["class"])
    assert float(spoken["class"]) == float(listed["expression"]) == 0
    targets = [int(rows[name]["valid"].sum()) for name in ("referring", "panoptic")]
    for name in ("mask", "dice"):
        wanted = (targets[0] * spoken[name] + targets[1] * listed[name]) / sum(targets)
        close(both[name], wanted)


def test_shared_sizes_hold_every_task_and_each_keeps_its_own_counts(micro):
    config = micro(("referring", "panoptic", "region", "video"), data__batches="mixed")
    own = {name: sources.processor(config, SYSTEM, None, name) for name in config.data.tasks}
    first, *others = own.values()
    shared = first.with_common_shape(others)
    assert (shared.frames, shared.targets, shared.classes, shared.regions, shared.prompts) == (2, 8, 9, 3, 2)
    assert shared.length == max(sizes.length for sizes in own.values())
    tasks = sources.build(config, SYSTEM, console=Console(quiet=True))
    untold = lambda processor: dataclasses.replace(processor, tokenizer=None)
    for name, task in tasks.items():
        assert untold(task.processor) == own[name] and untold(task.train_processor) == shared
        made = task.prepare(task.train[0], np.random.default_rng(0))
        assert jax.tree.map(np.shape, made) == jax.tree.map(lambda leaf: leaf.shape[1:], shared.spec(1))
        assert made["frame_valid"].tolist() == [True, name == "video"]
    many = dataclasses.replace(tasks["region"].train[0], prompts=tasks["region"].train[0].prompts * 2)
    assert tasks["region"].prepare(many, np.random.default_rng(0))["uses_regions"].tolist() == [True, False]
