"""COCO mask AP. pycocotools matches and accumulates; this module stores its matches so that hosts can be merged."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from hyperseg_jax.metrics.sums import is_list
from hyperseg_jax.ops.run_lengths import encode

NAMES = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar@1",
    "ar@10",
    "ar@100",
    "ar_small",
    "ar_medium",
    "ar_large",
)


MAX_TARGETS, MAX_CELLS = 2**24, 2**27
"""Limits of a restored state: number of targets, and of images x classes x areas."""


class MaskAP:
    """AP and AR of scored instances over 10 IoU thresholds, as summarized by COCOeval.

    Each image is matched by update(), and only its matches are stored under its name. So the state is small, the order of
    images does not matter, and no image is counted twice.
    """

    areas: Sequence[Sequence[float]] = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
    """Pixels: all, small, medium and large."""

    def __init__(self) -> None:
        self._images: dict[str, dict[str, dict[str, Any]]] = {}  # name -> class -> matches

    def update(
        self,
        name: str,
        predicted: np.ndarray,
        scores: Sequence[float],
        predicted_classes: Sequence[str],
        target: np.ndarray,
        target_classes: Sequence[str],
        crowd: Sequence[bool] = (),
        target_areas: Sequence[float] = (),
    ) -> None:
        """Adds one image or video. predicted [P, ...], target [N, ...]: bool masks [H, W], or [T, H, W] for videos.

        name: of the image; ValueError if it was added before. crowd: whether each target is a crowd; none by default.
        target_areas: areas in the annotations (of polygons); mask areas by default.
        """
        if name in self._images:
            raise ValueError(f"{name} was scored before; add each image once")
        ours = [
            self._make_coco_record(k, mask, kind, score=float(score))
            for k, (mask, score, kind) in enumerate(zip(predicted, scores, predicted_classes, strict=True), 1)
        ]
        crowds = crowd or [False] * len(target)
        areas: Sequence[float | None] = target_areas or [None] * len(target)
        theirs = [
            self._make_coco_record(k, mask, kind, area=area, iscrowd=int(is_crowd), ignore=int(is_crowd))
            for k, (mask, kind, is_crowd, area) in enumerate(zip(target, target_classes, crowds, areas, strict=True), 1)
        ]
        kinds = sorted({record["class"] for record in (*ours, *theirs)})
        self._images[name] = {
            kind: self._match_class([r for r in ours if r["class"] == kind], [r for r in theirs if r["class"] == kind])
            for kind in kinds
        }

    def _make_coco_record(
        self, number: int, mask: np.ndarray, kind: str, *, area: float | None = None, **fields: Any
    ) -> dict[str, Any]:
        segmentation = self._encode_mask(mask)
        mask_area = self._mask_area(segmentation) if area is None else area
        return {"id": number, "class": kind, "segmentation": segmentation, "area": mask_area, **fields}

    def _encode_mask(self, mask: np.ndarray) -> Any:
        return encode(mask)

    def _mask_area(self, segmentation: Any) -> float:
        return float(coco_mask.area(segmentation))

    def _pairwise_iou(self, ours: list[Any], theirs: list[Any], crowd: list[int]) -> Any:
        """Returns IoU [P, N]; for crowds, the intersection over the area of the prediction."""
        return coco_mask.iou(ours, theirs, crowd)

    def _match_class(self, ours: list[dict], theirs: list[dict]) -> dict[str, Any]:
        """Matches one class of one image.

        Returns scores [D], best first, and for each area range the matched and ignored detections, as one bit per IoU
        threshold, and the number of targets ("targets").
        """
        tool = self._make_evaluator()
        limit = tool.params.maxDets[-1]
        best = [ours[k] for k in np.argsort([-r["score"] for r in ours], kind="mergesort")[:limit]]
        tool._gts, tool._dts = defaultdict(list, {(0, 0): theirs}), defaultdict(list, {(0, 0): ours})
        crowd = [r["iscrowd"] for r in theirs]
        overlaps = self._pairwise_iou([r["segmentation"] for r in best], [r["segmentation"] for r in theirs], crowd)
        tool.ious = {(0, 0): overlaps}
        matches = [tool.evaluateImg(0, 0, area, limit) for area in self.areas]
        return {
            "scores": matches[0]["dtScores"],
            "matched": [_pack_bits(row["dtMatches"] > 0) for row in matches],
            "ignored": [_pack_bits(row["dtIgnore"]) for row in matches],
            "targets": [int(np.sum(np.asarray(row["gtIgnore"]) == 0)) for row in matches],
        }

    def _make_evaluator(self) -> COCOeval:
        with contextlib.redirect_stdout(io.StringIO()):
            tool = COCOeval(iouType="segm")
        tool.params.areaRng = [list(area) for area in self.areas]
        return tool

    def merge(self, other: Self) -> None:
        """Adds the images of another accumulator. Raises ValueError if both contain the same image."""
        duplicates = sorted(self._images.keys() & other._images.keys())
        if duplicates:
            raise ValueError(f"{', '.join(duplicates[:5])}: scored twice; add each image once")
        self._images |= other._images

    @property
    def updates(self) -> int:
        """The number of images."""
        return len(self._images)

    def names(self) -> tuple[str, ...]:
        """Returns every score that compute() can return."""
        return (*NAMES, "count")

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON-compatible values."""
        return {"options": {}, "images": self._images}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Restores an accumulator. Raises ValueError, TypeError or KeyError for an invalid state."""
        restored = cls()
        for name, kinds in state["images"].items():
            if not all(_is_valid_matches(matches, len(cls.areas)) for matches in kinds.values()):
                raise ValueError(f"{name!r} has matches in an unexpected format")
        kinds = {kind for matches in state["images"].values() for kind in matches}
        num_targets = sum(sum(matches["targets"]) for kinds in state["images"].values() for matches in kinds.values())
        if num_targets > MAX_TARGETS or len(kinds) * len(state["images"]) * len(cls.areas) > MAX_CELLS:
            raise ValueError(
                f"it has {num_targets} targets, {len(kinds)} classes and {len(state['images'])} images, more than any benchmark"
            )
        restored._images = {name: dict(kinds) for name, kinds in state["images"].items()}
        return restored

    def compute(self) -> dict[str, float]:
        """Returns {"ap", "ap50", "ap75", "ap_small", ..., "ar@100", ..., "count"}, without scores that have no targets."""
        names = sorted(self._images)
        kinds = sorted({kind for image in self._images.values() for kind in image})
        scores = {"count": float(len(names))}
        if not kinds:
            return scores
        tool = self._make_evaluator()
        tool.params.imgIds, tool.params.catIds = list(range(len(names))), list(range(len(kinds)))
        tool._paramsEval = tool.params
        count = len(tool.params.iouThrs)
        tool.evalImgs = [
            _unpack_matches(self._images[name].get(kind), a, count)
            for kind in kinds
            for a in range(len(self.areas))
            for name in names
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            tool.accumulate()
            tool.summarize()
        return {key: float(value) for key, value in zip(NAMES, tool.stats, strict=True) if value >= 0} | scores


def _pack_bits(flags: np.ndarray) -> list[int]:
    """Packs bool [T, D] into D integers, bit t for threshold t."""
    return (flags.astype(np.int64) << np.arange(len(flags))[:, None]).sum(0).tolist()


def _is_valid_matches(matches: Mapping[str, Any], areas: int) -> bool:
    """Returns whether a value has the format of the matches of one class of one image."""
    are_integers = lambda values, length, below: (
        is_list(values, int) and len(values) == length and all(0 <= value < below for value in values)
    )
    return (
        is_list(matches["scores"], float)
        and all(
            is_list(matches[key], list)
            and len(matches[key]) == areas
            and all(are_integers(row, len(matches["scores"]), 2**16) for row in matches[key])
            for key in ("matched", "ignored")
        )
        and are_integers(matches["targets"], areas, MAX_TARGETS)
        and all(map(_has_enough_targets, matches["matched"], matches["ignored"], matches["targets"]))
    )


def _has_enough_targets(matched: Sequence[int], ignored: Sequence[int], num_targets: int) -> bool:
    """Returns whether at no IoU threshold more detections are matched than there are targets.

    matched, ignored: one integer per detection, whose bit t is for threshold t. Ignored matches do not count.
    """
    found = [hit & ~ignore for hit, ignore in zip(matched, ignored, strict=True)]
    return all(sum(hit >> t & 1 for hit in found) <= num_targets for t in range(max(found, default=0).bit_length()))


def _unpack_matches(matches: Mapping[str, Any] | None, area: int, thresholds: int) -> dict[str, Any] | None:
    """Unpacks the matches of one class, area range and image for COCOeval.accumulate."""
    if matches is None:
        return None
    flags = [
        (np.array(matches[key][area], np.int64).reshape(1, -1) >> np.arange(thresholds)[:, None]) & 1
        for key in ("matched", "ignored")
    ]
    return {
        "dtScores": matches["scores"],
        "dtMatches": flags[0],
        "dtIgnore": flags[1].astype(bool),
        "gtIgnore": np.zeros(matches["targets"][area], int),
    }
