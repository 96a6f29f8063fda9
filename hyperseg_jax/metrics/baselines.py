"""What can be scored without reading the text. A model that reads must be well above the best of these."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hyperseg_jax.metrics.ciou_giou import ReferringScores


def blind_answers(objects: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The answer of each baseline to any question about an image.

    objects: bool [N, H, W], the perfect masks of its things, N > 0. rng: picks the random one.
    Returns bool [H, W] for "all_foreground", "largest", "most_central", "random" and "nothing".
    """
    height, width = objects.shape[1:]
    rows, columns = np.mgrid[0:height, 0:width]
    areas = np.maximum(objects.sum((1, 2)), 1)
    y, x = ((objects * grid).sum((1, 2)) / areas for grid in (rows, columns))
    away = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    return {
        "all_foreground": objects.any(0),
        "largest": objects[int(areas.argmax())],
        "most_central": objects[int(away.argmin())],
        "random": objects[int(rng.integers(len(objects)))],
        "nothing": np.zeros((height, width), bool),
    }


def text_blind_scores(exam: Iterable[tuple[np.ndarray, Iterable[np.ndarray]]], seed: int = 0) -> dict[str, dict[str, float]]:
    """cIoU and gIoU of every baseline, counted as a model's answers are (absent targets as well), and of the "best".

    exam: for each image the masks of its things [N, H, W] and the target [H, W] of each expression, all False where
    nothing fits. seed: of the random choices. Returns {baseline: ReferringScores.compute()}; "best" takes the highest
    of each score.
    """
    scores: dict[str, ReferringScores] = {}
    for number, (objects, targets) in enumerate(exam):
        for k, target in enumerate(targets):
            for name, answer in blind_answers(objects, np.random.default_rng([seed, number, k])).items():
                scores.setdefault(name, ReferringScores()).update(answer, target)
    computed = {name: score.compute() for name, score in scores.items()}
    best = {key: max((score[key] for score in computed.values()), default=0.0) for key in ("ciou", "giou")}
    return computed | {"best": best}


def shuffled_order(texts: list[str], seed: int = 0) -> list[int]:
    """A permutation under which no prompt keeps its own text: prompt i is asked texts[order[i]].

    Equal texts count as own. UserError is not raised where that is impossible (one text is more than half of all): as few
    as possible keep theirs then.
    """
    start = np.random.default_rng(seed).permutation(len(texts))
    by_text: dict[str, list[int]] = {}
    for i in start:
        by_text.setdefault(texts[i], []).append(int(i))
    blocks = sorted(by_text.values(), key=len, reverse=True)
    line = [i for block in blocks for i in block]  # equal texts side by side: a turn by the longest run parts them all
    turn = len(blocks[0]) if blocks else 0
    order = [0] * len(texts)
    for k, i in enumerate(line):
        order[i] = line[(k + turn) % len(line)]
    return order
