"""Inputs for tests: random parameters (a model's initializers take long to compile), segment maps of masks, and regions."""

import jax
import numpy as np

from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.structs import Region


def random_params(shapes, seed, spread=0.4):
    """Returns nested random float32 arrays of the given shapes, all nonzero; norm scales are about one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        values = rng.standard_normal(leaf.shape).astype(np.float32) * (1 if name == "embedding" else spread)
        return values + 1 if name == "scale" else values

    return jax.tree_util.tree_map_with_path(draw, shapes)


def masks_to_planes(masks):
    """Returns segments and planes of MaskTargets for bool masks [B, N, H, W], one plane per mask."""
    rows, number = masks.shape[:2]
    numbers = np.arange(1, number + 1, dtype=np.uint8)
    return {"segments": masks * numbers[:, None, None], "planes": np.tile(np.arange(number, dtype=np.int32), (rows, 1))}


def make_regions(masks, *kinds):
    """Returns a region for each mask of bool [R, H, W], by default of the kind "mask"."""
    return tuple(map(Region.from_mask, masks, kinds or ("mask",) * len(masks)))


def draw_regions(prompt, size=None):
    """Draws the regions of a prompt like HyperSeg's input, bool [R, H, W]. size: (height, width); None: that of the masks."""
    return np.array([draw_region(region, size or region.mask.shape) for region in prompt.regions])


def region_kinds(prompt):
    return tuple(region.kind for region in prompt.regions)
