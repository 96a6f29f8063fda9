"""Checks of the config before training, and reports of padding and sharding."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping

import jax
import ml_collections
from rich.console import Console

from hyperseg_jax.atomic import write_text
from hyperseg_jax.config_fields import CHOICES
from hyperseg_jax.data import padding, sources
from hyperseg_jax.data.mixture import MAX_ELEMENTS, MIXED
from hyperseg_jax.data.sources import Task
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts, placement, report
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.moments import with_spreads
from hyperseg_jax.training import resume
from hyperseg_jax.training.state import COUNTERS, TrainState
from hyperseg_jax.training.workdir import Workdir
from hyperseg_jax.untrusted import paths, printing
from hyperseg_jax.untrusted.checkpoint_arrays import max_chunks

FROZEN_TYPES = CHOICES["frozen_type"]


def check_counts(config: ml_collections.ConfigDict) -> None:
    """Raises UserError listing the counts of steps or examples that are below one or too large, and names in data.curriculum
    and train.best that are no tasks."""
    curriculum, tasks, best = config.data.curriculum, config.data.tasks, config.train.best
    problems = []
    if not 0 <= curriculum.share < 1:
        problems.append(f"data.curriculum.share = {curriculum.share}: give a share of train.steps, from 0 to less than 1")
    elif curriculum.share and not tasks.get(curriculum.task, {"ratio": 0})["ratio"]:
        problems.append(
            f"data.curriculum.task = {curriculum.task!r}: give a task with a ratio ({', '.join(tasks)}), or share 0"
        )
    if not 0 <= config.data.max_unreadable_share < 1:
        problems.append(
            f"data.max_unreadable_share = {config.data.max_unreadable_share}: give a share of the records (0 or more, below 1)"
        )
    problems += [
        f"train.{name} = {config.train[name]}: give one or more"
        for name in ("steps", "batch_size", "log_every", "save_every", "eval_every", "eval_examples", "keep")
        if config.train[name] < 1
    ]
    if best and best.partition("/")[0] not in tasks:
        problems.append(f"train.best = {best!r}: give TASK/SCORE with one of the tasks {', '.join(tasks)}")
    if config.train.frozen_type not in FROZEN_TYPES:
        problems.append(
            f"train.frozen_type = {config.train.frozen_type!r}: use one of {', '.join(filter(None, FROZEN_TYPES))}, or '' to "
            "keep the type of the parameters"
        )
    if config.train.steps * config.train.batch_size > MAX_ELEMENTS:
        problems.append(
            f"train.steps = {config.train.steps} batches of train.batch_size = {config.train.batch_size}: give at most "
            f"{MAX_ELEMENTS} examples in total"
        )
    if config.optimizer.accumulate < 1:
        problems.append(f"optimizer.accumulate = {config.optimizer.accumulate}: give one or more")
    if problems:
        raise UserError("; ".join(problems))


def check_batch_size(config: ml_collections.ConfigDict, mesh: placement.Placement) -> None:
    """Raises UserError unless the batch can be split into optimizer.accumulate slices, and each slice over the mesh."""
    slices, parts = config.optimizer.accumulate, mesh.batch_shards
    if config.train.batch_size % (slices * parts):
        raise UserError(
            f"train.batch_size = {config.train.batch_size}: give a multiple of {slices * parts}; preset {mesh.preset} splits "
            f"each of its slices (optimizer.accumulate = {slices}) into {parts} parts"
        )


def check_steps(config: ml_collections.ConfigDict, step: int, workdir: Workdir) -> None:
    """Raises UserError if the run in the workdir, which is at this step, has passed its last one."""
    if step > (steps := config.train.steps):
        raise UserError(f"train.steps = {steps}: the run in {workdir.path} is at step {step}; give at least as many steps")


def count_records(tasks: Mapping[str, Task]) -> dict[str, int]:
    """Returns the number of training records of each task with a ratio, which the position in the data depends on."""
    return {name: len(task.train or ()) for name, task in tasks.items() if task.ratio}


def check_record_counts(saved: Mapping[str, int] | None, tasks: Mapping[str, Task], accept_changes: bool) -> None:
    """Raises UserError if a task has another number of training records than at the checkpoint that is resumed, unless changes
    are accepted. saved: `count_records` of the checkpoint; None in older checkpoints."""
    counts = count_records(tasks)
    changed = [
        f"{name}: {saved.get(name, 0)} records saved, {counts.get(name, 0)} found"
        for name in sorted({*(saved or {}), *counts})
        if saved is not None and saved.get(name, 0) != counts.get(name, 0)
    ]
    if changed and not accept_changes:
        raise UserError(
            f"the training data has changed ({'; '.join(changed)}), so the position of the checkpoint means other records; "
            f"give the same data, or {resume.FLAG}"
        )


def check_shards(state: TrainState) -> None:
    """Raises UserError if an array is divided into so many small shards that a checkpoint of it would be refused when it is
    read. state: arrays, or their shapes and shardings."""
    for path, leaf in jax.tree.leaves_with_path((state.trainable, state.frozen, state.optimizer, state.average)):
        count = leaf.size // max(math.prod(leaf.sharding.shard_shape(leaf.shape)), 1)
        if count > (most := max_chunks(leaf.size * leaf.dtype.itemsize)):
            name = jax.tree_util.keystr(path[1:], simple=True, separator="/")
            raise UserError(
                f"train.preset: {name} has {count} shards, and a checkpoint may have {most} of an array of that size; use a "
                "preset with fewer shards (docs/pods.md)"
            )


def report_placement(state: TrainState, mesh: placement.Placement, workdir: pathlib.Path, console: Console) -> None:
    """Writes the sharding of each parameter to sharding.txt in the workdir, and to the console if there are several devices."""
    lines = report.format_rows(report.sharding_rows(state.params, mesh), mesh)
    if mesh.mesh.size > 1:
        for line in lines:
            printing.log(console, line)
    if message := paths.make_replaceable(workdir / "sharding.txt", "a table of shardings"):
        printing.log(console, message)
    write_text(workdir / "sharding.txt", "\n".join(lines) + "\n")


def report_padding(config: ml_collections.ConfigDict, tasks: Mapping[str, Task], console: Console) -> None:
    """Reads some training records of each task and prints the share of padding in its batches. Raises UserError on all hosts if
    one of them can read none of the records of a task."""
    measured = _measure_padding(config, tasks)
    unreadable = [
        f"data.tasks.{name}.train: none of its first records can be read: {padded.error}"
        for name, padded in measured.items()
        if not padded.read
    ]
    if failure := hosts.combine_failures("reading the first training records", unreadable[0] if unreadable else ""):
        raise UserError(failure)
    _print_padding(config, tasks, measured, console)


def print_padding(config: ml_collections.ConfigDict, tasks: Mapping[str, Task], console: Console) -> None:
    """Like `report_padding`, but tasks without readable records are shown without figures, and there may be no tasks."""
    if measured := _measure_padding(config, tasks):
        _print_padding(config, tasks, measured, console)


def _measure_padding(config: ml_collections.ConfigDict, tasks: Mapping[str, Task]) -> dict[str, padding.Padding]:
    return {name: padding.measure_padding(task, seed=config.seed) for name, task in tasks.items() if task.ratio}


def _print_padding(
    config: ml_collections.ConfigDict, tasks: Mapping[str, Task], measured: Mapping[str, padding.Padding], console: Console
) -> None:
    console.print(
        padding.padding_table(
            measured,
            {name: tasks[name].ratio for name in measured},
            batch_size=config.train.batch_size,
            length_buckets=config.data.length_buckets,
            mixed=sources.program_names(config) == (MIXED,),
        )
    )


STEP_METRICS = ("loss", "gradient_norm", *COUNTERS, "goodput", "steps_per_second", "mfu")
"""Metrics of every training line, independent of the system's losses."""


def train_metric_names(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the names of all metrics of a training line. Traces the losses of the system, which takes seconds for a small
    model."""
    system = systems.get(config.system)
    batch = sources.make_processor(config, system, None, sources.program_names(config)[0]).spec(1)
    loss = system.full_loss(system.build(config), config)
    _, losses = jax.eval_shape(loss, system.shapes(config), batch, jax.random.key(0))
    return (*STEP_METRICS, *with_spreads(dict.fromkeys(losses, 0.0)))
