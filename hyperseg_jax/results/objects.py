"""Merges several masks of one frame into one object map, as DAVIS requires."""

from __future__ import annotations

import numpy as np


def merge_soft(masks: np.ndarray) -> np.ndarray:
    """Returns int [H, W]: the most probable object of each pixel, from 1; 0 if background is more probable.

    masks: probabilities [N, H, W]. The background probability is the product of 1 - masks (InstructSeg's Ref-DAVIS script).
    """
    background = np.prod(1 - masks, axis=0, keepdims=True)
    return np.concatenate([background, masks]).argmax(0)


def merge_hard(masks: np.ndarray) -> np.ndarray:
    """Returns int [H, W]: the last object, from 1, whose bool mask [N, H, W] covers the pixel; 0 if none does."""
    numbers = np.zeros(masks.shape[1:], int)
    for k, mask in enumerate(masks, 1):
        numbers[mask] = k
    return numbers
