"""HyperSeg-3B with its language model trained in full, as PSALM trains the smaller one (arXiv 2403.14598); encoders frozen.

Sizes of a slice as in hyperseg_3b: hyperseg_3b_full:v5p-128. PSALM's rate is 6e-5 with batches of 64: by the square root of the
batch, 4e-5 with 32.
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("hyperseg_3b.py")))


def get_config(slice_name: str = "") -> ml_collections.ConfigDict:
    c = BASE["get_config"](slice_name)
    c.model.lora.rank = 0
    c.optimizer.param_groups = (
        {"pattern": r"(clip_encoder|mask_encoder|projector)/.*", "rate": 0.0, "decay": 0.0},
        {"pattern": r".*", "rate": 1.0, "decay": 0.0},
    )
    return c
