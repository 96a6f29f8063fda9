"""AP of video instances (YouTube-VIS, Yang et al. 2019): intersections and unions are summed over the frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from hyperseg_jax.metrics.average_precision import MaskAP
from hyperseg_jax.ops.run_lengths import encode


class VideoAP(MaskAP):
    """MaskAP of masks [T, H, W]. The area of an instance is its mean over the frames where it is visible."""

    areas = ((0, 1e10), (0, 128**2), (128**2, 256**2), (256**2, 1e10))

    def _encode_mask(self, mask: np.ndarray) -> list[Any]:
        return [encode(frame) if frame.any() else None for frame in mask]

    def _mask_area(self, segmentation: list[Any]) -> float:
        areas = [float(coco_mask.area(frame)) for frame in segmentation if frame is not None]
        return float(np.mean(areas)) if areas else 0.0

    def _pairwise_iou(self, ours: list[Any], theirs: list[Any], crowd: list[int]) -> Any:
        if not ours or not theirs:
            return []
        return np.array([[_video_iou(mine, true) for true in theirs] for mine in ours])


def _video_iou(ours: list[Any], theirs: list[Any]) -> float:
    intersection = union = 0.0
    for pair in zip(ours, theirs, strict=True):
        visible = [frame for frame in pair if frame is not None]
        if visible:
            union += float(coco_mask.area(coco_mask.merge(visible)))
        if len(visible) == 2:
            intersection += float(coco_mask.area(coco_mask.merge(visible, intersect=True)))
    return intersection / union if union else 0.0
