"""IFSeg with the sizes and weights of a golden case."""

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from import_weights import channels_last

from hyperseg_jax.encoders import resnet
from hyperseg_jax.systems.ifseg import model

SIZES = {"hidden_size": "dim", "mlp_size": "ffn", "num_heads": "heads"}


def make_config(case):
    """Returns our config; a case that only gives its categories has the published sizes."""
    c, words = case.config, case.weights["encoder.embed_tokens.weight"]
    side, base = (c[name] // resnet.STRIDE for name in ("patch_image_size", "orig_patch_image_size"))
    sizes = {ours: c[theirs] for ours, theirs in SIZES.items() if theirs in c}
    encoder = {**sizes, "base": (base, base), "num_positions": case.weights["encoder.embed_positions.weight"].shape[0]}
    decoder = {**sizes, "side": side, "causal": not c.get("full_context", False)}
    optional = {"enc_layers": (encoder, "num_layers"), "dec_layers": (decoder, "num_layers")}
    optional |= {"token_bucket_size": (encoder, "text_buckets"), "image_bucket_size": (encoder, "side")}
    for theirs, (block, ours) in optional.items():
        if theirs in c:
            block[ours] = c[theirs]
    return ml_collections.ConfigDict(
        {
            "model": {
                "precision": {"matmul": "highest"},
                "vocab_size": words.shape[0],
                "num_classes": len(c["categories"]),
                "decoder_input": c.get("decoder_input_type", model.DECODER_INPUTS[0]),
                "image_encoder": {"depths": tuple(c.get("resnet_layers", (3, 4, 23)))},
                "encoder": encoder,
                "decoder": decoder,
            },
            "data": {"image_size": c["patch_image_size"]},
        }
    )


def split_words(ids, ends):
    """Returns the token ids of each cell, padded. ids: of one image, concatenated. ends: where each cell ends."""
    cells = np.split(ids[: ends[-1]], ends[:-1])
    padded = np.full((len(cells), max(map(len, cells))), model.PADDING, np.int32)
    for row, cell in zip(padded, cells, strict=True):
        row[: len(cell)] = cell
    return padded


def load_model(case):
    """Returns the model and its parameters. The published classifier is computed, and recorded as an output."""
    config = make_config(case)
    rows = model.weight_table(config)
    weights = {name: x for name, x in case.weights.items() if name not in model.CLASS_TABLES}
    weights |= dict.fromkeys(model.CLASS_TABLES, case.outputs["seg_embed_tokens"])
    buffers = {name for row in rows if not row.paths for name in row.names}
    built = model.build_model(config)
    shapes = nn.unbox(jax.eval_shape(lambda: model.init_params(built, config, jax.random.key(0))))
    params = rows.to_flax({name: x for name, x in weights.items() if name not in buffers}, shapes, optional=())
    return built, params


def see(case, built, params):
    """Returns the cells of a case's images, or of its images of words."""
    apply = lambda *inputs, method: jax.jit(lambda p: built.apply({"params": p}, *inputs, method=method))(params)
    if "patch_ids" not in case.inputs:
        return apply(channels_last(case.inputs["patch_images"]), method="see")
    classes, ids, ends = (case.inputs[name] for name in ("patch_ids", "subword_ids", "subword_cumlen"))
    cells = [split_words(*row) for row in zip(ids, ends, strict=True)]
    of_class = {
        int(k): words for image, row in zip(classes, cells, strict=True) for k, words in zip(image.ravel(), row, strict=True)
    }
    length = max(len(words) for words in of_class.values())
    table = np.full((max(of_class) + 1, length), model.PADDING, np.int32)
    for k, words in of_class.items():
        table[k, : len(words)] = words
    return apply(apply(table, method="mean_words"), classes, method="imagine")
