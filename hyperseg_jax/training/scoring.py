"""From a system's outputs to answers, and from answers to scores: one line of SCORINGS for each way to score a prompt."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperseg_jax import metrics
from hyperseg_jax.data.transforms import Geometry
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts
from hyperseg_jax.results import answers
from hyperseg_jax.structs import Prompt

# of one prompt on one frame: mask_logits [Q, h, w], expression [Q], class [Q, C], region [Q, R]
Outputs = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """absent_below: the probability of an expression under which the answer is "not there", None always answers. segment: what
    the class of a panoptic segment must exceed."""

    absent_below: float | None
    segment: float


OURS = Thresholds(0.5, 0.5)
PUBLISHED = Thresholds(None, 0.8)
"""HyperSeg's (expressions) and PSALM's (class lists)."""


@dataclasses.dataclass(frozen=True)
class Found:
    """The answer to a prompt on one frame. masks: bool [n, H, W]; labels: their classes, scores: 0..1, where they have some.
    text: what was written."""

    masks: np.ndarray
    labels: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """new(rules) -> an accumulator. find(prompt, outputs, geometry, thresholds) -> Found, of one frame; None: the answer is
    written. add(accumulator, name of the example, prompt, Found of each frame). headline: the score that tells good answers
    from bad."""

    new: Callable[[str], Any]
    find: Callable[[Prompt, Outputs, Geometry, Thresholds], Found] | None
    add: Callable[[Any, str, Prompt, Sequence[Found]], None]
    headline: str


def expression(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """The one mask of an expression; empty where it is not there."""
    segments = answers.expression(outputs["mask_logits"], outputs["expression"], geometry, label=prompt.text,
                                  absent_below=thresholds.absent_below)  # fmt: skip
    return Found(segments[0].mask[None] if segments else np.zeros((1, *geometry.original), bool))


def regions(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """A mask for each drawn region, in their order."""
    segments = answers.regions(outputs["mask_logits"], outputs["region"], geometry, labels=prompt.kinds)
    return Found(_stack([segment.mask for segment in segments], geometry))


def panoptic(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """Segments without overlap."""
    ids, rows = answers.panoptic(outputs["mask_logits"], outputs["class"], geometry, classes=prompt.classes,
                                 things=prompt.things, object_threshold=thresholds.segment)  # fmt: skip
    return Found(_stack([ids == row["id"] for row in rows], geometry), tuple(row["category"] for row in rows))


def instances(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """Instances of things with scores, the best hundred pairs of mask and class."""
    segments = answers.instances(outputs["mask_logits"], outputs["class"], geometry, classes=prompt.classes,
                                 things=prompt.things, limit=100)  # fmt: skip
    labels = tuple(prompt.classes.index(segment.label) for segment in segments)
    return Found(_stack([segment.mask for segment in segments], geometry), labels,
                 tuple(segment.score for segment in segments))  # fmt: skip


def semantic(prompt: Prompt, outputs: Outputs, geometry: Geometry, thresholds: Thresholds) -> Found:
    """The most probable class of each pixel, a mask a class."""
    best = answers.semantic(outputs["mask_logits"], outputs["class"], geometry).argmax(0)
    there = tuple(int(label) for label in np.unique(best))
    return Found(np.stack([best == label for label in there]), there)


def _stack(masks: Sequence[np.ndarray], geometry: Geometry) -> np.ndarray:
    return np.stack(masks) if masks else np.zeros((0, *geometry.original), bool)


def _wanted(prompt: Prompt) -> np.ndarray:
    if prompt.masks is None:
        raise UserError(f"a {prompt.task} prompt without masks cannot be scored; its reader must give them")
    return prompt.masks


def _clip(prompt: Prompt, found: Sequence[Found]) -> tuple[np.ndarray, np.ndarray]:
    """Found and wanted masks of an expression, bool [T, H, W]."""
    ours, masks = np.stack([frame.masks[0] for frame in found]), _wanted(prompt)
    return ours, masks[0][: len(ours)] if len(masks) else np.zeros_like(ours)


def _first(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array[0]


def _add_expression(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    ours, wanted = _clip(prompt, found)
    scores.update(ours[0], wanted[0], _first(prompt.ignore), prompt.group)


def _add_generalized(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    ours, wanted = _clip(prompt, found)
    scores.update(ours[0], wanted[0])


def _add_clip(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    ours, wanted = _clip(prompt, found)
    scores.update(ours, wanted, None if prompt.ignore is None else prompt.ignore[: len(ours)], prompt.group)


def _add_revos(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    ours, wanted = _clip(prompt, found)
    scores.update(ours, wanted, None if prompt.foreground is None else prompt.foreground[: len(ours)], prompt.group)


def _add_regions(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    order = np.argsort(prompt.labels)
    scores.update(found[0].masks, _wanted(prompt)[order, 0], prompt.kinds, _first(prompt.ignore))


def _add_panoptic(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    crowds = None if prompt.crowds is None else prompt.crowds[:, 0]
    scores.update(found[0].masks, found[0].labels, _wanted(prompt)[:, 0], prompt.labels, prompt.classes, prompt.things,
                  _first(prompt.ignore), crowds, prompt.crowd_labels)  # fmt: skip


def _add_instances(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    """The things of a class list; crowds are targets that need not be found."""
    wanted = [k for k, label in enumerate(prompt.labels) if prompt.things[label]]
    massed = [k for k, label in enumerate(prompt.crowd_labels) if prompt.things[label]]
    masks = [*_wanted(prompt)[wanted, 0], *(prompt.crowds[massed, 0] if prompt.crowds is not None else ())]
    labels = [prompt.labels[k] for k in wanted] + [prompt.crowd_labels[k] for k in massed]
    scores.update(name, found[0].masks, found[0].scores, [prompt.classes[label] for label in found[0].labels], masks,
                  [prompt.classes[label] for label in labels], [False] * len(wanted) + [True] * len(massed))  # fmt: skip


def _add_semantic(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    target = np.full(found[0].masks.shape[1:], -1)
    for mask, label in zip(_wanted(prompt)[:, 0], prompt.labels, strict=True):
        target[mask] = label
    ignore = target < 0 if prompt.ignore is None else (target < 0) | prompt.ignore[0]
    ours = np.zeros(target.shape, int)
    for mask, label in zip(found[0].masks, found[0].labels, strict=True):
        ours[mask] = label
    scores.update(ours, np.maximum(target, 0), prompt.classes, ignore)


def _add_exact(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    scores.update(found[0].text, prompt.answer, prompt.group)


def _add_vqa(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    scores.update(found[0].text, prompt.answers, prompt.group)


def _add_pope(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    scores.update(found[0].text, prompt.answer.strip().lower() == "yes", prompt.group)


_OPTION = re.compile(r"^([A-J])\. (.*)$", re.MULTILINE)
ROTATIONS = 1_000_000
"""What MMBench adds to a question's index for each rotation of its options."""


def options_of(question: str) -> dict[str, str]:
    """{letter: text} of the options that a question lists, a line each."""
    return dict(_OPTION.findall(question))


def _add_choice(scores: Any, name: str, prompt: Prompt, found: Sequence[Found]) -> None:
    scores.update(found[0].text, prompt.answer, options_of(prompt.text), int(prompt.key) % ROTATIONS, prompt.group)


SCORINGS: dict[str, Scoring] = {
    "referring": Scoring(metrics.ReferringScores, expression, _add_expression, "giou"),
    "generalized": Scoring(metrics.GeneralizedScores, expression, _add_generalized, "giou"),
    "clips": Scoring(lambda _: metrics.ClipScores(), expression, _add_clip, "jf"),
    "revos": Scoring(metrics.ReVosScores, expression, _add_revos, "jf"),
    "regions": Scoring(lambda _: metrics.InteractiveScores(), regions, _add_regions, "miou"),
    "panoptic": Scoring(lambda _: metrics.PanopticQuality(), panoptic, _add_panoptic, "pq"),
    "instances": Scoring(lambda _: metrics.MaskAP(), instances, _add_instances, "ap"),
    "semantic": Scoring(lambda _: metrics.SemanticScores(), semantic, _add_semantic, "miou"),
    "exact": Scoring(lambda _: metrics.ExactScores(), None, _add_exact, "accuracy"),
    "vqa": Scoring(metrics.VqaScores, None, _add_vqa, "accuracy"),
    "pope": Scoring(lambda _: metrics.PopeScores(), None, _add_pope, "accuracy"),
    "multiple_choice": Scoring(lambda _: metrics.MultipleChoiceScores(), None, _add_choice, "accuracy"),
}
BY_TASK = {"referring": "referring", "reasoning": "referring", "video": "clips", "region": "regions", "panoptic": "panoptic"}
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

    def add(self, name: str, prompt: Prompt, found: Sequence[Found]) -> float | None:
        """Counts the answers to one prompt, a Found for each frame. Returns the headline score of this prompt alone, None where
        it has none."""
        scoring = SCORINGS[self._by_task[prompt.task]]
        alone = scoring.new(self._rules)
        scoring.add(alone, name, prompt, found)
        self._into(self._by_task[prompt.task], alone)
        return alone.compute().get(scoring.headline)

    def _into(self, name: str, accumulator: Any) -> None:
        self._used.setdefault(name, SCORINGS[name].new(self._rules)).merge(accumulator)

    def merge(self, state: Mapping[str, Any]) -> None:
        """Adds the state() of another scorer."""
        for name, part in state.items():
            self._into(name, type(SCORINGS[name].new(self._rules)).from_state(part))

    def state(self) -> dict[str, Any]:
        """All that was counted, as JSON takes it."""
        return {name: accumulator.state() for name, accumulator in self._used.items()}

    def of_all_hosts(self, what: str) -> Scorer:
        """What all hosts have counted, added up in the order of their numbers."""
        total = Scorer(self._by_task, self._rules)
        for told in hosts.exchange_long(f"the scores of {what}", json.dumps(self.state())):
            total.merge(json.loads(told))
        return total

    def compute(self) -> dict[str, float]:
        """All scores by name."""
        return {name: value for accumulator in self._used.values() for name, value in accumulator.compute().items()}
