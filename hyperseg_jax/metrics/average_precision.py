"""COCO mask AP. pycocotools matches and accumulates; here is what lets its results travel between hosts."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

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


MOST, CELLS = 2**24, 2**27
"""Things to find, and images x classes x areas, in a state that is read."""


class MaskAP:
    """AP and AR of instances with scores over 10 IoU thresholds, as COCOeval summarizes them.

    Each image is matched when it comes and kept by its name as matches alone, so the state is small, the order of images
    does not matter, and none can count twice.
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
        """One image or clip. predicted [P, ...], target [N, ...]: bool masks [H, W], or [T, H, W] of clips.

        name: of the image, unique; ValueError where it was seen before. crowd: for each target whether it is a crowd, none by
        default. target_areas: as the annotations give them (of polygons); by default counted.
        """
        if name in self._images:
            raise ValueError(f"{name} was scored before; an image counts once")
        ours = [
            self._record(k, mask, kind, score=float(score))
            for k, (mask, score, kind) in enumerate(zip(predicted, scores, predicted_classes, strict=True), 1)
        ]
        crowds = crowd or [False] * len(target)
        areas: Sequence[float | None] = target_areas or [None] * len(target)
        theirs = [
            self._record(k, mask, kind, area=area, iscrowd=int(is_crowd), ignore=int(is_crowd))
            for k, (mask, kind, is_crowd, area) in enumerate(zip(target, target_classes, crowds, areas, strict=True), 1)
        ]
        kinds = sorted({record["class"] for record in (*ours, *theirs)})
        self._images[name] = {
            kind: self._match([r for r in ours if r["class"] == kind], [r for r in theirs if r["class"] == kind])
            for kind in kinds
        }

    def _record(self, number: int, mask: np.ndarray, kind: str, *, area: float | None = None, **fields: Any) -> dict[str, Any]:
        segmentation = self._encoded(mask)
        counted = self._area(segmentation) if area is None else area
        return {"id": number, "class": kind, "segmentation": segmentation, "area": counted, **fields}

    def _encoded(self, mask: np.ndarray) -> Any:
        return encode(mask)

    def _area(self, segmentation: Any) -> float:
        return float(coco_mask.area(segmentation))

    def _overlaps(self, ours: list[Any], theirs: list[Any], crowd: list[int]) -> Any:
        """IoU [P, N], over the prediction's own area for crowds."""
        return coco_mask.iou(ours, theirs, crowd)

    def _match(self, ours: list[dict], theirs: list[dict]) -> dict[str, Any]:
        """Of one class of one image: scores [D], best first; for each area the detections matched and ignored, a bit an IoU
        threshold, and the number of targets to find."""
        tool = self._tool()
        limit = tool.params.maxDets[-1]
        best = [ours[k] for k in np.argsort([-r["score"] for r in ours], kind="mergesort")[:limit]]
        tool._gts, tool._dts = defaultdict(list, {(0, 0): theirs}), defaultdict(list, {(0, 0): ours})
        crowd = [r["iscrowd"] for r in theirs]
        overlaps = self._overlaps([r["segmentation"] for r in best], [r["segmentation"] for r in theirs], crowd)
        tool.ious = {(0, 0): overlaps}
        found = [tool.evaluateImg(0, 0, area, limit) for area in self.areas]
        return {
            "scores": found[0]["dtScores"],
            "matched": [_bits(row["dtMatches"] > 0) for row in found],
            "ignored": [_bits(row["dtIgnore"]) for row in found],
            "wanted": [int(np.sum(np.asarray(row["gtIgnore"]) == 0)) for row in found],
        }

    def _tool(self) -> COCOeval:
        with contextlib.redirect_stdout(io.StringIO()):
            tool = COCOeval(iouType="segm")
        tool.params.areaRng = [list(area) for area in self.areas]
        return tool

    def merge(self, other: Self) -> None:
        """Adds what another accumulator has seen. ValueError where both saw an image."""
        twice = sorted(self._images.keys() & other._images.keys())
        if twice:
            raise ValueError(f"{', '.join(twice[:5])}: scored twice; an image counts once")
        self._images |= other._images

    def state(self) -> dict[str, Any]:
        """All that was seen, as JSON takes it."""
        return {"options": {}, "pictures": self._images}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The accumulator that gave this state. ValueError, TypeError, KeyError where none did."""
        made = cls()
        for name, kinds in state["pictures"].items():
            if not all(_are_matches(found, len(cls.areas)) for found in kinds.values()):
                raise ValueError(f"{name!r} has matches in an unexpected format")
        kinds = {kind for found in state["pictures"].values() for kind in found}
        wanted = sum(sum(found["wanted"]) for kinds in state["pictures"].values() for found in kinds.values())
        if wanted > MOST or len(kinds) * len(state["pictures"]) * len(cls.areas) > CELLS:
            raise ValueError(f"has {wanted} things to find of {len(kinds)} classes, more than any benchmark")
        made._images = {name: dict(kinds) for name, kinds in state["pictures"].items()}
        return made

    def compute(self) -> dict[str, float]:
        """{"ap", "ap50", "ap75", "ap_small", ..., "ar@100", ...}, without those that no target has a say in, and "count"."""
        names = sorted(self._images)
        kinds = sorted({kind for image in self._images.values() for kind in image})
        scores = {"count": float(len(names))}
        if not kinds:
            return scores
        tool = self._tool()
        tool.params.imgIds, tool.params.catIds = list(range(len(names))), list(range(len(kinds)))
        tool._paramsEval = tool.params
        count = len(tool.params.iouThrs)
        tool.evalImgs = [
            _unpacked(self._images[name].get(kind), a, count)
            for kind in kinds
            for a in range(len(self.areas))
            for name in names
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            tool.accumulate()
            tool.summarize()
        return {key: float(value) for key, value in zip(NAMES, tool.stats, strict=True) if value >= 0} | scores


def _bits(flags: np.ndarray) -> list[int]:
    """[T, D] of bool -> D integers, bit t for threshold t."""
    return (flags.astype(np.int64) << np.arange(len(flags))[:, None]).sum(0).tolist()


def _are_matches(found: Mapping[str, Any], areas: int) -> bool:
    """Whether these may be the matches of one class of one image."""
    count = len(found["scores"])
    whole = lambda values, length, below: (
        len(values) == length and all(type(value) is int and 0 <= value < below for value in values)
    )
    return (
        all(type(score) in (int, float) for score in found["scores"])
        and all(
            len(found[key]) == areas and all(whole(row, count, 2**16) for row in found[key]) for key in ("matched", "ignored")
        )
        and whole(found["wanted"], areas, MOST)
    )


def _unpacked(matches: Mapping[str, Any] | None, area: int, thresholds: int) -> dict[str, Any] | None:
    """What COCOeval.accumulate wants of one class, area and image."""
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
        "gtIgnore": np.zeros(matches["wanted"][area], int),
    }
