"""hyperseg evaluate --benchmarks"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from hyperseg_jax import config as configs
from hyperseg_jax.atomic import write_text
from hyperseg_jax.commands.evaluate import check_output_paths, print_class_iou, write_class_iou
from hyperseg_jax.data import sources
from hyperseg_jax.datasets.check import notes_of
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import benchmark_run, benchmarks
from hyperseg_jax.evaluation.caption_tools import Tools, load_spacy
from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.evaluation.submissions import WRITERS
from hyperseg_jax.evaluation.trivial_scores import trivial_scores
from hyperseg_jax.metrics.published import REPORTED_RESULTS, find_reported_results
from hyperseg_jax.parallel import hosts, placement
from hyperseg_jax.results.server import coco_panoptic
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten
from hyperseg_jax.training import resume
from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.limits import set_block
from hyperseg_jax.untrusted.printing import escape_markup, escaped, first_line, log, make_console
from hyperseg_jax.weights import model_folder

PARTIAL = "partial"  # folder of partial results below --out
WRITING = 24 * 3600
"""Seconds that the other hosts wait while the first host runs other programs and writes files, which may take hours."""


def evaluate_benchmarks(parsed: argparse.Namespace) -> None:
    """Evaluates a checkpoint on the requested benchmarks and prints a table of scores; --out also writes result files."""
    config = configs.load(parsed.config, parsed.overrides)
    set_block(config.get("limits", {}), parsed.limits)
    if parsed.data_root:
        with config.unlocked():
            config.data.root = parsed.data_root
    chosen = benchmarks.find_benchmarks(parsed.benchmarks)
    hosts.connect(
        hosts.Timeouts(**config.hosts), coordinator=parsed.coordinator, process_id=parsed.process_id, processes=parsed.processes
    )
    with hosts.exit_on_error():
        console = make_console(stderr=True, quiet=not hosts.is_primary())
        tools = Tools(load_spacy(parsed.spacy_model) if parsed.spacy_model and hosts.is_primary() else None)
        system = systems.get(config.system)
        for name, line in chosen.items():
            benchmarks.check_task(name, line, config)
        if parsed.out:
            check_output_paths(parsed.out, (PARTIAL, *chosen), (f"{name}.png" for name in chosen))
            for name in chosen:
                _check_submission_paths(parsed.out / name)
        folder = model_folder.find_model_folder(parsed.checkpoint)
        config = config_for_checkpoint(config, system, folder)
        root = config.data.root
        if not root:
            if not_toy := [name for name, line in chosen.items() if line.reader != "toy"]:
                raise UserError(f"--benchmarks {', '.join(not_toy)}: give --data-root, the root folder of their files")
            root = str(sources.prepare_toy_world(config.data, console, for_training=False))
        tasks = {name: benchmarks.open_task(name, line, config, system, root) for name, line in chosen.items()}
        mesh = placement.make(config.train.preset, config.train.mesh, adapters=systems.lora_block(config) is not None)
        engine = load_engine(config, system, folder, mesh)
        states = parsed.out / PARTIAL if parsed.out else None
        if states and hosts.is_primary():
            states.mkdir(exist_ok=True)
        run_settings = {"config": config.to_json(sort_keys=True), "checkpoint": _identify_checkpoint(folder), "root": str(root)}
        scores, notes = dict[str, dict[str, float]](), dict[str, list[str]]()
        trivial: dict[str, dict[str, dict[str, float]]] = {}
        class_iou = dict[str, dict[str, float]]()
        with placement.use(mesh), _progress_bars(console) as bars:
            lines = {name: bars.add_task(name, total=len(task.val or ())) for name, task in tasks.items()}
            for name, task in tasks.items():
                state_file = states / f"{name}.json" if states else None
                progress = functools.partial(_update_bar, bars, lines[name])
                result = benchmark_run.run(
                    engine,
                    chosen[name],
                    task,
                    rules=parsed.rules,
                    limit=parsed.limit,
                    settings=run_settings,
                    batch_size=parsed.batch_size,
                    state_file=state_file,
                    workers=config.data.workers,
                    progress=progress,
                    log=functools.partial(log, console),
                )
                examples: Any = task.val
                scores[name] = result.scorer.compute()
                if by_class := result.scorer.iou_by_class():
                    class_iou[name] = by_class
                if parsed.baselines:
                    trivial[name] = trivial_scores(
                        name,
                        chosen[name],
                        examples,
                        limit=parsed.limit,
                        rules=parsed.rules,
                        interactive=engine.interactive,
                    )
                notes[name] = []
                if hosts.is_primary():
                    for note in notes_of(task.val):
                        _note(console, name, notes[name], note)
                    scores[name] |= result.scorer.finish(tools, functools.partial(_note, console, name, notes[name]))
                if result.resumed:
                    log(console, f"{name}: resumed after {result.resumed} examples")
                if parsed.out and hosts.is_primary():
                    result.cases.save_sheet(parsed.out / f"{name}.png", examples)
                    if writer := WRITERS.get(chosen[name].submission):
                        (parsed.out / name).mkdir(exist_ok=True)
                        submission = _write_submission(writer, parsed.out / name, result, examples, state_file)
                        log(console, f"submission for the evaluation server: {submission}")
                hosts.exchange(f"the scores and files of {name}", seconds=WRITING)
        if hosts.is_primary():
            if parsed.out:  # before the table, as the standard output may be closed
                report = {
                    "rules": parsed.rules,
                    "limit": parsed.limit,
                    "checkpoint": str(parsed.checkpoint),
                    "scores": scores,
                    "baselines": trivial,
                    "notes": {name: lines for name, lines in notes.items() if lines},
                    "published": [vars(row) for row in REPORTED_RESULTS if row.benchmark in scores],
                }
                write_text(parsed.out / "scores.json", strict_json.dumps_finite(report))
                write_class_iou(parsed.out, class_iou)
                log(console, f"wrote {parsed.out}/")
            make_console().print(scores_table(scores, parsed.rules, trivial))
            print_class_iou(class_iou)
    hosts.shut_down()


def _note(console: Console, name: str, lines: list[str], line: str) -> None:
    """Prints a line about the scores of a benchmark, and adds it to those of scores.json."""
    log(console, f"{name}: {line}")
    lines.append(line)


def _check_submission_paths(folder: pathlib.Path) -> None:
    """Raises UserError if files or folders in the output folder of a benchmark are in the way of a submission."""
    check_output_paths(folder, (), (f"submission{end}" for end in (".zip", ".json", ".xlsx")))
    coco_panoptic.check_output_folder(folder / "submission")


def _write_submission(
    writer: Any, folder: pathlib.Path, result: benchmark_run.PartialResults, examples: Any, state_file: Any
) -> pathlib.Path:
    """Writes the submission for an evaluation server and returns its path. Raises UserError if predictions that an interrupted
    run has saved to `state_file` are invalid."""
    try:
        return writer(folder, [row for *_, row in result.rows], examples)
    except (ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as error:
        if isinstance(error, UserError) or not result.resumed:
            raise
        reason = escaped(first_line(error))
        raise UserError(f"{state_file}: contains an invalid prediction ({reason}); remove the file to start over") from error


def config_for_checkpoint(
    config: ml_collections.ConfigDict, system: systems.System, folder: pathlib.Path
) -> ml_collections.ConfigDict:
    """Returns the config with the tokenizer of a model folder, and with its sizes that differ between public checkpoints of the
    system (SourceCheckpoint.sizes), such as the number of token embeddings."""
    config = config.copy_and_resolve_references()
    saved, given = (flatten(each.to_dict()) for each in (model_folder.read_config(folder), config))
    paths = {field: field.replace(".", "/") for kind in system.source_checkpoints for field, _ in kind.sizes}
    sizes = {field: saved[path] for field, path in paths.items() if path in saved and path in given}
    with config.unlocked(), config.ignore_type():
        config.data.tokenizer = str(folder.resolve())
        config.update_from_flattened_dict(sizes)
    return config


def load_engine(
    config: ml_collections.ConfigDict, system: systems.System, folder: pathlib.Path, mesh: placement.Placement
) -> Engine:
    """Loads the weights of a model folder onto the mesh. Raises UserError if they do not match the config, or if the config of
    the folder has another model: weights of equal shapes would compute something else."""
    shardings = placement.parameter_shardings(system.boxed_shapes(config), mesh)
    saved, given = (json.loads(each.to_json()) for each in (model_folder.read_config(folder), config))
    if changes := resume.function_changes(saved, given):
        raise UserError(f"{folder}: is a model of another config ({changes}); give the config it was trained with")
    params = model_folder.load_params(folder, placement.add_shardings(system.shapes(config), shardings))
    return Engine.from_system(system, config, params, mesh.batch)


def scores_table(
    scores: Mapping[str, Mapping[str, float]], rules: str, trivial: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Table:
    """Builds a table of all scores (in percent or their own unit) next to the published ones, and those of trivial predictions
    if there are any."""
    more = ("baselines",) if any(trivial.values()) else ()
    result = Table("benchmark", "metric", "ours", "published", *more, title=f"scores by the {rules} rules")
    for name, values in scores.items():
        for metric, value in values.items():
            reported = "; ".join(f"{row.value:.2f} {row.model}" for row in find_reported_results(name, metric))
            row = [escape_markup(name), escape_markup(metric), score_text(metric, value), reported]
            named = trivial.get(name, {}).items()
            row += ["; ".join(f"{score_text(metric, of[metric])} {key}" for key, of in named if metric in of)] * len(more)
            result.add_row(*row)
        result.add_section()
    return result


def score_text(metric: str, value: float) -> str:
    """Formats a score: fractions in percent; counts, and numbers of clicks (noc@) and switches, unchanged."""
    if metric in ("count", "classes", "count_after_occlusion"):
        return f"{value:.0f}"
    return f"{value:.2f}" if metric.startswith(("noc@", "switches")) else f"{100 * value:.2f}"


def _identify_checkpoint(folder: pathlib.Path) -> list[Any]:
    """Returns path, size and modification time of the weights file, by which a resumed evaluation recognizes its checkpoint."""
    stat = (folder / "model.safetensors").stat()
    return [str(folder.resolve()), stat.st_size, stat.st_mtime_ns]


def _update_bar(bars: Progress, line: TaskID, done: int, count: int) -> None:
    bars.update(line, completed=done, total=count)


def _progress_bars(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
