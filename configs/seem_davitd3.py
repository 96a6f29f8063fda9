"""SEEM with DaViT-d3 at its published size; see seem_focalt."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("seem_focalt.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    c.model.mask_encoder = {
        "kind": "davit",
        "hidden_sizes": (128, 256, 512, 1024),
        "depths": (1, 1, 9, 1),
        "num_heads": (4, 8, 16, 32),
        "num_groups": (4, 8, 16, 32),
        "kernels": (7, 2, 2, 2),
        "window": 7,
        "remat": "marked",
    }
    return c
