"""hyperseg evaluate"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
from collections.abc import Iterable

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hyperseg_jax import config as configs
from hyperseg_jax.atomic import write_text
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import paths, printing, strict_json
from hyperseg_jax.untrusted.bad_file import naming


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from hyperseg_jax.commands.train import add_host_arguments

    parser.add_argument("--model", help="a workdir, a model folder, or a shipped model (tiny); scored on its config's tasks")
    parser.add_argument("--tasks", help="comma-separated tasks of the model's config; all of them by default")
    parser.add_argument("--limit", type=int, help="examples a task; all of them by default")
    parser.add_argument(
        "--split",
        default="val",
        choices=("val", "compositional"),
        help="of the toy world; compositional: pairs of colour and shape never seen in training",
    )
    parser.add_argument(
        "--data-root",
        default="",
        help="the folder of all data; without it, that of --config, or the toy world that a config draws",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="folder for scores.json and sheets of images; an evaluation on benchmarks that was killed goes on from there",
    )
    many = parser.add_argument_group("benchmarks", "instead of --model and --tasks")
    many.add_argument("--benchmarks", help="comma-separated, such as refcoco,reasonseg,coco_panoptic (docs/metrics.md)")
    many.add_argument(
        "--config",
        help=f"sizes, tokenizer, mesh: a config file, or a shipped one: {', '.join(configs.shipped())}",
    )
    many.add_argument("--checkpoint", help="a workdir, a model folder, or a shipped model, that fits the config")
    many.add_argument(
        "--rules",
        default="official",
        choices=("official", "released"),
        help="released: count as a published tool does where it departs from its benchmark",
    )
    many.add_argument("--batch-size", type=int, default=12, help="examples that the model takes at once (12)")
    add_host_arguments(parser)


def run(parsed: argparse.Namespace) -> None:
    for name in ("limit", "batch_size"):
        if getattr(parsed, name) is not None and getattr(parsed, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(parsed, name)}: give one or more")
    if parsed.out:
        try:
            parsed.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {parsed.out}: cannot be written ({error.strerror}); give another folder") from error
        check_out(parsed.out, (), ("scores.json", "predictions.png"))
    if parsed.benchmarks is not None:
        if parsed.model or parsed.tasks or not (parsed.config and parsed.checkpoint):
            raise UserError("--benchmarks goes with --config and --checkpoint, not with --model and --tasks")
        from hyperseg_jax.commands.evaluate_benchmarks import on_benchmarks

        on_benchmarks(parsed)
    elif not parsed.model or parsed.config or parsed.checkpoint:
        raise UserError("give --model, or --benchmarks with --config and --checkpoint")
    elif parsed.overrides:
        given = printing.shown(parsed.overrides[0])
        raise UserError(
            f"--config.{given}: a model is scored with its own config; leave this out, and give the folder of the data "
            "with --data-root"
        )
    else:
        _on_own_tasks(parsed)


def check_out(out: pathlib.Path, folders: Iterable[str], files: Iterable[str]) -> None:
    """UserError where one of these cannot be written below --out: told now, and not when all is scored."""
    for name in folders:
        with naming(out):
            paths.inside(out, name)
        if os.path.lexists(out / name) and not (out / name).is_dir():
            raise UserError(f"--out {out}: {name} is no folder; remove it, or give another folder")
    for name in files:
        if (out / name).is_dir() and not (out / name).is_symlink():
            raise UserError(f"--out {out}: {name} is a folder where a file is written; remove it, or give another folder")


def _on_own_tasks(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.data import sources
    from hyperseg_jax.evaluation.text_controls import referring_with_controls
    from hyperseg_jax.evaluation.validation import Evaluation, evaluate
    from hyperseg_jax.predictors.model import load
    from hyperseg_jax.systems import system as systems
    from hyperseg_jax.weights import model_folder

    console = Console(stderr=True)
    say = functools.partial(printing.say, console)
    model, folder = load(parsed.model), model_folder.find(parsed.model)
    config = model.config.copy_and_resolve_references()
    wanted = [name.strip() for name in parsed.tasks.split(",")] if parsed.tasks else list(config.data.tasks)
    if unknown := [name for name in wanted if name not in config.data.tasks]:
        raise UserError(f"--tasks {', '.join(unknown)}: not in the model's config; it has {', '.join(config.data.tasks)}")
    where, named = printing.one_line(folder / "config.json"), config.data.get("root", "")
    if named and not parsed.data_root:
        raise UserError(
            f"{where}: data.root = {printing.shown_value(named)}, and the files of a model do not say what is opened "
            "here; give the folder of the data with --data-root"
        )
    sources.check_names(config, where)
    with config.unlocked():
        config.data.root = parsed.data_root
        config.data.tokenizer = str(folder)  # its own; a config may name any file
    tasks = sources.build(config, systems.get(config.system), console=console, for_training=False, split=parsed.split)
    tasks = {name: tasks[name] for name in wanted if name in tasks}
    if not tasks:
        raise UserError(f"--split {parsed.split}: {', '.join(wanted)} has none of that name; leave it out")
    with Progress(console=console) as progress:
        bars = {name: progress.add_task(printing.cell(name), total=None) for name in tasks}
        found = evaluate(
            model.engine,
            tasks,
            limit=parsed.limit,
            log=say,
            progress=lambda name, done, of: progress.update(bars[name], completed=done, total=of),
        )
    for name, task in tasks.items():
        if task.controls is not None:
            say(f"controls of {name}: expressions shuffled, and answers that ignore the text")
            known = Evaluation({"controls": found.scores[name]}, [])
            taken = referring_with_controls(model.engine, task, limit=parsed.limit, evaluation=known, log=say)
            found.scores[name] |= taken.controls()
    table = Table("task", "metric", "value")
    for name, values in found.scores.items():
        for metric, value in values.items():
            table.add_row(
                printing.cell(name), printing.cell(metric), f"{value:.4f}" if isinstance(value, float) else str(value)
            )
    Console().print(table)
    if parsed.out:
        write_text(parsed.out / "scores.json", strict_json.text(found.scores))
        found.save_sheet(parsed.out / "predictions.png")
        say(f"wrote {parsed.out}/")
