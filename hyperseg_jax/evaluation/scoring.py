"""From answers to scores: one line of SCORINGS for each way to ask and to score a prompt."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperseg_jax import metrics
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.clicks import CorrectiveClicks, SimulatedClicks
from hyperseg_jax.evaluation.protocols import EvalProtocol, JointExpressions, SemiSupervisedVOS
from hyperseg_jax.evaluation.tracks import TrackedInstances
from hyperseg_jax.metrics.davis import MAX_PROPOSALS
from hyperseg_jax.parallel import hosts
from hyperseg_jax.structs import Prediction, Prompt
from hyperseg_jax.untrusted.printing import shown_value


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How a kind of prompt is asked and scored.

    new(rules) -> an accumulator. kind: of the answers about a frame (results.answers.Answers, or "text"). add(accumulator,
    name of the example, prompt, Prediction of each frame). headline: the score that tells good answers from bad. protocol: how
    an example is asked, and what its answers are put together to. interactive: that of interactive systems, where it
    differs."""

    new: Callable[[str], Any]
    kind: str
    add: Callable[[Any, str, Prompt, Sequence[Prediction]], None]
    headline: str
    protocol: type[EvalProtocol] = EvalProtocol
    interactive: type[EvalProtocol] | None = None


def _target_masks(prompt: Prompt) -> np.ndarray:
    if prompt.masks is None:
        raise UserError(f"a {prompt.task} prompt without masks cannot be scored; its reader must give them")
    return prompt.masks


def _clip(prompt: Prompt, found: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and target masks of an expression, bool [T, H, W]."""
    ours, masks = np.stack([frame.union for frame in found]), _target_masks(prompt)
    return ours, masks[0][: len(ours)] if len(masks) else np.zeros_like(ours)


def _first(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array[0]


def _add_expression(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    ours, wanted = _clip(prompt, found)
    scores.update(ours[0], wanted[0], _first(prompt.ignore), prompt.group)


def _add_generalized(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    ours, wanted = _clip(prompt, found)
    scores.update(ours[0], wanted[0])


def _add_clip(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    ours, wanted = _clip(prompt, found)
    scores.update(ours, wanted, None if prompt.ignore is None else prompt.ignore[: len(ours)], prompt.group)


def _add_revos(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    ours, wanted = _clip(prompt, found)
    scores.update(ours, wanted, None if prompt.foreground is None else prompt.foreground[: len(ours)], prompt.group)


def _add_regions(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    order = np.argsort(prompt.labels)
    kinds = tuple(region.kind for region in prompt.regions)
    scores.update(found[0].masks, _target_masks(prompt)[order, 0], kinds, _first(prompt.ignore))


def _add_panoptic(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    crowds = None if prompt.crowds is None else prompt.crowds[:, 0]
    scores.update(
        found[0].masks,
        found[0].labels,
        _target_masks(prompt)[:, 0],
        prompt.labels,
        prompt.classes,
        prompt.things,
        _first(prompt.ignore),
        crowds,
        prompt.crowd_labels,
    )


def _add_instances(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    """The things of a class list; crowds are targets that need not be found."""
    wanted = [k for k, label in enumerate(prompt.labels) if prompt.things[label]]
    massed = [k for k, label in enumerate(prompt.crowd_labels) if prompt.things[label]]
    areas = [*(prompt.areas[k] for k in wanted), *(None for _ in massed)] if prompt.areas else []
    masks = [*_target_masks(prompt)[wanted, 0], *(prompt.crowds[massed, 0] if prompt.crowds is not None else ())]
    labels = [prompt.labels[k] for k in wanted] + [prompt.crowd_labels[k] for k in massed]
    place = f"{prompt.key.zfill(12)} {name}"  # pycocotools takes images by their numbers where scores are equal
    scores.update(
        place,
        found[0].masks,
        found[0].scores,
        [prompt.classes[label] for label in found[0].labels],
        masks,
        [prompt.classes[label] for label in labels],
        [False] * len(wanted) + [True] * len(massed),
        areas,
    )


def _tracks(found: Sequence[Prediction]) -> np.ndarray:
    """bool [N, T, H, W]."""
    return np.stack([frame.masks for frame in found], axis=1)


def _add_tracks(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    ours, crowds = _tracks(found), () if prompt.crowds is None else prompt.crowds
    labels = (*prompt.labels, *prompt.crowd_labels)
    scores.update(
        name,
        ours,
        found[0].scores,
        [prompt.classes[label] for label in found[0].labels],
        [*_target_masks(prompt), *crowds],
        [prompt.classes[label] for label in labels],
        [False] * len(prompt.labels) + [True] * len(crowds),
    )


def _add_objects(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    """Objects that were given, or spoken of; others of the clip stand behind them."""
    others = () if prompt.others is None else prompt.others
    scores.update(_tracks(found), np.array([*_target_masks(prompt), *others], bool), prompt.ignore, prompt.group)


def _add_proposals(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    """The best tracks as proposals without overlap: a pixel belongs to the best one that has it."""
    proposals = _tracks(found)[np.argsort([-score for score in found[0].scores], kind="stable")[:MAX_PROPOSALS]]
    taken = np.cumsum(proposals, axis=0) - proposals
    scores.update(proposals & (taken == 0), _target_masks(prompt), prompt.ignore, prompt.group)


def _add_clicks(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    for ious in found[0].ious:
        scores.update(ious)


def _add_nothing(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    scores.update()


def _add_semantic(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    target = np.full(found[0].masks.shape[1:], -1)
    for mask, label in zip(_target_masks(prompt)[:, 0], prompt.labels, strict=True):
        target[mask] = label
    ignore = target < 0 if prompt.ignore is None else (target < 0) | prompt.ignore[0]
    ours = np.zeros(target.shape, int)
    for mask, label in zip(found[0].masks, found[0].labels, strict=True):
        ours[mask] = label
    scores.update(ours, np.maximum(target, 0), prompt.classes, ignore)


def _add_exact(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    scores.update(found[0].text, prompt.answer, prompt.group)


def _add_vqa(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    scores.update(found[0].text, prompt.answers, prompt.group)


def _add_pope(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    scores.update(found[0].text, prompt.answer.strip().lower() == "yes", prompt.group)


_OPTION = re.compile(r"^([A-J])\. (.*)$", re.MULTILINE)
ROTATIONS = 1_000_000
"""What MMBench adds to a question's index for each rotation of its options."""


def parse_options(question: str) -> dict[str, str]:
    """{letter: text} of the options that a question lists, a line each."""
    return dict(_OPTION.findall(question))


def parse_number(key: str, field: str, where: str) -> int:
    """The id of a question as a number. UserError where it is not one. field, where: of the id, for the message."""
    if not re.fullmatch("0|-?[1-9][0-9]{0,17}", key):
        raise UserError(f"{where}: its {field} is {shown_value(key)}, and the benchmark wants a whole number; correct it")
    return int(key)


def _add_choice(scores: Any, name: str, prompt: Prompt, found: Sequence[Prediction]) -> None:
    question = parse_number(prompt.key, "index", name) % ROTATIONS
    scores.update(found[0].text, prompt.answer, parse_options(prompt.text), question, prompt.group)


SCORINGS: dict[str, Scoring] = {
    "referring": Scoring(metrics.ReferringScores, "expression", _add_expression, "giou"),
    "generalized": Scoring(metrics.GeneralizedScores, "expression", _add_generalized, "giou"),
    "clips": Scoring(lambda _: metrics.ClipScores(), "expression", _add_clip, "jf"),
    "revos": Scoring(metrics.ReVosScores, "expression", _add_revos, "jf"),
    "ref_davis": Scoring(
        lambda _: metrics.DavisScores("unsupervised"), "soft_expression", _add_objects, "jf", JointExpressions
    ),
    "davis": Scoring(lambda _: metrics.DavisScores(), "soft_regions", _add_objects, "jf", SemiSupervisedVOS),
    "davis_unsupervised": Scoring(
        lambda _: metrics.DavisScores("unsupervised"), "candidates", _add_proposals, "jf", TrackedInstances
    ),
    "tracks": Scoring(lambda _: metrics.VideoAP(), "candidates", _add_tracks, "ap", TrackedInstances),
    "regions": Scoring(lambda _: metrics.InteractiveScores(), "regions", _add_regions, "miou"),
    "clicks": Scoring(lambda _: metrics.ClickScores(), "regions", _add_clicks, "iou@1", SimulatedClicks, CorrectiveClicks),
    "panoptic": Scoring(lambda _: metrics.PanopticQuality(), "panoptic", _add_panoptic, "pq"),
    "instances": Scoring(lambda _: metrics.MaskAP(), "instances", _add_instances, "ap"),
    "semantic": Scoring(lambda _: metrics.SemanticScores(), "semantic", _add_semantic, "miou"),
    "exact": Scoring(lambda _: metrics.ExactScores(), "text", _add_exact, "accuracy"),
    "vqa": Scoring(metrics.VqaScores, "text", _add_vqa, "accuracy"),
    "pope": Scoring(lambda _: metrics.PopeScores(), "text", _add_pope, "accuracy"),
    "multiple_choice": Scoring(lambda _: metrics.MultipleChoiceScores(), "text", _add_choice, "accuracy"),
    "no_ground_truth": Scoring(lambda _: metrics.NoGroundTruth(), "text", _add_nothing, ""),
}
BY_TASK = {
    "referring": "referring",
    "reasoning": "referring",
    "video": "clips",
    "region": "regions",
    "panoptic": "panoptic",
    "caption": "exact",
}
"""How the prompts of a task are scored in validation; others are not."""


class Scorer:
    """The accumulators of the prompts that came. by_task: how each task's prompts are scored. rules: metrics.sums.RULES."""

    def __init__(self, by_task: Mapping[str, str], rules: str = "official") -> None:
        self._by_task, self._rules = dict(by_task), rules
        self._used: dict[str, Any] = {}

    def scoring(self, prompt: Prompt) -> Scoring | None:
        """How this prompt is scored, if it is."""
        name = self._by_task.get(prompt.task)
        return SCORINGS[name] if name else None

    def add(self, name: str, prompt: Prompt, found: Sequence[Prediction]) -> float | None:
        """Counts the answers to one prompt, a Prediction for each frame. Returns the headline score of this prompt alone, None
        where it has none."""
        scoring = SCORINGS[self._by_task[prompt.task]]
        alone = scoring.new(self._rules)
        scoring.add(alone, name, prompt, found)
        self._into(self._by_task[prompt.task], alone)
        return alone.compute().get(scoring.headline)

    def _into(self, name: str, accumulator: Any) -> None:
        self._used.setdefault(name, SCORINGS[name].new(self._rules)).merge(accumulator)

    def merge(self, state: Mapping[str, Any]) -> None:
        """Adds the state() of another scorer of the same prompts. ValueError, TypeError, KeyError where it is none."""
        for name, part in state.items():
            if name not in self._by_task.values():
                raise ValueError(f"{name!r} is not what is scored here")
            self._into(name, type(SCORINGS[name].new(self._rules)).from_state(part))

    def state(self) -> dict[str, Any]:
        """All that was counted, as JSON takes it."""
        return {name: accumulator.state() for name, accumulator in self._used.items()}

    def sum_over_hosts(self, what: str) -> Scorer:
        """What all hosts have counted, added up in the order of their numbers."""
        total = Scorer(self._by_task, self._rules)
        for told in hosts.exchange_long(f"the scores of {what}", json.dumps(self.state())):
            total.merge(json.loads(told))
        return total

    def compute(self) -> dict[str, float]:
        """All scores by name."""
        return {name: value for accumulator in self._used.values() for name, value in accumulator.compute().items()}
