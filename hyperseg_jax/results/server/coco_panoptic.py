"""COCO panoptic: predictions.json beside a folder of pngs, predictions/, whose colours code the segments' numbers."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.atomic import atomic_folder, check_replaceable
from hyperseg_jax.results.server.whole_zip import png

NAME = "predictions"


def check(folder: pathlib.Path) -> None:
    """UserError where the folder holds anything else than what `write` has written there."""
    check_replaceable(folder, (f"{NAME}*",))


def write(folder: pathlib.Path, rows: Iterable[tuple[int, str, np.ndarray, Sequence[Mapping[str, Any]]]]) -> None:
    """rows: (image id, name of its png, segment number of each pixel int [H, W] with 0 for none, segments) of every image.

    segments: {"id", "category_id"} in the dataset's own numbers. UserError where the folder holds anything else.
    """
    check(folder)
    annotations = []
    with atomic_folder(folder) as part:
        (part / NAME).mkdir()
        for image, name, ids, segments in rows:
            coded = np.stack([ids & 255, (ids >> 8) & 255, ids >> 16], -1).astype(np.uint8)
            (part / NAME / name).write_bytes(png(coded))
            kept = [{"id": int(row["id"]), "category_id": int(row["category_id"])} for row in segments]
            annotations.append({"image_id": image, "file_name": name, "segments_info": kept})
        (part / f"{NAME}.json").write_text(json.dumps({"annotations": annotations}))
