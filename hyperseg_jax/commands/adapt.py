"""hyperseg adapt"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ml_collections
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hyperseg_jax import config as configs
from hyperseg_jax.data import sources
from hyperseg_jax.data.video_files import image_files
from hyperseg_jax.datasets.class_names import CLASS_LISTS
from hyperseg_jax.datasets.class_prompts import SYNONYM, ClassListReader
from hyperseg_jax.datasets.files import existing_folder, subpath
from hyperseg_jax.datasets.layouts import LAYOUTS
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted.printing import escaped, escaped_value, log, make_console
from hyperseg_jax.weights import model_folder

FIRST, LABELS = "image_free", "pseudo_labels"
"""Folders of self-training in --out: the run of the first stage, and its label images."""
CONFIDENCE = 0.5
TOY, TOY_SPLITS = "toy", ("train", "val")
CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(config="")  # accepts overrides of the config that the model gets
    parser.add_argument("--model", required=True, help="a model folder of `hyperseg import-weights`, or a workdir")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder of the run; an interrupted run is resumed")
    named = parser.add_mutually_exclusive_group()
    named.add_argument("--classes", help="comma-separated class names, synonyms with |: 'giraffe|camelopard,grass,tree'")
    named.add_argument("--class-list", choices=CLASS_LISTS, help="the classes of a benchmark")
    images = parser.add_mutually_exclusive_group()
    images.add_argument(
        "--images",
        metavar="BENCHMARK",
        help="train on labelled images instead of images made of words; pixels of other classes are ignored: "
        + ", ".join(_benchmarks()),
    )
    images.add_argument(
        "--pseudo-labels",
        type=pathlib.Path,
        metavar="FOLDER",
        help="then label the images of a folder with the model, and train on these labels (self-training)",
    )
    parser.add_argument("--split", help="split of --images; default: its first")
    parser.add_argument("--confidence", type=float, help=f"lowest probability of a pseudo label (default {CONFIDENCE})")
    parser.add_argument(
        "--validate", metavar="BENCHMARK", help="report the mIoU on labelled images; the same names as --images"
    )
    parser.add_argument("--validation-split", metavar="SPLIT", help="split of --validate; default: its last")
    parser.add_argument("--data-root", default="", help="folder with the files of all benchmarks; default: generated toy data")
    parser.add_argument(
        "--steps", type=int, help="training steps (default: as published, 2000 for IFSeg); with --pseudo-labels, of each stage"
    )
    parser.add_argument("--batch-size", type=int, help="examples per step (default: as published, 16 for IFSeg)")
    parser.add_argument(
        "--accept-changes", action="store_true", help="resume although the images, the recipe or the path of the model changed"
    )
    parser.epilog = "--config.x.y=value changes one field of the config, such as --config.optimizer.learning_rate=1e-5."


def run(parsed: argparse.Namespace) -> None:
    _check_options(parsed)
    console, start = make_console(stderr=True), _open_model(parsed.model)
    classes = _find_classes(parsed, console)
    _check_out(parsed.out, start.folder)
    first = _make_config(parsed, start, classes)
    if parsed.pseudo_labels is None:
        finished = _train(parsed, first, parsed.out, console)
    else:
        finished = _train_on_pseudo_labels(parsed, start, first, classes, console)
    if finished:
        named, out = shlex.quote(",".join(classes)), shlex.quote(str(parsed.out))
        log(console, f"wrote {parsed.out}/model, which segments {len(classes)} classes: {escaped(', '.join(classes))}")
        log(console, f"next: hyperseg predict IMAGE --model {out} --classes {named}")
        if parsed.validate:
            root = f" --data-root {shlex.quote(parsed.data_root)}" if parsed.data_root else ""
            log(console, f"      hyperseg evaluate --model {out}{root}")


@dataclasses.dataclass(frozen=True)
class _Start:
    """The model that the training starts from."""

    folder: pathlib.Path
    config: ml_collections.ConfigDict
    system: systems.System[Any]
    tokenizer: Tokenizer | None


def _check_options(parsed: argparse.Namespace) -> None:
    """Raises UserError for options that are invalid or do nothing."""
    if parsed.classes is None and parsed.class_list is None and parsed.images is None:
        raise UserError("no classes are given; give --classes, --class-list, or --images for those of a benchmark")
    for option, other in (("split", "images"), ("validation_split", "validate")):
        if getattr(parsed, option) is not None and getattr(parsed, other) is None:
            raise UserError(f"--{option.replace('_', '-')} is of --{other}; give both, or remove it")
    for name in ("images", "validate"):
        benchmark = getattr(parsed, name)
        if benchmark is not None and benchmark not in _benchmarks():
            known = ", ".join(_benchmarks())
            raise UserError(f"--{name} {escaped(benchmark)}: is no benchmark of class lists; give one of {known}")
        if benchmark not in (None, TOY) and not parsed.data_root:
            raise UserError(f"--{name} {benchmark}: give --data-root, the folder with the files of all benchmarks")
    for name in ("steps", "batch_size"):
        if getattr(parsed, name) == 0:
            raise UserError(f"--{name.replace('_', '-')} 0: give at least 1")
    if parsed.confidence is not None and not parsed.confidence <= 1:
        raise UserError(f"--confidence {parsed.confidence}: give a probability from 0 to 1")
    if parsed.pseudo_labels is None:
        if parsed.confidence is not None:
            raise UserError("--confidence is of --pseudo-labels; give both, or remove it")
        return
    image_files(existing_folder(parsed.pseudo_labels))
    if parsed.pseudo_labels.resolve() in (parsed.out.resolve(), (parsed.out / LABELS).resolve()):
        raise UserError(f"--out {parsed.out}: would write PNG files between the images of --pseudo-labels; give another folder")


def _open_model(name: str) -> _Start:
    """Opens the config and the tokenizer of a model. Raises UserError for a checkpoint file, and for a system that cannot be
    adapted."""
    if not name:  # such as an unset shell variable; it would mean ./model
        raise UserError("--model: is empty; give a model folder or a workdir")
    if pathlib.Path(name).suffix in CHECKPOINTS and os.path.isfile(name):
        raise UserError(
            f"--model {name}: is a checkpoint file; convert it to a model folder with `hyperseg import-weights {name} --config "
            "CONFIG --tokenizer FOLDER --out MODEL`, and give that"
        )
    folder = model_folder.find_model_folder(name)
    config = model_folder.read_config(folder)
    with model_folder.naming_config(folder):
        system = systems.get(config.system)
        if system.adapt is None:
            able = [each for each in systems.registered_names() if systems.get(each).adapt is not None]
            raise UserError(
                f"--model {name}: is a model of the system {system.name}, which is not adapted to class names; give one of "
                f"{', '.join(able)}, or train it with a config"
            )
        return _Start(folder.resolve(), config, system, system.load_tokenizer(config, folder))


def _find_classes(parsed: argparse.Namespace, console: Console) -> tuple[str, ...]:
    """Returns the classes of the options: those given, or those of the labelled images."""
    if parsed.classes is not None:
        return parse_classes(parsed.classes)
    if parsed.class_list is not None:
        return CLASS_LISTS[parsed.class_list]
    reader, fields = _split_reader(_image_block("--images", parsed.images, parsed.split, 0, ()))
    root = parsed.data_root or str(sources.prepare_toy_world(ml_collections.ConfigDict({"toy": _toy_fields()}), console))
    return tuple(sources.open_reader(f"--images {parsed.images}", reader, fields, root).classes)


def parse_classes(text: str) -> tuple[str, ...]:
    """Returns the classes of a comma-separated list, without spaces around names. Raises UserError for empty names and for
    names that are there twice, also among synonyms."""
    classes = [[name.strip() for name in entry.split(SYNONYM)] for entry in text.split(",")]
    names = Counter(name for entry in classes for name in entry)
    if not all(names):
        raise UserError(f"--classes {escaped_value(text)}: has an empty name; give a name between all commas and |")
    name, count = names.most_common(1)[0]
    if count > 1:
        raise UserError(f"--classes: has {escaped_value(name)} twice; give each name once")
    return tuple(SYNONYM.join(entry) for entry in classes)


def _benchmarks() -> list[str]:
    """Returns the names of the benchmarks whose images have one class list and no sentences."""
    lists = {name: each.reader for name, each in LAYOUTS.items() if "refs_paths" not in each.files}
    return [*(name for name, kind in lists.items() if isinstance(kind, type) and issubclass(kind, ClassListReader)), TOY]


def _image_block(flag: str, name: str, split: str | None, default: int, chosen: tuple[str, ...]) -> dict[str, Any]:
    """Returns the reader of a split of labelled images, with its fields. default: index of the split if none is given. chosen:
    the class list; () for that of the benchmark."""
    block: dict[str, Any] = {"chosen": chosen} if chosen else {}
    if name == TOY:
        return {"reader": TOY, "folder": sources.ROOT, "task": "panoptic", "split": split or TOY_SPLITS[default], **block}
    splits = LAYOUTS[name].splits
    if split is not None and split not in splits:
        raise UserError(f"{flag} {name}: has no split {split!r}; choose one of {', '.join(splits)}")
    return {"reader": "benchmark", "name": name, "root": sources.ROOT, "split": split or splits[default], **block}


def _split_reader(block: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return block["reader"], {field: value for field, value in block.items() if field != "reader"}


def _toy_fields() -> dict[str, Any]:
    """Returns the parameters of the toy world that the shipped configs share."""
    return dict(configs.load("tiny").data.toy)


def _make_config(
    parsed: argparse.Namespace, start: _Start, classes: tuple[str, ...], train: Mapping[str, Any] | None = None
) -> ml_collections.ConfigDict:
    """Returns the config of a run. train: the labelled images; by default those of --images, or none."""
    chosen = classes if parsed.classes is not None or parsed.class_list is not None else ()
    if train is None and parsed.images is not None:
        train = _image_block("--images", parsed.images, parsed.split, 0, chosen)
    val = None
    if parsed.validate is not None:
        val = _image_block("--validate", parsed.validate, parsed.validation_split, -1, classes)
    assert start.system.adapt is not None
    config = start.system.adapt(start.config, start.tokenizer, classes, train=train, val=val)
    with config.unlocked(), config.ignore_type():
        config.init_from = str(start.folder)
        config.data.tokenizer = str(start.folder)
        config.data.root = parsed.data_root
        if not parsed.data_root:
            config.data.toy = _toy_fields()
        config.train.update({name: value for name in ("steps", "batch_size") if (value := getattr(parsed, name))})
    config.lock()
    configs.apply_overrides(config, parsed.overrides)
    configs.check_fields(config, "")
    return config


def _check_out(out: pathlib.Path, model: pathlib.Path) -> None:
    """Raises UserError if the run would overwrite a model that it did not write."""
    if model in (folder.resolve() for run in (out, out / FIRST) for folder in (run, run / "model")):
        raise UserError(f"--out {out}: has the model that the training starts from; give another folder")
    if (out / "model.safetensors").exists():
        raise UserError(f"--out {out}: is a model folder; give a new folder")


def _check_run(parsed: argparse.Namespace, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Raises UserError if the workdir has a run of another model, of other classes, or on other images."""
    has_run = (workdir / "checkpoints").exists() or (workdir / "model").exists()
    if parsed.accept_changes or not (has_run and (workdir / "config.json").exists()):
        return
    before, now = (
        flatten(
            {
                "init_from": each.get("init_from"),
                "data": {"tasks": {n: t.get("train") for n, t in each["data"]["tasks"].items()}},
            }
        )
        for each in (model_folder.read_config(workdir).to_dict(), config.to_dict())
    )
    as_lists = ({path: list(v) if isinstance(v, tuple | list) else v for path, v in each.items()} for each in (before, now))
    if changes := configs.describe_differences(*as_lists):
        raise UserError(f"{workdir}: has a run of another model, class list or images ({changes}); give another --out")


def _train(parsed: argparse.Namespace, config: ml_collections.ConfigDict, workdir: pathlib.Path, console: Console) -> bool:
    """Trains, and returns whether the run is complete; it is not after Ctrl-C."""
    from hyperseg_jax.training.loop import train

    _check_run(parsed, config, workdir)
    train(config, workdir, console=console, accept_changes=parsed.accept_changes)
    return not model_folder.is_unfinished_run(workdir)


def _train_on_pseudo_labels(
    parsed: argparse.Namespace,
    start: _Start,
    first: ml_collections.ConfigDict,
    classes: tuple[str, ...],
    console: Console,
) -> bool:
    """Trains without images, labels the images of a folder, and trains on the labels. Returns whether all is done."""
    from hyperseg_jax.predictors import pseudo_labels
    from hyperseg_jax.predictors.model import Model

    images, labels, first_run = parsed.pseudo_labels.resolve(), subpath(parsed.out, LABELS), subpath(parsed.out, FIRST)
    fields = {"reader": "pseudo_labels", "folder": str(labels.resolve()), "image_root": str(images)}
    second = _make_config(parsed, dataclasses.replace(start, folder=(first_run / "model").resolve()), classes, fields)
    _check_run(parsed, second, parsed.out)
    settings = {"confidence": CONFIDENCE if parsed.confidence is None else parsed.confidence, "steps": first.train.steps}
    pseudo_labels.check_settings(images, classes, labels, **settings)
    log(console, "stage 1 of 2: training on images of words")
    if not _train(parsed, first, first_run, console):
        return False
    columns = (TextColumn("labelling images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=None)
        done = pseudo_labels.label_images(
            lambda: Model.load(first_run),
            images,
            classes,
            labels,
            **settings,
            progress=lambda done, of: progress.update(bar, completed=done, total=of),
        )
    log(console, f"labelled {done.images} images in {labels}; {done.share:.0%} of their pixels have a class")
    if done.skipped:
        log(console, f"{len(done.skipped)} images are skipped, as they cannot be read; the first: {done.skipped[0]}")
    log(console, "stage 2 of 2: training on the labelled images")
    return _train(parsed, second, parsed.out, console)
