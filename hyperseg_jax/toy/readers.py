"""Opens readers of a written toy world."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hyperseg_jax.datasets import (
    CategoryBoxes,
    CocoInteractive,
    CocoPanoptic,
    Davis2017,
    Llava,
    ReasonSeg,
    RefCoco,
    ReVos,
    VisualGenome,
    YouTubeVis,
)
from hyperseg_jax.datasets.files import subpath
from hyperseg_jax.datasets.reader_fields import check_fields
from hyperseg_jax.errors import UserError
from hyperseg_jax.toy import captions
from hyperseg_jax.toy.toy_images import SPLITS
from hyperseg_jax.toy.writer import REVOS_NAMES, read_world

CATEGORY = "category"
"""The task of captions that are only the category names of objects, for weak supervision."""
INSTANCES = "instances"
"""The task of class lists on videos."""
VIDEO_OBJECTS = "video_objects"
"""The task of videos whose objects are drawn on the first frame; needs a world with videos="occlusion"."""
CLIPS = ("video", INSTANCES, VIDEO_OBJECTS)
"""The tasks on videos."""
TASKS = ("referring", "reasoning", "panoptic", "region", *CLIPS, "chat", "caption", CATEGORY)


def open_reader(folder: str | os.PathLike, task: str, split: str, **options: Any) -> Any:
    """Returns the reader of one task of a toy world.

    task: one of TASKS. split: "train", "val" or "compositional" (which has no videos). options: those of the reader's class in
    datasets. Raises UserError if the world has no such split.
    """
    world = read_world(folder)
    splits = [name for name in SPLITS if (world.clip_count(name) if task in CLIPS else world.image_count(name))]
    if split not in splits:
        raise UserError(f"{folder}: no split {split!r} for {task}; it has {', '.join(splits) or 'none'}")
    if task == VIDEO_OBJECTS and not world.has_tracks:
        raise UserError(f"{folder}: has no objects for task {task!r}; write a world with videos='occlusion'")
    reader, names = _reader_and_files(task, split)
    paths = {name: subpath(folder, file) for name, file in names.items()}
    fixed: dict[str, Any] = dict(paths)
    added = {"caption": ("folder", "captions"), INSTANCES: ("json_path", "class lists of videos")}
    if task in added and not paths[added[task][0]].exists():
        what = added[task][1]
        raise UserError(f"{folder}: was written by an earlier version, without {what}; delete it and write it again")
    if task == VIDEO_OBJECTS:
        fixed |= {"split": split, "resolution": ""}
    if task == "caption":
        fixed["split"] = split
    check_fields(f"the toy reader of task {task!r}", reader, options, fixed=fixed)
    return reader(**fixed, **options)


def _reader_and_files(task: str, split: str) -> tuple[Callable[..., Any], dict[str, str]]:
    images, notes = f"coco/{split}", "coco/annotations"
    if task == "referring":
        return RefCoco, {"json_path": f"refcoco/refcoco_{split}.json", "image_root": images}
    if task == "panoptic":
        pngs = f"{notes}/panoptic_{split}"
        return CocoPanoptic, {"json_path": f"{pngs}.json", "image_root": images, "png_root": pngs}
    if task == "reasoning":
        return ReasonSeg, {"folder": f"reasonseg/{split}", "explanations": f"reasonseg/explanatory/{split}.json"}
    if task == "region":
        return CocoInteractive, {"json_path": f"interactive/coco_interactive_{split}.json", "image_root": images}
    if task == "chat":
        return Llava, {"json_path": f"llava/llava_{split}.json", "image_root": "coco"}
    if task == "caption":
        return VisualGenome, {"folder": captions.FOLDER}
    if task == CATEGORY:
        return CategoryBoxes, {"json_path": f"{notes}/instances_{split}.json", "image_root": images}
    if task == INSTANCES:
        return YouTubeVis, {"json_path": f"youtube_vis/{split}.json", "frame_root": "revos/JPEGImages"}
    if task == VIDEO_OBJECTS:
        return Davis2017, {"root": "revos"}
    if task != "video":
        raise UserError(f"task={task!r} is unknown; choose one of {', '.join(TASKS)}")
    meta = f"revos/meta_expressions_{REVOS_NAMES[split]}_.json"
    return ReVos, {"meta_path": meta, "mask_path": "revos/mask_dict.json", "frame_root": "revos/JPEGImages"}
