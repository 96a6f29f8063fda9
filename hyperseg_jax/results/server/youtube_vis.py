"""YouTube-VIS: a zip of results.json, a list of {video_id, category_id, score, segmentations: [run lengths or null]}."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable

import numpy as np

from hyperseg_jax.ops.run_lengths import encode
from hyperseg_jax.results.server.atomic_zip import atomic_zip


def write(path: pathlib.Path, rows: Iterable[tuple[int, int, float, np.ndarray]]) -> None:
    """Writes all instances. rows: (video id, category id, score, masks bool [T, H, W] of all its frames) of every instance."""
    instances = [
        {
            "video_id": video,
            "category_id": category,
            "score": float(score),
            "segmentations": [encode(mask) if mask.any() else None for mask in masks],
        }
        for video, category, score, masks in rows
    ]
    with atomic_zip(path) as file:
        file.writestr("results.json", json.dumps(instances))
