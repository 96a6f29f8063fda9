"""Images and masks at the input sizes of the encoders."""

import numpy as np
import pytest
from PIL import Image

from hyperseg_jax.ops import transforms
from hyperseg_jax.ops.transforms import Geometry, SideRule, fit_to_square


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


@pytest.mark.parametrize(
    ("size", "published", "canvas"),
    [
        ((480, 640), (800, 1067), (800, 1088)),
        ((640, 427), (1199, 800), (1216, 800)),
        ((426, 640), (800, 1202), (800, 1216)),
        ((612, 612), (800, 800), (800, 800)),
        ((360, 640), (750, 1333), (768, 1344)),  # the long side is the bound
        ((461, 640), (800, 1111), (800, 1216)),  # not a common ratio: padded more than to a multiple of 32
        ((10, 5000), (3, 1333), (352, 1344)),
    ],
)
def test_sides_of_evaluation(size, published, canvas):
    """Sizes as in detectron2's ResizeShortestEdge(800, 1333)."""
    assert SideRule(800, 1333).place(*size) == Geometry(size, published, canvas)


def test_sides_are_rounded_down_as_in_torchvision():
    assert [SideRule(512, 2048, truncated=flag).resized(480, 640) for flag in (False, True)] == [(512, 683), (512, 682)]
    assert SideRule(800, 1333, truncated=True).resized(640, 360) == (1333, 749)


@pytest.mark.parametrize(
    "rule", [SideRule(800, 1333), SideRule(512, 2048), SideRule(512, 1024), SideRule(32, 96), SideRule(64, 64)]
)
def test_canvases_are_few_and_hold_every_image(rule):
    canvases = rule.canvases()
    assert len(canvases) <= 17 and all(side % 32 == 0 for size in canvases for side in size)
    assert {size[::-1] for size in canvases} == set(canvases)
    for seed in range(300):
        size = tuple(int(side) for side in np.random.default_rng(seed).integers(1, 700, 2))
        geometry = rule.place(*size)
        assert geometry.filled[0] <= geometry.padded[0] and geometry.filled[1] <= geometry.padded[1]
    larger = rule.place(480, 640, (1344, 1344))
    assert larger.padded == (1344, 1344) and larger.filled == rule.place(480, 640).filled


def test_one_canvas_for_encoders_of_one_size():
    assert SideRule(1000, 1024, 1024).canvases() == ((1024, 1024),)
