"""A referring score with its controls: shuffled expressions, and the best answer that ignores the text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hyperseg_jax.data.sources import Task
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.evaluation.validation import Evaluation, evaluate
from hyperseg_jax.metrics.baselines import shuffled_order, text_blind_scores
from hyperseg_jax.structs import Example
from hyperseg_jax.toy.text_controls import objects_and_targets


@dataclasses.dataclass(frozen=True)
class TextControls:
    """ciou, giou: of the model. shuffled_*: the same with every prompt given another prompt's text. blind_*: the best of the
    baselines that never see the text. evaluation: the model's own, with its images."""

    ciou: float
    giou: float
    shuffled_ciou: float
    shuffled_giou: float
    blind_ciou: float
    blind_giou: float
    evaluation: Evaluation

    def controls(self) -> dict[str, float]:
        """The scores that stand beside the model's."""
        return {
            "ciou_shuffled": self.shuffled_ciou,
            "giou_shuffled": self.shuffled_giou,
            "ciou_blind": self.blind_ciou,
            "giou_blind": self.blind_giou,
        }

    def lines(self) -> list[tuple[str, float, float]]:
        """(what, cIoU, gIoU) for a table."""
        return [
            ("the model", self.ciou, self.giou),
            ("the same, expressions shuffled", self.shuffled_ciou, self.shuffled_giou),
            ("best answer that ignores the text", self.blind_ciou, self.blind_giou),
        ]


def referring_with_controls(
    engine: Engine,
    task: Task,
    *,
    limit: int | None = None,
    found: Evaluation | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> TextControls:
    """Takes the controls that task.controls names; task.val must read all prompts of an image as one example.

    found: an evaluation of {"controls": task} that has been made already. log: takes a line about images that cannot be read;
    they are in no score. UserError where there are no others.
    """
    if task.controls is None:
        raise ValueError(f"task {task.name} has no controls: it does not validate on referring expressions of a toy world")
    asked, unread = {"controls": task}, list[str]()
    found = found or evaluate(engine, asked, limit=limit, log=log)
    if "ciou" not in found.scores["controls"]:
        raise UserError(f"task {task.name}: none of the records that are asked can be read, so there is no score; mend them")
    shuffled = evaluate(engine, asked, limit=limit, tiles=0, change=lambda _, examples: shuffle(examples))
    images = objects_and_targets(*task.controls, limit=limit, unread=lambda k, why: unread.append(f"image {k}: {why}"))
    blind = text_blind_scores(images)["best"]
    if unread:
        log(f"{len(unread)} images could not be read and are in no answer that ignores the text; the first: {unread[0]}")
    own, other = found.scores["controls"], shuffled.scores["controls"]
    return TextControls(own["ciou"], own["giou"], other["ciou"], other["giou"], blind["ciou"], blind["giou"], found)


def shuffle(examples: list[Example]) -> list[Example]:
    """The same questions with every text moved to another prompt."""
    flat = [prompt for example in examples for prompt in example.prompts]
    order = shuffled_order([prompt.text for prompt in flat])
    texts = iter([flat[k].text for k in order])
    asked = [tuple(dataclasses.replace(prompt, text=next(texts)) for prompt in example.prompts) for example in examples]
    return [dataclasses.replace(example, prompts=prompts) for example, prompts in zip(examples, asked, strict=True)]
