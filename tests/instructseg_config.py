"""The smallest version of configs/instructseg_tiny.py, for tests; compiles in seconds."""

import ml_collections

from hyperseg_jax import config as configs


def small_config(**fields) -> ml_collections.ConfigDict:
    """fields: as "model__num_queries"."""
    c = configs.load("instructseg_tiny").unlock()
    m = c.model
    m.precision.matmul = "default"
    m.num_queries = m.mask_decoder.num_queries = 4
    m.clip_encoder.update(
        {"image_size": 16, "patch_size": 8, "hidden_size": 16, "mlp_size": 16, "num_layers": 1, "num_heads": 2}
    )
    m.mask_encoder.update({"hidden_size": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window": 4, "mlp_ratio": 1.0})
    m.object_perceiver.update({"num_queries": 2, "num_layers": 1, "num_heads": 2, "head_dim": 8, "mlp_ratio": 1})
    m.text_fusion.update({"num_layers": 1, "num_heads": 2, "head_dim": 8, "mlp_ratio": 1})
    m.fusion_size = 16
    m.llm.update({"hidden_size": 32, "mlp_size": 16, "num_layers": 1, "num_heads": 2})
    m.pixel_decoder.update(
        {"conv_dim": 16, "mask_dim": 16, "num_heads": 2, "feedforward_dim": 16, "num_layers": 1, "group_norm_groups": 4}
    )
    m.mask_decoder.update({"hidden_size": 16, "mask_dim": 16, "num_heads": 2, "feedforward_dim": 16, "num_layers": 1})
    c.loss = {"points": "grid", "text_weight": 0.5}
    c.data.image_size = 32
    c.init_from, c.init_optional, c.init_ignored = "", (), ()
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c.lock()
