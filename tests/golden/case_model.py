"""HyperSeg with the dimensions and weights of a golden case."""

from __future__ import annotations

from typing import Any

import jax
import ml_collections
import numpy as np

from hyperseg_jax.systems.hyperseg import SYSTEM
from hyperseg_jax.systems.psalm.markers import Marker, PromptTokens, TokenCounts, expand_to_runs
from hyperseg_jax.tables import flatten, unflatten
from hyperseg_jax.text.layout import Layout, expand_runs

# used by cases that only say "released sizes" for their vision modules
RELEASED = {
    "conv": 256,
    "mask": 256,
    "heads": 8,
    "ffn": 2048,
    "enc_ffn": 1024,
    "enc_layers": 6,
    "dec_layers": 9,
    "Q": 100,
    "fvp_q": 128,
    "fvp_dim": 512,
    "fvp_dim_head": 64,
    "fvp_heads": 8,
    "swin": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "window_size": 12},
}


class CaseModel:
    """Config, Flax model, params and token counts of an end-to-end case. precision: fields of layers.precision.Precision."""

    def __init__(self, case: Any, **precision: str) -> None:
        weights = case.weights
        head = weights["lm_head.weight"].shape[0] if "lm_head.weight" in weights else 8
        self.config = config_from_case(case, head, precision)
        self.model = SYSTEM.build(self.config)
        expected = SYSTEM.shapes(self.config)
        table = SYSTEM.weight_table(self.config)
        # a case stores all weights of the parts that it runs; other parts are zero here
        available_paths = {row.paths for row in table if set(row.names) <= weights.keys()}
        parts = {path.split("/")[0] for paths in available_paths for path in paths}
        absent = [path for path in flatten(expected) if path.split("/")[0] not in parts]
        result = flatten(table.to_flax(weights, expected, optional=absent))
        zeros = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in flatten(expected).items() if path not in result}
        self.params = unflatten({**result, **zeros})
        self.counts = TokenCounts(self.model.clip_encoder.num_tokens, self.model.perceiver.num_queries, self.model.num_queries)


def config_from_case(case: Any, head: int, precision: dict[str, str]) -> ml_collections.ConfigDict:
    """Returns our config with the case's dimensions. head: rows of the language head."""
    llm, tower, vision = case.config["llm"], case.config["siglip"], case.config.get("vision", RELEASED)
    vision = vision if isinstance(vision, dict) else RELEASED
    swin = vision["swin"]
    return ml_collections.ConfigDict(
        {
            "model": {
                "precision": precision,
                "num_queries": vision["Q"],
                "query_std": 0.0,
                "head_vocab_size": head,
                "lora": {"rank": 0, "targets": ()},
                "clip_encoder": {
                    "image_size": tower["image_size"],
                    "patch_size": tower["patch_size"],
                    "hidden_size": tower["hidden_size"],
                    "mlp_size": tower["intermediate_size"],
                    "num_layers": tower["num_hidden_layers"],
                    "num_heads": tower["num_attention_heads"],
                    "feature_layer": tower["mm_vision_select_layer"],
                    "keep_unused": True,
                },
                "mask_encoder": {
                    "hidden_size": swin["embed_dim"],
                    "depths": tuple(swin["depths"]),
                    "num_heads": tuple(swin["num_heads"]),
                    "window": swin["window_size"],
                },
                "perceiver": {
                    "hidden_size": vision["fvp_dim"],
                    "num_queries": vision["fvp_q"],
                    "num_heads": vision["fvp_heads"],
                    "head_dim": vision["fvp_dim_head"],
                },
                "llm": {
                    "vocab_size": llm["vocab_size"],
                    "hidden_size": llm["hidden_size"],
                    "mlp_size": llm["intermediate_size"],
                    "num_layers": llm["num_hidden_layers"],
                    "num_heads": llm["num_attention_heads"],
                    "rotary_fraction": llm["partial_rotary_factor"],
                },
                "pixel_decoder": {
                    "conv_dim": vision["conv"],
                    "mask_dim": vision["mask"],
                    "num_heads": vision["heads"],
                    "feedforward_dim": vision["enc_ffn"],
                    "num_layers": vision["enc_layers"],
                },
                "mask_decoder": {
                    "hidden_size": vision["conv"],
                    "mask_dim": vision["mask"],
                    "num_heads": vision["heads"],
                    "feedforward_dim": vision["ffn"],
                    "num_layers": vision["dec_layers"],
                    "num_queries": vision["Q"],
                    "keep_unused": True,
                },
            },
            "data": {"image_size": 64, "template": "v0"},
        }
    )


def layout_from_case(case: Any, counts: TokenCounts, length: int) -> tuple[Layout, int]:
    """Returns the layout [B, length] of the case's ids, and the largest number of classes of a row.

    Class names are stored as one sequence of ids with the class index of each id. Expressions are stored as token_refer_id in
    cases of one row, and as token_refer_id_<row> otherwise.
    """
    read = case.inputs
    layouts, most = [], 0
    for row, ids in enumerate(read["input_ids"]):
        classes: tuple[tuple[int, ...], ...] = ()
        if "cls_indices" in read:
            names, numbers = read["class_name_ids"][row], read["cls_indices"][row]
            classes = tuple(tuple(names[numbers == k].tolist()) for k in range(int((ids == Marker.CLS).sum())))
        expression = read.get("token_refer_id", read.get(f"token_refer_id_{row}"))
        tokens = PromptTokens(
            ids=tuple(ids.tolist()),
            labels=tuple(ids.tolist()),
            mask=(True,) * len(ids),
            classes=classes,
            expression=() if expression is None else tuple(expression.tolist()),
            num_regions=int((ids == Marker.REGION).sum()),
        )
        layouts.append(expand_runs(expand_to_runs(tokens, counts), length))
        most = max(most, len(classes))
    return jax.tree.map(lambda *rows: np.stack(rows), *layouts), most
