"""SEEM with the dimensions and weights of a golden case."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn

from hyperseg_jax.decoders.marks import MarkedPoints
from hyperseg_jax.ops.simulated_clicks import add_squares, choose_clicks
from hyperseg_jax.results.mask_resize import make_mask_resize, resize_masks
from hyperseg_jax.systems.seem import model as seem
from hyperseg_jax.tables import flatten, unflatten

MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
TEXT_FIELDS = {"tw": "width", "tl": "layers", "th": "heads", "ctx": "context", "proj": "dim_proj"}
FULL = {
    **{"hidden": 512, "conv": 512, "mask": 512, "proj": 512, "heads": 8, "ff": 2048, "dec": 10, "q": 101, "mem": 32},
    **{"enc_layers": 6, "tw": 512, "tl": 12, "th": 8, "ctx": 77, "ncls": 133},
    "focal": {"E": 96, "D": (2, 2, 6, 2), "L": (3,) * 4, "Wn": (3,) * 4},
}


def config_from_case(case: Any) -> ml_collections.ConfigDict:
    """Returns our config with the case's dimensions."""
    c = {"base": "focalt_v1", **FULL, **case.config}
    c |= {ours: c[name] for ours, name in TEXT_FIELDS.items() if name in c}
    kind = "focal_dw" if c["base"].startswith("focalt") else "focal"
    return ml_collections.ConfigDict(
        {
            "model": {
                "precision": {},
                "num_classes": c["ncls"],
                "mask_encoder": {
                    "kind": kind,
                    "hidden_size": c["focal"]["E"],
                    "depths": tuple(c["focal"]["D"]),
                    "levels": tuple(c["focal"]["L"]),
                    "windows": tuple(c["focal"]["Wn"]),
                },
                "pixel_decoder": {
                    "kind": "fpn",
                    "conv_dim": c["conv"],
                    "mask_dim": c["mask"],
                    "num_heads": c["heads"],
                    "feedforward_dim": c["ff"],
                    "num_layers": c["enc_layers"],
                },
                "text_encoder": {
                    "vocab_size": 49408,
                    "context": c["ctx"],
                    "hidden_size": c["tw"],
                    "num_layers": c["tl"],
                    "num_heads": c["th"],
                },
                "mask_decoder": {
                    "hidden_size": c["hidden"],
                    "mask_dim": c["mask"],
                    "class_dim": c["proj"],
                    "num_heads": c["heads"],
                    "feedforward_dim": c["ff"],
                    "num_layers": c["dec"] - 1,
                    "num_queries": c["q"],
                    "num_memories": c["mem"],
                    "variant": c["base"].rsplit("_", 1)[1],
                },
            },
            "data": {"image_size": 64},
        }
    )


class CaseModel:
    """Config, Flax model and params of a case. Weights that a case does not store are zero."""

    def __init__(self, case: Any) -> None:
        self.config = config_from_case(case)
        self.model = seem.build_model(self.config)
        init = lambda key: seem.init_params(self.model, self.config, key)
        expected = nn.unbox(jax.eval_shape(init, jax.random.key(0)))
        table, weights = seem.weight_table(self.config), case.weights
        absent = [path for row in table if not set(row.names) <= weights.keys() for path in row.paths]
        result = flatten(
            table.to_flax(weights, expected, optional=absent, ignore=[r"criterion\.empty_weight", "dilation_kernel"])
        )
        self.absent = absent
        zeros = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in flatten(expected).items() if path not in result}
        self.params = unflatten({**result, **zeros})

    def apply(self, method: Any, *inputs: Any, **options: Any) -> Any:
        """Runs a method of the model, jitted."""
        return jax.jit(lambda p, *inputs: self.model.apply({"params": p}, *inputs, **options, method=method))(
            self.params, *inputs
        )


def normalize_image(image: np.ndarray, multiple: int = 32) -> np.ndarray:
    """Normalizes an image [3, H, W] of 0..255, and pads it with zeros to a multiple: [1, H', W', 3]."""
    normalized = (np.moveaxis(image, 0, -1) - MEAN) / STD
    h, w = normalized.shape[:2]
    return np.pad(normalized, ((0, -h % multiple), (0, -w % multiple), (0, 0)))[None]


def marked_pixels(positive: np.ndarray, negative: np.ndarray, size: tuple[int, int]) -> tuple[MarkedPoints, ...]:
    """Returns the pixels of masks [N, H, W] of one image, padded to `size`, for the mean features and for each level."""
    rows = [np.stack([*np.nonzero(masks), np.full(masks.sum(), sign)]) for masks, sign in ((positive, 1), (negative, 0))]
    prompt, y, x, sign = np.concatenate([row.astype(np.int32) for row in rows], axis=1)
    points = np.stack([x / np.float32(size[1]), y / np.float32(size[0])], axis=-1)
    return (MarkedPoints(points.astype(np.float32)[None], prompt[None], sign.astype(bool)[None]),) * 4


def next_clicks(*masks: Any) -> tuple[Any, Any]:
    """Returns the pixels marked so far, and those of the next clicks. masks: those of choose_clicks."""
    return add_squares(choose_clicks(*masks), *masks[2:])


def resize(logits: Any, filled: tuple[int, int], original: tuple[int, int], last: str = "bicubic") -> np.ndarray:
    """Resizes mask logits [..., h, w] to the image."""
    h, w = logits.shape[-2:]
    geometry = np.array([[original[0], filled[0], 4 * h], [original[1], filled[1], 4 * w]], np.int32)
    return np.asarray(resize_masks(jnp.asarray(logits), make_mask_resize(jnp.asarray(geometry), (h, w), original, last)))
