"""Polygons are filled like cv2.fillPoly (recorded from OpenCV 5.0), not like pycocotools."""

import numpy as np
from pycocotools import mask as coco_mask

from hyperseg_jax.datasets.masks import fill_polygons

TRIANGLE = np.array([[2.6, 1.2], [14.9, 4.5], [5.1, 11.7]])  # truncated to 2, 1; 14, 4; 5, 11
PAINTED = """
.................
..###............
..#######........
...##########....
...############..
...###########...
...##########....
....#######......
....######.......
....#####........
.....##..........
.....#...........
.................
"""
LEAVING = np.array([[-3, 4], [12, -2], [20, 9], [6, 15]])
CUT = """
......########...
....###########..
..#############..
################.
#################
#################
#################
#################
.################
..###############
..###############
...#############.
....##########...
"""


def parse_mask(text):
    return np.array([[sign == "#" for sign in line] for line in text.split()])


def test_polygons_beyond_the_image():
    assert np.array_equal(fill_polygons([LEAVING], 13, 17), parse_mask(CUT))
    assert not fill_polygons([LEAVING + 100], 13, 17).any()


def test_sloped_outlines_are_included():
    expected = parse_mask(PAINTED)
    result = fill_polygons([TRIANGLE], *expected.shape)
    assert np.array_equal(result, expected), "\n" + "\n".join("".join(".#"[int(bit)] for bit in row) for row in result)
    runs = coco_mask.merge(coco_mask.frPyObjects([TRIANGLE.reshape(-1).tolist()], *expected.shape))
    assert (coco_mask.decode(runs).astype(bool) ^ expected).sum() > 10
