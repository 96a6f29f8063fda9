"""Captions of single objects, in the files of Visual Genome: region_descriptions.json, image_data.json, densecap_splits.json.

Captions have a random stream of their own, so that they change no other part of a toy world.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.toy.scenes import Scene
from hyperseg_jax.toy.toy_images import SPLITS, World
from hyperseg_jax.toy.vocabulary import SIZE, add_article

FOLDER, IMAGES = "visual_genome", "VG_100K"
PLACED, BACKGROUND = 0.5, 0.75
"""A caption also names the place of its object if a random number is below the first, and else its background if it is below
the second."""
IDS = 1_000_000
"""Image ids of each split start at a multiple of this number."""
REGIONS = 100
"""Region ids of an image start at a multiple of this number."""


def write_caption(scene: Scene, k: int, rng: np.random.Generator) -> str:
    """Returns a caption of object k: its size, colour and shape, and sometimes where it is."""
    thing, draw = scene.things[k], rng.random()
    text = add_article(f"{thing.size} {thing.name}")
    if draw < PLACED:
        return f"{text} {_name_place(thing.x, thing.y)}"
    return f"{text} on {scene.background}" if draw < BACKGROUND else text


def _name_place(x: float, y: float) -> str:
    """Names the cell of a 3 x 3 grid that contains a point: "at the top left", "on the right", "in the middle"."""
    row, column = (min(2, int(3 * at / SIZE)) for at in (y, x))
    rows, columns = ("top", "", "bottom"), ("left", "", "right")
    place = f"{rows[row]} {columns[column]}".strip()
    if not place:
        return "in the middle"
    return f"{'at' if rows[row] else 'on'} the {place}"


def write_captions(world: World, split: str, index: int, scene: Scene) -> list[str]:
    """Returns the captions of the objects of an image."""
    rng = world.rng(split, "caption", index)
    return [write_caption(scene, k, rng) for k in range(len(scene.things))]


def build_regions(captions: Sequence[str], boxes: Sequence[Sequence[int]], split: str, index: int) -> dict[str, Any]:
    """Returns the record of an image in region_descriptions.json. boxes: [x, y, width, height] of each object."""
    image_id = SPLITS.index(split) * IDS + index + 1
    regions = [
        {"region_id": image_id * REGIONS + k, "image_id": image_id, "phrase": text}
        | dict(zip(("x", "y", "width", "height"), box, strict=True))
        for k, (text, box) in enumerate(zip(captions, boxes, strict=True))
    ]
    return {"id": image_id, "regions": regions}


def write_files(
    folder: pathlib.Path, records: Mapping[str, Sequence[dict[str, Any]]], images: Mapping[str, Sequence[pathlib.Path]]
) -> None:
    """Writes the files of Visual Genome. folder: of the toy world. records: of build_regions, by split. images: the files of
    the images, which get a second name."""
    root = folder / FOLDER
    (root / IMAGES).mkdir(parents=True)
    rows = [row for split in records for row in records[split]]
    for row, path in zip(rows, (path for split in records for path in images[split]), strict=True):
        _link(path, root / IMAGES / f"{row['id']}.jpg")
    data = [{"image_id": row["id"], "width": SIZE, "height": SIZE, "url": "", "coco_id": None} for row in rows]
    splits = {split: [row["id"] for row in records[split]] for split in records}
    for name, content in (("region_descriptions", rows), ("image_data", data), ("densecap_splits", splits)):
        (root / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")))


def _link(path: pathlib.Path, other: pathlib.Path) -> None:
    """Gives a file a second name, or copies it if the file system has no such names."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
