"""hyperseg evaluate"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
from collections.abc import Iterable, Mapping

from rich.progress import Progress
from rich.table import Table

from hyperseg_jax import config as configs
from hyperseg_jax.atomic import clean, write_text
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import paths, printing, strict_json
from hyperseg_jax.untrusted.bad_file import naming_path

CLASS_IOU = "class_iou.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from hyperseg_jax.commands.train import add_host_arguments

    parser.add_argument(
        "--model", help="a workdir, a model folder, or a shipped model (tiny); scored on the tasks of its config"
    )
    parser.add_argument("--tasks", help="comma-separated tasks of the model's config; default: all")
    parser.add_argument("--limit", type=int, help="maximum number of examples per task; default: all")
    parser.add_argument(
        "--split",
        default="val",
        choices=("val", "compositional"),
        help="split of the toy data; compositional: combinations of colour and shape that are not in the training data",
    )
    parser.add_argument(
        "--data-root",
        default="",
        help="the root folder of all data; default: data.root of --config, or generated toy data",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="folder for scores.json and images of predictions; an interrupted benchmark evaluation resumes from it",
    )
    many = parser.add_argument_group("benchmarks", "instead of --model and --tasks")
    many.add_argument("--benchmarks", help="comma-separated, such as refcoco,reasonseg,coco_panoptic (docs/metrics.md)")
    many.add_argument(
        "--config",
        help=f"sizes, mesh: a config file, or a shipped config: {', '.join(configs.shipped_names())}",
    )
    many.add_argument("--checkpoint", help="a workdir, a model folder, or a shipped model, matching the config")
    many.add_argument(
        "--rules",
        default="official",
        choices=("official", "released"),
        help="released: compute metrics as the released evaluation code does where it deviates from the benchmark",
    )
    many.add_argument(
        "--baselines", action="store_true", help="also score trivial predictions, which use no model (docs/metrics.md)"
    )
    many.add_argument(
        "--spacy-model",
        help="spaCy pipeline that tags the words of captions, such as en_core_web_lg; it is code, so it must be trusted",
    )
    many.add_argument("--batch-size", type=int, default=12, help="examples per batch (default 12)")
    add_host_arguments(parser)


def run(parsed: argparse.Namespace) -> None:
    for name in ("limit", "batch_size"):
        if getattr(parsed, name) is not None and getattr(parsed, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(parsed, name)}: give at least 1")
    if parsed.out:
        try:
            parsed.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {parsed.out}: cannot be written ({error.strerror}); give another folder") from error
        check_output_paths(parsed.out, (), ("scores.json", CLASS_IOU, "predictions.png"))
    if parsed.benchmarks is not None:
        if parsed.model or parsed.tasks:
            raise UserError("--benchmarks excludes --model and --tasks; remove them, and give the model as --checkpoint")
        if not (parsed.config and parsed.checkpoint):
            raise UserError("--benchmarks requires --config and --checkpoint; give both")
        from hyperseg_jax.commands.evaluate_benchmarks import evaluate_benchmarks

        evaluate_benchmarks(parsed)
    elif parsed.baselines:
        raise UserError("--baselines requires --benchmarks; give it, or remove --baselines")
    elif parsed.spacy_model:
        raise UserError("--spacy-model requires --benchmarks; add it, or remove this option")
    elif parsed.config or parsed.checkpoint:
        raise UserError("--config and --checkpoint require --benchmarks; add it, or give only --model")
    elif not parsed.model:
        raise UserError("no model to evaluate; give --model, or --benchmarks with --config and --checkpoint")
    elif parsed.overrides:
        override = printing.escaped(parsed.overrides[0])
        raise UserError(
            f"--config.{override}: a model is evaluated with its own config; remove this option, and give the data folder with "
            "--data-root"
        )
    else:
        _evaluate_own_tasks(parsed)


def check_output_paths(out: pathlib.Path, folders: Iterable[str], files: Iterable[str]) -> None:
    """Raises UserError if one of these files or folders cannot be written into the folder --out, because something else has its
    name or it is a link out of --out. Called before the evaluation, which may take hours."""
    clean(out)
    for name in folders:
        with naming_path(out):
            paths.join_inside(out, name)
        if os.path.lexists(out / name) and not (out / name).is_dir():
            raise UserError(f"--out {out}: {name} is not a folder; remove it, or give another folder")
    for name in files:
        if (out / name).is_dir() and not (out / name).is_symlink():
            raise UserError(f"--out {out}: {name} is a folder, but a file is written there; remove it, or give another folder")


def _evaluate_own_tasks(parsed: argparse.Namespace) -> None:
    """Evaluates a model on the validation sets of the tasks in its config, and prints a table of scores."""
    from hyperseg_jax.data import sources
    from hyperseg_jax.evaluation.text_controls import referring_with_controls
    from hyperseg_jax.evaluation.validation import Evaluation, evaluate
    from hyperseg_jax.predictors.model import load
    from hyperseg_jax.systems import system as systems
    from hyperseg_jax.weights import model_folder

    console = printing.make_console(stderr=True)
    log = functools.partial(printing.log, console)
    model, folder = load(parsed.model), model_folder.find_model_folder(parsed.model)
    config = model.config.copy_and_resolve_references()
    requested = [name.strip() for name in parsed.tasks.split(",")] if parsed.tasks else list(config.data.tasks)
    if unknown := [name for name in requested if name not in config.data.tasks]:
        raise UserError(f"--tasks {', '.join(unknown)}: not in the model's config; use some of {', '.join(config.data.tasks)}")
    where, config_root = printing.one_line(folder / "config.json"), config.data.get("root", "")
    if config_root and not parsed.data_root:
        raise UserError(
            f"{where}: data.root = {printing.escaped_value(config_root)} is ignored, since model files are untrusted; give the "
            "data folder with --data-root"
        )
    sources.check_untrusted_paths(config, where, parsed.data_root or "")
    with config.unlocked():
        config.data.root = parsed.data_root
        config.data.tokenizer = str(folder.resolve())  # the config is untrusted and might name any file
    with model_folder.naming_config(folder):
        tasks = sources.build_tasks(
            config, systems.get(config.system), console=console, names=requested, for_training=False, split=parsed.split
        )
    tasks = {name: tasks[name] for name in requested if name in tasks}
    if not tasks:
        raise UserError(f"--split {parsed.split}: no such split of {', '.join(requested)}; remove the option")
    if all(task.val is None for task in tasks.values()):
        raise UserError(
            f"{where}: its tasks have no validation images; give --benchmarks with --config and --checkpoint, or train with a "
            "`val` block"
        )
    with Progress(console=console) as progress:
        bars = {name: progress.add_task(printing.escape_markup(name), total=None) for name in tasks}
        evaluation = evaluate(
            model.engine,
            tasks,
            limit=parsed.limit,
            log=log,
            progress=lambda name, done, of: progress.update(bars[name], completed=done, total=of),
        )
    for name, task in tasks.items():
        if task.controls is not None:
            log(f"controls of {name}: shuffled expressions, and predictions that ignore the text")
            scored = Evaluation({"controls": evaluation.scores[name]}, [])
            controlled = referring_with_controls(model.engine, task, limit=parsed.limit, evaluation=scored, log=log)
            evaluation.scores[name] |= controlled.controls()
    table = Table("task", "metric", "value")
    for name, values in evaluation.scores.items():
        for metric, value in values.items():
            table.add_row(
                printing.escape_markup(name),
                printing.escape_markup(metric),
                f"{value:.4f}" if isinstance(value, float) else str(value),
            )
    if parsed.out:  # before the table, as the standard output may be closed
        write_text(parsed.out / "scores.json", strict_json.dumps_finite(evaluation.scores))
        write_class_iou(parsed.out, evaluation.class_iou)
        evaluation.save_sheet(parsed.out / "predictions.png")
        log(f"wrote {parsed.out}/")
    printing.make_console().print(table)
    print_class_iou(evaluation.class_iou)


def write_class_iou(out: pathlib.Path, by_name: Mapping[str, Mapping[str, float]]) -> None:
    """Writes class_iou.json, {name: {class: IoU}}; without any, removes that of an earlier evaluation."""
    if by_name:
        write_text(out / CLASS_IOU, strict_json.dumps_finite(by_name))
    else:
        (out / CLASS_IOU).unlink(missing_ok=True)


def print_class_iou(by_name: Mapping[str, Mapping[str, float]]) -> None:
    """Prints a table of the IoU of each class. by_name: of tasks or benchmarks."""
    for name, ious in by_name.items():
        table = Table("class", "IoU", title=f"{printing.escape_markup(name)}, by class")
        for label, value in ious.items():
            table.add_row(printing.escape_markup(label), f"{100 * value:.2f}")
        printing.make_console().print(table)
