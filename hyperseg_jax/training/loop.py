"""The one train loop for all systems, readable top to bottom."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import ml_collections
from rich.console import Console

from hyperseg_jax.data import sources
from hyperseg_jax.data.mixture import Mixture
from hyperseg_jax.data.pipeline import Stream
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement, report
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten
from hyperseg_jax.training import evaluation, groups
from hyperseg_jax.training.checkpoint import Checkpoints
from hyperseg_jax.training.observers import Observers
from hyperseg_jax.training.state import TrainState, create, make_step
from hyperseg_jax.training.state import shardings as state_shardings
from hyperseg_jax.weights import model_folder


def train(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, *, console: Console | None = None, stop_at: int | None = None
) -> pathlib.Path:
    """Trains until config.train.steps, resuming from the newest checkpoint in `workdir`; returns the model's folder.

    stop_at: saves and returns at this step, as an interruption does.

    Interrupted (Ctrl-C, SIGTERM) it saves and returns early; killed, it loses at most the steps since the last save, and the
    run that goes on is bit-equal to one that was never stopped.
    """
    console = console or Console(stderr=True)
    check_counts(config)
    open_workdir(workdir, config)
    system = systems.get(config.system)
    tokenizer = sources.load_tokenizer(config.data.tokenizer)
    tasks = sources.build(config, system, console=console)
    model = system.build(config)
    mesh = placement.make(config.train.preset, config.train.mesh, adapters=config.model.lora.rank > 0)
    check_split(config, mesh)
    rules = tuple(groups.Group(**dict(rule)) for rule in config.optimizer.groups)
    rate = groups.schedule(config.optimizer.learning_rate, config.optimizer.warmup_steps,
                           config.train.steps // config.optimizer.accumulate, config.optimizer.final_rate)  # fmt: skip

    first = config.data.first
    mixture = Mixture(tasks, config.train.batch_size, config.seed, (first.task, int(first.share * config.train.steps)))
    predict = jax.jit(system.predict(model, config))

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", keep=config.train.keep))
        stop = stack.enter_context(interruptible())
        state, tx = start(config, system, model, rules, rate, mesh, resumes=checkpoints.latest is not None)
        report_placement(state, mesh, workdir, console)
        position = 0
        if checkpoints.latest is not None:
            state, run = checkpoints.restore(state, say=lambda line: console.print(line, highlight=False))
            position = run["global_next_index"]
            console.print(f"resuming at step {int(state.step)}", highlight=False)
        start_step, steps = int(state.step), config.train.steps
        step_fn = jax.jit(make_step(system.loss(model, config), tx, config.train.average), donate_argnums=0)
        stack.enter_context(placement.use(mesh))
        stream = stack.enter_context(Stream(mixture, config.train.batch_size, position=position, workers=config.data.workers))
        observers = stack.enter_context(Observers(workdir, start=start_step, steps=steps, console=console))

        compiled: set[str] = set()
        for step in range(start_step + 1, steps + 1):
            task, _ = mixture.locate((step - 1) * config.train.batch_size)
            if task not in compiled:
                observers.note(f"compiling the {task} step (once)")
                compiled.add(task)
            state, metrics = step_fn(state, placement.put(next(stream), mesh))
            check_compilations(step_fn, len(compiled))
            observers.advance(step)
            if step % config.train.log_every == 0 or step == steps:
                observers.losses(step, task, {name: float(value) for name, value in metrics.items()})
            validates = step % config.train.eval_every == 0 or step == steps
            if validates:
                found = evaluation.evaluate(predict, state.params, tasks, limit=config.train.eval_examples,
                                            progress=observers.validating)  # fmt: skip
                observers.scores(step, found.scores)
                found.save_sheet(workdir / "predictions.png")
            stop.asked |= step == stop_at
            last = step == steps or stop.asked
            if validates or last:
                model_folder.save(workdir / "model", config, tokenizer, state.params)
            if step % config.train.save_every == 0 or last:  # after all else of a step, so that what it holds is complete
                checkpoints.save(state, {"global_next_index": stream.position, "system": config.system}, wait=last)
            if stop.asked and step < steps:
                observers.say(f"stopped at step {step}; the same command goes on from here")
                break
    return workdir / "model"


def start(
    config: ml_collections.ConfigDict, system: systems.System, model: Any, rules: tuple[groups.Group, ...], rate: Any,
    mesh: Any, *, resumes: bool,
) -> tuple[TrainState, Any]:  # fmt: skip
    """A fresh state, placed on the mesh: from config.init_from where that names a model, else from the seed.

    resumes: its shapes and places are enough, the values will come from a checkpoint.
    """
    init = lambda: system.init(model, config, jax.random.key(config.seed))
    boxed = jax.eval_shape(init)
    plain, where = nn.unbox(boxed), placement.shardings(boxed, mesh)
    tx = groups.optimizer(groups.split(plain, rules)[0], rules, rate, betas=tuple(config.optimizer.betas),
                          clip_norm=config.optimizer.clip_norm, accumulate=config.optimizer.accumulate)  # fmt: skip

    def make(given: dict[str, Any]) -> TrainState:
        params = model_folder.overlay(nn.unbox(init()), given)
        return create(params, rules, tx, config.seed, frozen_type=config.train.frozen_type, averaged=config.train.average > 0)

    abstract = jax.eval_shape(make, {})
    state_where = state_shardings(abstract, where, rules, tx, mesh.whole)
    if resumes:
        return placement.abstract_arrays(abstract, state_where), tx
    given = {}
    if config.init_from:
        wanted = groups.merge(abstract.trainable, abstract.frozen)  # the frozen half in the type that it is kept in
        given = model_folder.load_params(config.init_from, placement.abstract_arrays(wanted, where), fresh=config.init_fresh)
    return jax.jit(make, out_shardings=state_where, donate_argnums=0)(given), tx


def report_placement(state: TrainState, mesh: placement.Placement, workdir: pathlib.Path, console: Console) -> None:
    """Says where each parameter lies, on the console where there are several devices, and in the workdir's sharding.txt."""
    rows = report.rows(state.params, mesh)
    if mesh.mesh.size > 1:
        report.show(rows, mesh, console)
    (workdir / "sharding.txt").write_text("\n".join(report.lines(rows)) + "\n")


def check_split(config: ml_collections.ConfigDict, mesh: placement.Placement) -> None:
    """The batch can be split over the mesh."""
    if config.train.batch_size % mesh.batch_parts:
        raise UserError(f"train.batch_size = {config.train.batch_size}: give a multiple of {mesh.batch_parts}, "
                        f"the parts that preset {mesh.preset} splits a batch into")  # fmt: skip


def check_counts(config: ml_collections.ConfigDict) -> None:
    """Counts of steps and examples are one or more, and the task that comes first is one of them."""
    first, tasks = config.data.first, config.data.tasks
    if not 0 <= first.share < 1:
        raise UserError(f"data.first.share = {first.share}: give a share of train.steps, from 0 to less than 1")
    if first.share and not tasks.get(first.task, {"ratio": 0})["ratio"]:
        raise UserError(f"data.first.task = {first.task!r}: give a task with a ratio ({', '.join(tasks)}), or share 0")
    for name in ("steps", "batch_size", "log_every", "save_every", "eval_every", "eval_examples", "keep"):
        if config.train[name] < 1:
            raise UserError(f"train.{name} = {config.train[name]}: give one or more")
    if config.optimizer.accumulate < 1:
        raise UserError(f"optimizer.accumulate = {config.optimizer.accumulate}: give one or more")


def open_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Makes the workdir and writes its resolved config, or checks that the one it has is of the same model."""
    path = workdir / "config.json"
    resolved = json.loads(json.dumps(config.to_dict()))
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path}: not readable ({error}); delete this workdir or give another --workdir") from error
        held, given = _held(there), _held(resolved)
        other = [f"{key.replace('/', '.')}: {held.get(key)} there, {given.get(key)} here"
                 for key in sorted(held.keys() | given.keys()) if held.get(key) != given.get(key)]  # fmt: skip
        if other:
            more = f"; {len(other) - 4} more" if len(other) > 4 else ""
            raise UserError(f"{workdir}: holds a run of another config ({'; '.join(other[:4])}{more}); "
                            "give another --workdir, or the config it was trained with")  # fmt: skip
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        part = workdir / ".config.json.part"
        part.write_text(json.dumps(resolved, indent=2, sort_keys=True) + "\n")
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"--workdir {workdir}: cannot be written ({error.strerror}); give another folder") from error


def _held(config: Any) -> dict[str, Any]:
    """The fields that a run keeps for life; the others may change when it goes on."""
    config = config if isinstance(config, dict) else {}
    kept = {name: config.get(name) for name in ("system", "model", "optimizer")}
    return flatten({**kept, "train": {"batch_size": config.get("train", {}).get("batch_size")}})


class _Stop:
    asked = False


@contextlib.contextmanager
def interruptible() -> Iterator[_Stop]:
    """Turns the first Ctrl-C or SIGTERM into a request to save and stop; a second one acts as usual."""
    stop = _Stop()
    before: dict[int, Any] = {}

    def ask(number: int, _: Any) -> None:
        stop.asked = True
        signal.signal(number, before[number])

    try:
        before.update({number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)})
    except ValueError:  # not the main thread: leave signals to whoever owns it
        before.clear()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_compilations(step_fn: Any, buckets: int) -> None:
    """One program a bucket: more means that a shape, type or constant changed between steps. Raises RuntimeError."""
    compiled = step_fn._cache_size()
    if compiled > buckets:
        raise RuntimeError(f"the train step was compiled {compiled} times for {buckets} buckets")
