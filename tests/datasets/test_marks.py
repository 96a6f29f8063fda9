"""Marks: how points and scribbles are drawn."""

import numpy as np
import pytest

from hyperseg_jax.datasets import marks
from hyperseg_jax.toy.readers import POINT_RADIUS, SCRIBBLE_RADIUS

SIZE = (480, 640)


def square():
    mask = np.zeros(SIZE, bool)
    mask[100:300, 200:420] = True
    return mask


def test_a_point_is_drawn_as_training_draws_it():
    """At COCO's size a point given by its place is, to the pixel, the mark of a training example there."""
    drawn = marks.draw_marks(square(), np.random.default_rng(0))["point"]
    (y,), (x,) = np.nonzero(drawn)
    assert np.array_equal(marks.point_disc(SIZE, x + 0.7, y + 0.2), marks.thicken(drawn, "point"))


def test_a_point_at_the_edge_is_cut():
    disc = marks.point_disc(SIZE, 639.9, 0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    assert np.array_equal(disc, rows**2 + (columns - 639) ** 2 <= 100)


@pytest.mark.parametrize(("x", "y"), [(-1, 5), (640, 5), (5, -0.1), (5, 480)])
def test_a_point_outside_is_refused(x, y):
    with pytest.raises(ValueError, match="is not inside an image of 640 x 480 pixels"):
        marks.point_disc(SIZE, x, y)


def test_radii_follow_the_short_edge():
    assert [marks.point_radius(*size) for size in ((480, 640), (1920, 960), (4, 9))] == [10, 20, 1]
    assert marks.point_disc(SIZE, 50, 50, radius=3).sum() == 29


def test_the_toy_world_draws_in_proportion():
    """Toy images are 192 pixels a side: a model of the toy world is asked with the points that it was taught with."""
    assert marks.point_radius(192, 192) == POINT_RADIUS
    assert round(marks.SCRIBBLE_RADIUS * 192 / marks.SHORT_EDGE) == SCRIBBLE_RADIUS


def test_boxes_and_masks_are_not_thickened():
    mask = square()
    assert all(np.array_equal(marks.thicken(mask, kind), mask) for kind in ("box", "mask"))
    assert marks.thicken(mask, "scribble", scribble_radius=1).sum() == mask.sum() + 2 * 200 + 2 * 220
