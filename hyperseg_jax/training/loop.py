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
from hyperseg_jax.training.background import BackgroundWriter
from hyperseg_jax.training.checkpoint import MODEL_SECONDS, Checkpoints
from hyperseg_jax.training.clock import Clock
from hyperseg_jax.training.dispatch import StepsInFlight
from hyperseg_jax.training.flops import FlopCounter
from hyperseg_jax.training.initial_state import trace_initial_state
from hyperseg_jax.training.observers import Observers, lost_seconds
from hyperseg_jax.training.state import TrainState, make_step
from hyperseg_jax.training.stopping import interruptible
from hyperseg_jax.training.unreadable_records import UnreadableRecords
from hyperseg_jax.training.workdir import Workdir
from hyperseg_jax.untrusted import paths, printing
from hyperseg_jax.untrusted.limits import temporary_block
from hyperseg_jax.weights import model_folder


def train(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    console: Console | None = None,
    stop_at: int | None = None,
    accept_changes: bool = False,
) -> pathlib.Path:
    """Trains until config.train.steps, resuming from the newest checkpoint in `workdir`. Returns the folder of the model, which
    is written at the end of the run.

    workdir: a folder, or a bucket such as gs://name/run.
    stop_at: saves and returns at this step, as if interrupted. accept_changes: see Workdir; also accepts datasets of another
    size.

    When interrupted (Ctrl-C, SIGTERM), it saves and returns early. When killed, it loses at most the steps since the last save.
    A resumed run is bit-identical to an uninterrupted one. In multi-host runs (parallel/hosts.py) all hosts call it.
    """
    # ---- Checks of the config, and the devices ---------------------------------------------------
    timer = Clock()
    console = console or printing.make_console(stderr=True, quiet=not hosts.is_primary())
    systems.get(config.system).check_training()
    checks.check_counts(config)
    mesh = placement.make(config.train.preset, config.train.mesh, adapters=systems.lora_block(config) is not None)
    checks.check_batch_size(config, mesh)

    with contextlib.ExitStack() as stack:
        stack.enter_context(temporary_block(config.get("limits", {})))
        # ---- Workdir, data and model -------------------------------------------------------------
        log = functools.partial(printing.log, console)
        run_dir = stack.enter_context(Workdir(workdir, accept_changes=accept_changes, log=log))
        system = systems.get(config.system)
        tokenizer = system.load_tokenizer(config)
        run_dir.check(config, tokenizer)
        tasks = sources.build_tasks(config, system, console=console)
        score_names.check_best_field(config.train.best, tasks, system.answers)
        model = system.build(config)
        groups = param_groups.groups_from_config(config.optimizer.param_groups)
        learning_rate = param_groups.schedule_from_config(config)
        curriculum = config.data.curriculum
        mixture = Mixture(
            tasks,
            config.train.batch_size,
            config.seed,
            (curriculum.task, int(curriculum.share * config.train.steps)),
            config.data.batches,
        )
        feed = Feed(mesh.batch)
        rows = feed.rows(config.train.batch_size)
        engine = Engine.from_system(system, config, None, mesh.batch)
        initial = trace_initial_state(config, system, model, groups, learning_rate, mesh)
        checks.check_shards(initial.abstract)
        train_step = make_step(system, model, config, initial.tx)
        if not run_dir.has_checkpoints:
            initial.check_source(config)
        run_dir.open(config, tokenizer)  # after all checks of the config; nothing was written before
        timeouts = hosts.Timeouts(**config.hosts)

        # ---- State: from the newest checkpoint, else from a model or the seed --------------------
        checkpoints = stack.enter_context(
            Checkpoints(
                run_dir.path / "checkpoints",
                keep=config.train.keep,
                best=config.train.best,
                batch_size=config.train.batch_size,
                log=log,
                seconds=timeouts.barrier,
            )
        )
        stop = stack.enter_context(interruptible())
        state = initial.abstract if checkpoints.latest is not None else initial.create()
        checks.report_placement(state, mesh, run_dir.local, console)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        position, unreadable_count, pending = 0, 0, None
        if checkpoints.latest is not None:
            state, run = checkpoints.restore(state)
            checks.check_steps(config, int(state.step), run_dir)
            checks.check_record_counts(run.get("records"), tasks, accept_changes)
            position, unreadable_count, pending = run["global_next_index"], int(state.bad), run.get("untold")
            saved_seconds = run.get("seconds", {})
            timer.resume(saved_seconds, lost=lost_seconds(run_dir.local / "metrics.jsonl", saved_seconds))
            log(f"resuming at step {int(state.step)}")
        checkpoints.start_saving_frozen(state.frozen)
        checks.report_padding(config, tasks, console)

        # ---- Train step, data and observers ------------------------------------------------------
        start_step, steps = int(state.step), config.train.steps
        step_fn = jit_step(train_step, shardings, mesh)
        flop_counter = FlopCounter(config, system)
        stack.enter_context(placement.use(mesh))
        stream = stack.enter_context(
            Stream(mixture, config.train.batch_size, position=position, workers=config.data.workers, rows=rows.indices)
        )
        unreadable = UnreadableRecords(
            stream.read_errors,
            share=config.data.max_unreadable_share,
            batch_size=config.train.batch_size,
            workdir=run_dir,
            log=log,
            start=start_step,
            bad=unreadable_count,
        )
        observers = stack.enter_context(
            Observers(
                run_dir.local,
                start=start_step,
                steps=steps,
                console=console,
                timer=timer,
                profiled=tuple(config.train.profile),
                on_metrics=unreadable.check,
                headlines=score_names.headline_scores(),
                pending=pending,
            )
        )
        background = stack.enter_context(BackgroundWriter(observers.log))
        watchdog = stack.enter_context(Watchdog(timeouts.watchdog, run_dir.path / f"stacks-{jax.process_index()}.txt"))
        stack.enter_context(hosts.exit_on_error())
        compiled, programs, in_flight = set[str](), 0, StepsInFlight()
        unsaved_error = ""

        # ---- Training loop -----------------------------------------------------------------------
        for step in range(start_step + 1, steps + 1):
            task = mixture.program(step - 1)
            timer.begin("data")
            batch = feed.put(next(stream), rows)
            timer.begin("step")
            report_compilation: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            if first_time := task not in compiled:
                timer.begin("compile", after=state.step)
                watchdog.pause()
                flop_counter.trace_task(task, state, batch)
                compiled.add(task)
                report_compilation = observers.log_compilation(f"the train step of {task}")
            observers.profile(step)
            with report_compilation:
                new_state, metrics = step_fn(state.replace(key=None), state.key, batch)
            state = new_state.replace(key=state.key)
            in_flight.add(metrics["loss"])
            timer.begin("step", after=metrics if first_time else None)
            if step_fn._cache_size() > programs and not first_time:
                observers.recompilations += 1
                report_recompilation(task, step, config.train.get("fail_on_recompilation", False), log)
            programs = step_fn._cache_size()
            if not first_time:
                flop_counter.add_step(task)
            observers.add_metrics(task, metrics, timed=not first_time)
            observers.write_pending()  # of the previous step, while the device runs this one
            observers.advance(step)
            watchdog.beat()

            # ---- Losses --------------------------------------------------------------------------
            if step % config.train.log_every == 0 or step == steps:
                observers.end_interval(step, flop_counter.total)

            # ---- Validation ----------------------------------------------------------------------
            validate, scores = step % config.train.eval_every == 0 or step == steps, None
            if validate:
                observers.write_pending()
                observers.begin_validation()
                timer.begin("evaluation", after=state.step)
                watchdog.pause()
                evaluation = validation.evaluate(
                    dataclasses.replace(engine, params=state.params),
                    tasks,
                    limit=config.train.eval_examples,
                    progress=observers.show_validation_progress,
                    log=log,
                    workers=config.data.workers,
                )
                scores = evaluation.scores
                observers.scores(step, scores)
                watchdog.beat()
                background.submit("the sheet of images", save_sheet, evaluation, run_dir.local / "predictions.png", log)

            # ---- Checkpoint ----------------------------------------------------------------------
            stop_now = stop.should_stop(step) or step == stop_at
            last = step == steps or stop_now
            if validate or last or step % config.train.save_every == 0:
                run_dir.check_lock()
            if step % config.train.save_every == 0 or last or (validate and config.train.best):
                observers.write_pending()
                unreadable.write()
                timer.begin("checkpoint", after=state.step)
                metadata = {
                    "global_next_index": stream.position,
                    "system": config.system,
                    "seconds": timer.read(),
                    "bad": int(state.bad),
                    "records": checks.count_records(tasks),
                    "untold": observers.pending_state(),
                }
                save_error = checkpoints.save(state, metadata, scores=scores, wait=last)
                unsaved_error = save_error if last else ""
            if validate or last or step % config.train.save_every == 0:
                background.submit("the copy of the workdir", run_dir.push)
            if stop_now and step < steps and not unsaved_error:
                log(f"stopped at step {step}; run the same command to resume")
            if last:
                break

        # ---- Model, at the end of the run --------------------------------------------------------
        background.wait()
        if int(state.step) == steps:
            model = run_dir.local / "model"
            save_error = write_on_all_hosts(log, "the model", model_folder.save_model, model, config, tokenizer, state.params)
            unsaved_error = unsaved_error or save_error
        upload_error = write_on_all_hosts(log, "the copy of the workdir", run_dir.push)
        unsaved_error = unsaved_error or upload_error
    if unsaved_error:
        raise UserError(
            f"{run_dir.path}: the last save failed ({unsaved_error}); free disk space or fix the folder, and run the "
            "same command again, which resumes from the newest complete checkpoint"
        )
    return run_dir.path / "model"


def save_sheet(evaluation: validation.Evaluation, path: pathlib.Path, log: Callable[[str], None]) -> None:
    """Writes the images of a validation; moves a folder aside that has the name of the file."""
    if message := paths.make_replaceable(path, "an image"):
        log(message)
    evaluation.save_sheet(path)


def write_on_all_hosts(log: Callable[[str], None], what: str, write: Callable[..., None], *args: Any) -> str:
    """Calls write(*args) on this host, and logs and returns the errors of all hosts; "" if there are none. All hosts must call
    it, and wait up to MODEL_SECONDS for each other. what: description of the file, for the log."""
    failure = ""
    try:
        write(*args)
    except OSError as error:
        failure = f"{error.filename or what}: {error.strerror or error}"
    if failure := hosts.combine_failures(what, failure, seconds=MODEL_SECONDS):
        log(f"{what} was not written ({failure})")
    return failure


def jit_step(step: Callable[..., Any], shardings: TrainState, mesh: placement.Placement) -> Any:
    """Jits f(state without key, key, batch) -> (state without key, metrics). Shardings stay the same; the state is donated.

    The key never changes and stays outside: on several devices, a key returned by a program has the sharding P() or P(None),
    and the step would be compiled for both.
    """

    def step_without_key(state: TrainState, key: jax.Array, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        state, metrics = step(state.replace(key=key), batch)
        return state.replace(key=None), metrics

    return jax.jit(step_without_key, donate_argnums=0, out_shardings=(shardings.replace(key=None), mesh.replicated))


def report_recompilation(task: str, step: int, fail: bool, log: Callable[[str], None]) -> None:
    """Logs that the step of a task was compiled again, which means that a shape, dtype or static value changed between steps.
    fail: raises RuntimeError instead (train.fail_on_recompilation)."""
    message = f"step {step}: the train step of {task} was compiled again; keep shapes, dtypes and static values fixed"
    if fail:
        raise RuntimeError(message)
    log(message)
