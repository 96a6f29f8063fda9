"""Writes the objects of toy videos in the layouts of DAVIS 2017 and YouTube-VIS, and their states, next to the files of ReVOS.

revos/Annotations/<clip>/*.png        object ids as palette indices
revos/ImageSets/2017/{split}.txt      the clips of a split
revos/instances_{split}.json          class lists with the masks of every object
revos/states.json                     {clip: {object id: [state in each frame, one of videos.STATES]}}
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from hyperseg_jax.toy.videos import STATES, Video
from hyperseg_jax.toy.vocabulary import CATEGORY_IDS, SIZE

PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128, 0, 128, 128]
"""The first colours of the DAVIS palette."""


def object_map(video: Video) -> np.ndarray:
    """Returns uint8 [T, H, W]: the object of each pixel, numbered from 1; 0 is background."""
    return (video.masks * np.arange(1, len(video.things) + 1)[:, None, None, None]).max(0).astype(np.uint8)


def add_palette(ids: np.ndarray) -> Image.Image:
    """Returns an image of object ids, uint8 [H, W], as palette indices."""
    image = Image.fromarray(ids)
    image.putpalette(PALETTE)
    return image


def write_object_ids(folder: pathlib.Path, name: str, video: Video) -> None:
    """Writes the object ids of a clip. folder: that of ReVOS."""
    (folder / "Annotations" / name).mkdir(parents=True)
    for t, ids in enumerate(object_map(video)):
        add_palette(ids).save(folder / "Annotations" / name / f"{t:05d}.png")


def describe_objects(video: Video) -> dict[str, Any]:
    """Returns the name and the states of each object of a clip."""
    states = [[STATES[state] for state in row] for row in video.states]
    return {"names": [thing.name for thing in video.things], "states": states}


def write_lists(folder: pathlib.Path, records: Mapping[str, list[dict[str, Any]]]) -> None:
    """Writes all other files. folder: that of ReVOS. records: by split, the name, frames, tracks and the result of
    `describe_objects` of each clip."""
    (folder / "ImageSets" / "2017").mkdir(parents=True)
    states: dict[str, dict[str, list[str]]] = {}
    for split, clips in records.items():
        (folder / "ImageSets" / "2017" / f"{split}.txt").write_text("".join(f"{clip['name']}\n" for clip in clips))
        (folder / f"instances_{split}.json").write_text(json.dumps(_youtube_vis(clips), separators=(",", ":")))
        states |= {clip["name"]: {str(k): row for k, row in enumerate(clip["states"], 1)} for clip in clips}
    (folder / "states.json").write_text(json.dumps(states, separators=(",", ":")))


def _youtube_vis(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the content of a YouTube-VIS file about some clips, with the categories of their objects."""
    size = {"height": SIZE, "width": SIZE}
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, clip in enumerate(clips, 1):
        files = [f"{clip['name']}/{frame}.jpg" for frame in clip["frames"]]
        videos.append({"id": number, **size, "length": len(files), "file_names": files})
        for name, track in zip(clip["names"], clip["tracks"], strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": number,
                    "category_id": CATEGORY_IDS[name],
                    "iscrowd": 0,
                    **size,
                    "segmentations": track,
                }
            )
    used_names = {name for clip in clips for name in clip["names"]}
    categories = [{"id": number, "name": name} for name, number in CATEGORY_IDS.items() if name in used_names]
    return {"videos": videos, "categories": categories, "annotations": annotations}
