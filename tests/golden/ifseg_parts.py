"""IFSeg with the sizes and weights of a golden case."""

import re

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from import_weights import channels_last

from hyperseg_jax.encoders import resnet
from hyperseg_jax.systems.ifseg import model
from hyperseg_jax.systems.pixels import normalize_for_llm as normalize

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
                "image_encoder": {"blocks": tuple(c.get("resnet_layers", (3, 4, 23)))},
                "encoder": encoder,
                "decoder": decoder,
            },
            "data": {"image_size": c["patch_image_size"]},
        }
    )


def pad_words(words):
    """Stacks token ids, padded."""
    padded = np.full((len(words), max(map(len, words))), model.PADDING, np.int32)
    for row, ids in zip(padded, words, strict=True):
        row[: len(ids)] = ids
    return padded


def class_words(case):
    """Returns the token ids of each class, padded. The text has them in order, and the recorded means of their embeddings say
    where each ends."""
    table = case.weights[model.WORD_TABLES[0]]
    means = case.outputs["seg_embed_tokens"]
    step = -(-table.shape[1] // means.shape[1])
    for text in case.inputs["src_tokens"] if "src_tokens" in case.inputs else case.outputs["source"]:
        for start in range(1, len(text)):
            words, at = [], start
            for mean in means:
                ends = range(at + 1, len(text))
                same = (end for end in ends if np.abs(table[text[at:end], ::step].mean(0) - mean).max() < 1e-5)
                end = next(same, None)
                if end is None:
                    break
                words.append(text[at:end])
                at = end
            if len(words) == len(means):
                return pad_words(words)
    raise AssertionError(f"{case.name}: its text does not name the classes")


def load_model(case):
    """Returns the model, its parameters and the embeddings of the classes. The published classifier is computed from them."""
    config = make_config(case)
    rows = model.weight_table(config)
    built = model.build_model(config)
    words = class_words(case)
    table = case.weights[model.WORD_TABLES[0]]
    needed = {"tokens": {"embedding": table}, "classifier": np.zeros((len(words), table.shape[1]), np.float32)}
    means = built.apply({"params": needed}, words, method="mean_words")
    step = -(-table.shape[1] // case.outputs["seg_embed_tokens"].shape[1])
    case.compare("seg_embed_tokens", means[:, ::step])
    weights = {name: x for name, x in case.weights.items() if name not in model.CLASS_TABLES}
    weights |= dict.fromkeys(model.CLASS_TABLES, np.asarray(means))
    buffers = {name for row in rows if not row.paths for name in row.names}
    shapes = nn.unbox(jax.eval_shape(lambda: model.init_params(built, config, jax.random.key(0))))
    params = rows.to_flax({name: x for name, x in weights.items() if name not in buffers}, shapes, optional=())
    return built, params, means


def see(case, built, params, means):
    """Returns the cells of a case's images, or of its images of words."""
    apply = lambda *inputs, method: jax.jit(lambda p: built.apply({"params": p}, *inputs, method=method))(params)
    if "image_u8" in case.inputs:
        return apply(normalize(case.inputs["image_u8"]), method="see")
    if "patch_ids" not in case.inputs:
        return apply(channels_last(case.inputs["patch_images"]), method="see")
    classes, words = case.inputs["patch_ids"], class_words(case)
    for image, ids, ends in zip(classes, case.inputs["subword_ids"], case.inputs["subword_cumlen"], strict=True):
        expected = words[image.ravel()]
        np.testing.assert_array_equal(ids[: ends[-1]], expected[expected != model.PADDING])
    return apply(np.broadcast_to(means, (len(classes), *means.shape)), classes, method="imagine")


def strided(case, name, value):
    """Returns the part of an output that a case stores, by the strides in its notes."""
    value = np.asarray(value)
    biases, wide = re.findall(r"\[([:\d, ]+)\]", case.meta["notes"])[:2]
    channels = re.search(r"backbone channels ::(\d+)", case.meta["notes"]).group(1)
    text = biases if name.endswith("bias") else f":, ::{channels}" if name.endswith("resnet") else wide
    steps = [int(part.strip().strip(":") or 1) for part in text.split(",")]
    return value[tuple(slice(None, None, step) for step in steps)]


def compare(case, name, value):
    """Compares an output that the case may store, wholly or in part."""
    if name in case.outputs:
        case.compare(name, value)
    elif f"{name}.sub" in case.outputs:
        case.compare(f"{name}.sub", strided(case, name, value))
