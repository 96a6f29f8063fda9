"""The first stage of SCA on the toy world: category names are the captions of boxes; see sca_tiny. No trained SAM of this size
exists, so SAM's masks are learned as well, which the published training does not do."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sca_tiny.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    c.loss.mask = 1.0
    task = BASE["TINY"]["task"]
    c.data.tasks = {
        "caption": task("category", 1, regions=4, marks=2, length=16, masks=1, read={"masks": True}, val={"masks": False})
    }
    c.train.steps = 1000
    return c
