"""A small SamModel of transformers, and the config of ours for it."""

import torch
import transformers

from hyperseg_jax import config as configs

SIDE, LAYERS, GLOBAL = 96, 3, (1,)


def make_config(overrides=()):
    """Returns the config of SAM at the size of make_reference."""
    encoder = {"hidden_size": 32, "num_layers": LAYERS, "heads": 4, "window": 4, "mlp_ratio": 2.0, "channels": 32}
    decoder = {"transformer.num_heads": 4, "transformer.mlp_dim": 48, "iou_hidden": 24}
    config = configs.load("sam_vitb", list(overrides))
    with config.unlocked():
        config.model.image_encoder.update(encoder)
        config.model.image_encoder.global_layers = GLOBAL
        for name, value in decoder.items():
            config.model.mask_decoder.update_from_flattened_dict({name: value})
        config.data.image_size = SIDE
    return config


def make_reference():
    """Returns a SamModel with random weights that matter, also where it begins with zeros."""
    vision = transformers.SamVisionConfig(
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=16,
        window_size=4,
        global_attn_indexes=list(GLOBAL),
        mlp_dim=64,
        output_channels=32,
        num_pos_feats=16,
    )
    prompts = transformers.SamPromptEncoderConfig(hidden_size=32, image_size=SIDE, patch_size=16)
    decoder = transformers.SamMaskDecoderConfig(hidden_size=32, mlp_dim=48, num_attention_heads=4, iou_head_hidden_dim=24)
    torch.manual_seed(0)
    model = transformers.SamModel(
        transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        head = model.mask_decoder.iou_prediction_head.proj_out
        head.weight.mul_(0.1)
        head.bias.fill_(0.6)
    return model.eval()
