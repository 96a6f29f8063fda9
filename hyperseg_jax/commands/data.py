"""hyperseg data"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib

from rich.console import Console
from rich.markup import escape

from hyperseg_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="what", required=True, metavar="what")
    toy = kinds.add_parser("toy", help="write pictures and clips of shapes in the true benchmark formats")
    toy.add_argument("--out", required=True, type=pathlib.Path, help="a new folder")
    toy.add_argument("--seed", type=int, default=0)
    toy.add_argument("--train", type=int, default=2000, help="pictures to train on")
    toy.add_argument("--val", type=int, default=200, help="pictures to validate on")
    toy.add_argument("--clips", type=int, default=200, help="clips, a tenth of them for validation")
    toy.add_argument("--level", choices=("default", "hard"), default="default")
    toy.add_argument("--kinds", choices=("known", "held_back"), default="known",
                     help="held_back: every picture shows the colour or shape kept out of the usual splits")  # fmt: skip
    samples = kinds.add_parser("samples", help="write a few toy pictures and clips in the layout of every benchmark")
    samples.add_argument("--out", required=True, type=pathlib.Path, help="a new folder, to be used as --root")
    check = kinds.add_parser("check", help="read all files of a benchmark and list what is wrong with them")
    check.add_argument("name", help="a benchmark of docs/data.md")
    check.add_argument("--root", required=True, type=pathlib.Path, help="the folder that its files lie below")
    check.add_argument("--split", action="append", help="one of its splits; may be given several times; default: all")
    check.add_argument("--show", type=int, default=20, help="problems to print a split")


def run(parsed: argparse.Namespace) -> None:
    {"toy": _toy, "samples": _samples, "check": _check}[parsed.what](parsed)


def _toy(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.data import toy

    for name in ("train", "val", "clips"):
        if getattr(parsed, name) < 0:
            raise UserError(f"--{name} {getattr(parsed, name)}: give zero or more")
    console = Console(stderr=True)
    toy.write(parsed.out, seed=parsed.seed, train=parsed.train, val=parsed.val, clips=parsed.clips, level=parsed.level,
              kinds=parsed.kinds, workers=min(4, os.cpu_count() or 1),
              say=lambda line: console.print(line, highlight=False))  # fmt: skip


def _samples(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.data.toy.samples import write_samples

    write_samples(parsed.out)
    Console(stderr=True).print(f"{parsed.out}: wrote a sample of each benchmark", highlight=False)


def _check(parsed: argparse.Namespace) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    from hyperseg_jax.data.check import check
    from hyperseg_jax.data.formats import files, layouts

    if parsed.show < 0:
        raise UserError(f"--show {parsed.show}: give zero or more")
    layout = layouts.find(parsed.name)
    splits = parsed.split or layout.splits
    unknown = [split for split in splits if split not in layout.splits]
    if unknown:
        raise UserError(f"--split {unknown[0]}: {parsed.name} has {', '.join(layout.splits)}")
    files.existing_folder(parsed.root)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    reports = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for split in splits:
            bar = progress.add_task(f"{parsed.name} {split}", total=None)
            advance = functools.partial(progress.update, bar)
            reports[split] = check(functools.partial(layout.open, parsed.root, split), advance)
    console = Console()
    table = Table("split", "examples", "pictures", "prompts", "masks", "regions", "problems")
    for split, report in reports.items():
        counts = (report.examples, len(report.collected.sizes), report.prompts, report.masks, report.regions, report.faults)
        table.add_row(split, *map(str, counts))
    console.print(table)
    for split, report in reports.items():
        for message, kind in list(report.collected.problems.items())[: parsed.show]:
            console.print(f"[red]{kind}[/] {escape(message)}", highlight=False, soft_wrap=True)
        if report.faults > parsed.show:
            kinds = ", ".join(f"{count} {kind}" for kind, count in report.collected.counts.items() if count)
            console.print(f"{split}: {report.faults} problems in all: {kinds}", highlight=False, soft_wrap=True)
    if any(report.faults for report in reports.values()):
        raise SystemExit(1)
