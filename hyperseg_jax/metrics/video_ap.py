"""AP of instances in clips (YouTube-VIS, Yang et al. 2019): the IoU of a clip sums over its frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from hyperseg_jax.metrics.average_precision import MaskAP
from hyperseg_jax.ops.run_lengths import encode


class VideoAP(MaskAP):
    """As MaskAP, of masks [T, H, W]. Areas are means over the frames in which a thing is seen."""

    areas = ((0, 1e10), (0, 128**2), (128**2, 256**2), (256**2, 1e10))

    def _encoded(self, mask: np.ndarray) -> list[Any]:
        return [encode(frame) if frame.any() else None for frame in mask]

    def _area(self, segmentation: list[Any]) -> float:
        seen = [float(coco_mask.area(frame)) for frame in segmentation if frame is not None]
        return float(np.mean(seen)) if seen else 0.0

    def _overlaps(self, ours: list[Any], theirs: list[Any], crowd: list[int]) -> Any:
        if not ours or not theirs:
            return []
        return np.array([[_clip_iou(mine, true) for true in theirs] for mine in ours])


def _clip_iou(ours: list[Any], theirs: list[Any]) -> float:
    shared = union = 0.0
    for pair in zip(ours, theirs, strict=True):
        seen = [frame for frame in pair if frame is not None]
        if seen:
            union += float(coco_mask.area(coco_mask.merge(seen)))
        if len(seen) == 2:
            shared += float(coco_mask.area(coco_mask.merge(seen, intersect=True)))
    return shared / union if union else 0.0
