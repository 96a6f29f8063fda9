"""The parts of these systems that a class of transformers implements exactly, with tables and configs, and LoRA for PEFT.

"phi" is PhiForCausalLM, "siglip" SiglipVisionModel, "swin" SwinBackbone. Names and settings are those of transformers 5.23,
whose classes load the exported folders.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hyperseg_jax.encoders import siglip, swin
from hyperseg_jax.errors import UserError
from hyperseg_jax.llms import phi
from hyperseg_jax.tables import Adapters, Constant, Identity, PaddedRows, Part, Row, Table, ZeroBias

Build = Callable[[ConfigDict], Any]
"""Builds the model of a config; it has the parts llm, clip_encoder and mask_encoder."""

CONTEXT = 2048  # Phi-2's max_position_embeddings; the weights do not depend on it


def adapters(build: Build, config: ConfigDict) -> Adapters:
    """Returns the language model's adapters. PEFT wraps PhiForCausalLM (its .model is the PhiModel) as base_model.model."""
    llm = build(config).llm
    layers = "|".join(str(i) for i in range(llm.num_layers))
    names = "|".join(re.escape(name) for ours, (_, name) in phi.LINEARS.items() if ours in llm.lora_targets)
    # The regex names layers explicitly, so that linears of other modules never match.
    return Adapters(
        phi.lora_table(llm).with_prefix("llm/", "base_model.model.model."), rf"model\.layers\.({layers})\.({names})"
    )


def _vocab_sizes(config: ConfigDict) -> tuple[int, int]:
    """Returns the number of rows of the token embedding and of the LM head (vocab_size of PhiForCausalLM).

    The token embedding may be shorter: zero rows do not affect existing ids. A shorter head cannot be padded,
    because every logit contributes to the softmax. Raises UserError in this case.
    """
    tokens, head = config.model.llm.vocab_size, config.model.head_vocab_size
    if tokens > head:
        raise UserError(
            f"model.head_vocab_size = {head} is less than model.llm.vocab_size = {tokens}: PhiForCausalLM has one "
            "size for both, and logits for the missing words would change every probability; export the full system instead"
        )
    return tokens, head


def _phi_table(build: Build, config: ConfigDict) -> Table:
    tokens, head = _vocab_sizes(config)
    embedding = "model.embed_tokens.weight"
    rows = [row for row in phi.table(build(config).llm).with_prefix("llm/", "model.") if row.names != (embedding,)]
    pad = PaddedRows(tokens, head, embedding) if tokens < head else Identity()
    bias = "lm_head.bias"
    return Table(
        [
            Row("llm/tokens/embedding", embedding, pad),
            *rows,
            Row("language_head/kernel", ("lm_head.weight", bias), ZeroBias(bias)),
        ]
    )


def _phi_config(build: Build, config: ConfigDict) -> dict[str, Any]:
    llm = build(config).llm
    return {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "vocab_size": _vocab_sizes(config)[1],
        "hidden_size": llm.hidden_size,
        "intermediate_size": llm.mlp_size,
        "num_hidden_layers": llm.num_layers,
        "num_attention_heads": llm.num_heads,
        "num_key_value_heads": llm.num_heads,
        "hidden_act": "gelu_new",
        "layer_norm_eps": llm.epsilon,
        "partial_rotary_factor": llm.rotary_fraction,
        "rope_theta": llm.rotary_theta,
        "max_position_embeddings": CONTEXT,
        "qk_layernorm": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _siglip_table(build: Build, config: ConfigDict) -> Table:
    """Returns the table of SiglipVisionModel; a tower without unused layers gets a final norm of ones and zeros."""
    tower = build(config).clip_encoder
    rows = siglip.table(tower)
    if not tower.keep_unused:
        dtype = jnp.dtype(tower.precision.params)
        rows += Table(
            Row((), f"vision_model.post_layernorm.{name}", Constant((fill, tower.hidden_size, dtype)))
            for name, fill in (("weight", np.ones), ("bias", np.zeros))
        )
    return rows.with_prefix("clip_encoder/")


def _siglip_config(build: Build, config: ConfigDict) -> dict[str, Any]:
    """Returns config.json of SiglipVisionModel.

    The feature is hidden_states[feature_layer] of a full tower, and hidden_states[-1] of a truncated tower.
    """
    tower = build(config).clip_encoder
    return {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "num_channels": 3,
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.mlp_size,
        "num_hidden_layers": tower.num_layers if tower.keep_unused else tower.num_used,
        "num_attention_heads": tower.num_heads,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": tower.epsilon,
        "vision_use_head": tower.keep_unused,
    }


def _swin_table(build: Build, config: ConfigDict) -> Table:
    return swin.transformers_table(build(config).mask_encoder).with_prefix("mask_encoder/")


def _swin_config(build: Build, config: ConfigDict) -> dict[str, Any]:
    model = build(config).mask_encoder
    return {
        "architectures": ["SwinBackbone"],
        "model_type": "swin",
        "image_size": config.data.image_size,
        "patch_size": model.patch_size,
        "num_channels": 3,
        "embed_dim": model.hidden_size,
        "depths": list(model.depths),
        "num_heads": list(model.num_heads),
        "window_size": model.window,
        "mlp_ratio": model.mlp_ratio,
        "qkv_bias": True,
        "drop_path_rate": model.drop_path,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "use_absolute_embeddings": False,
        "out_features": [f"stage{i + 1}" for i in range(len(model.depths))],
    }


def make_parts(build: Build) -> dict[str, Part]:
    """Returns the parts of a system by name. build: the function that builds its model."""
    bind = lambda function: functools.partial(function, build)
    return {
        "phi": Part(("llm/", "language_head/"), bind(_phi_table), bind(_phi_config), reads_text=True),
        "siglip": Part(("clip_encoder/",), bind(_siglip_table), bind(_siglip_config)),
        "swin": Part(("mask_encoder/",), bind(_swin_table), bind(_swin_config)),
    }


UNSUPPORTED = {
    "mask2former": "the lateral convolutions have biases and a ReLU after them, which transformers' "
    "Mask2FormerPixelDecoder lacks, so no class of transformers implements these decoders",
}
"""Parts that no class of transformers implements, and why."""
