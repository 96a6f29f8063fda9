"""The referring controls of a toy world: things and targets of each image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np

from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example
from hyperseg_jax.toy.readers import open_reader


def objects_and_targets(
    folder: str | os.PathLike,
    split: str,
    *,
    limit: int | None = None,
    unread: Callable[[int, str], None] = lambda index, reason: None,
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """For each image, or the first `limit`, the masks of its things [N, H, W], N > 0, and the target [H, W] of each
    expression (empty: absent). unread: told of an image that cannot be read, and why; it is left out."""
    images = open_reader(folder, "panoptic", split)
    spoken = open_reader(folder, "referring", split, group_by_image=True, prompts_per_example=1000)
    if len(images) != len(spoken):
        raise UserError(
            f"{folder}: {split} has {len(images)} images with segments, and expressions about {len(spoken)}; draw it again"
        )
    for k in range(min(len(images), limit or len(images))):
        try:
            yield _of_image(images[k], spoken[k])
        except GeneratorExit:
            raise
        except BaseException as error:
            unread(k, record_errors.reason(error))


def _of_image(shown: Example, asked: Example) -> tuple[np.ndarray, list[np.ndarray]]:
    (segments,) = shown.prompts
    things = [segments.things[label] for label in segments.labels]
    if segments.masks is None or not any(things):
        raise UserError(f"{shown.name}: has no things; correct or remove it")
    if not np.array_equal(shown.frames, asked.frames):
        raise UserError(f"{shown.name}: is another image than {asked.name}; write both files in one order")
    targets = [np.asarray(prompt.masks.any((0, 1))) for prompt in asked.prompts if prompt.masks is not None]
    return segments.masks[things, 0], targets
