"""The smallest version of configs/seem_tiny.py, for tests; compiles in seconds."""

import ml_collections

from hyperseg_jax import config as configs


def small_config(**fields) -> ml_collections.ConfigDict:
    """fields: as "model__num_classes"."""
    c = configs.load("seem_tiny").unlock()
    m = c.model
    m.precision.matmul = "default"
    m.mask_encoder.update({"hidden_size": 8, "depths": (1, 1, 1, 1), "levels": (1, 1, 1, 1)})
    m.pixel_decoder.update({"conv_dim": 16, "mask_dim": 16, "num_heads": 2, "feedforward_dim": 16, "num_layers": 1})
    m.pixel_decoder.group_norm_groups = 4
    m.text_encoder.update({"hidden_size": 16, "num_layers": 1, "num_heads": 2})
    m.mask_decoder.update({"hidden_size": 16, "mask_dim": 16, "class_dim": 16, "num_heads": 2, "feedforward_dim": 16})
    m.mask_decoder.update({"num_layers": 2, "num_queries": 5, "num_memories": 4})
    c.data.image_size = 32
    c.data.curriculum.share = 0.0
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c.lock()
