"""Reads the objects and referring targets of toy images, for text-control baselines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np

from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example
from hyperseg_jax.toy.readers import open_reader


def read_objects_and_targets(
    folder: str | os.PathLike,
    split: str,
    *,
    limit: int | None = None,
    on_unreadable: Callable[[int, str], None] = lambda index, reason: None,
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yields for each image, or the first `limit`, the object masks [N, H, W], N > 0, and the target [H, W] of each
    expression (empty if absent). on_unreadable(index, reason): called for an unreadable image, which is skipped."""
    images = open_reader(folder, "panoptic", split)
    referring = open_reader(folder, "referring", split, group_by_image=True, prompts_per_example=1000)
    if len(images) != len(referring):
        raise UserError(
            f"{folder}: {split} has {len(images)} images with segments, but expressions for {len(referring)}; write it again"
        )
    for k in range(min(len(images), limit or len(images))):
        try:
            yield _extract_objects_and_targets(images[k], referring[k])
        except GeneratorExit:
            raise
        except BaseException as error:
            on_unreadable(k, record_errors.error_message(error))


def _extract_objects_and_targets(panoptic: Example, referring_example: Example) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the object masks and the targets of one image, from its records with segments and with expressions. Raises
    UserError if there is no object or the images differ."""
    (segments,) = panoptic.prompts
    things = [segments.things[label] for label in segments.labels]
    if segments.masks is None or not any(things):
        raise UserError(f"{panoptic.name}: has no objects; correct or remove it")
    if not np.array_equal(panoptic.frames, referring_example.frames):
        raise UserError(f"{panoptic.name}: is another image than {referring_example.name}; write both files in the same order")
    targets = [np.asarray(prompt.masks.any((0, 1))) for prompt in referring_example.prompts if prompt.masks is not None]
    return segments.masks[things, 0], targets
