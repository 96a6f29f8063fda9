"""Masks as maps of segment ids."""

import numpy as np
import pytest

from hyperseg_jax.ops.segment_maps import number_masks


def test_disjoint_masks_share_a_plane():
    owner = np.random.default_rng(0).integers(0, 300, (2, 40, 50))
    (numbers,), planes = number_masks([owner == n + 1 for n in range(299)], np.uint16)
    np.testing.assert_array_equal(numbers, owner)
    assert numbers.dtype == np.uint16 and planes == [0] * 299


def test_masks_use_the_first_free_plane():
    masks = np.zeros((6, 1, 4, 8), bool)
    for mask, (start, stop) in zip(masks, ((0, 4), (2, 6), (4, 8), (0, 1), (3, 5), (0, 0)), strict=True):
        mask[..., start:stop] = True
    maps, planes = number_masks(masks, np.uint8)
    assert planes == [0, 1, 0, 1, 2, 0]
    assert [numbers[0, 0].tolist() for numbers in maps] == [
        [1, 1, 1, 1, 3, 3, 3, 3],
        [4, 0, 2, 2, 2, 2, 0, 0],
        [0, 0, 0, 5, 5, 0, 0, 0],
    ]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
def test_masks_round_trip(share):
    masks = np.random.default_rng(1).random((9, 2, 11, 17)) < share
    maps, planes = number_masks(masks, np.uint8)
    for n, mask in enumerate(masks):
        np.testing.assert_array_equal(maps[planes[n]] == n + 1, mask)
    assert number_masks(masks[:0], np.uint8) == ([], [])
