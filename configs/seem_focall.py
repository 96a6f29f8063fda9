"""SEEM with Focal-L at its published size; see seem_focalt."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("seem_focalt.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    c.model.mask_encoder.update(
        {"kind": "focal", "hidden_size": 192, "depths": (2, 2, 18, 2), "levels": (4, 4, 4, 4), "windows": (3, 3, 3, 3)}
    )
    return c
