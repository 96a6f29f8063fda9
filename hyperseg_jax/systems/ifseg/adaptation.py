"""The config that trains a model for some class names: on images of words as published, or on labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from hyperseg_jax import config as configs
from hyperseg_jax.datasets import ClassWords
from hyperseg_jax.systems.ifseg.model import SCORES
from hyperseg_jax.systems.ifseg.processor import STEPS, make_processor
from hyperseg_jax.text.tokenizer import Tokenizer

RECIPE = "ifseg_base"
"""The config with the published recipe: what is trained and what is frozen, the optimizer, the number of steps."""


def adapt_config(
    config: ConfigDict,
    tokenizer: Tokenizer | None,
    classes: Sequence[str],
    *,
    train: Mapping[str, Any] | None = None,
    val: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Returns the config, see systems.system.Adapt: the published recipe for the model of another config.

    Its tasks: "words", images of words, which is not trained if there are labelled images; "images", these; "panoptic", those
    of the validation.
    """
    adapted = configs.load(RECIPE).copy_and_resolve_references()
    shape = make_processor(config, tokenizer, {}).bucket(ClassWords(classes)[0])
    sizes = {name: shape[name] for name in STEPS}
    tasks = {"words": {"reader": "class_words", "ratio": int(train is None), "words": 1, "train": {"classes": tuple(classes)}}}
    for name, part, images in (("images", "train", train), ("panoptic", "val", val)):
        if images is not None:
            fields = {field: value for field, value in images.items() if field != "reader"}
            tasks[name] = {"reader": images["reader"], "ratio": int(part == "train"), "words": 0, part: fields}
    with adapted.unlocked(), adapted.ignore_type():
        adapted.model = config.model.copy_and_resolve_references()
        adapted.model.num_classes = len(classes)
        adapted.model.scores = SCORES[0]  # those of the decoder, which is trained
        for name in ("image_size", "resize"):
            adapted.data[name] = config.data[name]
        adapted.data.tasks = {name: {**task, **sizes} for name, task in tasks.items()}
        if train is None:
            adapted.data.workers = 0  # images of words take no time to draw
    return adapted
