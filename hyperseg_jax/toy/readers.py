"""The readers of a written toy world, with the paths filled in."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from hyperseg_jax.datasets import CocoInteractive, CocoPanoptic, Llava, ReasonSeg, RefCoco, ReVos
from hyperseg_jax.errors import UserError
from hyperseg_jax.toy.pictures import SPLITS
from hyperseg_jax.toy.writer import REVOS_NAMES, read_world

POINT_RADIUS = 4
SCRIBBLE_RADIUS = 2
"""Pixels; at 192 pixels a side what 10 and 5 are in a photograph."""


def open_reader(folder: str | os.PathLike, task: str, split: str, **options: Any) -> Any:
    """The reader of one task of a toy world.

    task: one of structs.TASKS. split: "train", "val" or "compositional" (which has no clips). options: those of the
    reader's class in data.formats. UserError where the world was written without that split.
    """
    world = read_world(folder)
    root = pathlib.Path(folder)
    there = [name for name in SPLITS if (world.clip_count(name) if task == "video" else world.pictures(name))]
    if split not in there:
        raise UserError(f"{folder}: no split {split!r} for {task}; it has {', '.join(there) or 'none'}")
    coco, notes = root / "coco", root / "coco" / "annotations"
    if task == "referring":
        return RefCoco(root / "refcoco" / f"refcoco_{split}.json", coco / split, **options)
    if task == "panoptic":
        return CocoPanoptic(notes / f"panoptic_{split}.json", coco / split, notes / f"panoptic_{split}", **options)
    if task == "reasoning":
        explanations = root / "reasonseg" / "explanatory" / f"{split}.json"
        return ReasonSeg(root / "reasonseg" / split, explanations=explanations, **options)
    if task == "region":
        options = {"point_radius": POINT_RADIUS, "scribble_radius": SCRIBBLE_RADIUS} | options
        return CocoInteractive(root / "interactive" / f"coco_interactive_{split}.json", coco / split, **options)
    if task == "chat":
        return Llava(root / "llava" / f"llava_{split}.json", coco, **options)
    if task == "video":
        revos = root / "revos"
        meta = revos / f"meta_expressions_{REVOS_NAMES[split]}_.json"
        return ReVos(meta, revos / "mask_dict.json", revos / "JPEGImages", **options)
    raise UserError(f"task={task!r} is unknown; choose referring, reasoning, panoptic, region, video or chat")
