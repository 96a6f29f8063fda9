"""IFSeg's image encoder, the complete model, and the smoothing of its answers against the published system."""

import dataclasses

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
from hyperseg_jax.ops.neighbours import nearest_cells, smooth
from hyperseg_jax.systems.ifseg import model as ifseg
from hyperseg_jax.systems.ifseg.word_images import enlarge

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
        case.compare(f"layer{stages}_sub", run(dataclasses.replace(model, depths=model.depths[:stages], parent=None))[:, ::16])
    stem = Conv(64, 7, 2, 3, False).apply({"params": params["image"]["stem"]}, image)
    stem = jax.nn.relu(FrozenBatchNorm().apply({"params": params["image"]["stem_norm"]}, stem))
    case.compare("stem_sub", np.moveaxis(np.asarray(stem), -1, 1)[:, ::8])
    case.check()


@pytest.mark.golden("ifseg", r"model_.*")
def test_model(case):
    model, params = ifseg_parts.load_model(case)
    cells = ifseg_parts.see(case, model, params)
    ids = case.inputs["src_tokens"]
    if "enc.resnet" in case.outputs:
        found = np.moveaxis(np.asarray(cells.feature).reshape(len(ids), *cells.canvas.grid, -1), -1, 1)
        case.compare("enc.resnet", found)
        case.compare("enc.image_feature", cells.feature)
        case.compare("enc.image_embed_projected", cells.embedding)
    decode = jax.jit(lambda p, cells, ids: model.apply({"params": p}, cells, ids, method="decode"))
    answer = decode(params, cells, ids)
    words = params["tokens"]["embedding"]
    _, positions = model.bind({"params": params}).encoder(
        cells.embedding, words[ids], ids != ifseg.PADDING, cells.canvas, resized=cells.feature is not None
    )
    hidden, valid = ifseg_layers.run_encoder(case, model, params, cells, words[ids], ids, positions)
    if "enc.out" in case.outputs:
        case.compare("enc.out", hidden)
        case.compare("enc.padding_mask", (~valid).astype(np.uint8))
        case.compare("enc.position_embeddings", np.broadcast_to(positions, (len(ids), *positions.shape)))
    features = ifseg_layers.run_decoder(case, model, params, cells, words[ifseg.START], hidden, valid, positions)
    case.compare("dec.features", features)
    np.testing.assert_allclose(answer, features[:, :-1], atol=2e-5)  # the last row stands behind the last cell
    case.compare("logits", np.asarray(features) @ case.outputs["seg_embed_tokens"].T)
    case.check()


@pytest.mark.golden("ifseg", r"knn_postprocess.*")
def test_smoothing(case):
    neighbours = jax.jit(nearest_cells, static_argnums=1)(case.inputs["features"][0], case.config["K"])
    np.testing.assert_array_equal(neighbours, case.outputs["topk_index"][0])
    start = jax.nn.softmax(case.inputs["logits"][0, :-1])
    for rounds in (1, 5, 25):
        case.compare(f"prob_iter{rounds}", np.asarray(smooth(start, neighbours, rounds))[None])
    case.check()


@pytest.mark.golden("ifseg", r"artificial_image.*")
def test_images_of_words(case):
    size = case.config["patch_image_size"]
    for name in {key.split(".")[0] for key in case.inputs}:
        grid, target = case.inputs[f"{name}.grid"], enlarge(case.inputs[f"{name}.grid"], size)
        np.testing.assert_array_equal(enlarge(grid, size // resnet.STRIDE), case.outputs[f"{name}.patch_ids"])
        expected = case.outputs[f"{name}.target_hist"]
        np.testing.assert_array_equal(np.bincount(target.ravel(), minlength=len(expected)), expected)
    case.check()


@pytest.mark.golden("ifseg", r"position_tables.*")
def test_index_tables(case):
    for kind, buckets in case.config["tables"]:
        table = grid_positions.text_offsets(1024, buckets) if kind == "token" else grid_positions.cell_offsets(buckets)
        (info,) = (row for row in case.meta["info"] if (row["kind"], row["bucket"]) == (kind, buckets))
        rows, columns = info.get("strides", (31, 29))
        np.testing.assert_array_equal(table[::rows, ::columns], case.outputs[f"{kind}_{buckets}.sub"])
        np.testing.assert_array_equal(table[0], case.outputs[f"{kind}_{buckets}.row0"])
        np.testing.assert_array_equal(table[:, 0], case.outputs[f"{kind}_{buckets}.col0"])
    case.check()
