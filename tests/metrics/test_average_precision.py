"""Mask AP equals pycocotools on the full set, with crowds and polygon areas; videos are scored as in YouTube-VIS."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hyperseg_jax.metrics import MaskAP, VideoAP
from hyperseg_jax.metrics.average_precision import NAMES
from hyperseg_jax.ops.run_lengths import encode

CLASSES = ("cat", "dog", "bird")


def make_disc(rng, side=160):
    y, x = np.mgrid[:side, :side]
    centre, radius = rng.uniform(0, side, 2), rng.uniform(4, 90)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def make_images(count=12):
    """Yields random (targets, classes, crowd, areas, predictions, classes, scores); some without targets or predictions."""
    rng = np.random.default_rng(3)
    for k in range(count):
        n = int(rng.integers(0, 6)) if k != 4 else 0
        target = [mask for mask in (make_disc(rng) for _ in range(n)) if mask.any()]
        classes = [CLASSES[i] for i in rng.integers(0, 3, len(target))]
        crowd = (rng.random(len(target)) < 0.2).tolist()
        areas = [float(mask.sum()) * rng.uniform(0.9, 1.1) for mask in target]
        ours = [np.roll(mask, rng.integers(-12, 13, 2), (0, 1)) for mask in target if rng.random() < 0.8]
        ours += [make_disc(rng) for _ in range(int(rng.integers(0, 3)))]
        messages = [
            classes[i] if i < len(target) and rng.random() < 0.8 else CLASSES[rng.integers(3)] for i in range(len(ours))
        ]
        scores = (rng.integers(1, 8, len(ours)) / 8).tolist()  # with ties
        yield target, classes, crowd, areas, ours if k != 5 else [], messages if k != 5 else [], scores if k != 5 else []


def score_with_pycocotools(rows):
    images, truth, result = [], [], []
    for k, (target, classes, crowd, areas, ours, messages, scores) in enumerate(rows):
        images.append({"id": k, "height": 160, "width": 160})
        for mask, kind, is_crowd, area in zip(target, classes, crowd, areas, strict=True):
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": k,
                    "category_id": CLASSES.index(kind),
                    "iscrowd": int(is_crowd),
                    "area": area,
                    "segmentation": encode(mask),
                    "bbox": [0, 0, 1, 1],
                }
            )
        for mask, kind, score in zip(ours, messages, scores, strict=True):
            result.append({"image_id": k, "category_id": CLASSES.index(kind), "segmentation": encode(mask), "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": images,
            "annotations": truth,
            "info": {},
            "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)],
        }
        coco.createIndex()
        tool = COCOeval(coco, coco.loadRes(result), "segm")
        tool.evaluate()
        tool.accumulate()
        tool.summarize()
    return {name: float(value) for name, value in zip(NAMES, tool.stats, strict=True) if value >= 0}


def test_equal_to_pycocotools():
    rows, scores = list(make_images()), MaskAP()
    for k, (target, classes, crowd, areas, ours, messages, sure) in enumerate(rows):
        scores.update(f"{k:03d}", ours, sure, messages, target, classes, crowd, areas)
    expected = score_with_pycocotools(rows)
    result = scores.compute()
    assert result.pop("count") == len(rows)
    assert result == pytest.approx(expected, rel=1e-12)
    assert 0.05 < expected["ap"] < expected["ap50"] < 1 and {"ap_small", "ap_large"} <= expected.keys()


def test_an_image_counts_once():
    one, two = MaskAP(), MaskAP()
    for scores in (one, two):
        scores.update("a", [], [], [], np.ones((1, 4, 4), bool), ["cat"])
    with pytest.raises(ValueError, match="add each image once"):
        one.update("a", [], [], [], [], [])
    with pytest.raises(ValueError, match="scored twice"):
        one.merge(two)


def test_video_ap():
    """Two frames of 10 x 10: IoU over the clip is (25 + 50) / (50 + 100) = 0.5 in one answer, 100 / 100 in the other."""
    half, quarter, full, none = (np.zeros((10, 10), bool) for _ in range(4))
    half[:5], quarter[:5, :5], full[:] = True, True, True
    scores = VideoAP()
    scores.update("clip", [np.stack([quarter, half])], [0.9], ["cat"], [np.stack([half, full])], ["cat"])
    result = scores.compute()
    assert result["ap50"] == pytest.approx(1) and result["ap75"] == 0 and result["ap"] == pytest.approx(0.1)
    scores = VideoAP()  # a frame without target: its pixels widen the union, 50 / (50 + 100)
    scores.update("clip", [np.stack([half, full])], [0.9], ["cat"], [np.stack([half, none])], ["cat"])
    assert scores.compute()["ap50"] == 0
    large = np.ones((1, 2, 300, 300), bool)
    large[0, 1] = False  # unseen frames do not make it smaller
    scores.update("large", large, [0.5], ["dog"], large, ["dog"])
    assert scores.compute()["ap_large"] == pytest.approx(1) and scores.compute()["ap_small"] == 0
