"""Encoders of SEEM against PyTorch: CLIP's text encoder and SAM's ViT of transformers, and a twin of DaViT-d5."""

import jax
import numpy as np
import torch
import transformers
from davit_twin import random_twin
from flax import linen as nn

from hyperseg_jax.encoders import clip_text, davit, sam_vit


def import_params(module, table, state, *inputs):
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"])
    return table.to_flax({name: tensor.numpy() for name, tensor in state.items()}, shapes)


def spread(model):
    """Gives a model random weights that matter, also where it begins with zeros."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def test_clip_text_of_transformers():
    config = transformers.CLIPTextConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        hidden_act="quick_gelu",
        eos_token_id=98,
    )
    model = spread(transformers.CLIPTextModel(config))
    text = clip_text.ClipText(99, 98, 16, 32, 2, 4, epsilon=1e-5)
    ids = np.random.default_rng(0).integers(0, 98, (3, 12)).astype(np.int32)
    state = {name: value for name, value in model.state_dict().items() if "position_ids" not in name}
    if not next(iter(state)).startswith("text_model."):
        state = {f"text_model.{name}": value for name, value in state.items()}
    params = import_params(text, clip_text.transformers_table(text), state, ids)
    ours = text.apply({"params": params}, ids)
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids.astype(np.int64))).last_hidden_state.numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


NAMES = (("patch_embed.projection", "patch_embed.proj"), ("layers.", "blocks."), ("layer_norm", "norm"))


def test_sam_vit_of_transformers():
    config = transformers.SamVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=96,
        patch_size=16,
        window_size=4,
        global_attn_indexes=[1],
        mlp_dim=128,
        output_channels=16,
    )
    model = spread(transformers.SamVisionModel(config))
    vit = sam_vit.SamVit(96, 16, 32, 3, 4, 4, (1,))
    image = np.random.default_rng(0).standard_normal((2, 96, 96, 3)).astype(np.float32)
    state = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("vision_encoder.")
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        if not name.startswith("neck."):
            state[name] = value
    params = import_params(vit, sam_vit.table(vit), state, image)
    ours = vit.apply({"params": params}, image)
    with torch.no_grad():
        theirs = model(torch.from_numpy(image).permute(0, 3, 1, 2), output_hidden_states=True).hidden_states[-1].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_davit_d5_against_a_twin():
    """The kernels of DaViT-d5, at a small width; a map that does not divide into windows."""
    fields = (16, 32, 48, 64), (1, 1, 2, 1), (2, 4, 4, 8), (4, 2, 8, 4), (7, 3, 3, 3)
    twin, model = random_twin(0, *fields, 7), davit.DaViT(*fields)
    image = np.random.default_rng(0).standard_normal((1, 64, 96, 3)).astype(np.float32)
    params = import_params(model, davit.table(model), twin.state_dict(), image)
    levels = model.apply({"params": params}, image).levels
    with torch.no_grad():
        expected = twin(torch.from_numpy(image).permute(0, 3, 1, 2))
    for ours, theirs in zip(levels, expected, strict=True):
        theirs = theirs.permute(0, 2, 3, 1).numpy()
        assert theirs.std() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=2e-4 * theirs.std())
