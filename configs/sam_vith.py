"""SAM with ViT-H at its published size; see sam_vitb."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sam_vitb.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    c.model.image_encoder.update({"hidden_size": 1280, "num_layers": 32, "heads": 16, "global_layers": (7, 15, 23, 31)})
    return c
