"""Run lengths and polygons: as pycocotools has them where they are sound, a message where they are not."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from hyperseg_jax.datasets import masks
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(int(side) for side in rng.integers(1, 90, 2))
        mask = rng.random(size) < rng.choice([0, 0.02, 0.5, 1])
        mask[: rng.integers(size[0] + 1), : rng.integers(size[1] + 1)] |= rng.random() < 0.5
        runs = run_lengths.encode(mask)
        assert np.array_equal(masks.decode(runs, *size, ""), mask)
        assert np.array_equal(masks.decode(runs | {"counts": runs["counts"].encode()}, *size, ""), coco_mask.decode(runs) > 0)
    wide = np.zeros((1500, 2000), bool)
    wide[3, 1000:] = True
    for mask in (wide, ~wide):
        assert np.array_equal(masks.decode(run_lengths.encode(mask), *mask.shape, ""), mask)


def test_damaged_run_lengths_are_refused_or_fill_the_image():
    """pycocotools itself writes beyond its memory on some of these."""
    rng = np.random.default_rng(0)
    sound = run_lengths.encode(rng.random((40, 50)) < 0.3)["counts"]
    refused = 0
    for _ in range(3000):
        text = list(sound[: rng.integers(1, len(sound))] if rng.random() < 0.5 else sound)
        for _ in range(rng.integers(1, 4)):
            text[rng.integers(len(text))] = chr(rng.integers(0, 256))
        try:
            assert masks.decode({"size": [40, 50], "counts": "".join(text)}, 40, 50, "").shape == (40, 50)
        except UserError as error:
            refused += 1
            assert "neither polygons nor a run-length encoding" in str(error)
    assert refused > 2900


COUNTS = ["", "o" * 100, "P" * 9, "V" + "P" * 6 + "0", 10**15, None, {}, [2.0, 4.0], [[6]], [True] * 6, [2**70], [-1, 7]]


@pytest.mark.parametrize("counts", COUNTS)
def test_counts_of_another_make(counts):
    with pytest.raises(UserError, match="file#3: neither polygons nor a run-length encoding"):
        masks.decode({"size": [2, 3], "counts": counts}, 2, 3, "file#3")


def test_polygons_take_bounded_memory():
    zigzag = [[0, 0, 9e5, 9e5] * 1000]
    for rule in masks.POLYGON_RULES:
        with pytest.raises(UserError, match="perimeter of"):
            masks.decode(zigzag, 20, 30, "x", polygons=rule)
