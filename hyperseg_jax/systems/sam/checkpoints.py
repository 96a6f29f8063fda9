"""The public checkpoints that SAM's weights are imported from."""

from __future__ import annotations

from typing import Any

import ml_collections

from hyperseg_jax.systems.sam.model import build_model
from hyperseg_jax.tables import SourceCheckpoint

SAM = SourceCheckpoint(
    "SAM of transformers",
    mark=r"vision_encoder\.neck\.conv1\.weight",
    file="the folder of facebook/sam-vit-base, -large or -huge, with its config.json and model.safetensors",
)
_MLP = r"mask_decoder\.(output_hypernetworks_mlps\.\d|iou_prediction_head)\.layers"
_MASKS = (("0", "conv1"), ("1", "layer_norm1"), ("3", "conv2"), ("4", "layer_norm2"), ("6", "conv3"))
_UPSCALING = (("0", "upscale_conv1"), ("1", "upscale_layer_norm"), ("3", "upscale_conv2"))
_NECK = (("0", "conv1"), ("1", "layer_norm1"), ("2", "conv2"), ("3", "layer_norm2"))
AUTHORS = SourceCheckpoint(
    "SAM",
    mark=r"image_encoder\.neck\.0\.weight",
    file="sam_vit_b_01ec64.pth, sam_vit_l_0b3195.pth or sam_vit_h_4b8939.pth",
    renames=(
        (r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
        (r"prompt_encoder\.point_embeddings\.(.*)", r"prompt_encoder.point_embed.\1"),
        *((rf"prompt_encoder\.mask_downscaling\.{n}\.(.*)", rf"prompt_encoder.mask_embed.{name}.\1") for n, name in _MASKS),
        (r"image_encoder\.patch_embed\.proj\.(.*)", r"vision_encoder.patch_embed.projection.\1"),
        *((rf"image_encoder\.neck\.{n}\.(.*)", rf"vision_encoder.neck.{name}.\1") for n, name in _NECK),
        (r"image_encoder\.blocks\.(\d+)\.norm(.*)", r"vision_encoder.layers.\1.layer_norm\2"),
        (r"image_encoder\.blocks\.(.*)", r"vision_encoder.layers.\1"),
        (r"image_encoder\.(.*)", r"vision_encoder.\1"),
        *((rf"mask_decoder\.output_upscaling\.{n}\.(.*)", rf"mask_decoder.{name}.\1") for n, name in _UPSCALING),
        (rf"{_MLP}\.0\.(.*)", r"mask_decoder.\1.proj_in.\2"),
        (rf"{_MLP}\.1\.(.*)", r"mask_decoder.\1.layers.0.\2"),
        (rf"{_MLP}\.2\.(.*)", r"mask_decoder.\1.proj_out.\2"),
        (r"mask_decoder\.transformer\.norm_final_attn\.(.*)", r"mask_decoder.transformer.layer_norm_final_attn.\1"),
        (r"mask_decoder\.transformer\.layers\.(\d+)\.norm(.*)", r"mask_decoder.transformer.layers.\1.layer_norm\2"),
    ),
)
CHECKPOINTS = (SAM, AUTHORS)


def hf_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config.json of transformers' SamModel."""
    model = build_model(config)
    vit, decoder, prompts = model.encoder.vit, model.decoder, model.prompt_encoder
    return {
        "architectures": ["SamModel"],
        "model_type": "sam",
        "vision_config": {
            "model_type": "sam_vision_model",
            "hidden_size": vit.hidden_size,
            "output_channels": model.encoder.neck.features,
            "num_hidden_layers": vit.num_layers,
            "num_attention_heads": vit.heads,
            "image_size": vit.image_size,
            "patch_size": vit.patch_size,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "qkv_bias": True,
            "mlp_ratio": vit.mlp_ratio,
            "mlp_dim": int(vit.mlp_ratio * vit.hidden_size),
            "use_abs_pos": True,
            "use_rel_pos": True,
            "window_size": vit.window,
            "global_attn_indexes": list(vit.global_layers),
            "num_pos_feats": prompts.channels // 2,
        },
        "prompt_encoder_config": {
            "hidden_size": prompts.channels,
            "image_size": prompts.image_size,
            "patch_size": vit.patch_size,
            "mask_input_channels": prompts.mask_channels,
            "num_point_embeddings": 4,
            "hidden_act": "gelu",
            "layer_norm_eps": prompts.epsilon,
        },
        "mask_decoder_config": {
            "hidden_size": decoder.channels,
            "hidden_act": "relu",
            "mlp_dim": decoder.transformer.mlp_dim,
            "num_hidden_layers": decoder.transformer.num_layers,
            "num_attention_heads": decoder.transformer.num_heads,
            "attention_downsample_rate": decoder.transformer.downsample,
            "num_multimask_outputs": decoder.num_candidates,
            "iou_head_depth": decoder.iou_depth,
            "iou_head_hidden_dim": decoder.iou_hidden,
            "layer_norm_eps": decoder.epsilon,
        },
    }
