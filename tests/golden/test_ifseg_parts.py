"""IFSeg's image encoder, the complete model and its index tables against the published system."""

import dataclasses
import functools

import ifseg_layers
import ifseg_parts
import jax
import numpy as np
import pytest
from import_weights import abstract_params, channels_last, import_params

from hyperseg_jax.encoders import resnet
from hyperseg_jax.encoders.resnet import ResNet
from hyperseg_jax.layers.conv import Conv
from hyperseg_jax.layers.norms import FrozenBatchNorm
from hyperseg_jax.llms import grid_positions
from hyperseg_jax.systems.ifseg import model as ifseg

IMAGES = "encoder.embed_images."


def weights_with(case, prefix):
    return {name: x for name, x in case.weights.items() if name.startswith(prefix)}


@pytest.mark.golden("ifseg", r"backbone.*")
def test_image_encoder(case):
    model, image = ResNet(tuple(case.config["blocks_per_stage"])), channels_last(case.inputs["image"])
    params = import_params(weights_with(case, IMAGES), image=(abstract_params(model, image), resnet.table(model), IMAGES))
    run = lambda model: np.moveaxis(
        np.asarray(jax.jit(lambda p, x: model.apply({"params": p}, x))(params["image"], image)), -1, 1
    )
    case.compare("layer3", run(model))
    for stages in (1, 2):
        case.compare(f"layer{stages}_sub", run(dataclasses.replace(model, blocks=model.blocks[:stages], parent=None))[:, ::16])
    stem = Conv(64, 7, 2, 3, False).apply({"params": params["image"]["stem"]}, image)
    stem = jax.nn.relu(FrozenBatchNorm().apply({"params": params["image"]["stem_norm"]}, stem))
    case.compare("stem_sub", np.moveaxis(np.asarray(stem), -1, 1)[:, ::8])
    case.check()


@pytest.mark.golden("ifseg", r"(model|full)_.*")
def test_model(case):
    model, params, means = ifseg_parts.load_model(case)
    cells, ids = ifseg_parts.see(case, model, params, means), case.inputs["src_tokens"]
    compare = functools.partial(ifseg_parts.compare, case)
    if cells.feature is not None:
        compare("enc.resnet", np.moveaxis(np.asarray(cells.feature).reshape(len(ids), *cells.canvas.grid, -1), -1, 1))
        compare("enc.image_feature", cells.feature)
        compare("enc.image_embed_projected", cells.embedding)
    answer = jax.jit(lambda p, cells, ids: model.apply({"params": p}, cells, ids, method="decode"))(params, cells, ids)
    words = params["tokens"]["embedding"]
    encode = lambda p, cells, words: model.bind({"params": p}).encoder(
        cells.embedding, words, ids != ifseg.PADDING, cells.canvas, resized=cells.feature is not None
    )
    _, positions = jax.jit(encode)(params, cells, words[ids])
    hidden, valid = ifseg_layers.run_encoder(case, model, params, cells, words[ids], ids, positions)
    compare("enc.out", hidden)
    compare("enc.padding_mask", (~valid).astype(np.uint8))
    compare("enc.position_embeddings", np.broadcast_to(positions, (len(ids), *positions.shape)))
    features = ifseg_layers.run_decoder(case, model, params, cells, words[ifseg.START], hidden, valid, positions)
    compare("dec.features", features)
    np.testing.assert_allclose(answer, features[:, :-1], atol=1e-4)  # the last row stands behind the last cell
    case.compare("logits", np.asarray(features) @ np.asarray(means).T)
    case.check()


@pytest.mark.golden("ifseg", r"position_tables.*")
def test_index_tables(case):
    for kind, buckets in case.config["tables"]:
        table = grid_positions.text_offsets(1024, buckets) if kind == "token" else grid_positions.cell_offsets(buckets)
        (info,) = (row for row in case.meta["info"] if (row["kind"], row["bucket"]) == (kind, buckets))
        rows, columns = info.get("strides", (31, 29))
        case.compare(f"{kind}_{buckets}.sub", table[::rows, ::columns])
        case.compare(f"{kind}_{buckets}.row0", table[0])
        case.compare(f"{kind}_{buckets}.col0", table[:, 0])
        if kind == "image":
            case.compare(f"{kind}_{buckets}.row1", table[1])
    case.check()
