"""From the data block of a config to tasks: readers of training and validation records, and how an example becomes arrays."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from rich.console import Console

from hyperseg_jax import datasets, toy
from hyperseg_jax.cache import cache_folder
from hyperseg_jax.data.augment import Augment
from hyperseg_jax.data.mixture import MIXED, cycle
from hyperseg_jax.data.processor import Batch, Processor
from hyperseg_jax.datasets import layouts, record_errors
from hyperseg_jax.datasets.built import Built
from hyperseg_jax.datasets.reader_fields import check_fields
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted import limits, printing, stores
from hyperseg_jax.untrusted.printing import shown_value

# reader name in a config -> what makes it. "toy" has the paths of a written toy world filled in, "benchmark" those of
# datasets/layouts; the others take the paths themselves.
READERS: dict[str, Callable[..., Any]] = {
    "toy": toy.open_reader,
    "benchmark": layouts.open_benchmark,
    "built": Built,
    "ade20k": datasets.Ade20k,
    "cityscapes": datasets.Cityscapes,
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
    "reasonseg": datasets.ReasonSeg,
    "refcoco": datasets.RefCoco,
    "refcoco_refs": datasets.RefCocoRefs,
    "ref_davis": datasets.RefDavis,
    "ref_youtube_vos": datasets.RefYouTubeVos,
    "revos": datasets.ReVos,
    "scienceqa": datasets.ScienceQa,
    "referring_frames": datasets.ReferringFrames,
    "visual_genome": datasets.VisualGenome,
    "vqav2": datasets.VqaV2,
    "youtube_vis": datasets.YouTubeVis,
}


def register_reader(name: str, make: Callable[..., Any]) -> None:
    """Makes a reader known to configs under a name: make(**fields) -> a sequence of Examples. ValueError where another one has
    the name."""
    if READERS.setdefault(name, make) is not make:
        raise ValueError(f"a reader {name!r} is known already")


ROUTING = ("ratio", "reader", "train", "val")  # fields of a task that are no sizes


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of question. train and val: random-access readers of Examples. ratio: how often a batch is of this task; 0
    leaves it to validation. processor: how an example becomes arrays. shared: that of its training batches where they are
    mixed. augment: what is drawn for a training example. controls: (folder, split) of the toy world that val reads referring
    expressions from, None for other tasks and data."""

    name: str
    train: Sequence[Example] | None
    val: Sequence[Example] | None
    ratio: int
    processor: Processor
    augment: Augment = dataclasses.field(default_factory=Augment)
    controls: tuple[str, str] | None = None
    shared: Processor | None = None

    @property
    def trained(self) -> Processor:
        """That of the batches that it is trained in."""
        return self.shared or self.processor

    def prepare(self, example: Example, rng: np.random.Generator) -> Batch:
        """A training example as arrays, with the random changes that keep its meaning."""
        frames, prompts = example.frames[: self.processor.frames], example.prompts[: self.processor.prompts]
        changed, fill = self.augment(dataclasses.replace(example, frames=frames, prompts=prompts), rng)
        return self.trained(changed, train=True, rng=rng, fill=fill)

    def blank(self) -> Batch:
        """What stands for a training example that cannot be read."""
        return self.trained.blank()


def build(
    config: ml_collections.ConfigDict, system: Any, *, console: Console, for_training: bool = True, split: str = "val"
) -> dict[str, Task]:
    """The tasks of config.data; draws the toy world first where the config asks for one that is not there yet. UserError where
    data.root is empty and a task reads other data.

    for_training: else training records are neither drawn nor read. split: the toy split to validate on.
    """
    data = config.data
    tokenizer = system.tokenizer(config)
    root = root_of(data, console, for_training=for_training)
    own = {name: processor(config, system, tokenizer, name) for name in data.tasks}
    shared = processor(config, system, tokenizer, MIXED) if programs(config) == (MIXED,) else None
    if unknown := [name for name in data.get("augment", {}) if name not in data.tasks]:
        raise UserError(f"data.augment.{unknown[0]}: no such task; use one of {', '.join(data.tasks)}")
    tasks = {}
    for name, block in data.tasks.items():
        where, fields = f"data.tasks.{name}", block.to_dict()
        if "ratio" not in fields:
            raise UserError(f"{where}: lacks ratio; say how often a batch is of this task")
        ratio, reader, train, val = fields["ratio"], fields["reader"], fields.get("train"), fields.get("val")
        if ratio and train is None:
            raise UserError(f"{where}: ratio {ratio} needs a `train` block with the reader's paths")
        controls = None
        if reader == "toy" and val is not None:
            if split != "val" and val.get("task") == "video":  # clips have no other split
                continue
            val = {**val, "split": split}
            controls = (str(val.get("folder")).replace("{root}", root), split) if val.get("task") == "referring" else None
        taught, scored = (open_reader(where, reader, part, root) for part in (train if for_training else None, val))
        tasks[name] = Task(name, taught, scored, ratio, own[name], augmentation(config, name), controls, shared)
    return tasks


def root_of(data: ml_collections.ConfigDict, console: Console, *, for_training: bool = True) -> str:
    """What {root} stands for: data.root, or where that is empty the toy world of data.toy, drawn where a task reads it and it
    is not there yet; "" where no task has a {root}. UserError where data.root is empty and anything else is read from it."""
    if data.root:
        return str(data.root)
    drawn = False
    for name, block in data.tasks.items():
        fields = block.to_dict()
        for part in ("train", "val"):
            for field, value in (fields.get(part) or {}).items():
                if not isinstance(value, str) or "{root}" not in value:
                    continue
                if fields["reader"] != "toy" or value != "{root}":
                    raise UserError(
                        f"data.root is empty, and data.tasks.{name}.{part}.{field} = {value!r} is read with reader "
                        f"{fields['reader']!r}; give the folder of your data: --config.data.root=FOLDER, or --data-root FOLDER "
                        "of hyperseg evaluate"
                    )
                drawn = True
    if not drawn:
        return ""
    parameters = data.toy.to_dict()
    return str(toy_world(parameters if for_training else parameters | {"train": 0}, console))


def processor(
    config: ml_collections.ConfigDict, system: Any, tokenizer: Tokenizer | None, task: str, **sizes: int
) -> Processor:
    """How the examples of one of the config's tasks become arrays, or those of "mixed" batches, which hold every task with a
    ratio. tokenizer: None where only shapes are asked for. sizes: those that differ from the config's."""
    if task == MIXED:
        taught = cycle({name: block.ratio for name, block in config.data.tasks.items()})
        first, *others = (processor(config, system, tokenizer, name, **sizes) for name in dict.fromkeys(taught))
        return first.widest(others)
    fields = config.data.tasks[task].to_dict() | sizes
    made: Processor = system.processor(config, tokenizer, {name: size for name, size in fields.items() if name not in ROUTING})
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(made.spec(1)))
    limits.check("mask_pixels", numbers, f"data.tasks.{task}: an element", "numbers")
    return made


def augmentation(config: ml_collections.ConfigDict, task: str) -> Augment:
    """What is drawn for a task's training examples: data.horizontal_flip for all, and the fields of data.augment.TASK."""
    block = config.data.get("augment", {}).get(task, {})
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in block.items()}
    check_fields(f"data.augment.{task}: the augmentation", Augment, fields)
    try:
        return Augment(**{"horizontal_flip": config.data.get("horizontal_flip", 0.0), **fields})
    except (TypeError, UserError) as error:
        raise UserError(f"data.augment.{task}: {error}") from error


def programs(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """What the batches of a training are called, and with them the programs of its step: the tasks, or MIXED."""
    return (MIXED,) if config.data.get("batches", "task") == MIXED else tuple(config.data.tasks)


def check_names(config: ml_collections.ConfigDict, where: str) -> None:
    """UserError where validation of a config that is not trusted would open anything but what lies below {root}. where: the
    file, for the message."""
    parameters = [p for make in READERS.values() for p in inspect.signature(make).parameters.values()]
    opened = {p.name for p in parameters if "PathLike" in str(p.annotation)}
    for name, block in config.data.tasks.items():
        for field, value in (block.to_dict().get("val") or {}).items():
            if not isinstance(value, str):
                continue
            parts = value.split("/")
            if value[:1] == "/" or ".." in parts or "://" in value or (field in opened and parts[0] != "{root}"):
                raise UserError(
                    f"{where}: data.tasks.{name}.val.{field} = {shown_value(value)}, and the files of a model name nothing but "
                    "what lies below the folder that you give with --data-root; write {root}/..., if you trust it"
                )


def toy_world(parameters: Mapping[str, Any], console: Console) -> pathlib.Path:
    """The toy world of these parameters in the user's cache folder."""
    code = zlib.crc32(json.dumps([toy.VERSION, dict(parameters)], sort_keys=True).encode())
    folder = cache_folder() / f"toy-{code:08x}"
    if not folder.exists():
        printing.log(console, f"drawing the toy world into {folder} (once)")
        toy.write(folder, **parameters, workers=min(4, os.cpu_count() or 1), say=lambda _: None)
    return folder


def open_reader(where: str, name: str, arguments: Mapping[str, Any] | None, root: str) -> Any:
    """A reader of READERS with its fields, {root} filled in; None for no fields. where: what asks for it, for messages."""
    if arguments is None:
        return None
    if name not in READERS:
        raise UserError(f"{where}.reader = {name!r}: use one of {', '.join(READERS)}")
    placed = {k: v.replace("{root}", root) if isinstance(v, str) else v for k, v in arguments.items()}
    check_fields(f"{where}: reader {name!r}", READERS[name], placed)
    for value in placed.values() if name != "built" else ():
        if isinstance(value, str):
            stores.check_local(value)
    with record_errors.opening(f"{where}: reader {name!r}"):
        reader = READERS[name](**placed)
    limits.check("records", len(reader), where, "records")
    return reader
