"""SEEM's encoders and pixel decoders against the published system."""

import jax
import numpy as np
import pytest
from import_weights import abstract_params, channels_last, import_params

from hyperseg_jax.decoders import fpn_pixel_decoder, pixel_decoder
from hyperseg_jax.encoders import davit, focal, sam_vit
from hyperseg_jax.structs import Pyramid

PIXEL_DECODER = "sem_seg_head.pixel_decoder."


def summary(level):
    return np.array([level.mean(), level.std(ddof=1), level.min(), level.max()])


def compare_pyramid(case, encoder, table):
    image = channels_last(case.inputs["image"])
    params = import_params(case.weights, backbone=(abstract_params(encoder, image), table, "backbone."))["backbone"]
    levels = jax.jit(lambda p, x: encoder.apply({"params": p}, x).levels)(params, image)
    for name in case.outputs:
        key, _, stats = name.partition(".")
        level = np.moveaxis(np.asarray(levels[int(key[3:]) - 2]), -1, 1)
        stride = case.meta.get("channel_stride", {}).get(key, 1)
        case.compare(name, summary(level) if stats else level[:, ::stride])
    case.check()


@pytest.mark.golden("seem", r"backbone_focal.*")
def test_focal(case):
    c = case.config
    fields = (tuple(c[name]) for name in ("DEPTHS", "FOCAL_LEVELS", "FOCAL_WINDOWS"))
    model = focal.FocalNet(c["name"], c["EMBED_DIM"], *fields, c["MLP_RATIO"])
    compare_pyramid(case, model, focal.table(model))


@pytest.mark.golden("seem", r"backbone_davit.*")
def test_davit(case):
    c = case.config
    fields = (tuple(c[name]) for name in ("DIM_EMBED", "DEPTHS", "NUM_HEADS", "NUM_GROUPS", "PATCH_SIZE"))
    model = davit.DaViT(*fields, window=c.get("WINDOW_SIZE", 7))
    compare_pyramid(case, model, davit.table(model))


@pytest.mark.golden("seem", r"backbone_vit.*")
def test_sam_vit(case):
    c = case.config
    names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "window_size")
    vit = sam_vit.SamVit(*(c[name] for name in names), tuple(c["global_attn_indexes"]), c["mlp_ratio"])
    neck = sam_vit.PyramidNeck(tuple(c["neck_out_dims"]))
    table = sam_vit.table(vit).with_prefix("vit/") + sam_vit.neck_table().with_prefix("neck/", "neck.")
    compare_pyramid(case, sam_vit.SamPyramid(vit, neck), table)


def compare_pixel_decoder(case, decoder, table):
    pyramid = Pyramid(tuple(channels_last(case.inputs[f"res{i}"]) for i in range(2, 6)), (4, 8, 16, 32))
    params = import_params(case.weights, decoder=(abstract_params(decoder, pyramid), table, PIXEL_DECODER))["decoder"]
    features, maps = jax.jit(lambda p, x: decoder.apply({"params": p}, x))(params, pyramid)
    stride = case.meta.get("channel_stride", 1)
    ours = {"mask_features": features} | {f"ms{i}": level for i, level in enumerate(maps)}
    inner = [name for name in case.outputs if name.startswith("transformer_encoder_features")]
    for name in case.outputs.keys() - set(inner):
        key, _, stats = name.partition(".")
        level = np.moveaxis(np.asarray(ours[key]), -1, 1)
        case.compare(name, summary(level) if stats else level[:, ::stride])
    case.check(skipped=inner)


@pytest.mark.golden("seem", r"pixel_decoder_fpn.*")
def test_fpn_pixel_decoder(case):
    c = case.config
    encoder = c["encoder"]
    sizes = (encoder["CONVS_DIM"], encoder["MASK_DIM"], c["nheads"], c["dim_feedforward"], encoder["TRANSFORMER_ENC_LAYERS"])
    decoder = fpn_pixel_decoder.FPNPixelDecoder(*sizes)
    compare_pixel_decoder(case, decoder, fpn_pixel_decoder.table(decoder))


@pytest.mark.golden("seem", r"pixel_decoder_deform.*")
def test_deformable_pixel_decoder(case):
    c = case.config
    encoder = c["encoder"]
    sizes = (encoder["CONVS_DIM"], encoder["MASK_DIM"], c["nheads"], 1024, encoder["TRANSFORMER_ENC_LAYERS"])
    decoder = pixel_decoder.DeformablePixelDecoder(*sizes, merge="detectron2")
    compare_pixel_decoder(case, decoder, pixel_decoder.table(decoder))
