"""Our decoders against the parts of transformers' Mask2Former that HyperSeg shares: the deformable encoder with its input
projections, and the masked decoder with its mask head. The lateral convolutions differ, so no class matches a full decoder.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.decoders.mask2former import MaskedAttentionDecoder
from hyperseg_jax.decoders.pixel_decoder import DeformablePixelDecoder
from hyperseg_jax.layers.attention import fused_attention_table
from hyperseg_jax.layers.conv import conv_table
from hyperseg_jax.layers.deformable_attention import deformable_attention_table
from hyperseg_jax.layers.linear import linear_table
from hyperseg_jax.layers.mlp import feed_forward_table
from hyperseg_jax.layers.norms import norm_table
from hyperseg_jax.structs import Pyramid
from hyperseg_jax.tables import Identity, Row, Table, flatten, unflatten

WIDTH, HEADS, CHANNELS = 32, 4, (6, 8, 10, 12)
SIZES = ((20, 27), (10, 14), (5, 7), (3, 4))  # fine to coarse, sides of any parity
FOREIGN = ("lateral/", "output/", "mask_features/")  # parts of our pixel decoder that are not compared
rng = np.random.default_rng(0)
PYRAMID = Pyramid(
    tuple(rng.standard_normal((2, *size, c)).astype(np.float32) for size, c in zip(SIZES, CHANNELS, strict=True)),
    (4, 8, 16, 32),
)
PIXELS = DeformablePixelDecoder(WIDTH, WIDTH, HEADS, feedforward_dim=40, num_layers=2)
MASKS = MaskedAttentionDecoder(WIDTH, WIDTH, HEADS, feedforward_dim=40, num_layers=4, num_queries=5, score_kinds=(), heads=())
QUERIES, FEATURES = rng.standard_normal((2, 5, WIDTH)), rng.standard_normal((2, *SIZES[0], WIDTH))
FEATURES[..., 0] = 10  # one dominant channel: some queries have an empty attention mask
LEVELS = tuple(rng.standard_normal((2, *size, WIDTH)).astype(np.float32) for size in SIZES[:0:-1])


@pytest.fixture(scope="module")
def make_settings():
    from transformers import Mask2FormerConfig

    result = Mask2FormerConfig(
        feature_size=WIDTH,
        mask_feature_size=WIDTH,
        hidden_dim=WIDTH,
        num_attention_heads=HEADS,
        encoder_feedforward_dim=40,
        encoder_layers=2,
        dim_feedforward=40,
        decoder_layers=5,
        num_queries=5,
        dropout=0.0,
        pre_norm=False,
    )
    assert result.activation_function == "relu" and list(result.feature_strides) == [4, 8, 16, 32]
    return result


def encoder_table():
    """Against Mask2FormerPixelDecoderEncoderOnly."""
    result = Table()
    for i in range(PIXELS.num_layers):
        path, name = f"layers_{i}", f"layers.{i}"
        result += deformable_attention_table(f"{path}/attention", f"{name}.self_attn")
        result += norm_table(f"{path}/norm1", f"{name}.self_attn_layer_norm")
        result += norm_table(f"{path}/norm2", f"{name}.final_layer_norm")
        result += feed_forward_table(f"{path}/mlp", f"{name}.fc1", f"{name}.fc2")
    return result


def projection_table():
    """Against Mask2FormerPixelDecoder.input_projections."""
    return Table.join(
        conv_table(f"projections_{i}/conv", f"{i}.0") + norm_table(f"projections_{i}/norm", f"{i}.1") for i in range(3)
    )


def pixel_table():
    """Against Mask2FormerPixelDecoder, without FOREIGN."""
    result = encoder_table().with_prefix(name="encoder.") + projection_table().with_prefix(name="input_projections.")
    return result + Table([Row("level_embed", "level_embed", Identity())])


def decoder_table():
    """Against Mask2FormerMaskedAttentionDecoder."""
    result = norm_table("norm", "layernorm")
    for i in range(MASKS.num_layers):
        path, name = f"layers_{i}", f"layers.{i}"
        result += fused_attention_table(f"{path}/cross_attention", f"{name}.cross_attn")
        for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
            result += linear_table(f"{path}/self_attention/{ours}", f"{name}.self_attn.{theirs}")
        result += feed_forward_table(f"{path}/mlp", f"{name}.fc1", f"{name}.fc2")
        for ours, theirs in (("cross_norm", "cross_attn"), ("self_norm", "self_attn"), ("mlp_norm", "final")):
            result += norm_table(f"{path}/{ours}", f"{name}.{theirs}_layer_norm")
    for i in range(3):
        result += linear_table(f"mask/layers_{i}", f"mask_predictor.mask_embedder.{i}.0")
    return result


def tensors(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def load(module, output):
    import torch

    result = module.load_state_dict({name: torch.tensor(np.ascontiguousarray(x)) for name, x in output.items()}, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    return module.eval()


def channels_first(x):
    import torch

    return torch.tensor(np.asarray(x, np.float32)).permute(0, 3, 1, 2)


def pixel_shapes():
    return nn.unbox(jax.eval_shape(PIXELS.init, jax.random.key(0), PYRAMID)["params"])


def select_leaves(tree, expected):
    """Returns the leaves whose path is (or is not) FOREIGN."""
    return unflatten({path: leaf for path, leaf in flatten(tree).items() if path.startswith(FOREIGN) is expected})


def assert_same_maps(assert_close, params, module):
    """Compares the three refined maps, coarse to fine."""
    import torch

    with torch.no_grad():
        theirs = module([channels_first(level) for level in PYRAMID.levels]).multi_scale_features
    _, maps = jax.jit(lambda p: PIXELS.apply({"params": p}, PYRAMID))(params)
    assert len(maps) == len(theirs) == 3
    for one, other in zip(maps, theirs, strict=True):
        assert_close(one, other.permute(0, 2, 3, 1))


def pixel_module(make_settings):
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

    return Mask2FormerPixelDecoder(make_settings, list(CHANNELS))


def test_import_of_the_pixel_decoder(make_settings, randomize, random_like, assert_close):
    module = randomize(pixel_module(make_settings))
    shared = pixel_table().to_flax(
        tensors(module), select_leaves(pixel_shapes(), False), ignore=[r"(adapter_1|layer_1|mask_proj).*"]
    )
    assert_same_maps(assert_close, {**random_like(select_leaves(pixel_shapes(), True)), **shared}, module)


def test_export_of_the_pixel_decoder(make_settings, random_like, assert_close):
    params = random_like(pixel_shapes())
    module = pixel_module(make_settings)
    shared = select_leaves(params, False)
    load(module.encoder, encoder_table().to_torch({k: v for k, v in shared.items() if k.startswith("layers_")}))
    load(module.input_projections, projection_table().to_torch({k: v for k, v in shared.items() if k.startswith("proj")}))
    module.level_embed.data.copy_(channels_first(params["level_embed"][None, None])[0, :, 0].T)
    assert_same_maps(assert_close, params, module.eval())


def decoder_module(make_settings):
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerMaskedAttentionDecoder

    return Mask2FormerMaskedAttentionDecoder(make_settings)


def decoder_shapes():
    shapes = nn.unbox(jax.eval_shape(lambda: MASKS.init(jax.random.key(0), FEATURES, LEVELS, QUERIES, {}))["params"])
    embeddings = {name: shapes.pop(name) for name in ("query_embed", "level_embed")}  # outside the module in transformers
    return shapes, embeddings


def assert_same_masks(assert_close, shared, embeddings, module):
    """Compares the masks before the first layer and after each, the attention masks, and the final queries."""
    import torch
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

    positions = Mask2FormerSinePositionEmbedding(WIDTH // 2, normalize=True)
    by_length = lambda x: x.flatten(2).permute(2, 0, 1)
    maps = [channels_first(level) for level in LEVELS]
    embeds = torch.tensor(np.asarray(embeddings["level_embed"]))
    with torch.no_grad():
        theirs = module(
            inputs_embeds=torch.tensor(QUERIES, dtype=torch.float32).transpose(0, 1),
            multi_stage_positional_embeddings=[by_length(positions(x.shape, x.device, x.dtype)) for x in maps],
            pixel_embeddings=channels_first(FEATURES),
            encoder_hidden_states=[by_length(x) + embed for x, embed in zip(maps, embeds, strict=True)],
            query_position_embeddings=torch.tensor(np.asarray(embeddings["query_embed"]))[:, None].repeat(1, 2, 1),
            feature_size_list=[x.shape[-2:] for x in maps],
            output_attentions=True,
            return_dict=True,
        )

    decode = jax.jit(lambda p: MASKS.apply({"params": p}, jnp.float32(FEATURES), LEVELS, jnp.float32(QUERIES), {}))
    result = decode({**shared, **embeddings})
    stages = [stage["mask_logits"] for stage in result.stages] + [result.mask_logits]
    assert len(stages) == len(theirs.masks_queries_logits) == 5
    for one, other in zip(stages, theirs.masks_queries_logits, strict=True):
        assert_close(one, other)
    assert_close(result.embeddings["query"], theirs.last_hidden_state)
    everywhere = []
    for i, stage in enumerate(result.stages):
        size = SIZES[:0:-1][i % 3]
        logits = torch.nn.functional.interpolate(theirs.masks_queries_logits[i], size=size, mode="bilinear")
        np.testing.assert_array_equal(stage["attention_mask"], (logits.sigmoid() < 0.5).flatten(2))
        everywhere.append(np.asarray(stage["attention_mask"]).all(-1))
    assert np.any(everywhere) and not np.all(everywhere)  # a fully masked query attends everywhere


def test_import_of_the_masked_decoder(make_settings, randomize, random_like, assert_close):
    module, (shapes, embeddings) = randomize(decoder_module(make_settings)), decoder_shapes()
    assert_same_masks(assert_close, decoder_table().to_flax(tensors(module), shapes), random_like(embeddings), module)


def test_export_of_the_masked_decoder(make_settings, random_like, assert_close):
    shapes, embeddings = decoder_shapes()
    shared = random_like(shapes)
    assert_same_masks(
        assert_close, shared, random_like(embeddings), load(decoder_module(make_settings), decoder_table().to_torch(shared))
    )


def test_round_trip_is_bit_equal(make_settings, randomize, dtype):
    import torch

    for make, table in ((lambda s: pixel_module(s).encoder, encoder_table()), (decoder_module, decoder_table())):
        original = randomize(make(make_settings)).to(getattr(torch, dtype)).state_dict()
        raw = {
            name: tensor.view(torch.int16 if tensor.itemsize == 2 else torch.int32).numpy() for name, tensor in original.items()
        }
        kind = jnp.dtype(dtype)
        restored = table.to_torch(table.to_flax({name: bits.view(kind) for name, bits in raw.items()}))
        assert restored.keys() == original.keys()
        for name, bits in raw.items():
            assert restored[name].dtype == kind
            np.testing.assert_array_equal(np.ascontiguousarray(restored[name]).view(bits.dtype), bits)
