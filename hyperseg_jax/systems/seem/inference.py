"""SEEM inference: encodes images and class lists once, and answers prompts with the decoder alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from hyperseg_jax.data.processor import Batch, Encoding
from hyperseg_jax.decoders import seem
from hyperseg_jax.decoders.seem import SeemPrompts
from hyperseg_jax.systems.seem import inputs
from hyperseg_jax.systems.seem.model import Seem, SeemImage
from hyperseg_jax.systems.seem.rounds import MarkAnswers, answer_marks, fixed_choices, round_prompts
from hyperseg_jax.systems.seem.scores import choose_masks, class_logits, phrase_logits
from hyperseg_jax.systems.system import Predict

COMPOSED = {"v1": "v1_marks_with_text", "v0": "demo"}
"""The attention table of regions with a text, where it differs from that of the model."""
EXAMPLE = "demo"
"""The attention table of regions of another image."""


def make_encodings(model: Seem, config: ml_collections.ConfigDict) -> dict[str, Encoding]:
    """Returns the Encoding of images, of example images that regions are drawn on, and of class lists."""

    def encode_image(params: Any, part: Batch, _: Mapping[str, Any]) -> SeemImage:
        images = inputs.normalize_images(part["images"][:, 0], part["filled"])
        encoded: SeemImage = model.apply({"params": params}, images, method="encode_image")  # type: ignore[assignment]
        return encoded

    def encode_example(params: Any, part: Batch, _: Mapping[str, Any]) -> SeemImage:
        names = {"images": "example_images", "filled": "example_filled"}
        return encode_image(params, {name: part[theirs] for name, theirs in names.items()}, {})

    def encode_classes(params: Any, part: Batch, _: Mapping[str, Any]) -> jax.Array:
        return inputs.class_vectors(model, params, part["class_ids"], part["class_list"])

    return {
        "image": Encoding(encode_image),
        "example": Encoding(encode_example),
        "classes": Encoding(encode_classes, of_images=False),
    }


def make_predict(model: Seem, config: ml_collections.ConfigDict) -> Predict:
    """Returns the Predict function, for batches with one class list, one prompt with regions, or several phrases per element.

    Outputs: mask_logits; class for class lists, expression for phrases, region for regions; class_valid and region_valid.
    features: see make_encodings. memory: the mask logits of the last round about the same regions.
    """
    encodings = make_encodings(model, config)

    def predict_batch(
        params: Any, batch: Batch, features: Mapping[str, Any], memory: jax.Array | None = None
    ) -> tuple[dict[str, jax.Array], jax.Array | None]:
        encode = lambda name: features[name] if name in features else encodings[name].function(params, batch, {})
        apply: Any = lambda image, prompts, **options: model.apply(
            {"params": params}, image, prompts, method="decode", **options
        )
        image: SeemImage = encode("image")
        classes = encode("classes") if batch["class_valid"].shape[1] else None
        name_classes: Any = lambda embedding: class_logits(embedding, classes, params["log_scale"])  # type: ignore[arg-type]
        prompts, vectors = SeemPrompts(), None
        if batch["phrase_ids"].shape[1]:
            tokens, valid, vectors = inputs.encode_phrases(model, params, batch["phrase_ids"], batch["phrase_present"])
            prompts = SeemPrompts(text=tokens, text_valid=valid)
        if batch["region_present"].shape[1]:
            example = encode("example") if "example_images" in batch or "example" in features else None
            found = _answer_regions(model, params, image, example, batch, prompts, memory)
            valid = batch["region_present"]
            outputs = {"mask_logits": found.mask_logits, "region": found.scores, "region_valid": valid}
            if classes is not None:
                outputs |= {"class": name_classes(found.class_embedding), "class_valid": batch["class_valid"]}
            return _by_prompt(outputs), found.mask_logits
        if vectors is not None:
            variant = model.decoder.variant
            prediction = apply(image, prompts, objects=variant == "demo")
            part = prediction.part(seem.OBJECT if variant == "demo" else seem.TEXT_QUERY)
            scores = phrase_logits(part.class_embedding, vectors, params["log_scale"])
            masks, _ = choose_masks(scores, part.mask_logits)
            by_phrase = {"mask_logits": masks, "expression": scores.max(1)}
            return {name: value[:, None, :, None] for name, value in by_phrase.items()}, None
        part = apply(image, prompts).part(seem.OBJECT)
        outputs = {"mask_logits": part.mask_logits, "class": name_classes(part.class_embedding)}
        return _by_prompt(outputs | {"class_valid": batch["class_valid"]}), None

    return predict_batch


def _answer_regions(
    model: Seem,
    params: Any,
    image: SeemImage,
    example: SeemImage | None,
    batch: Batch,
    text: SeemPrompts,
    memory: jax.Array | None,
) -> MarkAnswers:
    """Returns the answer to each region [B, R]. example: the image that the regions were drawn on, if it is another one."""
    apply: Any = lambda *inputs, **options: model.apply({"params": params}, *inputs, **options)
    present, variant = batch["region_present"], model.decoder.variant
    rows, count = present.shape
    marks = inputs.marks_of(batch)
    previous = None if memory is None else _with_room(memory, count)
    if text.text is not None:
        variant = COMPOSED.get(variant, variant)
    if variant.startswith("v1") and example is None:
        nothing = jnp.zeros((rows, count, *image.mask_features.shape[1:3]))
        choices = fixed_choices(model.decoder, present)
        prompts = round_prompts(marks, choices, 0, nothing if previous is None else previous, previous is not None)
        prompts = prompts.replace(text=text.text, text_valid=text.text_valid)  # type: ignore[attr-defined]
        return answer_marks(apply(image, prompts, method="decode", objects=False, variant=variant))
    # These attention tables have one visual prompt, so each region is a row.
    alone = lambda tree: jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), tree)
    number = jnp.tile(jnp.arange(count), rows)[:, None]
    points = [one.replace(prompt=jnp.where(one.prompt == number, 0, -1)) for one in alone(marks.points)]
    prompts, means = SeemPrompts(text=alone(text.text), text_valid=alone(text.text_valid)), None
    if example is None:
        remembered = None if previous is None else previous.reshape(rows * count, 1, *previous.shape[2:])
        prompts = prompts.replace(marked=tuple(points), previous=remembered)  # type: ignore[attr-defined]
    else:
        variant = EXAMPLE
        means, tokens = apply(alone(example), SeemPrompts(marked=tuple(points)), method="encode_example")
        prompts = prompts.replace(example=tokens, example_valid=points[1].prompt >= 0)  # type: ignore[attr-defined]
    prediction = apply(alone(image), prompts, method="decode", objects=variant == "demo", variant=variant)
    answers: MarkAnswers = jax.tree.map(
        lambda leaf: leaf.reshape(rows, count, *leaf.shape[2:]), answer_marks(prediction, means)
    )
    return answers


def _with_room(memory: jax.Array, regions: int) -> jax.Array:
    """Returns the memory with zeros for new regions."""
    return jnp.pad(memory, ((0, 0), (0, max(regions - memory.shape[1], 0)), (0, 0), (0, 0)))[:, :regions]


def _by_prompt(outputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns outputs [B, ...] as [B, 1, 1, ...]: of one frame and one prompt."""
    return {name: value[:, None, None] for name, value in outputs.items()}
