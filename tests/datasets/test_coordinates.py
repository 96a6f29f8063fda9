"""Numbers may be written as text; words, booleans and lists are no coordinates, in any reader."""

import json

import numpy as np
import pytest

from hyperseg_jax.datasets import LabelMe, masks
from hyperseg_jax.datasets.visual_prompts import box_region
from hyperseg_jax.errors import UserError

SIZE = (20, 30)
ODD = ("x", "1_0", " 5", "nan", "\u0665", True, None, [5], float("nan"))


@pytest.mark.parametrize("odd", ODD)
def test_boxes(odd):
    assert box_region([1, 2.5, 5, 5], SIZE, "f#1").boxes.tolist() == [[1, 2.5, 6, 7.5]]
    assert box_region(["1", "2.5", "5e0", 5], SIZE, "f#1").boxes.tolist() == [[1, 2.5, 6, 7.5]]
    for box in ([odd, 2, 5, 5], [1, 2, 5, odd], "1255", {"1": 2}):
        with pytest.raises(UserError, match=r"^f#1: box .* is invalid, expected \[x, y, width, height\]"):
            box_region(box, SIZE, "f#1")


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("rule", masks.POLYGON_RULES)
def test_polygons(odd, rule):
    corners = [1, 2, 10, 2.5, 10, 12]
    mask = masks.decode_segmentation([corners], *SIZE, "f#1", polygons=rule)
    as_text = masks.decode_segmentation([list(map(str, corners))], *SIZE, "f#1", polygons=rule)
    assert mask.any() and np.array_equal(as_text, mask)
    for polygons in ([[odd, *corners[1:]]], [corners, [*corners[:-1], odd]], ["123456"], [corners, None]):
        with pytest.raises(UserError, match=r"^f#1: a polygon needs at least three x, y pairs"):
            masks.decode_segmentation(polygons, *SIZE, "f#1", polygons=rule)
    assert masks.parse_points([[1, 2], [3, odd]]) is None and masks.parse_points([[1, 2], "34"]) is None
    for points in ([[1, 2], [3, 4.5]], [["1", "2.0"], [3, "45e-1"]]):
        assert np.array_equal(masks.parse_points(points), [[1, 2], [3, 4.5]])


@pytest.mark.parametrize("odd", ODD)
def test_run_lengths(odd):
    for one in (1, "1"):
        assert masks.decode_segmentation({"size": [one, 1], "counts": [0, one]}, 1, 1, "f#1").all()
    for bad in ({"size": [odd, 1], "counts": [0, 1]}, {"size": [1, 1], "counts": [0, odd]}):
        with pytest.raises(UserError, match=r"^f#1: neither polygons nor a run-length encoding"):
            masks.decode_segmentation(bad, 1, 1, "f#1")


def test_shapes_of_labelme(copy_samples):
    folder = copy_samples("yours") / "yours" / "labelme"
    path = min(folder.glob("*.json"))
    content = json.loads(path.read_text())
    shape = {"label": content["shapes"][0]["label"], "shape_type": "rectangle", "points": [["x", 2], [20, 30]]}
    path.write_text(json.dumps(content | {"shapes": [shape]}))
    with pytest.raises(UserError, match="shapes#0: not a valid polygon, rectangle, circle or mask"):
        LabelMe(folder)[0]
