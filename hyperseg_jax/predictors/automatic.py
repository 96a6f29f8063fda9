"""Finds everything in an image by prompting a grid of points, as SAM's automatic mode does (Kirillov et al. 2023)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from hyperseg_jax.errors import UserError
from hyperseg_jax.results.proposals import suppress_overlaps
from hyperseg_jax.structs import Prediction, Region

if TYPE_CHECKING:
    from hyperseg_jax.predictors.model import Model

EDGE = 20
"""Pixels from the border of a crop within which a box is cut off by it."""


@dataclasses.dataclass(frozen=True)
class AutomaticOptions:
    """Settings of the automatic mode, with the names and defaults of SAM's authors.

    points_per_side: points of the grid along a side. points_per_batch: points that are prompted at once. pred_iou_thresh: masks
    whose expected IoU is not larger are dropped; 0 keeps all. stability_score_thresh: masks are dropped whose areas at the
    logits +- stability_score_offset have a smaller ratio; 0 keeps all. box_nms_thresh: of two masks whose boxes have a larger
    IoU, the one with the smaller expected IoU is dropped; 1 keeps all. crop_n_layers: layers of crops beside the whole image;
    layer i has 2^i crops along a side, which overlap by crop_overlap_ratio; crop_nms_thresh is for masks of different crops.
    crop_n_points_downscale_factor: layer i has points_per_side / factor^i points along a side.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]]
        bounds = {"points_per_side": (1, 256), "points_per_batch": (1, 4096), "crop_n_layers": (0, 4)}
        bounds |= {
            "crop_n_points_downscale_factor": (1, 16),
            "crop_overlap_ratio": (0, 0.9),
            "stability_score_offset": (0, 100),
        }
        names = ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh")
        for name, (low, high) in {**bounds, **dict.fromkeys(names, (0, 1))}.items():
            value = getattr(self, name)
            is_number = isinstance(value, int if isinstance(getattr(type(self), name), int) else int | float)
            if isinstance(value, bool) or not is_number or not low <= value <= high:
                raise UserError(f"{name} = {str(value)[:40]}: give a number from {low} to {high}")


@dataclasses.dataclass(frozen=True)
class AutomaticMasks:
    """The masks of an image; entry n of each array belongs to mask n of `prediction`, whose scores are the expected IoUs.

    boxes: left, top, right, bottom, the first and last pixels. stability: see AutomaticOptions. points: (x, y) that prompted
    the mask. crops: left, top, right, bottom of the crop in which it was found.
    """

    prediction: Prediction
    boxes: Float64[np.ndarray, "N 4"]
    stability: Float64[np.ndarray, " N"]
    points: Float64[np.ndarray, "N 2"]
    crops: Float64[np.ndarray, "N 4"]

    def __len__(self) -> int:
        return len(self.boxes)


def find_everything(model: Model, image: np.ndarray, options: AutomaticOptions) -> AutomaticMasks:
    """Returns the masks of an image, uint8 [H, W, 3]. Raises UserError if the system has no automatic mode."""
    found = [_search_crop(model, image, crop, layer, options) for crop, layer in _crops(image.shape[:2], options)]
    boxes, scores, stability, points, crops = (np.concatenate(arrays) for arrays in zip(*(f[1:] for f in found), strict=True))
    masks = [mask for each in found for mask in each[0]]
    kept = np.arange(len(masks))
    if len(found) > 1 and len(masks):  # smaller crops see more detail
        areas = (crops[:, 2] - crops[:, 0]) * (crops[:, 3] - crops[:, 1])
        kept = suppress_overlaps(boxes, 1 / areas, options.crop_nms_thresh)
    stacked = np.stack([masks[k] for k in kept]) if len(kept) else np.zeros((0, *image.shape[:2]), bool)
    names = tuple(f"mask {n + 1}" for n in range(len(kept)))
    prediction = Prediction(stacked, scores=tuple(scores[kept].tolist()), names=names)
    return AutomaticMasks(prediction, *(array[kept] for array in (boxes, stability, points, crops)))


def _crops(shape: tuple[int, int], options: AutomaticOptions) -> Iterator[tuple[tuple[int, int, int, int], int]]:
    """Yields (left, top, right, bottom) of the whole image and of the crops of each layer, and their layer. Images of a few
    pixels have fewer crops than the options say: those without a pixel are left out."""
    height, width = shape
    yield (0, 0, width, height), 0
    for layer in range(1, options.crop_n_layers + 1):
        count = 2**layer
        overlap = int(options.crop_overlap_ratio * min(shape) * (2 / count))
        wide, high = (math.ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        for left in (int((wide - overlap) * i) for i in range(count)):
            for top in (int((high - overlap) * i) for i in range(count)):
                right, bottom = min(left + wide, width), min(top + high, height)
                if left < right and top < bottom:
                    yield (left, top, right, bottom), layer


def _search_crop(
    model: Model, image: np.ndarray, crop: tuple[int, int, int, int], layer: int, options: AutomaticOptions
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns masks bool [H, W], boxes, scores, stability, points and crops of what is found in a crop of the image."""
    left, top, right, bottom = crop
    pixels = image[top:bottom, left:right]
    request, geometry = model.request_of_regions(pixels, [Region.from_point((right - left) / 2, (bottom - top) / 2)])
    features = model.engine.encode_image(request)
    side = max(1, options.points_per_side // options.crop_n_points_downscale_factor**layer)
    at = (np.arange(side) + 0.5) / side
    grid = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2) * [right - left, bottom - top]
    scale = np.divide(geometry.filled, geometry.original)[::-1]
    size = min(options.points_per_batch, len(grid))
    limits = (options.pred_iou_thresh, options.stability_score_thresh, options.stability_score_offset)
    thresholds = np.asarray(limits, np.float32)
    masks: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    for first in range(0, len(grid), size):
        chunk = np.zeros((size, 2), np.float32)
        count = len(grid[first : first + size])
        chunk[:count] = grid[first : first + count] * scale
        proposals = model.engine.propose_masks(request, features, chunk, np.arange(size) < count, thresholds)
        kept = np.flatnonzero(np.asarray(proposals.kept))
        if not len(kept):
            continue
        packed = np.asarray(proposals.packed)
        height, width = geometry.original
        for n in kept:
            mask = np.zeros(image.shape[:2], bool)
            mask[top:bottom, left:right] = np.unpackbits(packed[n, :height], axis=-1, count=width)
            masks.append(mask)
        per_point = len(packed) // size
        columns = (proposals.boxes, proposals.scores[:, None], proposals.stability[:, None])
        values = [np.asarray(column, np.float64)[kept] for column in columns]
        values[0] = values[0] + [left, top, left, top]
        rows.append(np.concatenate([*values, grid[first + kept // per_point] + [left, top]], axis=1))
    table = np.concatenate(rows) if rows else np.zeros((0, 8))
    kept = np.flatnonzero(~_is_cut(table[:, :4], crop, image.shape[:2]))
    kept = kept[suppress_overlaps(table[kept, :4], table[kept, 4], options.box_nms_thresh)]
    table, crops = table[kept], np.tile(np.asarray(crop, np.float64), (len(kept), 1))
    return [masks[k] for k in kept], table[:, :4], table[:, 4], table[:, 5], table[:, 6:], crops


def _is_cut(boxes: np.ndarray, crop: tuple[int, int, int, int], shape: tuple[int, int]) -> np.ndarray:
    """Returns whether a box is near a border of its crop that is not a border of the image."""
    whole = np.array([0, 0, shape[1], shape[0]])
    near_crop = np.abs(boxes - np.asarray(crop)) <= EDGE
    near_image = np.abs(boxes - whole) <= EDGE
    return np.asarray((near_crop & ~near_image).any(1))
