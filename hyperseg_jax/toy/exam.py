"""The referring exam of a toy world: things and targets of each picture, and whether the exam is fair."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from hyperseg_jax.toy.expressions import lookalikes
from hyperseg_jax.toy.pictures import World, picture
from hyperseg_jax.toy.readers import open_reader


def objects_and_targets(folder: str | os.PathLike, split: str) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """For each picture the masks of its things [N, H, W] and the target [H, W] of each expression (empty: absent)."""
    pictures = open_reader(folder, "panoptic", split)
    spoken = open_reader(folder, "referring", split, group_by_image=True, prompts_per_example=1000)
    for shown, asked in zip((pictures[k] for k in range(len(pictures))), spoken, strict=True):
        (segments,) = shown.prompts
        things = [segments.things[label] for label in segments.labels]
        yield segments.masks[things, 0], [prompt.masks.any((0, 1)) for prompt in asked.prompts]


@dataclasses.dataclass(frozen=True)
class ExamFacts:
    """What makes the exam fair. shares: of the groups of expressions. min_lookalikes: others that share colour or shape
    with a target, the fewest of any expression. mean_target_share: of the picture, over expressions with a target."""

    expressions: int
    shares: dict[str, float]
    min_things: int
    min_lookalikes: int
    mean_target_share: float


def exam_facts(world: World, split: str = "val") -> ExamFacts:
    """The facts of one split, from the generator itself."""
    groups, things, alike, areas = [], [], [], []
    for index in range(world.pictures(split)):
        drawn = picture(world, split, index)
        things.append(len(drawn.scene.things))
        for expression in drawn.expressions:
            groups.append(expression.group)
            if expression.targets:
                alike.append(lookalikes(expression.targets, drawn.scene.things))
                areas.append(drawn.scene.masks[list(expression.targets)].any(0).mean())
    shares = {group: groups.count(group) / len(groups) for group in sorted(set(groups))}
    return ExamFacts(len(groups), shares, min(things), min(alike), float(np.mean(areas)))
