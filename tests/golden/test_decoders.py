"""Deformable attention, the pixel decoder and the masked-attention decoder against the published system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import subsample
from import_weights import abstract_params, channels_last, import_params

from hyperseg_jax.decoders import mask2former, pixel_decoder
from hyperseg_jax.layers.deformable_attention import DeformableAttention, cell_centers, deformable_attention_table
from hyperseg_jax.ops.deformable import deformable_sampling
from hyperseg_jax.ops.sampling import resize_bilinear
from hyperseg_jax.structs import Pyramid

LAYER = "pixel_decoder.transformer.encoder.layers.0.self_attn"


@pytest.mark.golden("hyperseg", r"msdeform_attn_core.*")
def test_deformable_sampling(case):
    shapes = tuple(map(tuple, case.inputs["spatial_shapes"].tolist()))
    read = [case.inputs[name] for name in ("value", "sampling_locations", "attention_weights")]
    case.compare("output", jax.jit(lambda v, x, w: deformable_sampling(v, shapes, x, w))(*read))
    case.check()


@pytest.mark.golden("hyperseg", r"msdeform_attn_module.*")
def test_deformable_attention(case):
    config = case.config
    shapes = tuple(map(tuple, case.inputs["spatial_shapes"].tolist()))
    layer = DeformableAttention(config["n_heads"], config["n_points"], shapes)
    centres = cell_centers(shapes)
    read = [case.inputs[name] for name in ("query", "input_flatten")]
    # The table's names are those of the parent: "attention/..." and "<layer>.<part>".
    result = deformable_attention_table("attention", LAYER)
    params = result.to_flax(case.weights, {"attention": abstract_params(layer, *read, centres)})["attention"]
    expected = np.broadcast_to(centres[:, None], (len(read[0]), len(centres), len(shapes), 2))
    case.compare("reference_points", expected)
    case.compare("output", jax.jit(lambda p, *a: layer.apply({"params": p}, *a, centres))(params, *read))
    case.check()


def run_pixel_decoder(case, decoder, pyramid):
    expected = abstract_params(decoder, pyramid)
    params = import_params(case.weights, decoder=(expected, pixel_decoder.table(decoder), "pixel_decoder."))
    features, maps = jax.jit(lambda p, x: decoder.apply({"params": p}, x))(params["decoder"], pyramid)
    return np.moveaxis(np.asarray(features), -1, 1), [np.moveaxis(np.asarray(x), -1, 1) for x in maps]


def read_pyramid(read):
    return Pyramid(tuple(channels_last(read(f"res{i}")) for i in range(2, 6)), (4, 8, 16, 32))


@pytest.mark.golden("hyperseg", r"pixel_decoder.*")
def test_pixel_decoder(case):
    config = case.config
    names = ("conv_dim", "mask_dim", "nheads", "dim_feedforward", "enc_layers", "n_points", "groupnorm_groups")
    decoder = pixel_decoder.DeformablePixelDecoder(*(config[name] for name in names))
    features, maps = run_pixel_decoder(case, decoder, read_pyramid(case.inputs.__getitem__))
    for name in case.outputs:
        if name == "mask_features_stats":
            case.compare(name, np.array([features.mean(), features.std(), features.min(), features.max()]))
        elif name.startswith("mask_features"):
            case.compare(name, features[:, :: int(name.partition("_ch::")[2] or 1)])
        else:
            case.compare(name, maps[int(name.removeprefix("multi_scale_"))])
    case.check()


@pytest.mark.golden("instructseg", r"pixel_decoder.*")
def test_instructseg_pixel_decoder(case):
    pyramid = read_pyramid(case.draw_input)
    features, maps = run_pixel_decoder(case, pixel_decoder.DeformablePixelDecoder(), pyramid)
    case.compare("mask_features", subsample(features, case.outputs["mask_features"].shape))
    case.compare("stats/mask_features", np.array([features.mean(), features.std(), features.min(), features.max()]))
    for i, name in enumerate(("scale0_res5", "scale1_res4", "scale2_res3")):
        case.compare(name, subsample(maps[i], case.outputs[name].shape))
    case.check()


@pytest.mark.golden("hyperseg", r"mask_decoder_.*")
@pytest.mark.parametrize("attention", ["given", "own"])
def test_mask_decoder(case, attention):
    """given: with the case's attention masks. Otherwise with ours, where a flipped bit must lie within 10 x floor of zero."""
    config, read = case.config, case.inputs
    decoder = mask2former.MaskedAttentionDecoder(
        config["hidden"], config["mask"], config["heads"], config["ffn"], config["layers"], config["Q"], keep_unused=True
    )
    features = channels_last(read["mask_features"])
    levels = tuple(channels_last(read[f"multi_scale_{i}"]) for i in range(3))
    embeddings, regions = {}, []
    if "SEG_embedding" in read:
        embeddings["expression"] = read["SEG_embedding"][:, 0]
    if "class_name_embedding" in read:
        embeddings["class"] = read["class_name_embedding"]
    if "region_embedding_0" in read:
        regions = [read[f"region_embedding_{b}"] for b in range(len(features))]
        most = max(map(len, regions))
        embeddings["region"] = np.stack([np.pad(r, ((0, most - len(r)), (0, 0))) for r in regions])
    blocked = [expected_mask(case, i, [x.shape[1] * x.shape[2] for x in levels]) for i in range(config["layers"])]
    inputs = (features, levels, read["seg_query"], embeddings)
    params = import_params(case.weights, decoder=(abstract_params(decoder, *inputs), mask2former.table(decoder), "predictor."))[
        "decoder"
    ]
    args = tuple(blocked) if attention == "given" else None
    result = jax.jit(lambda p, *a: decoder.apply({"params": p}, *a, args))(params, *inputs)

    flipped = first_flip(case, result, blocked, [x.shape[1:3] for x in levels]) if attention == "own" else None
    compared = result.stages if flipped is None else result.stages[: flipped + 1]
    stages = {f"aux{i}_": stage for i, stage in enumerate(compared)}
    if flipped is None:
        stages[""] = {"mask_logits": result.mask_logits, "scores": result.scores}
    not_compared = []  # after a flipped bit, or inputs
    for name in case.outputs:
        prefix, _, what = name.rpartition("pred_")
        stage = stages.get(prefix)
        if stage is None or (attention == "given" and what.startswith("attn_mask")):
            not_compared.append(name)
            continue
        if what.startswith("masks"):
            case.compare(name, stage["mask_logits"][:, :: int(what.partition("_q::")[2] or 1)])
        elif what == "SEG_logits":
            case.compare(name, stage["scores"]["expression"][..., None])
        elif what == "class_name_logits":
            case.compare(name, stage["scores"]["class"])
        elif what.startswith("region_logits_"):
            row = int(what.rpartition("_")[2])
            case.compare(name, stage["scores"]["region"][row].T[: len(regions[row])])
        elif what == "boxes":
            case.compare(name, result.boxes)
        elif what == "boxious":
            case.compare(name, result.scores["box_iou"][..., None])
        elif what == "hs":
            case.compare(name, result.embeddings["query"])
        elif what == "reid_embed_of_hs":
            case.compare(name, result.embeddings["reid"])
        else:
            assert what.startswith("attn_mask"), name
    case.check(skipped=not_compared)


def first_flip(case, result, blocked, sizes):
    """Returns the first layer whose attention mask differs within tolerance; later outputs cannot be compared."""
    legal = case.sign_tolerance((name for name in case.outputs if "pred_masks" in name), floors=10)
    for i, expected in enumerate(blocked):
        logits = jnp.moveaxis(result.stages[i]["mask_logits"], 1, -1)
        logits = np.moveaxis(np.asarray(resize_bilinear(logits, tuple(sizes[i % len(sizes)]))), -1, 1).reshape(expected.shape)
        name = f"attn_mask_{i}" if f"attn_mask_{i}" in case.outputs else f"attn_mask_{i}_packedbits"
        if case.compare_signs(name, result.stages[i]["attention_mask"], expected, logits, legal):
            return i
    return None


def expected_mask(case, layer, sizes):
    if f"attn_mask_{layer}" in case.outputs:
        return case.outputs[f"attn_mask_{layer}"].astype(bool)
    packed = case.outputs[f"attn_mask_{layer}_packedbits"]
    return np.unpackbits(packed, axis=-1, count=sizes[layer % len(sizes)]).astype(bool)


@pytest.mark.golden("instructseg", r"mask_decoder.*")
def test_instructseg_mask_decoder(case):
    """Values, gradients of the inputs, and the norm of every parameter's gradient."""
    config, batch = case.config, case.config["batch"]
    count, layers = case.outputs["pred_SEG_logits/final"].shape[1], sum("pred_SEG_logits/aux" in name for name in case.outputs)
    width = case.inputs["seg_query_check"].shape[-1]
    decoder = mask2former.MaskedAttentionDecoder(
        width,
        width,
        num_layers=layers,
        num_queries=count,
        score_kinds=("expression",),
        heads=(),
        keep_unused=True,
    )
    drawn, maps = case.draw_input_as, enumerate(config["scales_hw"])
    inputs = {
        "mask_features": channels_last(drawn("mask_features", [batch, width, *config["mask_hw"]])),
        "levels": tuple(channels_last(drawn(f"scale{i}", [batch, width, *hw])) for i, hw in maps),
        "queries": drawn("seg_query", [batch, count, width]),
        "embeddings": {"expression": drawn("SEG_embedding", [batch, 1, width])[:, 0]},
    }
    cotangents = (drawn("cot_masks", [batch, count, *config["mask_hw"]]), drawn("cot_SEG", [batch, count, 1]))
    expected = abstract_params(decoder, *inputs.values())
    params = import_params(case.weights, decoder=(expected, mask2former.table(decoder), "predictor."))["decoder"]

    def loss(params, inputs):
        result = decoder.apply({"params": params}, **inputs)
        return (result.mask_logits * cotangents[0]).sum() / 100 + (
            result.scores["expression"] * cotangents[1][..., 0]
        ).sum(), result

    (_, result), (d_params, d_inputs) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, inputs)
    final = {"mask_logits": result.mask_logits, "scores": result.scores}
    for i, stage in [("final", final), *((f"aux{i}", stage) for i, stage in enumerate(result.stages))]:
        case.compare(f"pred_SEG_logits/{i}", stage["scores"]["expression"][..., None])
        masks = np.asarray(stage["mask_logits"])
        case.compare(f"pred_masks/{i}", subsample(masks, case.outputs[f"pred_masks/{i}"].shape))
    first = {f"scale{i}": np.moveaxis(np.asarray(x), -1, 1) for i, x in enumerate(d_inputs["levels"])}
    first["mask_features"] = np.moveaxis(np.asarray(d_inputs["mask_features"]), -1, 1)
    case.compare("grad/seg_query", d_inputs["queries"], kind="gradient")
    case.compare("grad/SEG_embedding", d_inputs["embeddings"]["expression"][:, None], kind="gradient")
    for name in (name for name in case.outputs if name.removeprefix("grad/") in first):
        case.compare(name, subsample(first[name.removeprefix("grad/")], case.outputs[name].shape), kind="gradient")
    norms = {
        name: np.linalg.norm(x)
        for name, x in mask2former.table(decoder).with_prefix("", "predictor.").to_torch(d_params).items()
    }
    case.compare("grad_norms", np.array([norms[name] for name in case.meta["grad_norm_names"]]), kind="gradient")
    case.check()
