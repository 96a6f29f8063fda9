"""InstructSeg inference: masks with scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.systems.instructseg.encoding import make_encodings
from hyperseg_jax.systems.instructseg.inputs import layout_of, prompts_of
from hyperseg_jax.systems.instructseg.model import InstructSeg
from hyperseg_jax.systems.system import Predict


def make_predict(model: InstructSeg, config: ml_collections.ConfigDict) -> Predict:
    """Returns the Predict function.

    Outputs: mask_logits, expression (scores) and asked (bool: the prompt uses an expression). features: see `encoding`. There
    is no memory.
    """
    encodings = make_encodings(model, config)

    def predict_batch(
        params: Any, batch: Batch, features: Mapping[str, Any], memory: None = None
    ) -> tuple[dict[str, jax.Array], None]:
        def encode(name: str, arrays: Batch) -> Any:
            return features[name] if name in features else encodings[name].function(params, arrays, {})

        clips = batch.get("clip_images", {})  # absent if all slots were encoded before
        names = sorted({*clips, *features} - {"image"})
        slots = [encode(name, {"clip_image": clips.get(name)}) for name in names]
        image = encode("image", {"images": batch.get("images")})
        output: Any = model.apply(
            {"params": params}, image, jnp.stack(slots, axis=1), layout_of(batch), method="predict_masks", **prompts_of(batch)
        )
        prompts = batch["uses_expression"].shape[1]
        by_prompt = lambda rows: rows.reshape(-1, 1, prompts, *rows.shape[1:])  # [B * K, ...] -> [B, 1, K, ...]
        prediction = output.prediction
        outputs = {"mask_logits": prediction.mask_logits, "expression": prediction.scores["expression"]}
        return {name: by_prompt(rows) for name, rows in outputs.items()} | {"asked": batch["uses_expression"][:, None]}, None

    return predict_batch
