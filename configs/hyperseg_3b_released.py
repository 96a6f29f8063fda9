"""HyperSeg-3B as its authors released it: no gates in the perceiver, no names before the masks, no memory of the prompts,
adapters merged, evaluated in float32."""

import pathlib
import runpy

import ml_collections

TRAINED = runpy.run_path(str(pathlib.Path(__file__).with_name("hyperseg_3b.py")))


def get_config() -> ml_collections.ConfigDict:
    c = TRAINED["get_config"]()
    c.init_optional = ()
    c.model.precision.update({"compute": "float32", "matmul": "highest"})
    c.model.lora.rank = 0
    c.model.perceiver.gate = "none"
    c.model.temporal.aggregation = False
    c.model.entities.recognition = "decoding"
    c.data.tasks.panoptic.length = 1792
    return c
