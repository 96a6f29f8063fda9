"""SCA's image encoder, prompt encoder, mask decoder and caption mixer against the published system."""

import dataclasses

import jax
import numpy as np
import pytest
import sca_parts
from einops import rearrange
from import_weights import abstract_params, channels_last, import_params

from hyperseg_jax.connectors import caption_mixer
from hyperseg_jax.decoders import sam, sam_prompts
from hyperseg_jax.encoders import sam_vit

DECODER = "mask_decoder."
PREFIX = ("language_project.", "task_tokens.")
PROMPTS = ("prompt_encoder.", "shared_image_embedding.")


def weights_of(case, prefixes, without=()):
    return {
        name: x for name, x in case.weights.items() if name.startswith(prefixes) and not (without and name.startswith(without))
    }


def first_layers(vit, params, count):
    """Returns the encoder of the first `count` layers, and its parameters."""
    shorter = dataclasses.replace(vit, num_layers=count, parent=None)
    runs = {f"runs_{i}": jax.tree.map(lambda x, n=n: x[:n], params[f"runs_{i}"]) for i, (_, n) in enumerate(shorter.runs)}
    return shorter, {"patches": params["patches"], "positions": params["positions"], **runs}


@pytest.mark.golden("sca", r"sam_vit.*")
def test_encoder(case):
    encoder = sca_parts.make_encoder(case.config)
    image = channels_last(case.inputs["pixel_values"])
    abstract, table = abstract_params(encoder, image), sam_vit.encoder_table(encoder)
    params = import_params(weights_of(case, "vision_encoder."), encoder=(abstract, table, "vision_encoder."))["encoder"]
    neck = jax.jit(lambda p, x: encoder.apply({"params": p}, x))(params, image)
    case.compare("vision.neck", np.moveaxis(np.asarray(neck), -1, 1))
    case.compare("image_embeddings", np.moveaxis(np.asarray(neck), -1, 1))
    for count in range(encoder.vit.num_layers + 1):
        shorter, those = first_layers(encoder.vit, params["vit"], count)
        x = np.asarray(jax.jit(lambda p, x, model=shorter: model.apply({"params": p}, x))(those, image))
        if count:
            case.compare(f"vision.layer{count - 1}", x)
        else:
            case.compare("vision.patch_embed", x - np.asarray(params["vit"]["positions"]))

    prompt_encoder = sca_parts.make_prompt_encoder(case.config)
    matrix = {"matrix": case.weights["shared_image_embedding.positional_embedding"]}
    cells = case.config["prompt_encoder"]["image_embedding_size"]
    positions = sam_prompts.FourierPositions(prompt_encoder.channels)
    grid = positions.apply({"params": matrix}, cells, method="grid")
    case.compare("image_positional_embedding", np.moveaxis(np.asarray(grid), -1, 0)[None])
    case.check()


@pytest.mark.golden("sca", r"prompt_encoder.*")
def test_prompt_encoder(case):
    encoder = sca_parts.make_prompt_encoder(case.config)
    read = case.inputs
    points, boxes = {"input_points", "input_labels"}, {"input_boxes"}
    names = {"points": points, "boxes": boxes, "points_boxes": points | boxes, "masks_boxes": boxes | {"input_masks"}}
    whole = sca_parts.read_prompts(read)
    table = {"prompts": (abstract_params(encoder, whole), sam_prompts.table(), "")}
    params = import_params(weights_of(case, PROMPTS), **table)["prompts"]
    run = jax.jit(lambda p, prompts: encoder.apply({"params": p}, prompts))
    for name, kept in names.items():
        sparse, dense = run(params, sca_parts.read_prompts({key: read[key] for key in kept}))
        case.compare(f"{name}.sparse", sparse)
        expected = case.outputs[f"{name}.dense"]
        cells = np.asarray(dense)[:, 0].swapaxes(1, 2)
        case.compare(f"{name}.dense", cells.reshape(*cells.shape[:2], *expected.shape[2:]))
    nothing = sam_prompts.SamPrompts(np.zeros((1, 1, 1, 2), np.float32), np.full((1, 1, 1), sam_prompts.ABSENT, np.int32))
    sparse, dense = run(params, nothing)
    case.compare("none.sparse", sparse)
    case.compare("none.dense", np.asarray(dense)[:, 0].swapaxes(1, 2)[..., None])
    case.check()


def flat_image(x):
    return rearrange(np.asarray(x), "b r n c -> (b r) 1 n c")


@pytest.mark.golden("sca", r"decoder_.*|mixer_.*")
def test_decoder_and_mixer(case):
    """The split mixer reads the tokens and the image before SAM's decoder, the released one those after it."""
    c = case.config
    prompt_encoder, decoder, mixer = (
        make(c) for make in (sca_parts.make_prompt_encoder, sca_parts.make_decoder, sca_parts.make_mixer)
    )
    prefix = sca_parts.make_prefix(c, case.outputs["lm_prefix"].shape[-1])
    heads, count = prefix.heads, mixer.num_queries
    split = "Split" in c["class"]
    image, prompts = channels_last(case.inputs["image_embeddings"]), sca_parts.read_prompts(case.inputs)
    width, cells = image.shape[-1], image.shape[1]
    places, tokens = np.zeros(image.shape[1:], np.float32), np.zeros((1, 1, 1, width), np.float32)
    added = np.zeros((1, 1, 1, width), np.float32)
    task = np.array([sca_parts.TASKS.index(name) for name in case.meta["task_type"]], np.int32)
    parts = {
        "prompts": (abstract_params(prompt_encoder, prompts), sam_prompts.table(), ""),
        "decoder": (abstract_params(decoder, image[:1], added, places, tokens), sam.table(decoder), DECODER),
        "mixer": (abstract_params(mixer, tokens, added, added[0, 0]), caption_mixer.table(mixer), DECODER),
        "prefix": (
            abstract_params(prefix, np.zeros((1, 1, heads, width), np.float32), task[:1]),
            caption_mixer.prefix_table(prefix),
            "",
        ),
    }
    params = import_params(weights_of(case, (DECODER, *PROMPTS, *PREFIX)), **parts)

    @jax.jit
    def run(params, image, prompts):
        tokens, added = prompt_encoder.apply({"params": params["prompts"]}, prompts)
        positions = sam_prompts.FourierPositions(width)
        places = positions.apply({"params": params["prompts"]["positions"]}, cells, method="grid")
        prediction, kept = decoder.apply(
            {"params": params["decoder"]}, image, added, places, tokens, capture_intermediates=lambda m, _: m.name == "up1"
        )
        read = (tokens, rearrange(image, "b h w c -> b 1 (h w) c") + added) if split else (prediction.tokens, prediction.image)
        places = rearrange(places, "h w c -> (h w) c")
        mixed = mixer.apply({"params": params["mixer"]}, *read, places)
        return tokens, added, prediction, kept, mixed, prefix.apply({"params": params["prefix"]}, mixed[0], task)

    tokens, added, prediction, kept, (queries, stages), prefixes = run(params, image, prompts)
    case.compare("prompt.sparse", tokens)
    dense = np.broadcast_to(np.asarray(added)[:, 0], (len(image), cells * cells, width)).swapaxes(1, 2)
    case.compare("prompt.dense", dense.reshape(len(image), width, cells, cells))
    for name, (all_tokens, images) in (("sam_mixer", prediction.stages), ("caption_mixer", stages)):
        for i in range(len(all_tokens)):
            case.compare(f"{name}.layer{i}.tokens", all_tokens[i])
            if f"{name}.layer{i}.image" in case.outputs:  # the larger cases keep a few
                case.compare(f"{name}.layer{i}.image", flat_image(images[i]))
    case.compare("sam_mixer.final.tokens", prediction.tokens)
    case.compare("sam_mixer.final.image", flat_image(prediction.image))
    case.compare("caption_mixer.final.image", flat_image(stages[1][-1]))
    for name, masks in (("multimask", slice(1, None)), ("singlemask", slice(0, 1))):
        case.compare(f"{name}.pred_masks", prediction.mask_logits[:, :, masks])
        case.compare(f"{name}.iou_scores", prediction.iou[:, :, masks])
    case.compare("query_logits", rearrange(np.asarray(queries), "b r (h n) c -> (b r h) n c", h=heads))
    case.compare("upscale_conv2", np.moveaxis(np.asarray(kept["intermediates"]["up1"]["__call__"][0]), -1, 1))
    final = case.outputs["caption_mixer.final.tokens"][:, :, :count]
    case.compare("caption_mixer.final.tokens", queries, final)
    prefixes = rearrange(np.asarray(prefixes), "b r h n c -> (b r h) n c")
    case.compare("lm_prefix", prefixes)
    case.compare("language_project", prefixes[:, prefix.num_task_tokens :])
    case.check()
