"""COCO panoptic: predictions.json and a folder predictions/ of PNGs whose colours encode segment ids."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.atomic import atomic_folder, check_replaceable
from hyperseg_jax.results.server.atomic_zip import encode_png

NAME = "predictions"


def check_output_folder(folder: pathlib.Path) -> None:
    """Raises UserError if the folder exists and has files that `write` did not create, which would then be deleted."""
    check_replaceable(folder, (f"{NAME}.json", f"{NAME}/"))


def write(folder: pathlib.Path, rows: Iterable[tuple[int, str, np.ndarray, Sequence[Mapping[str, Any]]]]) -> None:
    """Writes the predictions of all images.

    rows: (image id, PNG name, segment id of each pixel int [H, W], 0 for none, segments) of every image. segments:
    {"id", "category_id"} with the dataset's ids. Raises UserError if the folder contains other files.
    """
    check_output_folder(folder)
    annotations = []
    with atomic_folder(folder) as part:
        (part / NAME).mkdir()
        for image, name, ids, segments in rows:
            colours = np.stack([ids & 255, (ids >> 8) & 255, ids >> 16], -1).astype(np.uint8)
            (part / NAME / name).write_bytes(encode_png(colours))
            segments_info = [{"id": int(row["id"]), "category_id": int(row["category_id"])} for row in segments]
            annotations.append({"image_id": image, "file_name": name, "segments_info": segments_info})
        (part / f"{NAME}.json").write_text(json.dumps({"annotations": annotations}))
