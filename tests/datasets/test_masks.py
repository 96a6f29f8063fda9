"""Run lengths and polygons: as pycocotools has them where they are sound, a message where they are not."""

import itertools
import json
import time

import fuzz
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from hyperseg_jax.datasets import LabelMe, ReasonSeg, masks
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.untrusted import budget, limits


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(int(side) for side in rng.integers(1, 90, 2))
        mask = rng.random(size) < rng.choice([0, 0.02, 0.5, 1])
        mask[: rng.integers(size[0] + 1), : rng.integers(size[1] + 1)] |= rng.random() < 0.5
        runs = run_lengths.encode(mask)
        assert np.array_equal(masks.decode_segmentation(runs, *size, ""), mask)
        assert np.array_equal(
            masks.decode_segmentation(runs | {"counts": runs["counts"].encode()}, *size, ""), coco_mask.decode(runs) > 0
        )
    wide = np.zeros((1500, 2000), bool)
    wide[3, 1000:] = True
    for mask in (wide, ~wide):
        assert np.array_equal(masks.decode_segmentation(run_lengths.encode(mask), *mask.shape, ""), mask)


def test_damaged_run_lengths_are_refused_or_fill_the_image():
    """pycocotools itself writes beyond its memory on some of these."""
    rng = np.random.default_rng(0)
    sound = run_lengths.encode(rng.random((40, 50)) < 0.3)["counts"]
    refused = 0
    for _ in range(3000):
        text = list(sound[: rng.integers(1, len(sound))] if rng.random() < 0.5 else sound)
        for _ in range(rng.integers(1, 4)):
            text[rng.integers(len(text))] = chr(rng.integers(0, 256))
        try:
            assert masks.decode_segmentation({"size": [40, 50], "counts": "".join(text)}, 40, 50, "").shape == (40, 50)
        except UserError as error:
            refused += 1
            assert "neither polygons nor a run-length encoding" in str(error)
    assert refused > 2900


COUNTS = ["", "o" * 100, "P" * 9, "V" + "P" * 6 + "0", 10**15, None, {}, [2.0, 4.0], [[6]], [True] * 6, [2**70], [-1, 7]]


@pytest.mark.parametrize("counts", COUNTS)
def test_counts_of_another_make(counts):
    with pytest.raises(UserError, match="file#3: neither polygons nor a run-length encoding"):
        masks.decode_segmentation({"size": [2, 3], "counts": counts}, 2, 3, "file#3")


def test_polygons_take_bounded_memory():
    zigzag, dots = [[0, 0, 9e5, 9e5] * 1000], [[3, 3] * (10**6 + 1)]
    for rule in masks.POLYGON_RULES:
        for segmentation in (zigzag, dots):
            with pytest.raises(UserError, match=r"^x: its polygons have .* corners and a perimeter of"):
                masks.decode_segmentation(segmentation, 20, 30, "x", polygons=rule)


def test_many_polygons_are_the_union_of_each():
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = tuple(int(side) for side in rng.integers(1, 50, 2))
        polygons = [(rng.normal(20, 15, (rng.integers(3, 9), 2)) * rng.choice([1, 6])).reshape(-1).tolist() for _ in range(6)]
        parts = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
        assert np.array_equal(masks.decode_segmentation(polygons, *size, "", polygons="coco"), coco_mask.decode(parts) > 0)
        alone = [masks.decode_segmentation([polygon], *size, "") for polygon in polygons]
        assert np.array_equal(masks.decode_segmentation(polygons, *size, ""), np.any(alone, 0))


@pytest.mark.parametrize("rule", masks.POLYGON_RULES)
def test_many_polygons_share_one_canvas(rule):
    size, many = (7000, 9000), [[k, 5, k + 4, 5, k + 2, 9] for k in range(4000)]

    def painted():
        with budget.record_budget():
            return masks.decode_segmentation(many, *size, "x", polygons=rule)

    assert fuzz.check_call(painted, seconds=5, memory=2**28).shape == size
    full = [[0, 0, 8999, 0, 8999, 6999, 0, 6999]] * 20
    assert fuzz.check_call(lambda: masks.decode_segmentation(full, *size, "x", polygons=rule), seconds=5, memory=2**28).any()
    ticks = itertools.count(time.monotonic())  # a second for each look at the clock
    with pytest.MonkeyPatch.context() as patch, limits.temporary_limits(seconds=50.0):
        patch.setattr(budget.time, "monotonic", lambda: next(ticks))
        with pytest.raises(UserError, match=r"^x: has 5[01]\.\d+ seconds of reading time.*limits\.seconds"):
            painted()


@pytest.mark.parametrize("kind", ["labelme", "reasonseg"])
def test_long_outlines_of_one_polygon(tmp_path, kind):
    points = [[0, 0], [9e5, 9e5]] * 1000
    shape = {"label": "a", "points": points, "shape_type": "polygon", "group_id": None}
    content = {"text": ["a"], "shapes": [shape], "imagePath": "x.jpg", "imageHeight": 20, "imageWidth": 30}
    (tmp_path / "x.json").write_text(json.dumps(content))
    Image.new("RGB", (30, 20)).save(tmp_path / "x.jpg")
    reader = {"labelme": LabelMe, "reasonseg": ReasonSeg}[kind](tmp_path)
    fuzz.check_call(lambda: reader[0], memory=2**27, says="2000 corners and a perimeter of 3600000000 pixels; correct")
