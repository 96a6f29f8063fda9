"""SAM with ViT-L at its published size; see sam_vitb."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sam_vitb.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    c.model.image_encoder.update({"hidden_size": 1024, "num_layers": 24, "heads": 16, "global_layers": (5, 11, 17, 23)})
    return c
