"""IFSeg's image encoder, OFA's encoder and the segmentation decoder against the published system."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from import_weights import abstract_params, channels_last, import_params

from hyperseg_jax.encoders import resnet
from hyperseg_jax.encoders.resnet import ResNet
from hyperseg_jax.layers.conv import Conv
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.norms import FrozenBatchNorm
from hyperseg_jax.llms import grid_positions, ofa

IMAGES = "encoder.embed_images."
# parts of OFA that segmentation never uses
LEGACY = ("decoder.embed_positions", "decoder.embed_image_positions", "decoder.pos_ln", "decoder.image_pos_ln")
LEGACY += ("decoder.code_layernorm_embedding", "decoder.token_rel_pos_table_list", "decoder.image_rel_pos_table_list")


def weights_with(case, prefix, without=()):
    names = [name for name in case.weights if name.startswith(prefix) and not name.startswith(without)]
    return {name: case.weights[name] for name in names}


@pytest.mark.golden("ifseg", r"backbone.*")
def test_image_encoder(case):
    model, image = ResNet(tuple(case.config["blocks_per_stage"])), channels_last(case.inputs["image"])
    params = import_params(weights_with(case, IMAGES), image=(abstract_params(model, image), resnet.table(model), IMAGES))
    run = lambda model: np.moveaxis(np.asarray(jax.jit(lambda p, x: model.apply({"params": p}, x))(params["image"], image)), -1, 1)
    case.compare("layer3", run(model))
    for stages in (1, 2):
        case.compare(f"layer{stages}_sub", run(dataclasses.replace(model, depths=model.depths[:stages], parent=None))[:, ::16])
    stem = Conv(64, 7, 2, 3, False).apply({"params": params["image"]["stem"]}, image)
    stem = jax.nn.relu(FrozenBatchNorm().apply({"params": params["image"]["stem_norm"]}, stem))
    case.compare("stem_sub", np.moveaxis(np.asarray(stem), -1, 1)[:, ::8])
    case.check()


@pytest.mark.golden("ifseg", r"model_.*")
def test_encoder_and_decoder(case):
    c, weights = case.config, case.weights
    side = c["orig_patch_image_size"] // resnet.STRIDE
    sizes = {"hidden_size": c["dim"], "mlp_size": c["ffn"], "num_heads": c["heads"]}
    encoder = ofa.OfaEncoder(
        **sizes,
        num_layers=c["enc_layers"],
        text_buckets=c["token_bucket_size"],
        side=c["image_bucket_size"],
        base=(side, side),
        num_positions=weights["encoder.embed_positions.weight"].shape[0],
    )
    decoder = ofa.SegmentationDecoder(
        **sizes, num_layers=c["dec_layers"], side=c["patch_image_size"] // resnet.STRIDE, causal=not c.get("full_context", False)
    )
    words = weights["encoder.embed_tokens.weight"]
    ids = case.inputs["src_tokens"]
    valid, text = ids != 1, jnp.asarray(words[ids])
    if c.get("artificial"):
        patches = case.inputs["patch_ids"]
        grid, ends = patches.shape[1:], case.inputs["subword_cumlen"]
        parts = [np.split(row[: end[-1]], end[:-1]) for row, end in zip(case.inputs["subword_ids"], ends, strict=True)]
        image = np.stack([np.stack([words[one].mean(0) for one in cells]) for cells in parts])
    else:
        pixels = channels_last(case.inputs["patch_images"])
        net = ResNet(tuple(c["resnet_layers"]))
        params = import_params(weights_with(case, IMAGES), image=(abstract_params(net, pixels), resnet.table(net), IMAGES))
        features = jax.jit(lambda p, x: net.apply({"params": p}, x))(params["image"], pixels)
        case.compare("enc.resnet", np.moveaxis(np.asarray(features), -1, 1))
        grid = features.shape[1:3]
        features = features.reshape(len(features), -1, features.shape[-1])
        case.compare("enc.image_feature", features)
        project = Linear(c["dim"])
        names = weights_with(case, "encoder.image_proj.")
        table = (abstract_params(project, features), linear_table("linear", "encoder.image_proj"), "")
        linear = {"linear": table[1].to_flax(names)["linear"]}
        image = project.apply({"params": linear["linear"]}, features)
        case.compare("enc.image_embed_projected", image)
    print(grid, image.shape, names if False else "")
    resized = not c.get("artificial")
    encode = lambda p: encoder.apply({"params": p}, image, text, valid, grid, resized=resized)
    abstract = jax.eval_shape(lambda key: encoder.init(key, image, text, valid, grid, resized=resized), jax.random.key(0))
    import flax.linen as nn
    table = ofa.encoder_table(encoder)
    skip = ("encoder.embed_images", "encoder.image_proj", "encoder.embed_tokens", "encoder.seg_embed_tokens")
    params = import_params(weights_with(case, "encoder.", skip), encoder=(nn.unbox(abstract["params"]), table, "encoder."))
    hidden, positions = jax.jit(encode)(params["encoder"])
    if "enc.out" in case.outputs:
        case.compare("enc.out", hidden)
        case.compare("enc.position_embeddings", np.broadcast_to(positions, (len(hidden), *positions.shape)))
    cells = hidden[:, : image.shape[1]] if c.get("decoder_input_type", "encoder_output") == "encoder_output" else image
    start = jnp.broadcast_to(jnp.asarray(words[0]), (len(hidden), 1, c["dim"]))
    every = jnp.concatenate([jnp.ones(image.shape[:2], bool), valid], axis=1)
    given = (start, cells, hidden, positions, every, tuple(grid))
    abstract = jax.eval_shape(lambda key: decoder.init(key, *given), jax.random.key(0))
    legacy = (*LEGACY, "decoder.embed_tokens", "decoder.seg_embed_tokens", "decoder.seg_projection")
    params = import_params(
        weights_with(case, "decoder.", legacy), decoder=(nn.unbox(abstract["params"]), ofa.decoder_table(decoder), "decoder.")
    )
    features = jax.jit(lambda p: decoder.apply({"params": p}, *given))(params["decoder"])
    case.compare("dec.features", features)
    case.compare("logits", features @ case.outputs["seg_embed_tokens"].T)
