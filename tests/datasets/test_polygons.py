"""Polygons are painted as cv2.fillPoly paints them (recorded from OpenCV 5.0), not as pycocotools does."""

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


def drawn(text):
    return np.array([[sign == "#" for sign in line] for line in text.split()])


def test_a_polygon_that_leaves_the_image():
    assert np.array_equal(fill_polygons([LEAVING], 13, 17), drawn(CUT))
    assert not fill_polygons([LEAVING + 100], 13, 17).any()


def test_a_sloped_outline_belongs_to_the_polygon():
    wanted = drawn(PAINTED)
    found = fill_polygons([TRIANGLE], *wanted.shape)
    assert np.array_equal(found, wanted), "\n" + "\n".join("".join(".#"[int(bit)] for bit in row) for row in found)
    runs = coco_mask.merge(coco_mask.frPyObjects([TRIANGLE.reshape(-1).tolist()], *wanted.shape))
    assert (coco_mask.decode(runs).astype(bool) ^ wanted).sum() > 10
