"""InstructSeg with the dimensions and weights of a golden case."""

from __future__ import annotations

import re
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from import_weights import channels_last

from hyperseg_jax.systems.instructseg import model as instructseg
from hyperseg_jax.systems.psalm import parts
from hyperseg_jax.systems.psalm.markers import PromptTokens, TokenCounts, expand_to_runs
from hyperseg_jax.tables import flatten, unflatten
from hyperseg_jax.text.layout import Run, expand_runs, expanded_length

ADAPTERS = r".*/lora_[ab]"


def config_from_case(case: Any, **lora: Any) -> ml_collections.ConfigDict:
    """Returns our config with the case's dimensions; the vision modules have the released sizes."""
    llm, tower = case.config["phi"], case.config["siglip"]
    return ml_collections.ConfigDict(
        {
            "model": {
                "precision": {},
                "num_queries": 100,
                "fusion_size": 1024,
                "head_vocab_size": llm["lm_head_out"],
                "lora": lora or {"rank": 0, "targets": ()},
                "clip_encoder": {
                    "image_size": tower["image"],
                    "patch_size": tower["patch"],
                    "hidden_size": tower["hidden"],
                    "mlp_size": tower["inter"],
                    "num_layers": tower["layers"],
                    "num_heads": tower["heads"],
                    "feature_layer": tower["select_layer"],
                    "keep_unused": True,
                },
                "mask_encoder": {},
                "object_perceiver": {},
                "text_fusion": {},
                "llm": {
                    "vocab_size": llm["vocab_size"],
                    "hidden_size": llm["hidden_size"],
                    "mlp_size": llm["intermediate_size"],
                    "num_layers": llm["num_layers"],
                    "num_heads": llm["num_heads"],
                    "rotary_fraction": llm["partial_rotary_factor"],
                },
                "pixel_decoder": {},
                "mask_decoder": {"score_kinds": ("expression",), "heads": (), "keep_unused": True},
            },
            "data": {"image_size": 64},
        }
    )


class CaseInputs:
    """The inputs of an end-to-end case in our form.

    images [B, H, W, 3]; clips [B, slots, s, s, 3]; prompts: arrays that InstructSeg.predict_masks takes by name.
    """

    def __init__(self, case: Any, image_tokens: int, prefix: str = "") -> None:
        """prefix: of the names of the inputs of a step."""
        read = {name.removeprefix(prefix): value for name, value in case.inputs.items() if name.startswith(prefix)}
        images, clip = read.get("images"), read["images_clip"]
        video = images is not None and images.ndim == 5
        self.images = None if images is None else channels_last(images[:, 0] if video else images)
        self.clips = np.moveaxis(clip if video else clip[:, None], -3, -1)
        batch, slots = self.clips.shape[:2]
        references = np.arange(1, slots) if slots > 1 else np.zeros(1, int)
        self.prompts = {"key_slot": np.zeros(batch, np.int32), "reference_slots": np.tile(references, (batch, 1))}
        frames = len(references)
        self.counts = TokenCounts(image_tokens, frames * 128, 100)
        texts = [read.get(f"token_refer_id_{row}", np.zeros(0, np.int64)) for row in range(batch)]
        most = max(map(len, texts))
        runs = [*map(self._runs, read["input_ids"], read["labels"], read["attention_mask"] > 0, texts)]
        length = max(map(expanded_length, runs))
        self.layout = jax.tree.map(lambda *rows: np.stack(rows), *(expand_runs(row, length) for row in runs))
        self.prompts["expression"] = np.stack([np.pad(text, (0, most - len(text))) for text in texts])[:, None].astype(np.int32)
        self.prompts["expression_valid"] = np.stack([np.arange(most) < len(text) for text in texts])[:, None]

    def _runs(self, ids: np.ndarray, labels: np.ndarray, mask: np.ndarray, text: np.ndarray) -> list[Run]:
        """Returns the runs of a row. As in the published code, padding tokens are embedded, but not attended to."""
        tokens = PromptTokens(
            ids=tuple(ids.tolist()),
            labels=tuple(labels.tolist()),
            mask=tuple(mask.tolist()),
            expression=tuple(text.tolist()),
        )
        return expand_to_runs(tokens, self.counts)


def import_case(case: Any, **lora: Any) -> tuple[Any, Any, Any]:
    """Returns (model, parameters, weight table) of a case. lora: fields of config.model.lora if the case has adapters."""
    config = config_from_case(case, **lora)
    model = instructseg.build_model(config)
    shapes = nn.unbox(jax.eval_shape(lambda key: instructseg.init_params(model, config, key), jax.random.key(0)))
    table = instructseg.weight_table(config)
    if not lora:
        return model, table.to_flax(case.weights, shapes), table
    adapters = adapter_table(config)
    named = {name.replace(".default.", "."): value for name, value in case.weights.items()}
    wanted = {name: named[name] for row in adapters for name in row.names}
    plain = {name: value for name, value in named.items() if name not in wanted}
    params = flatten(table.to_flax(plain, shapes, optional=(ADAPTERS,)))
    own = {path: leaf for path, leaf in flatten(shapes).items() if re.fullmatch(ADAPTERS, path)}
    return model, unflatten({**params, **flatten(adapters.to_flax(wanted, unflatten(own)))}), table


def adapter_table(config: ml_collections.ConfigDict) -> Any:
    """Returns the weight table of the adapters for PEFT's names."""
    return parts.adapters(instructseg.build_model, config).table
