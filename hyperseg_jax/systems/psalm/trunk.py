"""The modules that HyperSeg and InstructSeg share, from their blocks of a config, and their weight table."""

from __future__ import annotations

from typing import Any

import ml_collections

from hyperseg_jax.connectors import projector
from hyperseg_jax.decoders import mask2former, pixel_decoder
from hyperseg_jax.encoders import siglip, swin
from hyperseg_jax.layers.linear import LoRA
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.llms import phi
from hyperseg_jax.tables import Identity, Row, Table


def build_trunk(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the shared fields of a model by name: its submodules, number of queries and precision."""
    m = config.model
    precision = Precision(**m.precision)
    lora = LoRA(m.lora.rank, m.lora.alpha, m.lora.dropout) if m.lora.rank else None
    return {
        "clip_encoder": siglip.Siglip(**m.clip_encoder, precision=precision),
        "projector": projector.Projector(m.llm.hidden_size, precision=precision),
        "mask_encoder": swin.Swin(**_lists_to_tuples(m.mask_encoder), precision=precision),
        "llm": phi.Phi(**m.llm, lora=lora, lora_targets=tuple(m.lora.targets), precision=precision),
        "language_head": phi.LanguageHead(m.head_vocab_size, precision=precision),
        "pixel_decoder": pixel_decoder.DeformablePixelDecoder(**m.pixel_decoder, precision=precision),
        "mask_decoder": mask2former.MaskedAttentionDecoder(**_lists_to_tuples(m.mask_decoder), precision=precision),
        "num_queries": m.num_queries,
        "precision": precision,
    }


def _lists_to_tuples(block: ml_collections.ConfigDict) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in block.items()}


def trunk_table(model: Any) -> Table:
    """Returns the weight table of the submodules of build_trunk and of the mask queries."""
    rows = phi.table(model.llm).with_prefix("llm/", "model.") + phi.head_table().with_prefix("language_head/")
    rows += siglip.table(model.clip_encoder).with_prefix("clip_encoder/", "model.vision_tower.")
    rows += projector.table(model.projector).with_prefix("projector/", "model.mm_projector.")
    rows += swin.table(model.mask_encoder).with_prefix("mask_encoder/", "model.vision_tower_mask.")
    rows += pixel_decoder.table(model.pixel_decoder).with_prefix("pixel_decoder/", "pixel_decoder.")
    rows += mask2former.table(model.mask_decoder).with_prefix("mask_decoder/", "predictor.")
    return rows + Table([Row("queries", "seg_query", Identity())])
