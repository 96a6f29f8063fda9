"""The first stage of SCA on the toy world: category names are the captions of boxes; see sca_tiny."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sca_tiny.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    del c.data.tasks.caption
    c.train.steps = 1500
    return c
