"""Scoring of predictions: SCORINGS has one entry for each way to query and score a prompt."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperseg_jax import metrics
from hyperseg_jax.datasets.class_names import COCO_UNSEEN
from hyperseg_jax.datasets.record_errors import error_message
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.caption_tools import Tools
from hyperseg_jax.evaluation.clicks import CorrectiveClicks, SimulatedClicks
from hyperseg_jax.evaluation.protocols import (
    EvalProtocol,
    JointExpressions,
    PredictedPointTexts,
    RegionTexts,
    SemiSupervisedVOS,
)
from hyperseg_jax.evaluation.tracks import TrackedInstances
from hyperseg_jax.metrics.davis import MAX_PROPOSALS
from hyperseg_jax.parallel import hosts
from hyperseg_jax.results.answers import Answers
from hyperseg_jax.structs import Example, Prediction, Prompt
from hyperseg_jax.untrusted.printing import escaped_value, one_line


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How prompts are queried and scored.

    new(rules) -> an empty accumulator. kind: answer kind on a frame (results.answers.Answers, or "text"). add(accumulator, name
    of the example, prompt, predictions by frame): adds a prompt. headline: the main score. protocol: evaluation protocol of an
    example. interactive: protocol for interactive systems, if different. single: the score by which single prompts are ranked,
    if it is not the headline. finish: the scores that are only computed once, after all prompts, because they need other
    programs.
    """

    new: Callable[[str], Any]
    kind: str
    add: Callable[[Any, str, Prompt, Sequence[Prediction]], None]
    headline: str
    protocol: Callable[..., EvalProtocol] = EvalProtocol
    interactive: Callable[..., EvalProtocol] | None = None
    single: str = ""
    finish: Callable[[Any, Tools, Callable[[str], None]], dict[str, float]] | None = None


def _target_masks(prompt: Prompt) -> np.ndarray:
    """Returns the target masks of a prompt. Raises UserError if there are none."""
    if prompt.masks is None:
        raise UserError(f"a {prompt.task} prompt without masks cannot be scored; its reader must return masks")
    return prompt.masks


def _predicted_and_target(prompt: Prompt, predictions: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the predicted and target masks of an expression, bool [T, H, W]."""
    predicted, masks = np.stack([frame.union for frame in predictions]), _target_masks(prompt)
    return predicted, masks[0][: len(predicted)] if len(masks) else np.zeros_like(predicted)


def _first_frame(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array[0]


def _add_expression(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the mask of an expression about an image."""
    predicted, target = _predicted_and_target(prompt, predictions)
    scores.update(predicted[0], target[0], _first_frame(prompt.ignore), prompt.group)


def _add_generalized(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the mask of an expression that may match nothing or several objects (gRefCOCO)."""
    predicted, target = _predicted_and_target(prompt, predictions)
    scores.update(predicted[0], target[0])


def _add_clip(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the masks of an expression about a video, one per frame."""
    predicted, target = _predicted_and_target(prompt, predictions)
    scores.update(predicted, target, None if prompt.ignore is None else prompt.ignore[: len(predicted)], prompt.group)


def _add_revos(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the masks of an expression of ReVOS, one per frame."""
    predicted, target = _predicted_and_target(prompt, predictions)
    scores.update(predicted, target, None if prompt.foreground is None else prompt.foreground[: len(predicted)], prompt.group)


def _add_regions(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the masks of visual prompts, one per region."""
    order = np.argsort(prompt.labels)
    kinds = tuple(region.kind for region in prompt.regions)
    scores.update(predictions[0].masks, _target_masks(prompt)[order, 0], kinds, _first_frame(prompt.ignore))


def _add_panoptic(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the panoptic segments of an image."""
    crowds = None if prompt.crowds is None else prompt.crowds[:, 0]
    scores.update(
        predictions[0].masks,
        predictions[0].labels,
        _target_masks(prompt)[:, 0],
        prompt.labels,
        prompt.classes,
        prompt.things,
        _first_frame(prompt.ignore),
        crowds,
        prompt.crowd_labels,
    )


def _add_entities(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the panoptic segments of an image, and the names that the model wrote."""
    predicted = predictions[0]
    written = None if predicted.written is None else [name.label for name in predicted.written]
    target = _target_masks(prompt)[:, 0]
    scores.update(predicted.masks, predicted.labels, target, prompt.labels, _first_frame(prompt.ignore), written)


def _add_instances(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the things of a class list. Crowds are targets that may be missed."""
    things = [k for k, label in enumerate(prompt.labels) if prompt.things[label]]
    crowds = [k for k, label in enumerate(prompt.crowd_labels) if prompt.things[label]]
    areas = [*(prompt.areas[k] for k in things), *(None for _ in crowds)] if prompt.areas else []
    masks = [*_target_masks(prompt)[things, 0], *(prompt.crowds[crowds, 0] if prompt.crowds is not None else ())]
    labels = [prompt.labels[k] for k in things] + [prompt.crowd_labels[k] for k in crowds]
    name_with_id = f"{prompt.key.zfill(12)} {name}"  # pycocotools sorts images by id if scores are equal
    scores.update(
        name_with_id,
        predictions[0].masks,
        predictions[0].scores,
        [prompt.classes[label] for label in predictions[0].labels],
        masks,
        [prompt.classes[label] for label in labels],
        [False] * len(things) + [True] * len(crowds),
        areas,
    )


def _track_masks(predictions: Sequence[Prediction]) -> np.ndarray:
    """Returns the masks of tracks, bool [N, T, H, W]."""
    return np.stack([frame.masks for frame in predictions], axis=1)


def _add_tracks(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the instances of a class list in a video."""
    predicted, crowds = _track_masks(predictions), () if prompt.crowds is None else prompt.crowds
    labels = (*prompt.labels, *prompt.crowd_labels)
    scores.update(
        name,
        predicted,
        predictions[0].scores,
        [prompt.classes[label] for label in predictions[0].labels],
        [*_target_masks(prompt), *crowds],
        [prompt.classes[label] for label in labels],
        [False] * len(prompt.labels) + [True] * len(crowds),
    )


def _add_objects(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the prompted objects, followed by the other objects of the video."""
    others = () if prompt.others is None else prompt.others
    scores.update(_track_masks(predictions), np.array([*_target_masks(prompt), *others], bool), prompt.ignore, prompt.group)


def _add_proposals(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the best tracks as proposals without overlap: a pixel belongs to the best track that covers it."""
    proposals = _track_masks(predictions)[
        np.argsort([-score for score in predictions[0].scores], kind="stable")[:MAX_PROPOSALS]
    ]
    better_tracks = np.cumsum(proposals, axis=0) - proposals
    scores.update(proposals & (better_tracks == 0), _target_masks(prompt), prompt.ignore, prompt.group)


def _add_clicks(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the IoUs of each object after each of its clicks."""
    for ious in predictions[0].ious:
        scores.update(ious)


def _add_nothing(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Counts a prompt without ground truth."""
    scores.update()


def _add_semantic(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the semantic segmentation of an image. Crowds have their class, as in the semantic maps of COCO panoptic."""
    target = np.full(predictions[0].masks.shape[1:], -1)
    ignore = np.zeros(target.shape, bool) if prompt.ignore is None else prompt.ignore[0].copy()
    for mask, label in zip(_target_masks(prompt)[:, 0], prompt.labels, strict=True):
        target[mask] = label
    for mask, label in zip(() if prompt.crowds is None else prompt.crowds[:, 0], prompt.crowd_labels, strict=True):
        target[mask], ignore[mask] = label, False
    ignore |= target < 0
    predicted = np.zeros(target.shape, int)
    for mask, label in zip(predictions[0].masks, predictions[0].labels, strict=True):
        predicted[mask] = label
    scores.update(predicted, np.maximum(target, 0), prompt.classes, ignore)


def _add_exact(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds a text answer that must equal the true one."""
    scores.update(predictions[0].text, prompt.answer, prompt.group)


def _add_vqa(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds a text answer that is compared with those of several annotators."""
    scores.update(predictions[0].text, prompt.answers, prompt.group)


def _add_pope(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds a text answer to a yes/no question."""
    scores.update(predictions[0].text, prompt.answer.strip().lower() == "yes", prompt.group)


def _add_captions(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds the texts of the regions of an image. Raises UserError if the prompt has no true captions."""
    if prompt.regions and not prompt.captions:
        raise UserError("a caption prompt without captions cannot be scored; its reader must return Prompt.captions")
    scores.update(name, predictions[0].texts, prompt.captions)


_OPTION = re.compile(r"^([A-J])\. (.*)$", re.MULTILINE)
ROTATIONS = 1_000_000
"""Offset that MMBench adds to the index of a question for each rotation of its options."""


def parse_options(question: str) -> dict[str, str]:
    """Returns {letter: text} of the options that a question lists, one per line."""
    return dict(_OPTION.findall(question))


def parse_number(key: str, field: str, where: str) -> int:
    """Returns the id of a question as a number. Raises UserError if it is not an integer. field, where: names of the id's field
    and of its file or example, for the message."""
    if not re.fullmatch("0|-?[1-9][0-9]{0,17}", key):
        raise UserError(f"{where}: its {field} is {escaped_value(key)}, but the benchmark needs an integer; correct it")
    return int(key)


def _add_choice(scores: Any, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> None:
    """Adds a text answer to a multiple-choice question."""
    question = parse_number(prompt.key, "index", name) % ROTATIONS
    scores.update(predictions[0].text, prompt.answer, parse_options(prompt.text), question, prompt.group)


_CAPTIONS = Scoring(
    lambda _: metrics.CaptionScores(),
    "text",
    _add_captions,
    "cider",
    RegionTexts,
    single="rouge_l",
    finish=lambda scores, tools, log: tools.scores(scores, log),
)
SCORINGS: dict[str, Scoring] = {
    "referring": Scoring(metrics.ReferringScores, "expression", _add_expression, "giou"),
    "generalized": Scoring(metrics.GeneralizedScores, "expression", _add_generalized, "giou"),
    "clips": Scoring(lambda _: metrics.VideoScores(), "expression", _add_clip, "jf"),
    "revos": Scoring(metrics.ReVosScores, "expression", _add_revos, "jf"),
    "ref_davis": Scoring(
        lambda _: metrics.DavisScores("unsupervised"), "soft_expression", _add_objects, "jf", JointExpressions
    ),
    "davis": Scoring(lambda _: metrics.DavisScores(), "soft_regions", _add_objects, "jf", SemiSupervisedVOS),
    "davis_unsupervised": Scoring(
        lambda _: metrics.DavisScores("unsupervised"), "candidates", _add_proposals, "jf", TrackedInstances
    ),
    "tracks": Scoring(lambda _: metrics.TrackScores(), "candidates", _add_tracks, "ap", TrackedInstances),
    "regions": Scoring(lambda _: metrics.InteractiveScores(), "regions", _add_regions, "miou"),
    "clicks": Scoring(lambda _: metrics.ClickScores(), "regions", _add_clicks, "iou@1", SimulatedClicks, CorrectiveClicks),
    "panoptic": Scoring(lambda _: metrics.PanopticQuality(), "panoptic", _add_panoptic, "pq"),
    "entities": Scoring(lambda _: metrics.EntityScores(), "panoptic", _add_entities, "class_accuracy"),
    "instances": Scoring(lambda _: metrics.MaskAP(), "instances", _add_instances, "ap"),
    "semantic": Scoring(lambda _: metrics.SemanticScores(), "semantic", _add_semantic, "miou"),
    "zero_shot": Scoring(lambda _: metrics.ZeroShotScores(COCO_UNSEEN), "semantic", _add_semantic, "harmonic_miou"),
    "exact": Scoring(lambda _: metrics.ExactScores(), "text", _add_exact, "accuracy"),
    "vqa": Scoring(metrics.VqaScores, "text", _add_vqa, "accuracy"),
    "pope": Scoring(lambda _: metrics.PopeScores(), "text", _add_pope, "accuracy"),
    "multiple_choice": Scoring(lambda _: metrics.MultipleChoiceScores(), "text", _add_choice, "accuracy"),
    "captions": _CAPTIONS,
    "captions_of_predicted_points": dataclasses.replace(_CAPTIONS, protocol=PredictedPointTexts),
    "no_ground_truth": Scoring(lambda _: metrics.NoGroundTruth(), "text", _add_nothing, ""),
}
TRACKED = "instances"
"""The key in BY_TASK of class lists on videos; the toy dataset has them under this name."""
BY_TASK = {
    "referring": "referring",
    "reasoning": "referring",
    "video": "clips",
    "region": "regions",
    "panoptic": "panoptic",
    "caption": "captions",
    TRACKED: "tracks",
}
"""Scoring of each task in validation; other tasks are not scored."""


def scoring_by_task(answers: Answers) -> dict[str, str]:
    """Returns BY_TASK for a system; class lists have semantic answers if it has no others, and are tracked if it can track."""
    semantic = "semantic" in answers.kinds and "panoptic" not in answers.kinds
    by_task = {**BY_TASK, "panoptic": "semantic"} if semantic else BY_TASK
    return {task: name for task, name in by_task.items() if task != TRACKED or SCORINGS[name].kind in answers.kinds}


def kind_of_example(example: Example, by_task: Mapping[str, str]) -> str:
    """Returns the key in by_task of an example: the task of its first prompt, or TRACKED."""
    kind = example.prompts[0].task
    return TRACKED if kind == "panoptic" and len(example.frames) > 1 and TRACKED in by_task else kind


class Scorer:
    """The accumulators of all scored prompts. by_task: scoring of each task. rules: a name of metrics.sums.RULES."""

    def __init__(self, by_task: Mapping[str, str], rules: str = "official") -> None:
        self._by_task, self._rules = dict(by_task), rules
        self._accumulators: dict[str, Any] = {}

    def scoring(self, prompt: Prompt) -> Scoring | None:
        """Returns the scoring of a prompt, None if it is not scored."""
        name = self._by_task.get(prompt.task)
        return SCORINGS[name] if name else None

    def add(self, name: str, prompt: Prompt, predictions: Sequence[Prediction]) -> float | None:
        """Adds the predictions for one prompt, one per frame. Returns the score of only this prompt by which prompts are
        ranked, None if it has none. Raises UserError, without adding anything, if the prompt cannot be scored."""
        scoring = SCORINGS[self._by_task[prompt.task]]
        single = scoring.new(self._rules)
        try:
            scoring.add(single, name, prompt, predictions)
            value = single.compute().get(scoring.single or scoring.headline)
            self._merge_into(self._by_task[prompt.task], single)
        except UserError:
            raise
        except ValueError as error:  # of a metric, in words
            why = " ".join(str(error).split())
            raise UserError(one_line(f"{name}: cannot be scored ({why}); correct or remove the record")) from error
        except BaseException as error:
            raise UserError(f"{one_line(name)}: {error_message(error)}") from error
        return value

    def _merge_into(self, name: str, accumulator: Any) -> None:
        """Adds an accumulator to the one of this scoring."""
        self._accumulators.setdefault(name, SCORINGS[name].new(self._rules)).merge(accumulator)

    def merge(self, state: Mapping[str, Any]) -> None:
        """Adds the state() of another scorer. Raises ValueError, TypeError or KeyError if the state is invalid."""
        for name, part in state.items():
            if name not in self._by_task.values():
                raise ValueError(f"it has sums of {name!r}, which this evaluation does not score")
            self._merge_into(name, type(SCORINGS[name].new(self._rules)).from_state(part))

    def state(self) -> dict[str, Any]:
        """Returns all sums as JSON values."""
        return {name: accumulator.state() for name, accumulator in self._accumulators.items()}

    @property
    def updates(self) -> dict[str, int | None]:
        """The number of scored prompts by scoring; None if its sums do not contain it."""
        return {name: accumulator.updates for name, accumulator in self._accumulators.items()}

    def sum_over_hosts(self, what: str) -> Scorer:
        """Returns the sum of the scorers of all hosts, added in the order of their ids."""
        total = Scorer(self._by_task, self._rules)
        for text in hosts.exchange_long(f"the scores of {what}", json.dumps(self.state())):
            total.merge(json.loads(text))
        return total

    def compute(self) -> dict[str, float]:
        """Returns all scores by name."""
        return {name: value for accumulator in self._accumulators.values() for name, value in accumulator.compute().items()}

    def iou_by_class(self) -> dict[str, float]:
        """Returns the IoU of each class, if class lists are scored by their mean."""
        scored = (each for each in self._accumulators.values() if isinstance(each, metrics.SemanticScores))
        return {name: value for each in scored for name, value in each.by_class().items()}

    def finish(self, tools: Tools, log: Callable[[str], None]) -> dict[str, float]:
        """Returns the scores by name that need other programs, which may replace those of compute(). log: receives a line about
        each tool that is missing."""
        scores: dict[str, float] = {}
        for name, accumulator in self._accumulators.items():
            if finish := SCORINGS[name].finish:
                scores |= finish(accumulator, tools, log)
        return scores
