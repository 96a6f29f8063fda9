"""Writes the objects of toy videos in the layout of DAVIS 2017, and their states, next to the files of ReVOS.

revos/Annotations/<clip>/*.png        object ids as palette indices
revos/ImageSets/2017/{split}.txt      the clips of a split
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


def list_states(video: Video) -> list[list[str]]:
    """Returns the state of each object of a clip in each frame."""
    return [[STATES[state] for state in row] for row in video.states]


def write_lists(folder: pathlib.Path, records: Mapping[str, list[dict[str, Any]]]) -> None:
    """Writes all other files. folder: that of ReVOS. records: by split, the "name" and the "states"
    of each clip (`list_states`)."""
    (folder / "ImageSets" / "2017").mkdir(parents=True)
    states: dict[str, dict[str, list[str]]] = {}
    for split, clips in records.items():
        (folder / "ImageSets" / "2017" / f"{split}.txt").write_text("".join(f"{clip['name']}\n" for clip in clips))
        states |= {clip["name"]: {str(k): row for k, row in enumerate(clip["states"], 1)} for clip in clips}
    (folder / "states.json").write_text(json.dumps(states, separators=(",", ":")))
