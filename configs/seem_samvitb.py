"""SEEM with SAM's ViT-B at its published size; see seem_focalt.

Its training starts from the image encoder of SAM and a language encoder (docs/weights.md).
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("seem_focalt.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    c.model.mask_encoder = {
        "kind": "sam_vit",
        "patch_size": 16,
        "hidden_size": 768,
        "num_layers": 12,
        "heads": 12,
        "window": 14,
        "global_layers": (2, 5, 8, 11),
        "neck_features": (128, 256, 512, 1024),
        "remat": "marked",
    }
    c.model.pixel_decoder = {
        "kind": "deformable",
        "conv_dim": 512,
        "mask_dim": 512,
        "num_heads": 8,
        "feedforward_dim": 1024,
        "num_layers": 6,
        "num_points": 4,
        "group_norm_groups": 32,
        "remat": "marked",
    }
    # SAM's positions are for images of one size.
    sides = {"short_side": 1000, "long_side": 1024}
    c.data.resize.update({**sides, "multiple": 1024})
    for task in ("panoptic", "referring", "region"):
        c.data.tasks[task].update(sides)
    # ours: the neck and the pixel decoder are trained, as no published start has them; theirs freezes them where they start
    _, *others = c.optimizer.param_groups
    frozen = {"pattern": r"(backbone/vit|text_encoder)/.*|text_projection|log_scale", "rate": 0.0, "decay": 0.0}
    c.optimizer.param_groups = (frozen, *others)
    return c
