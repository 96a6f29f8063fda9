"""Code shared by readers: random access to clips, and map_masks."""

import dataclasses

import numpy as np

from hyperseg_jax.datasets.prompt_masks import map_masks
from hyperseg_jax.datasets.video_reader import VideoReader
from hyperseg_jax.structs import Example, Prompt


class Numbers(VideoReader):
    def __init__(self, seed):
        self._items, self._seed = range(4), seed

    def sample(self, index, rng):
        return Example(f"{index} {rng.integers(1 << 30)}", np.zeros((1, 1, 1, 3), np.uint8), ())


def test_indices_give_reproducible_and_different_clips():
    names = [Numbers(7)[k].name.split()[1] for k in range(4)]
    assert len(Numbers(7)) == len(set(names)) == 4
    assert names == [Numbers(7)[k].name.split()[1] for k in range(4)] != [Numbers(8)[k].name.split()[1] for k in range(4)]


def test_map_masks_changes_every_mask_and_nothing_else():
    drawn = np.asarray([[[1, 0, 0], [0, 1, 1]]], bool)
    arrays = {
        "ignore": drawn,
        "foreground": drawn,
        "masks": drawn[None],
        "crowds": drawn[None],
        "others": drawn[None],
    }
    prompt = Prompt(task="region", text="x", labels=(0,), **arrays)
    recorded = []

    def flip(name, array):
        recorded.append(name)
        return array[..., ::-1]

    changed = map_masks(prompt, flip, key="k")
    assert sorted(recorded) == sorted(arrays)
    for field in dataclasses.fields(Prompt):
        before, after = getattr(prompt, field.name), getattr(changed, field.name)
        if field.name in arrays:
            np.testing.assert_array_equal(after, before[..., ::-1])
        else:
            assert after == ("k" if field.name == "key" else before)


def test_map_masks_without_masks():
    prompt = Prompt(task="chat", text="x")
    assert map_masks(prompt, lambda name, array: None) is prompt
