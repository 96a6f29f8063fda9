"""Writes a toy world in the file formats of the real benchmarks.

coco/{split}/*.jpg, coco/annotations/{panoptic,instances}_{split}.json, coco/annotations/panoptic_{split}/*.png
refcoco/refcoco_{split}.json          the authors' json; images of coco/{split}
interactive/coco_interactive_{split}.json
llava/llava_{split}.json              images below coco/
reasonseg/{split}/*.jpg + *.json, reasonseg/explanatory/{split}.json
visual_genome/*.json, visual_genome/VG_100K/*.jpg    captions; the images of coco/ under another name
revos/JPEGImages/<clip>/*.jpg, revos/meta_expressions_{train,valid}_.json, revos/mask_dict*.json; if videos="occlusion", also
                                      the files of track_files
youtube_vis/{train,val}.json          the classes of the objects in the clips of revos/
toy.json                              the parameters; written last
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from PIL import Image

from hyperseg_jax.atomic import atomic_folder, is_temporary
from hyperseg_jax.datasets import masks
from hyperseg_jax.errors import UserError
from hyperseg_jax.locks.process_lock import process_lock
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.toy import captions, toy_images, track_files
from hyperseg_jax.toy.toy_images import SPLITS, World
from hyperseg_jax.toy.vocabulary import BACKGROUNDS, CATEGORY_IDS, SIZE
from hyperseg_jax.untrusted import paths, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.workers import block_ctrl_c_in_children, exit_with_parent

JPEG_QUALITY = 92
REVOS_NAMES = {"train": "train", "val": "valid"}
REVOS_TYPES = {"reasoning": 1, "absent": 2}
"""ReVOS type_id; every other group is 0, referring."""


def coco_categories(world: World, split: str) -> list[dict]:
    """Returns the COCO panoptic categories of a split: its coloured shapes, and the backgrounds as stuff."""
    used_names = {" ".join(pair) for pair in world.kinds_of(split).allowed} | set(BACKGROUNDS)
    return [
        {
            "id": number,
            "name": name,
            "isthing": int(name not in BACKGROUNDS),
            "supercategory": "background" if name in BACKGROUNDS else name.split()[1],
        }
        for name, number in CATEGORY_IDS.items()
        if name in used_names
    ]


def bounding_box(mask: np.ndarray) -> list[int]:
    """Returns [x, y, width, height] of the bounding box of a mask; zeros if it is empty."""
    if not mask.any():
        return [0, 0, 0, 0]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(line) for line in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)]


def _box_corners(box: list[int]) -> list[int]:
    """Converts [x, y, width, height] to [left, top, right, bottom]."""
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def encode_panoptic(segments: np.ndarray, numbers: list[int]) -> Image.Image:
    """Returns the PNG of COCO panoptic: the segment id of each pixel as r + 256 g + 65536 b. segments: masks [N, H, W].
    numbers: their ids."""
    flat = np.zeros((SIZE, SIZE), np.int64)
    for mask, number in zip(segments, numbers, strict=True):
        flat[mask] = number
    return Image.fromarray(np.stack([flat & 255, (flat >> 8) & 255, flat >> 16], -1).astype(np.uint8))


def build_image_records(world: World, split: str, index: int, drawn: toy_images.ToyImage) -> dict[str, Any]:
    """Returns the records of one image in each JSON file of a split."""
    things, visible_masks = drawn.scene.things, drawn.scene.masks
    name = f"{index:012d}"
    image = {"id": index, "file_name": f"{name}.jpg", "height": SIZE, "width": SIZE}
    anns: list[dict[str, Any]] = []
    for k, (thing, mask) in enumerate(zip(things, visible_masks, strict=True)):
        anns.append(
            {
                "id": index * 10 + k + 1,
                "image_id": index,
                "category_id": CATEGORY_IDS[thing.name],
                "segmentation": run_lengths.encode(mask),
                "area": int(mask.sum()),
                "bbox": bounding_box(mask),
                "iscrowd": 0,
            }
        )
    background = ~visible_masks.any(0)
    segments = [*zip(visible_masks, (thing.name for thing in things), strict=True), (background, drawn.scene.background)]
    segments_info = [
        {
            "id": segment_id(k),
            "category_id": CATEGORY_IDS[category],
            "area": int(mask.sum()),
            "bbox": bounding_box(mask),
            "iscrowd": 0,
        }
        for k, (mask, category) in enumerate(segments)
    ]
    cornered = [{**ann, "bbox": _box_corners(ann["bbox"])} for ann in anns]
    return {
        "image": image,
        "instances": anns,
        "panoptic": {"image_id": index, "file_name": f"{name}.png", "segments_info": segments_info},
        "refcoco": [
            {
                "image_info": image,
                "instruction": [{"sent": expression.text, "raw": expression.text}],
                "anns": [cornered[t] for t in expression.targets],
                "no_target": not expression.targets,
                "group": expression.group,
            }
            for expression in drawn.expressions
        ],
        "interactive": {
            "image": image["file_name"],
            "image_info": image,
            "anns": [
                {**ann, **{f"{kind}_visual_prompt_mask": run_lengths.encode(mark) for kind, mark in marks.items()}}
                for ann, marks in zip(cornered, drawn.marks, strict=True)
            ],
        },
        "llava": {
            "id": f"{split}-{name}",
            "image": f"{split}/{name}.jpg",
            "conversations": [
                {"from": speaker, "value": ("<image>\n" if turn == 0 and speaker == "human" else "") + value}
                for turn, pair in enumerate(drawn.conversation)
                for speaker, value in zip(("human", "gpt"), pair, strict=True)
            ],
        },
    }


def segment_id(k: int) -> int:
    """Returns the id of the k-th segment in a panoptic PNG; the ids are unique, with distinct colours for neighbours."""
    return (k + 1) * 4_968_943 % 2**24


def _draw_and_save_image(world: World, folder: pathlib.Path, item: tuple[str, int]) -> dict:
    """Generates an image, writes it and its panoptic PNG, and returns its records. item: (split, index)."""
    split, index = item
    drawn = toy_images.generate_image(world, split, index)
    records = build_image_records(world, split, index, drawn)
    Image.fromarray(drawn.pixels).save(folder / "coco" / split / f"{index:012d}.jpg", quality=JPEG_QUALITY)
    visible_masks = drawn.scene.masks
    segments = np.concatenate([visible_masks, ~visible_masks.any(0, keepdims=True)])
    numbers = [segment["id"] for segment in records["panoptic"]["segments_info"]]
    png = encode_panoptic(segments, numbers)
    png.save(folder / "coco" / "annotations" / f"panoptic_{split}" / f"{index:012d}.png")
    texts, boxes = captions.write_captions(world, split, index, drawn.scene), list(map(bounding_box, visible_masks))
    return records | {"regions": captions.build_regions(texts, boxes, split, index)}


def _draw_and_save_reasoning(world: World, folder: pathlib.Path, item: tuple[str, int]) -> dict:
    """Generates a reasoning question, writes its image and json, and returns its explanation. item: (split, index)."""
    split, index = item
    scene, pixels, question = toy_images.generate_reasoning_image(world, split, index)
    stem = folder / "reasonseg" / split / f"{index:08d}"
    Image.fromarray(pixels).save(f"{stem}.jpg", quality=JPEG_QUALITY)
    shapes = [
        {"label": "target", "labels": ["target"], "shape_type": "polygon", "group_id": None, "points": outline.tolist()}
        for target in question.targets
        for outline in masks.trace_polygons(scene.masks[target])
    ]
    record = {"text": [question.text], "is_sentence": True, "group": question.group, "shapes": shapes}
    pathlib.Path(f"{stem}.json").write_text(json.dumps(record))
    return {"image": f"{index:08d}.jpg", "query": question.text, "outputs": question.answer}


def _draw_and_save_video(world: World, folder: pathlib.Path, item: tuple[str, int]) -> dict:
    """Generates a video, writes its frames, and returns its records. item: (split, index)."""
    split, index = item
    clip, frames, written = toy_images.generate_video(world, split, index)
    frame_folder = folder / "revos" / "JPEGImages" / f"{split}_{index:05d}"
    frame_folder.mkdir()
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(frame_folder / f"{t:05d}.jpg", quality=JPEG_QUALITY)
    tracks = [[run_lengths.encode(mask) if mask.any() else None for mask in track] for track in clip.masks]
    targets = sorted({target for expression in written for target in expression.targets})
    foreground = np.any(clip.masks[targets], axis=0)
    if world.has_tracks:
        track_files.write_object_ids(folder / "revos", frame_folder.name, clip)
    return {
        "name": frame_folder.name,
        "states": track_files.list_states(clip),
        "frames": [f"{t:05d}" for t in range(len(frames))],
        "tracks": tracks,
        "categories": [CATEGORY_IDS[thing.name] for thing in clip.things],
        "foreground": [run_lengths.encode(mask) for mask in foreground],
        "expressions": [dataclasses.asdict(expression) for expression in written],
    }


def _write_json(path: pathlib.Path, content: Any) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")))


def _write_image_split(world: World, folder: pathlib.Path, split: str, run: Callable) -> list[dict[str, Any]]:
    """Writes the images of a split and their files, except those of captions. Returns the records of captions."""
    records = list(run(_draw_and_save_image, [(split, k) for k in range(world.image_count(split))]))
    annotation_folder = folder / "coco" / "annotations"
    images = [record["image"] for record in records]
    shared = {"info": {"description": "hyperseg_jax toy world"}, "licenses": [], "images": images}
    category_list = coco_categories(world, split)
    _write_json(
        annotation_folder / f"panoptic_{split}.json",
        {**shared, "annotations": [record["panoptic"] for record in records], "categories": category_list},
    )
    _write_json(
        annotation_folder / f"instances_{split}.json",
        {
            **shared,
            "annotations": [ann for record in records for ann in record["instances"]],
            "categories": [{k: v for k, v in row.items() if k != "isthing"} for row in category_list if row["isthing"]],
        },
    )
    referring = [row for record in records for row in record["refcoco"]]
    _write_json(folder / "refcoco" / f"refcoco_{split}.json", [{"new_img_id": k, **row} for k, row in enumerate(referring)])
    _write_json(
        folder / "interactive" / f"coco_interactive_{split}.json",
        [{"new_img_id": k, **record["interactive"]} for k, record in enumerate(records)],
    )
    _write_json(folder / "llava" / f"llava_{split}.json", [record["llava"] for record in records])
    explanations = list(run(_draw_and_save_reasoning, [(split, k) for k in range(world.reasoning_image_count(split))]))
    _write_json(folder / "reasonseg" / "explanatory" / f"{split}.json", explanations)
    return [record["regions"] for record in records]


def _write_videos(world: World, folder: pathlib.Path, run: Callable) -> None:
    mask_dict: dict[str, list] = {}
    foregrounds = {}
    records: dict[str, list[dict[str, Any]]] = {}
    for split, revos_name in REVOS_NAMES.items():
        videos = {}
        records[split] = list(run(_draw_and_save_video, [(split, k) for k in range(world.clip_count(split))]))
        _write_json(folder / "youtube_vis" / f"{split}.json", _build_instances(coco_categories(world, split), records[split]))
        for number, record in enumerate(records[split]):
            first = len(mask_dict)
            mask_dict |= {str(first + k): track for k, track in enumerate(record["tracks"])}
            foregrounds[record["name"]] = {"masks_rle": record["foreground"]}
            videos[record["name"]] = {
                "vid_id": number,
                "height": SIZE,
                "width": SIZE,
                "frames": record["frames"],
                "expressions": {
                    str(k): {
                        "exp": expression["text"],
                        "obj_id": list(expression["targets"]),
                        "anno_id": [first + target for target in expression["targets"]],
                        "type_id": REVOS_TYPES.get(expression["group"], 0),
                        "group": expression["group"],
                    }
                    for k, expression in enumerate(record["expressions"])
                },
            }
        _write_json(folder / "revos" / f"meta_expressions_{revos_name}_.json", {"videos": videos})
    _write_json(folder / "revos" / "mask_dict.json", mask_dict)
    _write_json(folder / "revos" / "mask_dict_foreground.json", foregrounds)
    if world.has_tracks:
        track_files.write_lists(folder / "revos", records)


def _build_instances(categories: list[dict], records: list[dict[str, Any]]) -> dict[str, list]:
    """Returns the content of YouTube-VIS's json: each object of each video, with its class and its mask in each frame."""
    videos: list[dict] = []
    annotations: list[dict] = []
    size = {"height": SIZE, "width": SIZE}
    for number, record in enumerate(records, 1):
        names = [f"{record['name']}/{frame}.jpg" for frame in record["frames"]]
        videos.append({"id": number, **size, "length": len(names), "file_names": names})
        for category, track in zip(record["categories"], record["tracks"], strict=True):
            fields = {"id": len(annotations) + 1, "video_id": number, "category_id": category, "iscrowd": 0}
            annotations.append({**fields, "segmentations": track})
    things = [{"id": row["id"], "name": row["name"]} for row in categories if row["isthing"]]
    return {"videos": videos, "categories": things, "annotations": annotations}


def _write_all(world: World, folder: pathlib.Path, run: Callable) -> None:
    splits = [split for split in SPLITS if world.image_count(split)]
    for name in ("coco/annotations", "refcoco", "interactive", "llava", "reasonseg/explanatory"):
        (folder / name).mkdir(parents=True)
    regions = {}
    for split in splits:
        (folder / "coco" / split).mkdir()
        (folder / "coco" / "annotations" / f"panoptic_{split}").mkdir()
        (folder / "reasonseg" / split).mkdir()
        regions[split] = _write_image_split(world, folder, split, run)
    pixels = {split: sorted((folder / "coco" / split).iterdir()) for split in splits}
    captions.write_files(folder, regions, pixels)
    if world.clips:
        (folder / "revos" / "JPEGImages").mkdir(parents=True)
        (folder / "youtube_vis").mkdir()
        _write_videos(world, folder, run)
    (folder / "toy.json").write_text(json.dumps(world.parameters(), indent=1))


def read_world(folder: str | os.PathLike) -> World:
    """Reads the parameters of a written toy world. Raises UserError if there is none or they are invalid."""
    path = pathlib.Path(folder) / "toy.json"
    try:
        return World(**strict_json.parse(paths.read_file(paths.check_link(path), strict_json.LARGEST), "its content"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no toy world here; write one with `hyperseg data toy --out {folder}`") from error
    except (BadFile, OSError, TypeError) as error:
        raise UserError(f"{path}: not a toy world's parameters ({error}); delete the folder and write it again") from error


def write_world(
    out_dir: str | os.PathLike,
    *,
    seed: int = 0,
    train: int = 2000,
    val: int = 200,
    compositional: int | None = None,
    clips: int = 200,
    level: str = "default",
    kinds: str = "known",
    expressions: int = 6,
    videos: str = "default",
    workers: int = 0,
    log: Callable[[str], None] = print,
) -> pathlib.Path:
    """Generates a toy world and writes it atomically.

    Parameters are those of World; compositional: as many as val by default (none for held-back kinds).
    workers: number of worker processes (0: this process). log: receives a line about the result.
    Returns the folder. Does nothing if the folder already contains the same world; raises UserError if it contains anything
    else.
    """
    if compositional is None:
        compositional = val if kinds == "known" else 0
    world = World(seed, train, val, compositional, clips, level, kinds, expressions, videos=videos)
    out = pathlib.Path(out_dir)
    absolute = out.absolute()
    with process_lock(absolute.parent / f".{absolute.name}.drawn", wait=True):  # another process may be writing it
        if out.exists() and (not out.is_dir() or not all(map(is_temporary, out.iterdir()))):
            if read_world(out) != world:
                raise UserError(f"{out}: contains a toy world with other parameters (toy.json); choose another folder")
            log(f"{out}: this toy world already exists")
            return out
        with atomic_folder(out) as folder, _Runner(world, folder, workers) as run:
            _write_all(world, folder, run)
    log(f"{out}: wrote {train} train, {val} val, {compositional} compositional images and {clips} videos")
    return out


class _Runner:
    """Maps a drawing function over (split, index) pairs, in order, in this or several processes."""

    def __init__(self, world: World, folder: pathlib.Path, workers: int):
        self.fixed = (world, folder)
        context = multiprocessing.get_context("spawn")
        self.pool = concurrent.futures.ProcessPoolExecutor(workers, context, exit_with_parent) if workers else None

    def __enter__(self) -> Callable[[Callable, list], Iterable]:
        return self._run

    def _run(self, draw: Callable, items: list) -> Iterable:
        job = functools.partial(draw, *self.fixed)
        if self.pool is None:
            return map(job, items)
        with block_ctrl_c_in_children():  # the workers start with the first items
            return self.pool.map(job, items, chunksize=16)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a worker process was killed, possibly because memory ran out; run the same command again"
            ) from error
