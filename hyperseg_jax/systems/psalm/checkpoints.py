"""The public checkpoints that these systems start from, and the config.json of an export."""

from __future__ import annotations

from typing import Any

import ml_collections

from hyperseg_jax.tables import Rule, SourceCheckpoint

TOKENS, HEAD = ("model.embed_tokens.weight", 0), ("lm_head.weight", 0)
SIZES = (("model.llm.vocab_size", TOKENS), ("model.head_vocab_size", HEAD))
"""Sizes of the model that differ between checkpoints, by field of the config."""


def mipha(*initialized: Rule) -> SourceCheckpoint:
    """Returns Mipha-3B: the language model, image encoder and projector that the authors' training starts from.

    initialized: names that it lacks.
    """
    return SourceCheckpoint(
        "Mipha-3B",
        mark=r"model\.mm_projector\.0\.weight",
        file="the folder of zhumj34/Mipha-3B",
        ignored=(Rule(r"lm_head\.bias", "the head has no bias; the release drops it too"),),
        initialized=(Rule(r"seg_query", "the mask queries are initialized to zero"), *initialized),
        sizes=SIZES,
    )


SIGLIP = SourceCheckpoint(
    "SigLIP",
    mark=r"vision_model\.embeddings\.patch_embedding\.weight",
    file="the folder of google/siglip-so400m-patch14-384 (not needed with Mipha-3B, which contains a copy)",
    renames=((r"(vision_model\..*)", r"model.vision_tower.\1"),),
    ignored=(
        Rule(r"text_model\..*", "SigLIP's text tower is not used"),
        Rule(r"logit_(scale|bias)", "the scale and bias of the contrastive loss are not used"),
        Rule(r"vision_model\.embeddings\.position_ids", "position ids are computed"),
    ),
)

_DECODER_STEM = r"sem_seg_head\.pixel_decoder\.(adapter_1|layer_1)\."


def mask2former(heads: str) -> SourceCheckpoint:
    """Returns Mask2Former's checkpoint. heads: regular expression of the heads of the decoder that it lacks."""
    return SourceCheckpoint(
        "Mask2Former",
        mark=r"sem_seg_head\.predictor\.class_embed\.weight",
        file="Mask2Former's Swin-B panoptic pickle, model_final_54b88a.pkl",
        renames=(
            (r"backbone\.(.*)", r"model.vision_tower_mask.\1"),
            (_DECODER_STEM + r"weight", r"pixel_decoder.\1.0.weight"),
            (_DECODER_STEM + r"norm\.(weight|bias)", r"pixel_decoder.\1.1.\2"),
            (r"sem_seg_head\.pixel_decoder\.(.*)", r"pixel_decoder.\1"),
            (r"sem_seg_head\.predictor\.static_query\.weight", "predictor.query_feat.weight"),
            (r"sem_seg_head\.predictor\.(.*)", r"predictor.\1"),
        ),
        ignored=(
            Rule(r"sem_seg_head\.predictor\.class_embed\..*", "queries are scored against the prompt instead of 134 classes"),
            Rule(r"criterion\..*", "a constant of the loss"),
        ),
        initialized=(
            Rule(
                r"pixel_decoder\.(adapter_1|layer_1)\.0\.bias",
                "Mask2Former's lateral convolutions have no bias; ours are initialized to zero",
            ),
            Rule(
                rf"predictor\.({heads})\..*",
                "heads that Mask2Former lacks are randomly initialized",
            ),
            Rule(r"predictor\.SEG_query_embed\.weight", "a table that the release contains but never uses"),
        ),
        rows=(("predictor.query_embed.weight", 100), ("predictor.query_feat.weight", 100)),
    )


def hf_config(architecture: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns config.json for from_pretrained of the authors' class (transformers 4.38): the fields that their classes read."""
    model = config.model
    llm, tower = model.llm, model.clip_encoder
    vision = {
        "model_type": "mipha_vision_model",
        "vision_model_name_or_path": "siglip",
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.mlp_size,
        "num_hidden_layers": tower.num_layers,
        "num_attention_heads": tower.num_heads,
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "mm_vision_select_layer": tower.feature_layer,
        "mm_vision_select_feature": "cls_patch",
    }
    projector = {
        "model_type": "mipha_projector",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": tower.hidden_size,
        "hidden_size": llm.hidden_size,
    }
    return {
        "architectures": [architecture],
        "model_type": "mipha_phi",
        "vocab_size": llm.vocab_size,
        "hidden_size": llm.hidden_size,
        "intermediate_size": llm.mlp_size,
        "num_hidden_layers": llm.num_layers,
        "num_attention_heads": llm.num_heads,
        "partial_rotary_factor": llm.get("rotary_fraction", 0.4),
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "mask_decode_train": True,
        "swin_type": "base",
        "mm_vision_tower": "google/siglip-so400m-patch14-384",
        "mm_vision_tower_mask": "",
        "use_mm_proj": True,
        "tie_word_embeddings": False,
        "vision_config": {"vision_tower": vision, "mm_projector": projector},
    }
