"""Sheets of pictures."""

import numpy as np

from hyperseg_jax.results.drawing import sheet


def test_tiles_of_any_size_find_room():
    tiles = [np.full((h, w, 3), k, np.uint8) for k, (h, w) in enumerate([(4, 10), (6, 3), (5, 5)])]
    canvas = sheet(tiles, 2, gap=1)
    assert canvas.shape == (15, 23, 3)
    for k, (tile, (y, x)) in enumerate(zip(tiles, [(1, 1), (1, 12), (8, 1)], strict=True)):
        np.testing.assert_array_equal(canvas[y : y + tile.shape[0], x : x + tile.shape[1]], tile)
        assert (canvas == k).all(-1).sum() == tile.shape[0] * tile.shape[1]
