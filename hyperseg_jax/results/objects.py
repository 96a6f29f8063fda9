"""Several answers about one frame -> one map of objects, as DAVIS wants it."""

from __future__ import annotations

import numpy as np


def merge_soft(masks: np.ndarray) -> np.ndarray:
    """int [H, W]: the most probable object of each pixel, from 1, or 0 where all are absent with more probability.

    masks: [N, H, W], probabilities. Rule of InstructSeg's Ref-DAVIS script.
    """
    background = np.prod(1 - masks, axis=0, keepdims=True)
    return np.concatenate([background, masks]).argmax(0)


def merge_hard(masks: np.ndarray) -> np.ndarray:
    """int [H, W]: the last object, from 1, whose bool mask [N, H, W] covers the pixel, or 0."""
    numbers = np.zeros(masks.shape[1:], int)
    for k, mask in enumerate(masks, 1):
        numbers[mask] = k
    return numbers
