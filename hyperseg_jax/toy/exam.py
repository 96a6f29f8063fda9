"""The referring exam of a toy world: things and targets of each picture."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from hyperseg_jax.toy.readers import open_reader


def objects_and_targets(folder: str | os.PathLike, split: str) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """For each picture the masks of its things [N, H, W] and the target [H, W] of each expression (empty: absent)."""
    pictures = open_reader(folder, "panoptic", split)
    spoken = open_reader(folder, "referring", split, group_by_image=True, prompts_per_example=1000)
    for shown, asked in zip((pictures[k] for k in range(len(pictures))), spoken, strict=True):
        (segments,) = shown.prompts
        things = [segments.things[label] for label in segments.labels]
        yield segments.masks[things, 0], [prompt.masks.any((0, 1)) for prompt in asked.prompts]
