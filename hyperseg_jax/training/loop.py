"""The one train loop for all systems, readable top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from rich.console import Console

from hyperseg_jax.data import sources
from hyperseg_jax.data.mixture import Mixture
from hyperseg_jax.data.pipeline import Stream
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import score_names, validation
from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.parallel import hosts, placement
from hyperseg_jax.parallel.feed import Feed
from hyperseg_jax.parallel.watchdog import Watchdog
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training import checks, param_groups
from hyperseg_jax.training.beginning import begin
from hyperseg_jax.training.checkpoint import Checkpoints
from hyperseg_jax.training.clock import Clock
from hyperseg_jax.training.flops import Arithmetic
from hyperseg_jax.training.observers import Observers, seconds_lost
from hyperseg_jax.training.state import TrainState, make_step
from hyperseg_jax.training.stopping import interruptible
from hyperseg_jax.training.unreadable_records import UnreadableRecords
from hyperseg_jax.training.workdir import Workdir
from hyperseg_jax.untrusted import printing
from hyperseg_jax.untrusted.limits import applied_block
from hyperseg_jax.weights import model_folder


def train(
    config: ml_collections.ConfigDict,
    home: str | os.PathLike[str],
    *,
    console: Console | None = None,
    stop_at: int | None = None,
) -> pathlib.Path:
    """Trains until config.train.steps, resuming from the newest checkpoint in the workdir `home` (a folder, or a bucket such as
    gs://name/run); returns the model's folder.

    stop_at: saves and returns at this step, as an interruption does.

    Interrupted (Ctrl-C, SIGTERM) it saves and returns early; killed, it loses at most the steps since the last save, and the
    run that goes on is bit-equal to one that was never stopped. On many hosts (parallel/hosts.py) all of them call it.
    """
    # ---- Checks of the config, and the devices ---------------------------------------------------
    timer = Clock()
    console = console or Console(stderr=True, quiet=not hosts.leads())
    checks.check_counts(config)
    mesh = placement.make(config.train.preset, config.train.mesh, adapters=systems.lora(config) is not None)
    checks.check_split(config, mesh)

    with contextlib.ExitStack() as stack:
        stack.enter_context(applied_block(config.get("limits", {})))
        # ---- Workdir, data and model -------------------------------------------------------------
        say = functools.partial(printing.log, console)
        workdir = stack.enter_context(Workdir(home, say=say))
        workdir.check(config)
        system = systems.get(config.system)
        tokenizer = system.tokenizer(config)
        tasks = sources.build(config, system, console=console)
        score_names.check_best(config.train.best, tasks)
        model = system.build(config)
        rules = param_groups.of_config(config.optimizer.param_groups)
        rate = param_groups.schedule(
            config.optimizer.learning_rate,
            config.optimizer.warmup_steps,
            config.train.steps,
            config.optimizer.final_rate,
        )
        first = config.data.first
        mixture = Mixture(
            tasks,
            config.train.batch_size,
            config.seed,
            (first.task, int(first.share * config.train.steps)),
            config.data.batches,
        )
        feed = Feed(mesh.batch)
        rows = feed.rows(config.train.batch_size)
        engine = Engine.of(system, config, None, mesh.batch)
        beginning = begin(config, system, model, rules, rate, mesh)
        one_step = make_step(system, model, config, beginning.tx)
        if not workdir.begun:
            beginning.check_source()
        workdir.open(config)  # now that all of the config is known to fit; nothing was written before
        timeouts = hosts.Timeouts(**config.hosts)

        # ---- State: from the newest checkpoint, else from a model or the seed --------------------
        checkpoints = stack.enter_context(
            Checkpoints(
                workdir.home / "checkpoints", keep=config.train.keep, best=config.train.best, say=say, seconds=timeouts.barrier
            )
        )
        stop = stack.enter_context(interruptible())
        state = beginning.abstract if checkpoints.latest is not None else beginning.fresh()
        checks.report_placement(state, mesh, workdir.local, console)
        places = jax.tree.map(lambda leaf: leaf.sharding, state)
        position, bad_so_far, untold = 0, 0, None
        if checkpoints.latest is not None:
            state, run = checkpoints.restore(state)
            position, bad_so_far, untold = run["global_next_index"], int(state.bad), run.get("untold")
            kept = run.get("seconds", {})
            timer.resume(kept, lost=seconds_lost(workdir.local / "metrics.jsonl", kept))
            say(f"resuming at step {int(state.step)}")
        checks.report_padding(config, tasks, console)

        # ---- The step, its data and those who watch it -------------------------------------------
        start_step, steps = int(state.step), config.train.steps
        step_fn = jit_step(one_step, places, mesh)
        arithmetic = Arithmetic(config, system)
        stack.enter_context(placement.use(mesh))
        stream = stack.enter_context(
            Stream(mixture, config.train.batch_size, position=position, workers=config.data.workers, rows=rows.places)
        )
        bad = UnreadableRecords(
            stream.read_errors,
            share=config.data.max_unreadable_share,
            batch_size=config.train.batch_size,
            workdir=workdir,
            say=say,
            start=start_step,
            bad=bad_so_far,
        )
        observers = stack.enter_context(
            Observers(
                workdir.local,
                start=start_step,
                steps=steps,
                console=console,
                timer=timer,
                profiled=tuple(config.train.profile),
                look=bad.look,
                headlines=score_names.headlines(),
                untold=untold,
            )
        )
        watchdog = stack.enter_context(Watchdog(timeouts.watchdog, workdir.home / f"stacks-{jax.process_index()}.txt"))
        stack.enter_context(hosts.ending())
        compiled: set[str] = set()
        unsaved = ""

        # ---- Training, one step after the other --------------------------------------------------
        for step in range(start_step + 1, steps + 1):
            task = mixture.program(step - 1)
            timer.begin("data")
            batch = feed.put(next(stream), rows)
            timer.begin("step")
            ready: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            if fresh := task not in compiled:
                timer.begin("compile", after=state.step)
                watchdog.patient()
                arithmetic.learn(task, state, batch)
                compiled.add(task)
                ready = observers.compiling(f"the train step of {task}")
            observers.profile(step)
            with ready:
                changed, metrics = step_fn(state.replace(key=None), state.key, batch)
            state = changed.replace(key=state.key)
            timer.begin("step", after=metrics if fresh else None)
            check_compilations(step_fn, len(compiled))
            if not fresh:
                arithmetic.count(task)
            observers.count(task, metrics, timed=not fresh)
            observers.tell()  # of the step before; the device has this one to do meanwhile
            observers.advance(step)
            watchdog.beat()

            # ---- Losses --------------------------------------------------------------------------
            if step % config.train.log_every == 0 or step == steps:
                observers.losses(step, arithmetic.total)

            # ---- Validation ----------------------------------------------------------------------
            validates, scores = step % config.train.eval_every == 0 or step == steps, None
            if validates:
                observers.tell()
                observers.begin_validation()
                timer.begin("evaluation", after=state.step)
                watchdog.patient()
                found = validation.evaluate(
                    dataclasses.replace(engine, params=state.params),
                    tasks,
                    limit=config.train.eval_examples,
                    progress=observers.validating,
                    say=say,
                    workers=config.data.workers,
                )
                scores = found.scores
                observers.scores(step, scores)
                watchdog.beat()
                attempt(say, "the sheet of images", found.save_sheet, workdir.local / "predictions.png")

            # ---- Model and checkpoint ------------------------------------------------------------
            stops = stop.asked(step) or step == stop_at
            last = step == steps or stops
            if validates or last or step % config.train.save_every == 0:
                workdir.check_lock()
            if validates or last:
                unsaved = attempt(say, "the model", model_folder.save, workdir.local / "model", config, tokenizer, state.params)
            # after all else of a step, so that what a checkpoint holds is complete; the best one is of a validation
            if step % config.train.save_every == 0 or last or (validates and config.train.best):
                observers.tell()
                bad.write()
                timer.begin("checkpoint", after=state.step)
                facts = {
                    "global_next_index": stream.position,
                    "system": config.system,
                    "seconds": timer.read(),
                    "bad": int(state.bad),
                    "untold": observers.untold(),
                }
                failed = checkpoints.save(state, facts, scores=scores, wait=last)
                unsaved = unsaved or (failed if last else "")
            if validates or last or step % config.train.save_every == 0:
                attempt(say, "the copy of the workdir", workdir.push)
            if stops and step < steps and not unsaved:
                say(f"stopped at step {step}; the same command goes on from here")
            if last:
                break
    if unsaved:
        raise UserError(
            f"{workdir.home}: the last save failed ({unsaved}); free space or mend the folder, and give the same "
            "command again, which goes on from the newest whole checkpoint"
        )
    return workdir.home / "model"


def attempt(say: Callable[[str], None], what: str, write: Callable[..., None], *given: Any) -> str:
    """Calls write(*given) on all processes. Tells and returns what kept it from being done on any of them, "" for nothing."""
    failure = ""
    try:
        write(*given)
    except OSError as error:
        failure = f"{error.filename or what}: {error.strerror or error}"
    if failure := hosts.agree(what, failure):
        say(f"{what} was not written ({failure}); training goes on")
    return failure


def jit_step(step: Callable[..., Any], places: TrainState, mesh: placement.Placement) -> Any:
    """f(state without key, key, batch) -> (state without key, metrics), every leaf where it was. The state is donated.

    The key never changes and stays outside: on several devices, one that comes out of a program spells its placement now as
    P(), now as P(None), and the step would be compiled for both.
    """

    def keyless(state: TrainState, key: jax.Array, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        state, metrics = step(state.replace(key=key), batch)
        return state.replace(key=None), metrics

    return jax.jit(keyless, donate_argnums=0, out_shardings=(places.replace(key=None), mesh.whole))


def check_compilations(step_fn: Any, buckets: int) -> None:
    """One program a bucket: more means that a shape, type or constant changed between steps. Raises RuntimeError."""
    compiled = step_fn._cache_size()
    if compiled > buckets:
        raise RuntimeError(f"the train step was compiled {compiled} times for {buckets} buckets")
