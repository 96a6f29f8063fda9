"""SEEM's mask losses: of all objects, of the objects that phrases describe, and of those that visual prompts mark."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from einops import rearrange
from jaxtyping import Float

from hyperseg_jax.decoders import seem
from hyperseg_jax.decoders.seem import SeemPrediction, SeemStage
from hyperseg_jax.losses.criterion import MaskCriterion
from hyperseg_jax.losses.prompt_scores import PromptScores
from hyperseg_jax.losses.scores import ClassScores, ScoreLoss
from hyperseg_jax.losses.targets import MaskTargets
from hyperseg_jax.structs import DeviceArray, MaskPrediction
from hyperseg_jax.systems.seem.scores import class_logits, mark_logits, phrase_logits

OBJECTS, PHRASES, MARKS = "objects", "phrases", "marks"
Targets = Mapping[str, MaskTargets]
"""By kind. OBJECTS: rows are images, labels are classes. PHRASES: rows are images, one target for each phrase, labels are equal
for phrases of the same text; kinds of scores: "sentence" and "name". MARKS: rows are images x prompts with one target each."""


@flax.struct.dataclass
class PromptVectors:
    """What the embeddings of queries are compared with; None without such prompts."""

    classes: Float[DeviceArray, "*B K E"] | None
    phrases: Float[DeviceArray, "B N E"] | None
    log_scale: Float[DeviceArray, ""]


def build_criteria(config: ml_collections.ConfigDict) -> dict[str, MaskCriterion]:
    """Builds the criterion of each kind. config.loss has num_points, oversample, importance and points of MaskCriterion, the
    weight of the background class and, for each kind, the weights of its losses: mask, dice, and those of its scores."""
    loss = config.loss
    shared = {name: loss[name] for name in ("num_points", "oversample", "importance", "points")}
    scores: dict[str, dict[str, ScoreLoss]] = {
        OBJECTS: {"class": ClassScores(loss.objects["class"], loss.background)},
        PHRASES: {name: PromptScores(loss.phrases[name]) for name in ("sentence", "name")},
        MARKS: {"mark": PromptScores(loss.marks.mark)},
    }
    return {
        kind: MaskCriterion(of_kind, mask_weight=loss[kind].mask, dice_weight=loss[kind].dice, **shared)
        for kind, of_kind in scores.items()
    }


def predictions_of(
    prediction: SeemPrediction, vectors: PromptVectors, features: Float[DeviceArray, "B h w D"] | None
) -> dict[str, MaskPrediction]:
    """Returns the predictions of the queries of each kind at all stages, with their scores. features: those that the
    mask embeddings are multiplied with; None: the losses read the mask logits."""

    def collect(group: str, scores: Callable[[SeemStage], dict[str, jax.Array]]) -> MaskPrediction:
        *stages, last = [prediction.part(group, k) for k in range(len(prediction.stages))]
        return MaskPrediction(
            last.mask_logits,
            scores(last),
            embeddings={"mask": last.mask_embedding},
            stages=tuple(
                {"mask_logits": stage.mask_logits, "mask_embedding": stage.mask_embedding, "scores": scores(stage)}
                for stage in stages
            ),
            mask_features=features,
        )

    names = {name for name, *_ in prediction.groups}
    result = dict[str, MaskPrediction]()
    if seem.OBJECT in names:
        result[OBJECTS] = collect(seem.OBJECT, lambda stage: object_scores(stage, vectors))
    if seem.TEXT_QUERY in names:
        result[PHRASES] = collect(seem.TEXT_QUERY, lambda stage: phrase_scores(stage, vectors))
    if seem.MARK_QUERY in names:
        assert prediction.marked_mean is not None
        means = prediction.marked_mean
        result[MARKS] = by_prompt(collect(seem.MARK_QUERY, lambda stage: mark_scores(stage, means)), means.shape[1])
    return result


def by_prompt(prediction: MaskPrediction, num_prompts: int) -> MaskPrediction:
    """Returns predictions of queries for visual prompts with images x prompts as rows."""
    rows = lambda array: rearrange(array, "b (n q) ... -> (b n) q ...", n=num_prompts)
    split = jax.tree.map(rows, dataclasses.replace(prediction, mask_features=None))
    return dataclasses.replace(split, mask_features=prediction.mask_features)


def object_scores(stage: SeemStage, vectors: PromptVectors) -> dict[str, jax.Array]:
    """Returns the logits of classes."""
    assert vectors.classes is not None
    return {"class": class_logits(stage.class_embedding, vectors.classes, vectors.log_scale)}


def phrase_scores(stage: SeemStage, vectors: PromptVectors) -> dict[str, jax.Array]:
    """Returns how probable it is for each query to be the answer of a phrase, log-probabilities over queries."""
    assert vectors.phrases is not None
    logits = phrase_logits(stage.class_embedding, vectors.phrases, vectors.log_scale)
    return dict.fromkeys(("sentence", "name"), jax.nn.log_softmax(logits, axis=1))


def mark_scores(stage: SeemStage, means: Float[DeviceArray, "B N D"]) -> dict[str, jax.Array]:
    """Returns the same for visual prompts: of each query for its own prompt, normalized over the queries of all prompts."""
    logits = jax.nn.log_softmax(mark_logits(stage.mask_embedding, means), axis=1)
    own = jnp.arange(logits.shape[1]) // (logits.shape[1] // means.shape[1])
    return {"mark": jnp.take_along_axis(logits, own[None, :, None], axis=2)}
