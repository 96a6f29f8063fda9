"""Random visual prompts on an object."""

import numpy as np
import pytest

from hyperseg_jax.datasets import random_shapes


def make_object(size=(120, 150)):
    y, x = np.mgrid[: size[0], : size[1]]
    return ((y - 60) / 40) ** 2 + ((x - 80) / 55) ** 2 < 1


@pytest.mark.parametrize("draw", random_shapes.SHAPES)
def test_shapes_are_on_the_object(draw):
    mask = make_object()
    drawn = [draw(mask, np.random.default_rng(k)) for k in range(60)]
    counts = np.array([shape.sum() for shape in drawn])
    assert counts.max() > counts.min() and (counts > 0).mean() > 0.9
    if draw is not random_shapes.draw_polygon:  # its outline may leave the object
        assert not any((shape & ~mask).any() for shape in drawn)
    np.testing.assert_array_equal(draw(mask, np.random.default_rng(5)), drawn[5])


def test_kinds_and_sizes():
    mask = make_object()
    assert {random_shapes.draw_points(mask, np.random.default_rng(k)).sum() for k in range(300)} == set(range(1, 21))
    areas = [np.mean([draw(mask, np.random.default_rng(k)).sum() for k in range(60)]) for draw in random_shapes.SHAPES]
    assert areas[0] < 20 < areas[2] < areas[3]  # blobs are wider than scribbles
    tiny = np.zeros((20, 20), bool)
    tiny[3:6, 3:6] = True
    assert not random_shapes.draw_random_shape(tiny, np.random.default_rng(0)).any()
    tiny[6, 3] = True
    assert any(random_shapes.draw_random_shape(tiny, np.random.default_rng(k)).any() for k in range(9))


def test_outline_of_one_corner_is_a_point():
    curve = random_shapes.smooth_outline(np.array([[0.3, 0.6]]))
    assert curve.shape == (2, random_shapes.SAMPLES) and np.ptp(curve, axis=1).max() < 1e-12
