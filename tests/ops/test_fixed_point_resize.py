"""The 8-bit bilinear resize: between neighbours, without smoothing, exact at whole factors. Recorded pixels of OpenCV are
compared in tests/golden/test_ifseg_data.py."""

import numpy as np
import pytest

from hyperseg_jax.ops.fixed_point_resize import resize_linearly


@pytest.mark.parametrize("height, width", [(7, 5), (14, 10), (3, 9), (1, 1), (40, 2)])
def test_pixels_are_close_to_those_of_floats(height, width):
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)

    def lines(array, new, axis):
        position = np.clip((np.arange(new) + 0.5) * array.shape[axis] / new - 0.5, 0, array.shape[axis] - 1)
        first = np.minimum(position.astype(int), array.shape[axis] - 2) if array.shape[axis] > 1 else np.zeros(new, int)
        share = (position - first).reshape([-1 if k == axis else 1 for k in range(3)])
        return array.take(first, axis) * (1 - share) + array.take(first + 1, axis, mode="clip") * share

    expected = lines(lines(image.astype(float), height, 0), width, 1)
    resized = resize_linearly(image, height, width)
    assert resized.shape == (height, width, 3) and resized.dtype == np.uint8
    assert np.abs(resized - expected).max() <= 1
    np.testing.assert_array_equal(resize_linearly(image, 7, 5), image)


def test_constant_images_stay_constant():
    for value in (0, 1, 128, 255):
        assert (resize_linearly(np.full((9, 4, 3), value, np.uint8), 31, 17) == value).all()
