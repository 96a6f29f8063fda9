"""Image sheets."""

import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.results.drawing import arrange_tiles
from hyperseg_jax.results.page import Page


def test_tiles_of_any_size():
    tiles = [np.full((h, w, 3), k, np.uint8) for k, (h, w) in enumerate([(4, 10), (6, 3), (5, 5)])]
    canvas = arrange_tiles(tiles, 2, gap=1)
    assert canvas.shape == (15, 23, 3)
    for k, (tile, (y, x)) in enumerate(zip(tiles, [(1, 1), (1, 12), (8, 1)], strict=True)):
        np.testing.assert_array_equal(canvas[y : y + tile.shape[0], x : x + tile.shape[1]], tile)
        assert (canvas == k).all(-1).sum() == tile.shape[0] * tile.shape[1]


def test_linked_files_are_not_embedded(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "run" / "loss.png").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"loss\.png: loss\.png is a link that leaves"):
        Page("a page").image(tmp_path / "run" / "loss.png", "a loss")
