"""SEEM's decoder in its three variants against the published system."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from import_weights import abstract_params, channels_last, import_params

from hyperseg_jax.decoders import seem
from hyperseg_jax.decoders.marks import MarkedPoints
from hyperseg_jax.ops.sampling import resize_bilinear
from hyperseg_jax.systems.seem import scores

PREDICTOR = "sem_seg_head.predictor."


def marked_points(read, batch):
    """Returns the recorded points for the mean features and for each level; None if the case has none."""
    if "draw.points.0" not in read:
        return None
    return tuple(read_draw(read, batch, draw) for draw in range(4))


def read_draw(read, batch, draw):
    rows = []
    for b in range(batch):
        positive, negative = (read[f"draw.points.{2 * batch * draw + sign * batch + b}"] for sign in (0, 1))
        both = np.concatenate([positive, negative], axis=1)
        if len(both) == 2:  # one prompt in each row of the batch
            both = np.concatenate([np.zeros_like(both[:1]), both])
        rows.append((both[[2, 1]].T, both[0], np.arange(both.shape[1]) < positive.shape[1]))
    length = max(len(points) for points, *_ in rows)
    points, prompt, positive = np.zeros((batch, length, 2)), np.full((batch, length), -1), np.zeros((batch, length), bool)
    for b, row in enumerate(rows):
        points[b, : len(row[0])], prompt[b, : len(row[0])], positive[b, : len(row[0])] = row
    return MarkedPoints(points.astype(np.float32), prompt.astype(np.int32), positive)


def read_prompts(case):
    read, batch = case.inputs, len(case.inputs["mask_features"])
    slots = [read[name] for name in (f"draw.layer{i}.memory_indices" for i in range(99)) if name in read]
    counts = [len(read[name]) for name in read if name.startswith("extra.spatial_query_pos_mask.")]
    example = [read[f"extra.src_visual_queries.{i}"] for i in range(3) if f"extra.src_visual_queries.{i}" in read]
    tokens = read.get("extra.grounding_tokens")
    return seem.SeemPrompts(
        text=None if tokens is None else tokens.transpose(1, 0, 2),
        text_valid=None if tokens is None else read["extra.grounding_nonzero_mask"] == 0,
        marked=marked_points(read, batch),
        query_index=read.get("draw.spatial_query_index"),
        example=tuple(tokens.transpose(1, 0, 2) for tokens in example) or None,
        example_valid=read["extra.src_visual_maskings.0"] == 0 if example else None,
        previous=read.get("extra.prev_mask"),
        slots=np.stack(slots) if slots else None,
        num_prompts=max(counts, default=1),
    )


def make_decoder(case):
    c = case.config
    name = case.meta["case"]
    variant = "demo" if c["base"].endswith("demo") else c["base"].rsplit("_", 1)[1]
    variant = {
        "decoder_text_visual_refspatial": "v1_text_with_marks",
        "decoder_text_visual_strokegrounding": "v1_marks_with_text",
    }.get(name, variant)
    sizes = (c["hidden"], c["mask"], c["proj"], c["heads"], c["ff"], c["decoder_layers_run"], c["q"], c["mem"])
    return seem.SeemDecoder(*sizes, variant=variant)


@pytest.mark.golden("seem", r"(v0_|demo_)?decoder_.*")
@pytest.mark.parametrize("attention", ["given", "own"])
def test_decoder(case, attention):
    """given: with the case's attention masks. Otherwise with ours, where a flipped bit must lie within 10 x floor of zero."""
    decoder, prompts = make_decoder(case), read_prompts(case)
    features = channels_last(case.inputs["mask_features"])
    levels = tuple(channels_last(case.inputs[f"ms{i}"]) for i in range(3))
    weights = {name: value for name, value in case.weights.items() if "lang_encoder" not in name}
    parts = {"decoder": (abstract_params(decoder, features, levels, prompts), seem.table(decoder), PREDICTOR)}
    params = import_params(weights, **parts)["decoder"]
    recorded = tuple(case.outputs[f"layer{i}.cross_mask"] == 1 for i in range(decoder.num_layers))
    masks = recorded if attention == "given" else None
    run = jax.jit(lambda p, *inputs, masks: decoder.apply({"params": p}, *inputs, attention_masks=masks))
    result = run(params, features, levels, prompts, masks=masks)

    flipped = first_flip(case, result, recorded) if attention == "own" else None
    last = decoder.num_layers if flipped is None else flipped
    not_compared = [name for name in case.outputs if name.endswith("cross_mask") and attention == "given"]
    for name in case.outputs:
        index = int(match[1]) if (match := re.match(r"(?:head|layer|aux)(\d+)", name)) else decoder.num_layers
        if index > last or name in not_compared:
            not_compared.append(name)
        elif not name.endswith("cross_mask"):
            case.compare(name, read_output(case, result, prompts, decoder, name, index))
    case.check(skipped=not_compared)


def first_flip(case, result, recorded):
    """Compares the attention masks, and returns the first layer with a tolerated flip, or None."""
    allowed = case.sign_tolerance(["pred_masks", "pred_gmasks", "pred_smasks", "prev_mask"], 10)
    for i, expected in enumerate(recorded):
        blocked = np.asarray(result.stages[i].attention_mask)
        opened = blocked & ~blocked.all(-1, keepdims=True)
        size = case.inputs[f"ms{i % 3}"].shape[-2:]
        logits = resize_bilinear(jnp.moveaxis(jnp.asarray(result.stages[i].mask_logits), 1, -1), size)
        logits = np.moveaxis(np.asarray(logits), -1, 1).reshape(*blocked.shape)
        if case.compare_signs(f"layer{i}.cross_mask", opened, expected, logits, allowed):
            return i
    return None


def replace_padding(case, sequence, prompts, name):
    """Returns the input of a self-attention with the recorded values at the padding of marked pixels, to which no other
    position attends."""
    expected = case.outputs[name].transpose(1, 0, 2)
    if prompts.marked is None:
        return sequence
    padding = np.zeros(sequence.shape[:2], bool)
    start, stop = case.meta["self_attention_groups"]["tokens_spatial"]
    padding[:, start:stop] = prompts.marked[1].prompt < 0
    return np.where(padding[..., None], expected, sequence)


def read_output(case, result, prompts, decoder, name, index):
    """Returns our value of a recorded output. index: its stage or layer."""
    what = name.rpartition(".")[2]
    if what == "hidden":
        return result.stages[index].hidden.transpose(1, 0, 2)
    if what == "self_in":
        return replace_padding(case, result.stages[index].next_input, prompts, name).transpose(1, 0, 2)
    if what == "self_mask":
        return result.stages[index].self_mask
    part = lambda group: result.part(group, index)
    scale = case.weights[f"{PREDICTOR}lang_encoder.logit_scale"]
    marked = part(seem.MARK_QUERY) if any(group == seem.MARK_QUERY for group, *_ in result.groups) else None
    values = {
        "pred_logits": lambda: scores.class_logits(part(seem.OBJECT).class_embedding, case.inputs["text_embeddings"], scale),
        "pred_masks": lambda: part(seem.OBJECT).mask_logits,
        "pred_maskembs": lambda: part(seem.OBJECT).mask_embedding,
        "pred_captions": lambda: part(seem.OBJECT).class_embedding,
        "pred_gmasks": lambda: part(seem.TEXT_QUERY).mask_logits,
        "pred_gtexts": lambda: part(seem.TEXT_QUERY).class_embedding,
        "pred_smasks": lambda: marked.mask_logits,
        "pred_smaskembs": lambda: marked.mask_embedding,
        "pred_stexts": lambda: marked.class_embedding,
        "pred_pspatials": lambda: result.marked_mean,
        "pred_nspatials": lambda: result.excluded_mean,
        "pred_pvisuals": lambda: case.inputs["extra.visual_query_pos"].transpose(1, 0, 2),
        "pred_nvisuals": lambda: case.inputs["extra.visual_query_neg"].transpose(1, 0, 2),
    }
    if what in values:
        return values[what]()
    each = None if prompts.query_index is None else len(prompts.query_index) // prompts.num_prompts
    logits = scores.mark_logits(marked.mask_embedding, result.marked_mean, per_prompt=each)
    chosen, best = scores.choose_masks(logits, marked.mask_logits)
    return {"selection_logits": logits, "prev_mask": chosen, "selected_query": best}[what]


@pytest.mark.golden("seem", r"demo_refimg_tokens.*")
def test_example_tokens(case):
    decoder, prompts = make_decoder(case), read_prompts(case)
    features = channels_last(case.inputs["mask_features"])
    levels = tuple(channels_last(case.inputs[f"ms{i}"]) for i in range(3))
    weights = {name: value for name, value in case.weights.items() if "lang_encoder" not in name}
    parts = {"decoder": (abstract_params(decoder, features, levels, prompts), seem.table(decoder), PREDICTOR)}
    params = import_params(weights, **parts)["decoder"]
    encode = jax.jit(lambda p, *inputs: decoder.apply({"params": p}, *inputs, method="encode_example"))
    mean, tokens = encode(params, features, levels, prompts)
    case.compare("visual_query_pos", np.moveaxis(np.asarray(mean), 1, 0))
    case.compare("visual_query_neg", np.zeros_like(case.outputs["visual_query_neg"]))
    for i, level in enumerate(tokens):
        case.compare(f"src_visual_queries.{i}", level.transpose(1, 0, 2))
        case.compare(f"src_visual_maskings.{i}", prompts.marked[1 + i].prompt < 0)
    case.check()
