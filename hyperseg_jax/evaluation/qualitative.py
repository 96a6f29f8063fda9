"""The best and worst predictions of an evaluation, stored as run lengths and drawn at the end."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.datasets.masks import decode_segmentation
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.results.drawing import arrange_tiles, describe_answer, draw_comparison, join_captions, save_image
from hyperseg_jax.structs import Example, Prediction
from hyperseg_jax.untrusted import budget, limits
from hyperseg_jax.untrusted.bad_file import BadFile

CASES = 6  # number of best and of worst cases
MAX_SCORE = 1e9


class QualitativeExamples:
    """The CASES best and worst prompts by headline score.

    A case is {"value", "index" of the example, "prompt", "masks": run lengths on the last frame, where a video has come
    furthest from what was given, "labels": the class of each mask of a class list, "text"}. Cases with equal values are in the
    order of the examples, so the result does not depend on the number of hosts.
    """

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self.rows: list[dict[str, Any]] = []
        self.merge(rows)

    def add(self, value: float | None, index: int, prompt: int, prediction: Prediction) -> None:
        """Adds a case if it is among the best or worst so far. A case without a score (None) is skipped."""
        if value is None or not math.isfinite(value):
            return
        text = join_captions(prediction.texts)[: limits.current().letters]
        labels = [int(label) for label in prediction.labels]
        row = {"value": float(value), "index": index, "prompt": prompt, "text": text, "labels": labels}
        if self._is_extreme(row):
            self.merge([{**row, "masks": [run_lengths.encode(mask) for mask in prediction.masks]}])

    def _is_extreme(self, row: Mapping[str, Any]) -> bool:
        rows = [*self.rows, row]
        return any(case is row for case in _best_and_worst(rows))

    def merge(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds the rows of another instance."""
        self.rows = _best_and_worst([*self.rows, *rows])

    def save_sheet(self, path: pathlib.Path, examples: Sequence[Example]) -> None:
        """Writes all cases as one PNG, from the lowest score up: targets on the left, predictions on the right."""
        cases = ((row, examples[row["index"]]) for row in self.rows)
        tiles = [_tile(row, example) for row, example in cases]
        if tiles:
            save_image(path, arrange_tiles(tiles, 3))


def check_rows(rows: Any, done: int, examples: Sequence[Example]) -> None:
    """Raises BadFile if a JSON value is not a list of saved cases of the first `done` examples. Reads the examples of the
    cases."""
    if type(rows) is not list or len(rows) > 2 * CASES or not all(_is_row(row) and row["index"] < done for row in rows):
        raise BadFile("one of the best or worst examples has an unexpected format")
    if len({(row["index"], row["prompt"]) for row in rows}) < len(rows):
        raise BadFile("one of the best or worst examples is there twice")
    for row in rows:
        example = examples[row["index"]]
        where = f"the best or worst prediction of example {row['index']}"
        if row["prompt"] >= len(example.prompts):
            raise BadFile(f"{where} is of prompt {row['prompt']}, and there are {len(example.prompts)}")
        check_masks(row["masks"], example.frames.shape[1:3], where)


def check_masks(masks: list[Any], size: Sequence[int], where: str) -> None:
    """Raises BadFile if a mask is not a run-length encoding of this (height, width). where: what has the masks."""
    for mask in masks:
        try:
            runs = run_lengths.parse_lengths(mask["counts"], math.prod(size)) if mask["size"] == [*size] else None
        except (ValueError, KeyError, TypeError, OverflowError):
            runs = None
        if runs is None:
            raise BadFile(f"{where} has a damaged mask, or one that is not of {size[1]}x{size[0]} pixels")


def _is_row(row: Any) -> bool:
    return (
        type(row) is dict
        and type(row.get("value")) in (int, float)
        and abs(row["value"]) < MAX_SCORE
        and all(type(row.get(name)) is int and 0 <= row[name] < 2**31 for name in ("index", "prompt"))
        and type(row.get("text")) is str
        and len(row["text"]) <= limits.current().letters
        and type(row.get("masks")) is list
        and type(row.get("labels")) is list
        and all(type(label) is int for label in row["labels"])
        and len(row["labels"]) in (0, len(row["masks"]))
    )


def _best_and_worst(rows: list[Any]) -> list[Any]:
    ordered = sorted(rows, key=lambda row: (row["value"], row["index"], row["prompt"]))
    return ordered if len(ordered) <= 2 * CASES else ordered[:CASES] + ordered[-CASES:]


def _tile(row: Mapping[str, Any], example: Example) -> np.ndarray:
    prompt, frame = example.prompts[row["prompt"]], example.frames[-1]
    with budget.record_budget():
        masks = [decode_segmentation(mask, frame.shape[0], frame.shape[1], example.name) for mask in row["masks"]]
    text = f"{row['value']:.3f}  {example.name}  {describe_answer(prompt, [row['text']])}"
    return draw_comparison(frame, prompt, masks, text, labels=row["labels"], at=-1, height=44)
