"""SEEM with DaViT-d5 at its published size; see seem_focalt."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("seem_focalt.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    c.model.mask_encoder = {
        "kind": "davit",
        "hidden_sizes": (256, 512, 1024, 2048),
        "depths": (1, 1, 9, 1),
        "num_heads": (8, 16, 32, 64),
        "num_groups": (8, 16, 32, 64),
        "kernels": (7, 3, 3, 3),
        "window": 7,
        "remat": "marked",
    }
    return c
