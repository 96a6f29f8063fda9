"""hyperseg data"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import escape_markup, escaped, log, make_console

if TYPE_CHECKING:
    from rich.progress import Progress

BUILT = "built"
"""Given in place of a benchmark name, stands for the output of `hyperseg data build`."""
SAMPLING_OPTIONS = ("max_classes", "frames", "sampling", "reach")
"""Reader options that sample prompts or frames. They are set when a build is read, not when it is written."""
RANDOM = "random"
"""Value of reader options that draw anew for each element, such as `sentences` of ReVOS. A build cannot draw."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="what", required=True, metavar="what")
    toy = kinds.add_parser("toy", help="write toy images and videos of shapes in the formats of real benchmarks")
    toy.add_argument("--out", required=True, type=pathlib.Path, help="a new folder")
    toy.add_argument("--seed", type=int, default=0)
    toy.add_argument("--train", type=int, default=2000, help="number of training images")
    toy.add_argument("--val", type=int, default=200, help="number of validation images")
    toy.add_argument("--clips", type=int, default=200, help="number of videos, a tenth of them for validation")
    toy.add_argument("--level", choices=("default", "hard"), default="default")
    toy.add_argument(
        "--kinds",
        choices=("known", "held_back"),
        default="known",
        help="held_back: every image shows the colour or shape that is excluded from the other splits",
    )
    toy.add_argument(
        "--videos",
        choices=("default", "occlusion"),
        default="default",
        help="occlusion: objects vanish behind others and return, enter late and leave; with masks and classes of all objects",
    )
    samples = kinds.add_parser("samples", help="write a few toy images and videos in the file layout of every benchmark")
    samples.add_argument("--out", required=True, type=pathlib.Path, help="a new folder, to be used as --root")
    check = kinds.add_parser("check", help="read all files of a benchmark and list the problems")
    check.add_argument("name", help=f"a benchmark of docs/data.md, or {BUILT!r} for the output of `data build`")
    check.add_argument("--root", required=True, help="the root folder of its files; for a build, its --out")
    check.add_argument("--split", action="append", help="one of its splits; repeatable; default: all")
    check.add_argument("--show", type=int, default=20, help="maximum number of problems printed per split")
    _add_option(check, "labels=raw of ade20k")
    build = kinds.add_parser("build", help="write a benchmark as ArrayRecord shards, to be streamed from a folder or bucket")
    build.add_argument("name", help="a benchmark of docs/data.md")
    build.add_argument("--root", required=True, help="the root folder of its files")
    build.add_argument("--out", required=True, help="a folder, or a URL such as gs://bucket/coco; the same command resumes")
    build.add_argument("--split", action="append", help="one of its splits; repeatable; default: all")
    build.add_argument(
        "--long-edge",
        type=int,
        help="downscale larger images to this long edge, as JPEG of quality 95; default: images are stored unchanged",
    )
    _add_option(build, "sentences=joined or prompts_per_example=4")
    build.add_argument("--shard-size", type=int, help="records per shard; default: 512 images, 32 videos")
    build.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="worker processes; each loads the annotations into memory"
    )
    build.add_argument("--skip-bad", action="store_true", help="skip bad records and list them in index.json; default: abort")
    build.add_argument("--verify", action="store_true", help="verify checksums of existing shards; default: only their sizes")

    table = kinds.add_parser("table", help="write a benchmark of class lists as the table that IFSeg's authors' code reads")
    table.add_argument("name", help="a benchmark of docs/data.md with class lists, such as ade20k or coco_stuff")
    table.add_argument("--root", required=True, help="the root folder of its files")
    table.add_argument("--split", required=True, help="one of its splits")
    table.add_argument("--out", required=True, type=pathlib.Path, help="a file, such as ifseg/ade20k.tsv")
    _add_option(table, "subset=unseen of coco_stuff")


def _add_option(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds --option. example: one or two options, for its help."""
    text = f"an option of the reader, such as {example}"
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help=text)


def run(parsed: argparse.Namespace) -> None:
    {
        "toy": _write_toy,
        "samples": _write_samples,
        "check": _check_benchmark,
        "build": _build_benchmark,
        "table": _write_table,
    }[parsed.what](parsed)


def _write_toy(parsed: argparse.Namespace) -> None:
    from hyperseg_jax import toy

    console = make_console(stderr=True)
    toy.write_world(
        parsed.out,
        seed=parsed.seed,
        train=parsed.train,
        val=parsed.val,
        clips=parsed.clips,
        level=parsed.level,
        kinds=parsed.kinds,
        videos=parsed.videos,
        workers=min(4, os.cpu_count() or 1),
        log=lambda line: log(console, line),
    )


def _write_samples(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.toy.samples import write_samples

    write_samples(parsed.out)
    log(make_console(stderr=True), f"{parsed.out}: wrote a sample of each benchmark")


def _choose_splits(requested: Sequence[str] | None, available: Sequence[str], name: str) -> Sequence[str]:
    """Returns the requested splits, or all available ones if none are requested. Raises UserError if one is not available.

    name: of the benchmark, for messages.
    """
    for split in requested or ():
        if split not in available:
            raise UserError(f"--split {split}: {name} has no such split; use one of {', '.join(map(escaped, available))}")
    return requested or available


@contextlib.contextmanager
def _progress_bars() -> Iterator[Progress]:
    """Shows progress bars on stderr during the body."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        yield progress


def _check_benchmark(parsed: argparse.Namespace) -> None:
    """Reads all records of a benchmark and prints a table and the problems. Exits with code 1 if there are problems."""
    from rich.table import Table

    from hyperseg_jax.datasets import built, files, layouts
    from hyperseg_jax.datasets.check import Report, check_by_split

    open_split: Any
    options = dict(_parse_option(text) for text in parsed.option)
    if parsed.name == BUILT:
        if options:
            raise UserError(f"--option {parsed.option[0]}: the records of a build have no options; leave it out")
        splits = _choose_splits(parsed.split, built.list_splits(parsed.root), parsed.root)
        open_split = functools.partial(built.open_checked, parsed.root)
    else:
        layout = layouts.find_layout(parsed.name)
        splits = _choose_splits(parsed.split, layout.splits, parsed.name)
        files.existing_folder(parsed.root)
        for split in splits:
            layout.check_options(f"--option: the reader of {parsed.name}", split, options)
        open_split = functools.partial(layout.open, parsed.root, **options)
    reports: dict[str, Report] = {}
    with _progress_bars() as progress:
        for split in splits:
            bar = progress.add_task(escape_markup(f"{parsed.name} {split}"), total=None)
            advance = functools.partial(progress.update, bar)
            reports |= check_by_split(functools.partial(open_split, split), split, advance)
    console = make_console()
    table = Table("split", "examples", "images", "prompts", "masks", "regions", "problems")
    for split, report in reports.items():
        counts = (
            report.examples,
            len(report.collected.sizes),
            report.prompts,
            report.masks,
            report.regions,
            report.problem_count,
        )
        table.add_row(escape_markup(split), *map(str, counts))
    console.print(table)
    for split, report in reports.items():
        for note in report.notes:
            log(console, f"{escaped(split)}: {note}")
        for message, kind in list(report.collected.problems.items())[: parsed.show]:
            console.print(f"[red]{kind}[/] {escape_markup(message)}", highlight=False, soft_wrap=True)
        if report.problem_count > parsed.show:
            kinds = ", ".join(f"{count} {kind}" for kind, count in report.collected.counts.items() if count)
            log(console, f"{escaped(split)}: {report.problem_count} problems in total: {kinds}")
    if any(report.problem_count for report in reports.values()):
        raise SystemExit(1)


def _build_benchmark(parsed: argparse.Namespace) -> None:
    """Writes the splits of a benchmark as ArrayRecord shards."""
    from hyperseg_jax.datasets import files, layouts
    from hyperseg_jax.datasets.builds.build import Plan, build_split
    from hyperseg_jax.datasets.builds.store import Store

    layout = layouts.find_layout(parsed.name)
    splits = _choose_splits(parsed.split, layout.splits, parsed.name)
    options = dict(_parse_option(text) for text in parsed.option)
    for split in splits:
        layout.check_options(f"--option: the reader of {parsed.name}", split, options)
    if parsed.workers < 1:
        raise UserError(f"--workers {parsed.workers}: give at least 1")
    root = files.existing_folder(parsed.root)
    with _progress_bars() as progress:
        for split in splits:
            settings = {"name": parsed.name, "split": split, "options": options, "files": layout.sizes(root, split)}
            plan = Plan(settings, parsed.shard_size, parsed.long_edge, parsed.skip_bad)
            reader = layout.open(root, split, **options)
            advance = functools.partial(
                progress.update, progress.add_task(escape_markup(f"{parsed.name} {split}"), total=len(reader))
            )
            out = Store(parsed.out).subfolder(split).folder
            index = build_split(reader, out, plan, workers=parsed.workers, verify=parsed.verify, advance=advance)
            line = f"{out}: {index.records} records in {len(index.shards)} shards, {index.bytes / 1e6:.1f} MB"
            if index.bad:
                line += f"; {len(index.bad)} bad records skipped, listed in index.json"
            log(progress.console, line)


def _write_table(parsed: argparse.Namespace) -> None:
    """Writes a split of a benchmark as a table of IFSeg."""
    from hyperseg_jax.datasets import files, layouts
    from hyperseg_jax.datasets.segmentation_table import write_table

    layout = layouts.find_layout(parsed.name)
    (split,) = _choose_splits([parsed.split], layout.splits, parsed.name)
    options = dict(_parse_option(text) for text in parsed.option)
    layout.check_options(f"--option: the reader of {parsed.name}", split, options)
    if not parsed.out.parent.is_dir():
        raise UserError(f"--out {parsed.out}: its folder does not exist; create it")
    reader = layout.open(files.existing_folder(parsed.root), split, **options)
    with _progress_bars() as progress:
        bar = progress.add_task(escape_markup(f"{parsed.name} {split}"), total=len(reader))
        write_table(reader, parsed.out, functools.partial(progress.update, bar))
        log(progress.console, f"{parsed.out}: wrote {len(reader)} images")


def _parse_option(text: str) -> tuple[str, Any]:
    """Parses an --option as (name, value), such as "prompts_per_example=4". The value is JSON, True, False, None, or else a
    string."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"--option {text}: give NAME=VALUE, as in prompts_per_example=4")
    if name in SAMPLING_OPTIONS:
        raise UserError(f"--option {text}: set {name} when the build is read, not when it is written (docs/data.md)")
    if value == RANDOM:
        raise UserError(f"--option {text}: a build would keep one draw forever; use the reader of the benchmark (docs/data.md)")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, {"True": True, "False": False, "None": None}.get(value, value)
