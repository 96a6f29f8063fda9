"""SEEM with DaViT-d5 at its published size; see seem_davitd3."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("seem_davitd3.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    heads = (8, 16, 32, 64)
    sizes = {"hidden_sizes": (256, 512, 1024, 2048), "num_heads": heads, "num_groups": heads, "kernels": (7, 3, 3, 3)}
    c.model.mask_encoder.update(sizes)
    return c
