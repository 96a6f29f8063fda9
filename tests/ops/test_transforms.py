"""Images and masks at the input sizes of the encoders."""

import numpy as np
import pytest
from PIL import Image

from hyperseg_jax.ops import transforms
from hyperseg_jax.ops.transforms import fit_to_square


@pytest.mark.parametrize(
    ("size", "filled"),
    [((480, 640), (72, 96)), ((640, 480), (96, 72)), ((192, 192), (96, 96)), ((1, 500), (1, 96)), ((427, 640), (64, 96))],
)
def test_the_long_edge_fills_the_square(size, filled):
    assert fit_to_square(*size, 96).filled == filled


def test_padding_is_grey_and_masks_follow_their_image():
    frame = np.zeros((40, 80, 3), np.uint8)
    frame[10:30, 20:60] = 255
    geometry = fit_to_square(40, 80, 32)
    image = transforms.resize_and_pad(frame, geometry, 77)
    mask = transforms.resize_and_pad_map(frame[..., 0] > 0, geometry)
    assert (image[16:] == 77).all() and not mask[16:].any()
    assert ((image[:16, :, 0] > 127) == mask[:16]).mean() > 0.97


def test_drawn_masks_are_zeros_and_ones():
    """A bool array with bytes of 255 becomes 255 as a float on the device."""
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:50] = True
    assert set(np.unique(transforms.stretch_mask_to_square(mask, 24).view(np.uint8))) == {0, 1}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_maps_are_resized_like_masks_in_pillow(dtype):
    rng = np.random.default_rng(0)
    for height, width, size in (*rng.integers(1, 90, (60, 3)).tolist(), (480, 640, 1024), (640, 427, 96)):
        numbers = rng.integers(0, np.iinfo(dtype).max + 1, (2, height, width)).astype(dtype)
        geometry = fit_to_square(height, width, size)
        rows, columns = geometry.filled
        result = transforms.resize_and_pad_map(numbers, geometry)
        assert result.dtype == dtype and result.shape == (2, size, size)
        assert not result[:, rows:].any() and not result[:, :, columns:].any()
        for ours, full in zip(result, numbers, strict=True):
            expected = Image.fromarray(full.astype(np.int32)).resize((columns, rows), Image.Resampling.NEAREST)
            np.testing.assert_array_equal(ours[:rows, :columns], np.asarray(expected))


def test_drawn_points_survive_resizing():
    mask = np.zeros((400, 400), bool)
    mask[399, 0] = True
    assert transforms.stretch_mask_to_square(mask, 16)[15, 0]
