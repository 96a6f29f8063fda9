"""Checks a run up to its first step, without running it: `hyperseg train --check`."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from rich.console import Console
from rich.table import Table

from hyperseg_jax.data import sources
from hyperseg_jax.data.mixture import MIXED, Mixture
from hyperseg_jax.data.pipeline import Stream
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets.check import notes_of
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import score_names, validation
from hyperseg_jax.parallel import hosts, placement
from hyperseg_jax.planning.devices import Devices, local_devices, slice_of_topology
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.training import checks, param_groups
from hyperseg_jax.training.checkpoint import FROZEN, Checkpoints
from hyperseg_jax.training.initial_state import InitialState, trace_initial_state
from hyperseg_jax.training.state import TrainState, make_step
from hyperseg_jax.training.workdir import Workdir
from hyperseg_jax.untrusted import printing
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.checkpoints import is_step_name
from hyperseg_jax.untrusted.limits import temporary_block

ELEMENTS = 8
"""Maximum number of elements that are read of the first batch of a task."""
MAX_UNREADABLE_SHARE = 0.5
"""A larger share of unreadable records among these would soon end the run."""
BATCHES_PER_WORKER = 2
"""Batches in the memory of each worker process: one that is being read, and one that is ready."""
BATCHES_OF_THREADS = 4
"""Batches in memory without worker processes."""


class _Report:
    """Prints results as they come, and collects the problems."""

    def __init__(self, console: Console) -> None:
        self.console, self.problems = console, dict[str, None]()  # unique, in order

    def log(self, text: str) -> None:
        printing.log(self.console, text)

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Records a UserError of the body as a problem; the check continues."""
        try:
            yield
        except (UserError, BadFile) as error:
            self.problems[str(error)] = None


def check_run(
    config: ml_collections.ConfigDict,
    *,
    workdir: str | os.PathLike[str] = "",
    accept_changes: bool = False,
    topology: str = "",
    console: Console | None = None,
) -> None:
    """Checks everything up to the first step: config, readers, one batch of each task, shapes of the train step, memory, disk.
    Prints a report, and raises UserError listing everything that is wrong.

    workdir: of the run, if it is known. accept_changes: see `training.loop.train`. topology: a TPU slice such as "v5e:4x4"; ""
    uses the devices of this process group.
    """
    report = _Report(console or printing.make_console(stderr=True, quiet=not hosts.is_primary()))
    with temporary_block(config.get("limits", {})), contextlib.ExitStack() as stack:
        run_dir = None
        with report.collect():
            run_dir = stack.enter_context(Workdir(workdir, accept_changes=accept_changes, log=report.log)) if workdir else None
        _check(config, run_dir, accept_changes, topology, report)
    texts = hosts.exchange_long("the check", json.dumps(list(report.problems)))
    if problems := _name_processes([json.loads(text) for text in texts]):
        raise UserError("this run cannot start; correct the following:" + "".join(f"\n  {problem}" for problem in problems))
    report.log("ready: no step was run")


def _name_processes(lists: Sequence[Sequence[str]]) -> list[str]:
    """Returns the problems of all processes, each once. One that not all processes have begins with those that have it."""
    problems = []
    for problem in dict.fromkeys(problem for listed in lists for problem in listed):
        affected = [hosts.process_name(k) for k, listed in enumerate(lists) if problem in listed]
        where = f"process {', '.join(affected)}: " if len(affected) < len(lists) else ""
        problems.append(f"{where}{problem}")
    return problems


def _check(
    config: ml_collections.ConfigDict, run_dir: Workdir | None, accept_changes: bool, topology: str, report: _Report
) -> None:
    if config.system in systems.registered_names():
        systems.get(config.system).check_training()
    devices = mesh = system = tokenizer = initial = None
    batch_fits = False
    with report.collect():
        devices = slice_of_topology(topology) if topology else local_devices()
    with report.collect():
        checks.check_counts(config)
    if devices is not None:
        with report.collect():
            mesh = make_placement(config, devices)
            sizes = " x ".join(f"{name} {size}" for name, size in mesh.mesh.shape.items())
            report.log(f"devices: {devices.count} of kind {devices.kind}, {devices.hosts} hosts; preset {mesh.preset}: {sizes}")
            checks.check_batch_size(config, mesh)
            batch_fits = True
    with report.collect():
        system = systems.get(config.system)
        tokenizer = system.load_tokenizer(config)
    if run_dir is not None:
        with report.collect():
            run_dir.check(config, tokenizer)
    if system is None:
        return
    tasks = _check_tasks(config, system, tokenizer, report)
    with report.collect():
        initial = _trace_state(config, system, mesh or placement.make("single"))
    if initial is None:
        return
    with report.collect():
        checks.check_shards(initial.abstract)
    if run_dir is not None and run_dir.has_checkpoints:
        _check_resumption(config, tasks, initial.abstract, run_dir, accept_changes, report)
    else:
        with report.collect():
            initial.check_source(config)
    if batch_fits:
        _check_shapes(config, system, initial, report)
    if mesh is not None and devices is not None:
        _report_memory(config, tasks, initial.abstract, mesh, devices, report)
    _report_disk(config, initial.abstract, run_dir, report)


def make_placement(config: ml_collections.ConfigDict, devices: Devices) -> placement.Placement:
    """Returns the placement of a run on an abstract mesh of these devices."""
    adapters = systems.lora_block(config) is not None
    return placement.make_abstract(
        config.train.preset, config.train.mesh, devices.kind, devices.count, devices.slices, adapters=adapters
    )


def _check_tasks(
    config: ml_collections.ConfigDict, system: systems.System[Any], tokenizer: Tokenizer | None, report: _Report
) -> dict[str, Task]:
    """Opens the readers of every task, reads one batch of each, and prints a table of them. tokenizer: None if it cannot be
    loaded; the tasks are then not opened."""
    tasks, root = dict[str, Task](), None
    with report.collect():
        root = sources.resolve_root(config.data, report.console)
    for name in config.data.tasks if tokenizer is not None and root is not None else ():
        with report.collect():
            processor = sources.make_processor(config, system, tokenizer, name)
            if (task := sources.build_task(config, name, processor, str(root))) is not None:
                tasks[name] = task
    with report.collect():
        sources.check_augmentations(config)
        tasks = sources.share_processor(config, system, tokenizer, tasks)
    if len(tasks) == len(config.data.tasks):  # else these would report what follows from the problems above
        with report.collect():
            score_names.check_best_field(config.train.best, tasks, system.answers)
        with report.collect():
            Mixture(tasks, max(config.train.batch_size, 1), config.seed, batches=config.data.batches)
    table = Table("task", "ratio", "training records", "validation records", "ms per record", title="data")
    for name, task in tasks.items():
        milliseconds = ""
        for note in (*notes_of(task.train), *notes_of(task.val)):
            report.log(f"data.tasks.{name}: {note}")
        if task.ratio:
            with report.collect():
                milliseconds = f"{1000 * _read_batch(config, name, task):.0f}"
        if task.val is not None:
            with report.collect():
                validation.first_readable_example(name, task)
        counts = ["" if part is None else str(len(part)) for part in (task.train, task.val)]
        table.add_row(name, str(task.ratio), *counts, milliseconds)
    report.console.print(table)
    checks.print_padding(config, tasks, report.console)
    return tasks


def _read_batch(config: ml_collections.ConfigDict, name: str, task: Task) -> float:
    """Reads the first elements of a task as training does, and returns the seconds per record. Raises UserError if none of them
    can be read, if too many cannot, or if their arrays differ from the processor's description."""
    if task.train is None or not len(task.train):
        raise UserError(f"data.tasks.{name}.train: there are no records; give its files")
    count = min(config.train.batch_size, ELEMENTS)
    began = time.monotonic()
    with Stream(Mixture({name: task}, count, config.seed), count) as stream:
        batch = next(stream)
        seconds = (time.monotonic() - began) / count
        unreadable = [message for _, message in stream.read_errors]
    if len(unreadable) > MAX_UNREADABLE_SHARE * count or (unreadable and not config.data.max_unreadable_share):
        which = f"{count - len(unreadable)} of {count}"
        raise UserError(f"data.tasks.{name}.train: of the first records, {which} can be read: {unreadable[0]}")
    expected = {path: (spec.shape[1:], spec.dtype) for path, spec in flatten(task.train_processor.spec(1)).items()}
    found = {path: (array.shape[1:], array.dtype) for path, array in flatten(batch).items()}
    if different := sorted(path for path in expected | found if expected.get(path) != found.get(path)):
        path = different[0]
        raise UserError(
            f"data.tasks.{name}: the array {path} is {found.get(path)}, but the processor of {config.system} describes "
            f"{expected.get(path)}; correct the processor"
        )
    return seconds


def _check_resumption(
    config: ml_collections.ConfigDict,
    tasks: Mapping[str, Task],
    state: TrainState,
    run_dir: Workdir,
    accept_changes: bool,
    report: _Report,
) -> None:
    """Compares the newest checkpoint of the workdir with the config: its arrays, its step and the numbers of records."""
    run = None
    options: dict[str, Any] = {"log": report.log, "seconds": config.hosts.barrier, "read_only": True}
    with report.collect(), Checkpoints(run_dir.path / "checkpoints", **options) as checkpoints:
        step, run = checkpoints.check_newest(state)
        report.log(f"the run resumes at step {step}")
        checks.check_steps(config, step, run_dir)
    if run is not None and len(tasks) == len(config.data.tasks):
        with report.collect():
            checks.check_record_counts(run.get("records"), tasks, accept_changes)


def _trace_state(config: ml_collections.ConfigDict, system: systems.System[Any], mesh: placement.Placement) -> InitialState:
    """Returns the shapes and shardings of the train state."""
    optimizer = config.optimizer
    groups = param_groups.groups_from_config(optimizer.param_groups)
    rate = param_groups.schedule_from_config(config)
    try:
        return trace_initial_state(config, system, system.build(config), groups, rate, mesh)
    except (TypeError, ValueError, ArithmeticError) as error:  # JAX raises these for shapes and types that do not fit
        raise UserError(f"the train state cannot be traced: {printing.first_line(error)}") from error


def _check_shapes(
    config: ml_collections.ConfigDict, system: systems.System[Any], initial: InitialState, report: _Report
) -> None:
    """Traces the train step of each program without computing anything."""
    step = make_step(system, system.build(config), config, initial.tx)
    for name in sources.program_names(config):
        if name != MIXED and not config.data.tasks[name].ratio:
            continue
        began = time.monotonic()
        with report.collect():
            batch = sources.make_processor(config, system, None, name).spec(config.train.batch_size)
            try:
                jax.eval_shape(step, initial.abstract, batch)
            except (TypeError, ValueError, ArithmeticError) as error:  # JAX raises these for shapes and types that do not fit
                raise UserError(f"the train step of {name} cannot be traced: {printing.first_line(error)}") from error
            report.log(f"train step of {name}: traced in {time.monotonic() - began:.1f} s")


def _report_memory(
    config: ml_collections.ConfigDict,
    tasks: Mapping[str, Task],
    state: TrainState,
    mesh: placement.Placement,
    devices: Devices,
    report: _Report,
) -> None:
    """Prints the memory of a chip and of a host; activations are not included."""
    elements = {name: _count_bytes(task.train_processor.spec(1)) for name, task in tasks.items() if task.ratio}
    rows = config.train.batch_size / mesh.batch_shards
    parts = {
        "trained parameters": _shard_bytes(state.trainable),
        "their gradients": _shard_bytes(state.trainable),
        "optimizer": _shard_bytes(state.optimizer) + _shard_bytes(state.average),
        "frozen parameters": _shard_bytes(state.frozen),
        "batch": rows * max(elements.values(), default=0),
    }
    used = sum(parts.values())
    available = f" of {devices.memory / 1e9:.1f}" if devices.memory else ""
    listed = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    report.log(f"memory of a device in GB: {listed}; together {used / 1e9:.2f}{available}, without activations")
    if devices.memory and used > devices.memory:
        report.problems[
            f"train.preset: preset {mesh.preset} needs {used / 1e9:.1f} GB of {devices.memory / 1e9:.1f} GB per device, "
            "without activations; use a preset that shards the parameters (docs/pods.md), or more devices"
        ] = None
    workers = config.data.workers
    batches = BATCHES_PER_WORKER * workers or BATCHES_OF_THREADS
    ahead = batches * config.train.batch_size / devices.hosts * max(elements.values(), default=0)
    saved, frozen = _checkpoint_bytes(state) / devices.hosts, _count_bytes(state.frozen) / devices.hosts
    report.log(
        f"memory of a host in GB: {batches} batches ahead {ahead / 1e9:.2f}, its part of a checkpoint {saved / 1e9:.2f} and, "
        f"while they are saved, of the frozen parameters {frozen / 1e9:.2f}; without the worker processes themselves"
    )
    report.log("data of an element in MB: " + ", ".join(f"{name} {size / 1e6:.1f}" for name, size in elements.items()))


def _report_disk(config: ml_collections.ConfigDict, state: TrainState, run_dir: Workdir | None, report: _Report) -> None:
    """Prints the sizes of checkpoints and model; a problem is recorded if the disk of a local workdir is too small."""
    checkpoint, frozen, model = _checkpoint_bytes(state), _count_bytes(state.frozen), _count_bytes(state.params)
    kept = config.train.keep + bool(config.train.best) + 1  # one more while it is written
    needed = kept * checkpoint + frozen + model
    report.log(
        f"disk in GB: a checkpoint {checkpoint / 1e9:.2f} (at most {kept} at a time), frozen parameters {frozen / 1e9:.2f} "
        f"(once), the model at the end {model / 1e9:.2f}; together {needed / 1e9:.2f}"
    )
    if run_dir is not None and not run_dir.remote:
        folder = pathlib.Path(run_dir.path).absolute()
        existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        present, frozen_present = _saved_parts(folder)
        # An existing model does not count: it stays until the new one is complete.
        needed -= min(present, kept - 1) * checkpoint + frozen_present * frozen
        free = shutil.disk_usage(existing).free
        report.log(f"free disk at {existing}: {free / 1e9:.2f} GB")
        if free < needed:
            report.problems[
                f"--workdir {run_dir.path}: has {free / 1e9:.1f} GB of free disk, and the run needs {needed / 1e9:.1f} GB; "
                "free some, or give another folder"
            ] = None
        if not os.access(existing, os.W_OK):
            report.problems[f"--workdir {run_dir.path}: cannot be written; give another folder"] = None


def _saved_parts(folder: pathlib.Path) -> tuple[int, bool]:
    """Returns the number of checkpoints in a local workdir, and whether it has the frozen parameters."""
    names = list[str]()
    with contextlib.suppress(OSError):  # it has no checkpoints yet
        names = os.listdir(folder / "checkpoints")
    return sum(map(is_step_name, names)), (folder / "checkpoints" / FROZEN / "0").is_dir()


def _checkpoint_bytes(state: TrainState) -> int:
    """Returns the size of a checkpoint, without the frozen parameters, which are saved once."""
    return _count_bytes((state.trainable, state.optimizer, state.average))


def _count_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def _shard_bytes(tree: Any) -> int:
    """Returns the bytes on one device of arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
    )
