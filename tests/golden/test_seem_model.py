"""The complete SEEM model against the published system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seem_model import CaseModel, marked_pixels, next_clicks, normalize_image, resize

from hyperseg_jax.decoders import seem
from hyperseg_jax.ops.sampling import resize_bilinear
from hyperseg_jax.ops.simulated_clicks import distance_inside
from hyperseg_jax.systems.seem import model, scores


@pytest.mark.golden("seem", r"model_full_.*")
def test_full_model(case):
    run, read = CaseModel(case), case.inputs
    image = run.apply("encode_image", normalize_image(read["image"]))
    pyramid = run.apply(lambda model, x: model.backbone(x), normalize_image(read["image"]))
    first = lambda array: np.moveaxis(np.asarray(array), -1, 1)
    case.compare("res2", first(pyramid.levels[0])[:, ::4])
    case.compare("res5", first(pyramid.levels[3])[:, ::8])
    case.compare("mask_features", first(image.mask_features)[:, ::16])
    case.compare("ms0", first(image.levels[0])[:, ::8])
    case.compare("ms2", first(image.levels[2])[:, ::16])
    tokens = run.apply("encode_text", read["input_ids"])
    valid = read["attention_mask"] == 1
    prompt = np.asarray(tokens)[valid]
    case.compare("token_emb_valid", prompt[:, ::4])
    case.compare("class_emb", run.apply("text_vectors", read["input_ids"]))
    prompts = seem.SeemPrompts(text=prompt[None], text_valid=np.ones((1, len(prompt)), bool))
    result = run.apply("decode", image, prompts)
    objects, text = result.part(seem.OBJECT), result.part(seem.TEXT_QUERY)
    case.compare("pred_logits", scores.class_logits(objects.class_embedding, read["text_embeddings"], run.params["log_scale"]))
    case.compare("pred_masks", objects.mask_logits)
    case.compare("pred_gmasks", text.mask_logits[:, ::2])
    case.compare("pred_gtexts", text.class_embedding[..., ::16])
    previous = None
    for k in range(2):
        slots = [read[f"round{k}.draw.layer{i}.memory_indices"] for i in range(9)] if k else None
        prompts = seem.SeemPrompts(
            marked=marked_pixels(read["pos_masks"], np.zeros_like(read["pos_masks"]), read["pos_masks"].shape[1:]),
            query_index=read[f"round{k}.draw.spatial_query_index"],
            previous=previous,
            slots=None if slots is None else np.stack(slots),
            num_prompts=2,
        )
        result = run.apply("decode", image, prompts, objects=False)
        marked = result.part(seem.MARK_QUERY)
        if not k:
            case.compare("pred_pspatials", result.marked_mean)
        logits = scores.mark_logits(marked.mask_embedding, result.marked_mean, per_prompt=3)
        previous, _ = scores.choose_masks(logits, marked.mask_logits)
        case.compare(f"prev_mask_round{k}", previous)
    case.check()


@pytest.mark.golden("seem", r"model_grounding.*")
def test_phrases(case):
    run, read = CaseModel(case), case.inputs
    image = run.apply("encode_image", normalize_image(read["image"]))
    tokens, vectors = run.apply("encode_text", read["input_ids"]), run.apply("text_vectors", read["input_ids"])
    case.compare("token_emb", tokens)
    case.compare("class_emb", vectors)
    prompt = np.asarray(tokens)[read["attention_mask"] == 1]
    result = run.apply("decode", image, seem.SeemPrompts(text=prompt[None], text_valid=np.ones((1, len(prompt)), bool)))
    text = result.part(seem.TEXT_QUERY)
    case.compare("pred_gmasks", text.mask_logits)
    case.compare("pred_gtexts", text.class_embedding)
    similarity = scores.phrase_logits(text.class_embedding, vectors[None], run.params["log_scale"])[0]
    case.compare("similarity", similarity)
    chosen, best = scores.choose_masks(similarity[None], text.mask_logits)
    case.compare("matched_query", best[0])
    masks = resize(chosen[0], read["image"].shape[-2:], (125, 165))  # recorded at every second pixel
    case.compare("grounding_mask", masks[:, ::2, ::2])
    case.compare("grounding_mask_area", (masks > 0).sum((1, 2)))
    case.check()


@pytest.mark.golden("seem", r"lang_encoder.*")
def test_texts(case):
    run, read = CaseModel(case), case.inputs
    hidden = run.apply(lambda model, ids: model.text_encoder(ids), read["input_ids"])
    vectors = run.apply("text_vectors", read["input_ids"])
    case.compare("last_hidden_state", hidden)
    case.compare("token_emb", run.apply("encode_text", read["input_ids"]))
    case.compare("class_emb", vectors)
    case.compare("class_emb_normalised", scores.normalize(vectors))
    case.compare(
        "similarity", scores.class_logits(read["similarity_visual"], case.outputs["text_embeddings"], run.params["log_scale"])
    )
    wall = model.average_templates(run.apply("text_vectors", read["wall_template_ids"])[None])
    case.compare("text_embeddings", wall, case.outputs["text_embeddings"][1:2])
    case.check()


@pytest.mark.golden("seem", r"next_click.*")
def test_simulated_clicks(case):
    read = case.inputs
    logits = resize_bilinear(jnp.moveaxis(jnp.asarray(read["prev_mask"]), 1, -1), read["pos"].shape[1:])
    predicted = np.moveaxis(np.asarray(logits), -1, 1)[0] > 0
    targets = np.zeros(read["pos"].shape, bool)
    targets[:, : read["gt_masks"].shape[1], : read["gt_masks"].shape[2]] = read["gt_masks"]
    positive, negative = jax.jit(next_clicks)(predicted, targets, read["pos"] == 1, read["neg"] == 1)
    case.compare("next_pos", positive)
    case.compare("next_neg", negative)
    distance = jax.jit(distance_inside)(case.outputs["distance_input"][0] == 0)
    case.compare("distance_output", distance[None])
    case.check(skipped=["distance_input"])
