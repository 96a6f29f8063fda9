"""hyperseg evaluate --benchmarks"""

from __future__ import annotations

import argparse
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from hyperseg_jax import config as configs
from hyperseg_jax.atomic import write_text
from hyperseg_jax.commands.evaluate import check_out
from hyperseg_jax.data import sources
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import benchmark_run, benchmarks
from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.evaluation.submissions import WRITERS
from hyperseg_jax.metrics.published import PUBLISHED, published
from hyperseg_jax.parallel import hosts, placement
from hyperseg_jax.results.server import coco_panoptic
from hyperseg_jax.systems import system as systems
from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.limits import apply_block
from hyperseg_jax.untrusted.printing import cell, first_line, say, shown
from hyperseg_jax.weights import model_folder

PARTIAL = "partial"  # the folder of states, below --out
WRITING = 24 * 3600
"""Seconds that the other hosts wait at most while the first writes files: pngs of a server's zip may take hours."""


def on_benchmarks(parsed: argparse.Namespace) -> None:
    """Scores a checkpoint on every benchmark that was named, and prints one table; with --out, writes all there is to tell."""
    config = configs.load(parsed.config, parsed.overrides)
    apply_block(config.get("limits", {}), parsed.limits)
    chosen = benchmarks.find(parsed.benchmarks)
    hosts.join(
        hosts.Timeouts(**config.hosts), coordinator=parsed.coordinator, process_id=parsed.process_id, processes=parsed.processes
    )
    console = Console(stderr=True, quiet=not hosts.is_primary())
    with hosts.exit_on_error():
        system = systems.get(config.system)
        for name, line in chosen.items():
            benchmarks.check_task(name, line, config)
        if parsed.out:
            check_out(parsed.out, (PARTIAL, *chosen), (f"{name}.png" for name in chosen))
            for name in chosen:
                _check_submission(parsed.out / name)
        folder = model_folder.find(parsed.checkpoint)
        root = parsed.data_root or config.data.root
        if not root:
            if others := [name for name, line in chosen.items() if line.reader != "toy"]:
                raise UserError(f"--benchmarks {', '.join(others)}: give --data-root, the folder that their files lie below")
            root = str(sources.toy_world(config.data.toy.to_dict() | {"train": 0}, console))
        tasks = {name: benchmarks.open_task(name, line, config, system, root) for name, line in chosen.items()}
        mesh = placement.make(config.train.preset, config.train.mesh, adapters=systems.lora(config) is not None)
        engine = load_engine(config, system, folder, mesh)
        states = parsed.out / PARTIAL if parsed.out else None
        if states and hosts.is_primary():
            states.mkdir(exist_ok=True)
        asked = {"config": config.to_json(sort_keys=True), "checkpoint": _stamp(folder), "root": str(root)}
        scores: dict[str, dict[str, float]] = {}
        with placement.use(mesh), _bars(console) as bars:
            lines = {name: bars.add_task(name, total=len(task.val or ())) for name, task in tasks.items()}
            for name, task in tasks.items():
                kept = states / f"{name}.json" if states else None
                progress = functools.partial(_advance, bars, lines[name])
                found = benchmark_run.run(
                    engine,
                    chosen[name],
                    task,
                    rules=parsed.rules,
                    limit=parsed.limit,
                    settings=asked,
                    batch_size=parsed.batch_size,
                    state_file=kept,
                    workers=config.data.workers,
                    progress=progress,
                    log=functools.partial(say, console),
                )
                examples: Any = task.val
                scores[name] = found.scorer.compute()
                if found.resumed:
                    say(console, f"{name}: resumed after {found.resumed} examples")
                if parsed.out and hosts.is_primary():
                    found.cases.save_sheet(parsed.out / f"{name}.png", examples)
                    if writer := WRITERS.get(chosen[name].submission):
                        (parsed.out / name).mkdir(exist_ok=True)
                        sent = _submission(writer, parsed.out / name, found, examples, kept)
                        say(console, f"for the server: {sent}")
                if parsed.out:
                    hosts.exchange(f"the files of {name}", seconds=WRITING)
    if hosts.is_primary():
        Console().print(table(scores, parsed.rules))
        if parsed.out:
            told = {
                "rules": parsed.rules,
                "limit": parsed.limit,
                "checkpoint": str(parsed.checkpoint),
                "scores": scores,
                "published": [vars(row) for row in PUBLISHED if row.benchmark in scores],
            }
            write_text(parsed.out / "scores.json", strict_json.text(told))
            say(console, f"wrote {parsed.out}/")
    hosts.shut_down()


def _check_submission(folder: pathlib.Path) -> None:
    """UserError where the files for a server cannot take the place of what is there."""
    check_out(folder, (), (f"submission{end}" for end in (".zip", ".json", ".xlsx")))
    coco_panoptic.check(folder / "submission")


def _submission(
    writer: Any, folder: pathlib.Path, found: benchmark_run.PartialResults, examples: Any, kept: Any
) -> pathlib.Path:
    """What is sent to a server. UserError where answers of a run before, out of the file `kept`, are none."""
    try:
        return writer(folder, [row for *_, row in found.rows], examples)
    except (ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as error:
        if isinstance(error, UserError) or not found.resumed:
            raise
        why = shown(first_line(error))
        raise UserError(f"{kept}: has an answer that no run gave ({why}); remove it to start anew") from error


def load_engine(
    config: ml_collections.ConfigDict, system: systems.System, folder: pathlib.Path, mesh: placement.Placement
) -> Engine:
    """The model of a folder in the sizes of the config, on the mesh. UserError where they do not fit."""
    places = placement.shardings(system.boxed_shapes(config), mesh)
    params = model_folder.load_params(folder, placement.abstract_arrays(system.shapes(config), places))
    return Engine.from_system(system, config, params, mesh.batch)


def table(scores: Mapping[str, Mapping[str, float]], rules: str) -> Table:
    """Every score in percent or in its own unit, and what is published of it."""
    made = Table("benchmark", "metric", "ours", "published", title=f"scores by the {rules} rules")
    for name, values in scores.items():
        for metric, value in values.items():
            known = "; ".join(f"{row.value:.2f} {row.model}" for row in published(name, metric))
            made.add_row(cell(name), cell(metric), score_text(metric, value), known)
        made.add_section()
    return made


def score_text(metric: str, value: float) -> str:
    """A score for people: counts and clicks as they are, shares in percent."""
    if metric in ("count", "classes"):
        return f"{value:.0f}"
    return f"{value:.2f}" if metric.startswith("noc@") else f"{100 * value:.2f}"


def _stamp(folder: pathlib.Path) -> list[Any]:
    """What tells one checkpoint from another that lies in the same place later."""
    facts = (folder / "model.safetensors").stat()
    return [str(folder.resolve()), facts.st_size, facts.st_mtime_ns]


def _advance(bars: Progress, line: TaskID, done: int, count: int) -> None:
    bars.update(line, completed=done, total=count)


def _bars(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
