"""What tests make up: parameters without meaning, drawn in moments, where a model's own initializers take long to compile;
segment maps of any masks; and regions of masks, and their pixels."""

import jax
import numpy as np

from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.structs import Region


def drawn_params(shapes, seed, spread=0.4):
    """Nested float32 arrays of the given shapes, none of them zero. Norms scale by about one, embeddings are of size one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        values = rng.standard_normal(leaf.shape).astype(np.float32) * (1 if name == "embedding" else spread)
        return values + 1 if name == "scale" else values

    return jax.tree_util.tree_map_with_path(draw, shapes)


def apart(masks):
    """MaskTargets' segments and planes for bool masks [B, N, H, W], each in a plane of its own."""
    rows, number = masks.shape[:2]
    numbers = np.arange(1, number + 1, dtype=np.uint8)
    return {"segments": masks * numbers[:, None, None], "planes": np.tile(np.arange(number, dtype=np.int32), (rows, 1))}


def regions_of(masks, *kinds):
    """A region of each mask of bool [R, H, W], by default of the kind "mask"."""
    return tuple(map(Region.from_mask, masks, kinds or ("mask",) * len(masks)))


def pixels_of(prompt, size=None):
    """bool [R, H, W]: the regions of a prompt as HyperSeg is shown them. size: (height, width); None: of its masks."""
    return np.array([draw_region(region, size or region.mask.shape) for region in prompt.regions])


def kinds_of(prompt):
    return tuple(region.kind for region in prompt.regions)
