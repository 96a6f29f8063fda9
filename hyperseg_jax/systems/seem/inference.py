"""SEEM inference: encodes images and class lists once, and answers prompts with the decoder alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Bool, Float, Int

from hyperseg_jax.data.processor import Batch, Encoding
from hyperseg_jax.decoders import seem
from hyperseg_jax.decoders.seem import SeemPrompts
from hyperseg_jax.ops.padding import fit_axis
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.systems.pixels import normalize_padded
from hyperseg_jax.systems.seem import inputs
from hyperseg_jax.systems.seem.model import Seem, SeemImage
from hyperseg_jax.systems.seem.rounds import MarkAnswers, answer_marks, fixed_choices, name_by_objects, round_prompts
from hyperseg_jax.systems.seem.scores import choose_masks, class_logits, phrase_logits
from hyperseg_jax.systems.system import Predict

COMPOSED = {"v1": "v1_marks_with_text", "v0": "demo"}
"""The attention table of regions with a text, where it differs from that of the model."""
EXAMPLE = "demo"
"""The attention table of regions of another image."""


@flax.struct.dataclass
class MarkedExample:
    """What regions mark in another image: the mean feature of each region, and tokens by level.

    prompt: the region that a token belongs to, -1 for padding. present: which regions are no padding.
    """

    means: Float[DeviceArray, "B N D"]
    tokens: tuple[Float[DeviceArray, "B P C"], ...]
    prompt: Int[DeviceArray, "B P"]
    present: Bool[DeviceArray, "B N"]


@flax.struct.dataclass
class Memory:
    """What is remembered of the last round: the mask logits of each region, and which regions there were. The others are
    padding, and regions that are begun later."""

    mask_logits: Float[DeviceArray, "B N h w"]
    known: Bool[DeviceArray, "B N"]

    def with_room(self, present: Bool[DeviceArray, "B R"]) -> Memory:
        """Returns the memory of the regions of another round. present: which regions are no padding."""
        mask_logits, known = (fit_axis(array, 1, present.shape[1]) for array in (self.mask_logits, self.known))
        return Memory(mask_logits, known & present)


def make_encodings(model: Seem, config: ml_collections.ConfigDict) -> dict[str, Encoding]:
    """Returns the Encoding of images, of regions that are drawn on another image, and of class lists."""

    def encode_image(params: Any, part: Batch, _: Mapping[str, Any]) -> SeemImage:
        images = normalize_padded(part["images"][:, 0], part["filled"])
        encoded: SeemImage = model.apply({"params": params}, images, method="encode_image")  # type: ignore[assignment]
        return encoded

    def encode_example(params: Any, part: Batch, _: Mapping[str, Any]) -> MarkedExample:
        image = encode_image(params, {"images": part["example_images"], "filled": part["example_filled"]}, {})
        marked, present = inputs.marks_of(part).points, part["region_present"]
        prompts = SeemPrompts(marked=marked, num_prompts=present.shape[1])
        means, tokens = model.apply({"params": params}, image, prompts, method="encode_example")
        return MarkedExample(means, tokens, marked[1].prompt, present)  # type: ignore[arg-type]

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
    features: see make_encodings. memory: that of the last round about the same regions; None for regions of another image.
    """
    encodings = make_encodings(model, config)

    def predict_batch(
        params: Any, batch: Batch, features: Mapping[str, Any], memory: Memory | None = None
    ) -> tuple[dict[str, jax.Array], Memory | None]:
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
        example = encode("example") if "example" in features or "example_images" in batch else None
        present = batch["region_present"] if example is None else example.present
        if present.shape[1]:
            if example is None:
                found = _answer_marks(model, params, image, batch, prompts, memory, named=classes is not None)
            else:
                found = _answer_example(model, params, image, example, prompts)
            outputs = {"mask_logits": found.mask_logits, "region": found.scores, "region_valid": present}
            if classes is not None:
                outputs |= {"class": name_classes(found.class_embedding), "class_valid": batch["class_valid"]}
            return _by_prompt(outputs), Memory(found.mask_logits, present) if example is None else None
        if vectors is not None:
            variant = model.decoder.variant
            prediction = apply(image, prompts, objects=variant == "demo")
            part = prediction.part(seem.OBJECT if variant == "demo" else seem.TEXT_QUERY)
            scores = phrase_logits(part.class_embedding, vectors, params["log_scale"])
            masks, best = choose_masks(scores, part.mask_logits)
            by_phrase = {"mask_logits": masks, "expression": scores.max(1)}
            if classes is not None:
                by_phrase["class"] = name_classes(jnp.take_along_axis(part.class_embedding, best[..., None], axis=1))
            outputs = {name: value[:, None, :, None] for name, value in by_phrase.items()}
            if classes is not None:
                outputs["class_valid"] = jnp.repeat(batch["class_valid"][:, None, None], masks.shape[1], axis=2)
            return outputs, None
        part = apply(image, prompts).part(seem.OBJECT)
        outputs = {"mask_logits": part.mask_logits, "class": name_classes(part.class_embedding)}
        return _by_prompt(outputs | {"class_valid": batch["class_valid"]}), None

    return predict_batch


def _answer_marks(
    model: Seem,
    params: Any,
    image: SeemImage,
    batch: Batch,
    text: SeemPrompts,
    memory: Memory | None,
    *,
    named: bool,
) -> MarkAnswers:
    """Returns the answer to each region of the image, [B, R]. named: whether class embeddings are needed."""
    apply: Any = lambda *inputs, **options: model.apply({"params": params}, *inputs, method="decode", **options)
    present, variant = batch["region_present"], model.decoder.variant
    rows, count = present.shape
    marks, size = inputs.marks_of(batch), image.mask_features.shape[1:3]
    memory = None if memory is None else memory.with_room(present)
    if text.text is not None:
        variant = COMPOSED.get(variant, variant)
    if variant.startswith("v1"):
        used = Memory(jnp.zeros((rows, count, *size)), jnp.zeros_like(present)) if memory is None else memory
        prompts = round_prompts(marks, fixed_choices(model.decoder, used.known), 0, used.mask_logits, True)
        prompts = prompts.replace(text=text.text, text_valid=text.text_valid)  # type: ignore[attr-defined]
        prediction = apply(image, prompts, objects=named, variant=variant)
        answers = answer_marks(prediction)
        return name_by_objects(answers, prediction) if named else answers
    number = _region_of_row(rows, count)
    points = [one.replace(prompt=jnp.where(one.prompt == number, 0, -1)) for one in _by_region(marks.points, count)]
    prompts = _by_region(text, count).replace(marked=tuple(points))
    if memory is not None:
        slots = jnp.where(memory.known.reshape(-1, 1), 0, -1)
        slots = jnp.broadcast_to(slots, (model.decoder.num_layers, rows * count, model.decoder.num_memories))
        prompts = prompts.replace(previous=memory.mask_logits.reshape(rows * count, 1, *size), slots=slots)
    prediction = apply(_by_region(image, count), prompts, objects=named or variant == "demo", variant=variant)
    answers = answer_marks(prediction)
    return _by_image(name_by_objects(answers, prediction) if named and variant != "demo" else answers, rows)


def _answer_example(model: Seem, params: Any, image: SeemImage, example: MarkedExample, text: SeemPrompts) -> MarkAnswers:
    """Returns what each region of another image marks, in this image: [B, R]."""
    rows, count = example.present.shape
    valid = _by_region(example.prompt, count) == _region_of_row(rows, count)
    prompts = _by_region(text, count).replace(example=_by_region(example.tokens, count), example_valid=valid)
    prediction: Any = model.apply({"params": params}, _by_region(image, count), prompts, method="decode", variant=EXAMPLE)
    return _by_image(answer_marks(prediction, example.means.reshape(rows * count, 1, -1)), rows)


# Tables other than those of v1 have one visual prompt, so each region is a row.
def _by_region(tree: Any, count: int) -> Any:
    """Repeats each row for `count` regions."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), tree)


def _region_of_row(rows: int, count: int) -> jax.Array:
    """Returns the number of the region of each repeated row, [rows * count, 1]."""
    return jnp.tile(jnp.arange(count), rows)[:, None]


def _by_image(answers: MarkAnswers, rows: int) -> MarkAnswers:
    """Returns the answers of repeated rows, one prompt each, by image: [rows, count, ...]."""
    grouped: MarkAnswers = jax.tree.map(lambda leaf: leaf.reshape(rows, -1, *leaf.shape[2:]), answers)
    return grouped


def _by_prompt(outputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns outputs [B, ...] as [B, 1, 1, ...]: of one frame and one prompt."""
    return {name: value[:, None, None] for name, value in outputs.items()}
