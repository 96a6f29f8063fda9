"""SCA from pixels to captions against the published system: logits, loss, gradients and generated texts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import sca_parts
from einops import rearrange
from import_weights import channels_last, import_params

from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.structs import IGNORED
from hyperseg_jax.systems.sca import inference, objective
from hyperseg_jax.tables import flatten, unflatten

SMOOTHING = 0.1


def prepare(case):
    """Returns (model, its parameters, encoded prompts of the case, number of the task of each image)."""
    model, prompts = sca_parts.make_model(case.config), sca_parts.read_prompts(case.inputs)
    task = np.array([sca_parts.TASKS.index(name) for name in case.meta["task_type"]], np.int32)
    ids, side = np.zeros((1, prompts.kinds.shape[1], 1), np.int32), case.config["vision"]["image_size"]
    first = jax.tree.map(lambda leaf: leaf[:1], prompts)
    inputs = np.zeros((1, side, side, 3), np.float32), first, task[:1], ids, ids == 0
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"])
    table = sca_parts.model_table(model)
    params = import_params(case.weights, model=(shapes, table, ""))["model"]
    return model, params, prompts, task


def batch_of(case, prompts, task):
    """Returns the recorded inputs as a batch; pixels are recorded normalized, so the image is given as features."""
    ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"] == 1
    labels = np.where(mask, ids, IGNORED)
    np.testing.assert_array_equal(np.pad(labels, ((0, 0), (0, 0), (1, 0)), constant_values=IGNORED), case.inputs["labels"])
    valid = np.ones(ids.shape[:2], bool)
    batch = {"places": prompts.places, "kinds": prompts.kinds, "region_valid": valid, "bad": np.zeros(len(ids), bool)}
    return batch | {"task": task, "caption_ids": ids.astype(np.int32), "caption_mask": mask}


@pytest.fixture
def recorded_pixels(monkeypatch):
    """Lets the loss take the recorded pixels, which are normalized already."""
    monkeypatch.setattr(objective, "normalize_padded", lambda images, filled: images)


@pytest.mark.golden("sca", r"(end_to_end|grad)_.*")
def test_logits_loss_and_gradients(case, recorded_pixels):
    model, params, prompts, task = prepare(case)
    image = channels_last(case.inputs["pixel_values"])
    batch = batch_of(case, prompts, task) | {"images": image[:, None], "filled": np.zeros((len(image), 2), np.int32)}

    @jax.jit
    def run(params, image, prompts, batch):
        apply = lambda *inputs, **options: model.apply({"params": params}, *inputs, **options)
        features = apply(image, method="encode_image")
        seen = apply(features, prompts, batch["task"], method="see")
        hidden = apply(seen.prefix, batch["caption_ids"], batch["caption_mask"], method="read")
        return features, seen, apply(hidden, method="logits")

    features, seen, logits = run(params, image, prompts, batch)
    rows = lambda x: rearrange(np.asarray(x), "b r ... -> (b r) ...")
    case.compare("vision_encoder", np.moveaxis(np.asarray(features), -1, 1))
    case.compare("pred_masks", seen.masks.mask_logits[:, :, 1:])
    case.compare("iou_scores", seen.masks.iou[:, :, 1:])
    case.compare("lm_prefix", rows(seen.prefix))
    words = model.apply({"params": params}, batch["caption_ids"], method=lambda model, ids: model.llm.embed(ids))
    case.compare("lm_inputs_embeds", rows(jnp.concatenate([seen.prefix, words], axis=2)))
    prefix = np.ones((len(rows(seen.prefix)), seen.prefix.shape[2]), bool)
    mask = np.concatenate([prefix, rows(batch["caption_mask"])], axis=1)
    np.testing.assert_array_equal(mask, case.outputs["lm_attention_mask"])
    case.compare("logits", rows(logits))
    full, count = case.outputs["lm_full_logits"], logits.shape[2]
    case.compare("lm_full_logits", rows(logits), full[:, -count:])

    config = ml_collections.ConfigDict({"loss": {"label_smoothing": SMOOTHING}})
    counts, loss = objective.make_counts(model, config), objective.make_loss(model, config)
    trained = {path: leaf for path, leaf in flatten(params).items() if path.startswith(("mixer/", "prefix/"))}

    @jax.jit
    def loss_and_gradient(trained, params, batch):
        whole = lambda trained: unflatten({**flatten(params), **trained})
        return jax.value_and_grad(lambda trained: loss(whole(trained), batch, jax.random.key(0), counts(batch))[0])(trained)

    value, gradient = loss_and_gradient(trained, params, batch)
    case.compare("loss", np.asarray(value).reshape(1))
    table = sca_parts.model_table(model)
    names = {name for row in table for name in row.names if set(row.paths) <= trained.keys()}
    if any(name.startswith("grad_norm/") for name in case.outputs):
        rest = {path: np.zeros_like(leaf) for path, leaf in flatten(params).items()}
        published = table.to_torch(unflatten({**rest, **gradient}))
        for name in names:
            case.compare(f"grad_head/{name}", published[name].reshape(-1)[:16], kind="gradient")
            norm = np.linalg.norm(published[name].reshape(-1).astype(np.float64))
            case.compare(f"grad_norm/{name}", norm.reshape(1), kind="gradient")
    skipped = ["query_logits", "lm_attention_mask"]  # the first is not returned, its projection is in lm_prefix
    case.check(skipped=skipped)


@pytest.mark.golden("sca", r"generate_.*")
def test_generated_captions(case):
    model, params, prompts, task = prepare(case)
    c = case.config["language_model"]
    writer = inference.make_writer(model, ml_collections.ConfigDict())
    image = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode_image"))(
        params, channels_last(case.inputs["pixel_values"])
    )
    batch = {"places": prompts.places, "kinds": prompts.kinds, "task": task}
    seen = jax.jit(lambda p, x: model.apply({"params": p}, x, prompts, task, method="see"))(params, image)
    case.compare("iou_scores", seen.masks.iou[:, :, 1:])
    write = jax.jit(writer.write)
    for name, options in case.meta["generate"].items():
        beams = options.get("num_beams", 1)
        decoding = Decoding(
            kind="greedy" if beams == 1 else "beams",
            beams=beams,
            length_penalty=options.get("length_penalty", 1.0),
            max_new_tokens=options.get("max_length", 20) - 1,
            chunk=options.get("generate_chunk_size", 8),
            eos_id=c["eos_token_id"],
            vocab_size=c["vocab_size"],
        )
        ids = np.asarray(write(params, batch, {"image": image}, np.zeros(len(task), np.uint32), decoding))[:, 0]
        expected = case.outputs[f"{name}.sequences"][:, :, 0]
        found = np.full(expected.shape, c["eos_token_id"])
        found[..., 0] = c["bos_token_id"]
        found[..., 1:] = ids[..., : expected.shape[-1] - 1]
        case.compare(f"{name}.sequences", after_the_end(found, c)[:, :, None], after_the_end(expected, c)[:, :, None])
    case.check(skipped=["query_logits"])


def after_the_end(sequences, c):
    """Returns sequences without what follows the first end token after the start: the library pads with one of two ids."""
    ended = np.cumsum(sequences[..., 1:] == c["eos_token_id"], axis=-1)
    padding = np.concatenate([np.zeros_like(ended[..., :1]), (ended - (sequences[..., 1:] == c["eos_token_id"])) > 0], axis=-1)
    return np.where(padding > 0, c["eos_token_id"], sequences)
