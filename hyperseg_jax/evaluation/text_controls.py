"""Referring scores with controls: shuffled expressions, and the best text-blind baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.evaluation.validation import Evaluation, evaluate
from hyperseg_jax.metrics.baselines import shuffled_order, text_blind_scores
from hyperseg_jax.parallel import hosts
from hyperseg_jax.structs import Example
from hyperseg_jax.toy.text_controls import read_objects_and_targets


@dataclasses.dataclass(frozen=True)
class TextControls:
    """ciou, giou: scores of the model. shuffled_*: its scores when each prompt gets the text of another prompt. blind_*: the
    best baseline that does not see the text. evaluation: the evaluation of the model, with its images."""

    ciou: float
    giou: float
    shuffled_ciou: float
    shuffled_giou: float
    blind_ciou: float
    blind_giou: float
    evaluation: Evaluation

    def controls(self) -> dict[str, float]:
        """Returns the scores of the controls."""
        return {
            "ciou_shuffled": self.shuffled_ciou,
            "giou_shuffled": self.shuffled_giou,
            "ciou_blind": self.blind_ciou,
            "giou_blind": self.blind_giou,
        }

    def lines(self) -> list[tuple[str, float, float]]:
        """Returns rows of (label, cIoU, gIoU) for a table."""
        return [
            ("the model", self.ciou, self.giou),
            ("the model, expressions shuffled", self.shuffled_ciou, self.shuffled_giou),
            ("best prediction without the text", self.blind_ciou, self.blind_giou),
        ]


def referring_with_controls(
    engine: Engine,
    task: Task,
    *,
    limit: int | None = None,
    evaluation: Evaluation | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> TextControls:
    """Runs the controls of task.controls. task.val must return all prompts of an image as one example.

    evaluation: result of evaluate() for {"controls": task}, if available. log: receives lines about unreadable images, which
    are not scored. Raises UserError if no image can be read.
    """
    if task.controls is None:
        raise ValueError(f"task {task.name} has no controls: its validation data are not referring expressions of a toy world")
    tasks, unread = {"controls": task}, list[str]()
    evaluation = evaluation or evaluate(engine, tasks, limit=limit, log=log)
    if "ciou" not in evaluation.scores["controls"]:
        raise UserError(f"task {task.name}: none of the requested records can be read, so there is no score; fix them")
    shuffled = evaluate(engine, tasks, limit=limit, tiles=0, change=ShuffledTexts)
    images = read_objects_and_targets(
        *task.controls, limit=limit, on_unreadable=lambda k, reason: unread.append(f"image {k}: {reason}")
    )
    blind = text_blind_scores(images)["best"]
    if unread:
        log(f"{len(unread)} images could not be read and are not part of the text-blind baseline; the first: {unread[0]}")
    scores, shuffled_scores = evaluation.scores["controls"], shuffled.scores["controls"]
    return TextControls(
        scores["ciou"],
        scores["giou"],
        shuffled_scores["ciou"],
        shuffled_scores["giou"],
        blind["ciou"],
        blind["giou"],
        evaluation,
    )


class ShuffledTexts(Sequence[Example]):
    """Those of the first `count` examples that can be read, with the texts of all their prompts permuted, so that each prompt
    gets another one's text. Only texts are kept in memory; examples are read again when they are used."""

    def __init__(self, examples: Sequence[Example], count: int, on_unreadable: Callable[[int, str], None]) -> None:
        """Every host reads all examples; process 0 calls on_unreadable(index, reason) for those that cannot be read."""
        self._examples, self._indices, texts = examples, list[int](), list[list[str]]()
        for k in range(count):
            try:
                texts.append([prompt.text for prompt in examples[k].prompts])
            except BaseException as error:
                reason = record_errors.error_message(error)
                if hosts.is_primary():
                    on_unreadable(k, reason)
            else:
                self._indices.append(k)
        flat = [text for of_example in texts for text in of_example]
        shuffled = iter([flat[k] for k in shuffled_order(flat)])
        self._texts = [[next(shuffled) for _ in of_example] for of_example in texts]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        example = self._examples[self._indices[index]]
        changed = zip(example.prompts, self._texts[index], strict=True)
        return dataclasses.replace(example, prompts=tuple(dataclasses.replace(prompt, text=text) for prompt, text in changed))
