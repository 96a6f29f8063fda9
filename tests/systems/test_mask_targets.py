"""Segment maps of an element: each mask of its prompts is resized separately, with or without overlap."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems.hyperseg.processor import HyperSegProcessor
from hyperseg_jax.text.tokenizer import Tokenizer

SIDE = 48
PROCESSOR = HyperSegProcessor(Tokenizer.toy(), SIDE, 16, 9, 4, 4, prompts=2, frames=2, length=160, targets=6, classes=4)


def make_example(*masks):
    """Returns an image or video with a class list for each of the masks, bool [N, T, H, W]."""
    classes = {"classes": ("a", "b", "c"), "things": (True,) * 3}
    prompts = tuple(Prompt("panoptic", masks=each, labels=(0,) * len(each), **classes) for each in masks)
    return Example("it", np.zeros((*masks[0].shape[1:], 3), np.uint8), prompts)


def resize_mask(mask, geometry):
    """Resizes one mask with Pillow."""
    (height, width), out = geometry.filled, np.zeros(geometry.padded, bool)
    image = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    out[:height, :width] = np.asarray(image) > 0
    return out


def get_masks(arrays):
    """Returns the masks of a batch, bool [K, N, T, S, S]."""
    segments, planes = arrays["segments"], arrays["planes"]
    return np.stack(
        [[maps[plane] == n + 1 for n, plane in enumerate(each)] for maps, each in zip(segments, planes, strict=True)]
    )


@pytest.mark.parametrize("share", [0.002, 0.3])
def test_masks_are_resized_separately(share):
    """A mask without a pixel, before or after it is resized, is no target."""
    rng = np.random.default_rng(0)
    for height, width, frames in ((37, 91, 2), (130, 77, 1), (48, 48, 3), (9, 5, 2), (1, 60, 1)):
        masks = rng.random((2, 6, frames, height, width)) < share
        arrays = PROCESSOR(make_example(masks[0], masks[1, :4]), train=True, fill=0.9)
        geometry = dataclasses.replace(PROCESSOR.geometry(height, width), filled=tuple(arrays["filled"].tolist()))
        expected = np.zeros((2, 6, 2, SIDE, SIDE), bool)
        masks[1, 4:] = False
        for k, n, t in np.ndindex(2, 6, min(frames, 2)):
            expected[k, n, t] = resize_mask(masks[k, n, t], geometry)
        np.testing.assert_array_equal(get_masks(arrays), expected)
        np.testing.assert_array_equal(arrays["valid"], expected.any((2, 3, 4)) & (np.arange(6) < [[6], [4]]))


def test_size_errors_name_planes_and_targets():
    one = dataclasses.replace(PROCESSOR, planes=1)
    many = dataclasses.replace(one, targets=256, prompts=1)
    evaluated = one.for_bucket({**one.bucket(make_example(np.zeros((0, 2, 8, 8), bool))), "targets": 0})
    mixed = dataclasses.replace(PROCESSOR, targets=3).with_common_shape([many])
    expected = {PROCESSOR: (6, "uint8"), one: (1, "uint8"), many: (1, "uint16"), evaluated: (0, "uint8"), mixed: (3, "uint16")}
    for processor, (planes, dtype) in expected.items():
        spec, blank = processor.spec(5), processor.blank()
        assert spec["segments"].shape == (5, processor.prompts, planes, 2, SIDE, SIDE) and spec["segments"].dtype == dtype
        result = processor(make_example(np.zeros((0, 1, 8, 8), bool)), train=True)
        messages = lambda element: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), element)
        assert messages(result) == messages(blank) == jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype), spec)


def test_too_many_planes_are_one_line():
    masks = np.zeros((3, 1, 8, 8), bool)
    masks[:, 0, 2:5] = True
    with pytest.raises(UserError) as caught:
        dataclasses.replace(PROCESSOR, planes=2)(make_example(masks), train=True)
    (message,) = str(caught.value).splitlines()
    assert message.startswith("it: ") and "need 3 planes, but the task allows 2; increase planes" in message
