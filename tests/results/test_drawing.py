"""Image sheets."""

import time

import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.results.drawing import add_caption, arrange_tiles
from hyperseg_jax.results.page import Page


def test_tiles_of_any_size():
    tiles = [np.full((h, w, 3), k, np.uint8) for k, (h, w) in enumerate([(4, 10), (6, 3), (5, 5)])]
    canvas = arrange_tiles(tiles, 2, gap=1)
    assert canvas.shape == (15, 23, 3)
    for k, (tile, (y, x)) in enumerate(zip(tiles, [(1, 1), (1, 12), (8, 1)], strict=True)):
        np.testing.assert_array_equal(canvas[y : y + tile.shape[0], x : x + tile.shape[1]], tile)
        assert (canvas == k).all(-1).sum() == tile.shape[0] * tile.shape[1]


@pytest.mark.parametrize("text", ["x" * 2_000_000, "a " * 1_000_000, "e" + "\u0301" * 300_000, "a \ud800 b", "a\0b", "", " "])
def test_captions_of_any_length(text):
    """Names of records and texts may be longer than Pillow can draw."""
    tile, start = np.zeros((50, 320, 3), np.uint8), time.process_time()
    captioned = add_caption(tile, text, height=44)
    assert captioned.shape == (94, 320, 3) and not captioned[:50].any() and time.process_time() < start + 3
    assert (captioned[50:] < 128).any() == bool(text.strip())
    np.testing.assert_array_equal(add_caption(tile, text[:5000], height=44), captioned)


def test_captions_are_wrapped():
    words = " ".join(f"word{k}" for k in range(100))
    lines = add_caption(np.zeros((0, 100, 3), np.uint8), words, height=44).min((1, 2)) < 128
    starts = np.flatnonzero(lines[1:] & ~lines[:-1])
    assert len(starts) == 3 and list(np.diff(starts)) == [14, 14]


def test_linked_files_are_not_embedded(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "run" / "loss.png").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"loss\.png: loss\.png is a link that leaves"):
        Page("a page").image(tmp_path / "run" / "loss.png", "a loss")
