"""Builds tasks from the data block of a config: readers of training and validation records, and their processors."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from rich.console import Console

from hyperseg_jax import config_fields, datasets, toy
from hyperseg_jax.cache import cache_folder
from hyperseg_jax.data.augment import Augment
from hyperseg_jax.data.mixture import MIXED, check_ratios
from hyperseg_jax.data.processor import Batch, Processor
from hyperseg_jax.datasets import layouts, record_errors
from hyperseg_jax.datasets.built import Built
from hyperseg_jax.datasets.reader_fields import check_fields
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted import limits, paths, printing, stores
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped_value

# Reader name in a config -> factory. "toy" fills in the paths of a generated toy dataset, "benchmark" those of
# datasets/layouts; all other readers take paths as fields.
READERS: dict[str, Callable[..., Any]] = {
    "toy": toy.open_reader,
    "benchmark": layouts.open_benchmark,
    "built": Built,
    "ade20k": datasets.Ade20k,
    "category_boxes": datasets.CategoryBoxes,
    "cityscapes": datasets.Cityscapes,
    "class_words": datasets.ClassWords,
    "coco_instances": datasets.CocoInstances,
    "coco_visual_prompts": datasets.CocoVisualPrompts,
    "coco_panoptic": datasets.CocoPanoptic,
    "coco_stuff": datasets.CocoStuff,
    "folder": datasets.Folder,
    "gqa": datasets.Gqa,
    "interactive": datasets.CocoInteractive,
    "davis2016": datasets.Davis2016,
    "davis2017": datasets.Davis2017,
    "labelme": datasets.LabelMe,
    "llava": datasets.Llava,
    "mmbench": datasets.MmBench,
    "objects365": datasets.Objects365,
    "pascal_context59": datasets.PascalContext59,
    "pascal_voc20": datasets.PascalVoc20,
    "pascal_voc_objects": datasets.PascalVocObjects,
    "pope": datasets.Pope,
    "prepared": datasets.Prepared,
    "pseudo_labels": datasets.PseudoLabels,
    "reasonseg": datasets.ReasonSeg,
    "refcoco": datasets.RefCoco,
    "refcoco_captions": datasets.RefCocoCaptions,
    "refcoco_refs": datasets.RefCocoRefs,
    "ref_davis": datasets.RefDavis,
    "ref_youtube_vos": datasets.RefYouTubeVos,
    "revos": datasets.ReVos,
    "scienceqa": datasets.ScienceQa,
    "segmentation_table": datasets.SegmentationTable,
    "referring_clips": datasets.ReferringClips,
    "referring_frames": datasets.ReferringFrames,
    "visual_genome": datasets.VisualGenome,
    "vqav2": datasets.VqaV2,
    "youtube_vis": datasets.YouTubeVis,
}


def register_reader(name: str, make: Callable[..., Any]) -> None:
    """Registers a reader for use in configs: make(**fields) -> a sequence of Examples. Raises ValueError if the name is taken
    by another reader."""
    if READERS.setdefault(name, make) is not make:
        raise ValueError(f"a reader {name!r} is already registered")


ROOT = "{root}"
"""Stands for the data folder in the fields of a reader."""
NOT_SIZES = ("ratio", "reader", "train", "val")  # fields of a task that are not sizes of a processor


@dataclasses.dataclass(frozen=True)
class Task:
    """One training and validation task.

    train, val: random-access readers of Examples. ratio: relative frequency in training; 0 means validation only. processor:
    turns examples into arrays. augment: augmentation of training examples. controls: (folder, split) of the toy dataset whose
    referring expressions val reads; None for other tasks and data. shared: the processor of mixed training batches, if batches
    are mixed.
    """

    name: str
    train: Sequence[Example] | None
    val: Sequence[Example] | None
    ratio: int
    processor: Processor
    augment: Augment = dataclasses.field(default_factory=Augment)
    controls: tuple[str, str] | None = None
    shared: Processor | None = None

    @property
    def train_processor(self) -> Processor:
        """The processor of the training batches."""
        return self.shared or self.processor

    def prepare(self, example: Example, rng: np.random.Generator) -> Batch:
        """Augments a training example and turns it into arrays."""
        frames, prompts = example.frames[: self.processor.frames], example.prompts[: self.processor.prompts]
        changed, fill = self.augment(dataclasses.replace(example, frames=frames, prompts=prompts), rng)
        return self.train_processor(changed, train=True, rng=rng, fill=fill)

    def blank(self) -> Batch:
        """Returns the element that replaces an unreadable training example."""
        return self.train_processor.blank()


def build_tasks(
    config: ml_collections.ConfigDict,
    system: Any,
    *,
    console: Console,
    names: Sequence[str] | None = None,
    for_training: bool = True,
    split: str = "val",
) -> dict[str, Task]:
    """Builds the tasks of config.data. Generates the toy dataset first if the config uses it and it does not exist yet.

    names: the tasks to build, None for all; data of other tasks is not opened. for_training: False neither generates nor opens
    training data. split: the split of the toy dataset for validation.
    Raises UserError if data.root is empty and a task reads anything but the toy dataset.
    """
    data = config.data
    for name, block in data.tasks.items():  # before the toy dataset is generated
        _check_task(f"data.tasks.{name}", block.to_dict())
    tokenizer = system.load_tokenizer(config)
    names = tuple(data.tasks) if names is None else names
    root = resolve_root(data, console, names=names, for_training=for_training)
    check_augmentations(config)
    built = {
        name: build_task(
            config, name, make_processor(config, system, tokenizer, name), root, for_training=for_training, split=split
        )
        for name in names
    }
    return share_processor(config, system, tokenizer, {name: task for name, task in built.items() if task is not None})


def check_augmentations(config: ml_collections.ConfigDict) -> None:
    """Raises UserError if data.augment names a task that does not exist."""
    if unknown := [name for name in config.data.get("augment", {}) if name not in config.data.tasks]:
        raise UserError(f"data.augment.{unknown[0]}: no such task; use one of {', '.join(config.data.tasks)}")


def share_processor(
    config: ml_collections.ConfigDict, system: Any, tokenizer: Tokenizer | None, tasks: Mapping[str, Task]
) -> dict[str, Task]:
    """Returns the tasks with the processor of mixed batches, if batches are mixed."""
    shared = make_processor(config, system, tokenizer, MIXED) if program_names(config) == (MIXED,) else None
    return {name: dataclasses.replace(task, shared=shared) for name, task in tasks.items()}


def build_task(
    config: ml_collections.ConfigDict,
    name: str,
    processor: Processor,
    root: str,
    *,
    for_training: bool = True,
    split: str = "val",
) -> Task | None:
    """Builds one task of config.data, without a processor of mixed batches. root: the value of {root}. for_training, split: see
    build_tasks. Returns None if the toy dataset has no such split of the task."""
    where, fields = f"data.tasks.{name}", config.data.tasks[name].to_dict()
    _check_task(where, fields)
    ratio, reader, train, val = fields["ratio"], fields["reader"], fields.get("train"), fields.get("val")
    controls = None
    if reader == "toy" and val is not None:
        if split != "val" and val.get("task") in toy.CLIPS:  # clips have no other split
            return None
        val = {**val, "split": split}
        controls = (str(val.get("folder")).replace(ROOT, root), split) if val.get("task") == "referring" else None
    train_reader, val_reader = (open_reader(where, reader, part, root) for part in (train if for_training else None, val))
    return Task(name, train_reader, val_reader, ratio, processor, make_augmentation(config, name), controls)


def _check_task(where: str, fields: Mapping[str, Any]) -> None:
    """Raises UserError if a task lacks its ratio, or the data to train on."""
    if "ratio" not in fields:
        raise UserError(f"{where}: the field 'ratio' is missing; give the relative frequency of the task")
    if fields["ratio"] and fields.get("train") is None:
        raise UserError(f"{where}: ratio {fields['ratio']} needs a `train` block with the reader's paths")


def resolve_root(
    data: ml_collections.ConfigDict, console: Console, *, names: Sequence[str] | None = None, for_training: bool = True
) -> str:
    """Returns the value of {root}: data.root or, if that is empty, the folder of the toy dataset of data.toy.

    names: the tasks that are read, None for all. The toy dataset is generated if one of them reads it and it does not exist
    yet. Returns "" if none of them uses {root}. Raises UserError if data.root is empty and a path other than the toy dataset
    depends on it.
    """
    if data.root:
        return str(data.root)
    uses_toy = False
    for name in data.tasks if names is None else names:
        fields = data.tasks[name].to_dict()
        for part in ("train", "val"):
            for field, value in _texts_of(fields.get(part) or {}):
                if ROOT not in value:
                    continue
                if fields["reader"] != "toy" or value != ROOT:
                    raise UserError(
                        f"data.root is empty, and data.tasks.{name}.{part}.{field} = {value!r} is read with reader "
                        f"{fields['reader']!r}; give the folder of your data: --config.data.root=FOLDER, or --data-root FOLDER "
                        "of hyperseg evaluate"
                    )
                uses_toy = True
    if not uses_toy:
        return ""
    return str(prepare_toy_world(data, console, for_training=for_training))


def _texts_of(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (field, text) of the fields of a reader: paths and names, also in lists."""
    for field, value in fields.items():
        yield from ((field, text) for text in (value if isinstance(value, list | tuple) else [value]) if isinstance(text, str))


def _with_root(value: Any, root: str) -> Any:
    """Returns a field of a reader with ROOT replaced, also in a list of texts."""
    if isinstance(value, list | tuple):
        return type(value)(_with_root(element, root) for element in value)
    return value.replace(ROOT, root) if isinstance(value, str) else value


def make_processor(
    config: ml_collections.ConfigDict, system: Any, tokenizer: Tokenizer | None, task: str, **sizes: int
) -> Processor:
    """Returns the processor of a task, or of "mixed" batches, which fits every task with a ratio above 0. tokenizer: None
    suffices if only shapes are needed. sizes: array sizes that override those of the config."""
    if task == MIXED:
        ratios = {name: block.ratio for name, block in config.data.tasks.items()}
        check_ratios(ratios)
        trained = [name for name, ratio in ratios.items() if ratio]
        first, *others = (make_processor(config, system, tokenizer, name, **sizes) for name in trained)
        return first.with_common_shape(others)
    fields = config.data.tasks[task].to_dict() | sizes
    sizes = {name: size for name, size in fields.items() if name not in NOT_SIZES}
    try:
        result: Processor = system.processor(config, tokenizer, sizes)
    except UserError as error:
        raise UserError(f"data.tasks.{task}: {error}") from error
    if result.frames > 1 and system.reference_frames(config) is not None:
        _check_clips(f"data.tasks.{task}.train", fields, result.frames)
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(result.spec(1)))
    limits.check_limit("mask_pixels", numbers, f"data.tasks.{task}: an element", "numbers")
    return result


def _check_clips(where: str, fields: Mapping[str, Any], frames: int) -> None:
    """Raises UserError if the training clips of a task with reference frames are not a frame followed by its reference frames.
    fields: of the task. frames: the length of a clip. Readers of images, and registered ones without sampling, are not
    checked."""
    train = fields.get("train")
    if train is None or not _has_sampling(fields.get("reader", ""), train):
        return
    given, wanted = (train.get("frames"), train.get("sampling", "stride")), (frames, "references")
    if given != wanted:
        raise UserError(
            f"{where}: frames = {given[0]}, sampling = {escaped_value(given[1])}, but a clip is a frame and its references; "
            f"give frames = {wanted[0]}, sampling = {wanted[1]!r}, or sizes of the task for a single frame"
        )


def _has_sampling(reader: str, fields: Mapping[str, Any]) -> bool:
    """Returns whether a reader has the field `sampling`, so that it samples clips. fields: its fields in the config."""
    if reader == "toy":
        return fields.get("task") in toy.CLIPS
    layout = layouts.LAYOUTS.get(str(fields.get("name"))) if reader == "benchmark" else None
    make = layout.reader if layout else READERS.get(reader)
    return make is not None and "sampling" in inspect.signature(make).parameters


def make_augmentation(config: ml_collections.ConfigDict, task: str) -> Augment:
    """Returns the augmentation of a task: data.horizontal_flip, overridden by the fields of data.augment.TASK."""
    block = config.data.get("augment", {}).get(task, {})
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in block.items()}
    check_fields(f"data.augment.{task}: the augmentation", Augment, fields)
    try:
        return Augment(**{"horizontal_flip": config.data.get("horizontal_flip", 0.0), **fields})
    except (TypeError, UserError) as error:
        raise UserError(f"data.augment.{task}: {error}") from error


def program_names(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the names of the compiled train steps: one per task, or only MIXED."""
    return (MIXED,) if config.data.get("batches", "task") == MIXED else tuple(config.data.tasks)


def check_untrusted_paths(config: ml_collections.ConfigDict, where: str, root: str) -> None:
    """Raises UserError if validation with an untrusted config would open files outside {root}, also through a link in it.
    where: the config file, for messages. root: the value of {root}; "" for the toy dataset, which is ours."""
    parameters = [p for make in READERS.values() for p in inspect.signature(make).parameters.values()]
    opened = {p.name for p in parameters if "PathLike" in str(p.annotation)}
    for name, block in config.data.tasks.items():
        for field, value in _texts_of(block.to_dict().get("val") or {}):
            what = f"{where}: data.tasks.{name}.val.{field} = {escaped_value(value)}"
            has_root = value.split("/")[0] == ROOT
            rest = value.removeprefix(ROOT) if has_root else value
            is_outside = value[:1] == "/" or ".." in rest.split("/") or "://" in rest or ROOT in rest
            if is_outside or (field in opened and not has_root):
                raise UserError(
                    f"{what}, but a model may only name files below the folder given with --data-root; write {ROOT}/... if you "
                    "trust it"
                )
            if root and has_root:
                try:
                    paths.join_inside(root, rest.strip("/") or ".")
                except BadFile as error:
                    raise UserError(f"{what}: {error}") from error


def prepare_toy_world(data: ml_collections.ConfigDict, console: Console, *, for_training: bool = True) -> pathlib.Path:
    """Returns the folder of the toy dataset of data.toy in the user's cache. Generates the dataset if the folder does not exist
    yet. Raises UserError if data.toy, which may come from an untrusted config.json, is missing or invalid.

    for_training: False leaves out the training images.
    """
    if data.get("toy") is None:
        raise UserError(
            f"data.toy: is missing, but a task reads the toy world; add it ({', '.join(config_fields.TOY_FIELDS)}), or give "
            "the folder of your data (--data-root of hyperseg evaluate)"
        )
    parameters = data.toy.to_dict()
    if problem := next(config_fields.toy_problems(parameters), ""):
        raise UserError(problem)
    if not for_training:
        parameters["train"] = 0
    try:
        toy.World(**{"compositional": 0, **parameters})
    except UserError as error:
        raise UserError(f"data.toy: {error}") from error
    if parameters.get("videos") == "default":
        del parameters["videos"]  # the same world as without the field
    code = hashlib.sha256(json.dumps([toy.VERSION, toy.FILES, parameters], sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / f"toy-{code[:16]}"
    if not folder.exists():
        printing.log(console, f"generating the toy dataset in {folder} (once)")
        toy.write_world(folder, **parameters, workers=min(4, os.cpu_count() or 1), log=lambda _: None)
    return folder


def open_reader(where: str, name: str, arguments: Mapping[str, Any] | None, root: str) -> Any:
    """Opens a reader of READERS with {root} replaced in its fields; None if arguments is None. where: the config entry, for
    messages."""
    if arguments is None:
        return None
    if name not in READERS:
        raise UserError(f"{where}.reader = {name!r}: use one of {', '.join(READERS)}")
    fields = {field: _with_root(value, root) for field, value in arguments.items()}
    check_fields(f"{where}: reader {name!r}", READERS[name], fields)
    for _, value in _texts_of(fields) if name != "built" else ():
        stores.check_local(value)
    with record_errors.opening_reader(f"{where}: reader {name!r}"):
        reader = READERS[name](**fields)
    limits.check_limit("records", len(reader), where, "records")
    return reader
