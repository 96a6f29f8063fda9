"""The best and worst predictions of an evaluation, stored as run lengths and drawn at the end."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.datasets.masks import decode_segmentation
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.results.drawing import arrange_tiles, describe_prompt, draw_comparison, save_image
from hyperseg_jax.structs import Example, Prediction
from hyperseg_jax.untrusted import budget, limits

CASES = 6  # number of best and of worst cases
MAX_SCORE = 1e9
TILE = 320  # pixels: the longer side of each of the two images of a case


class QualitativeExamples:
    """The CASES best and worst prompts by headline score.

    A case is {"value", "index" of the example, "prompt", "masks": run lengths on the first frame, "text"}. Cases with equal
    values are in the order of the examples, so the result does not depend on the number of hosts.
    """

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self.rows: list[dict[str, Any]] = []
        self.merge(rows)

    def add(self, value: float | None, index: int, prompt: int, prediction: Prediction) -> None:
        """Adds a case if it is among the best or worst so far. A case without a score (None) is skipped."""
        if value is None or not math.isfinite(value):
            return
        row = {"value": float(value), "index": index, "prompt": prompt, "text": prediction.text}
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
        tiles = [_tile(row, example) for row, example in cases if row["prompt"] < len(example.prompts)]
        if tiles:
            save_image(path, arrange_tiles(tiles, 3))


def is_valid_example_row(row: Any) -> bool:
    """Returns whether a JSON value can be a saved case."""
    return (
        type(row) is dict
        and type(row.get("value")) in (int, float)
        and abs(row["value"]) < MAX_SCORE
        and all(type(row.get(name)) is int and 0 <= row[name] < 2**31 for name in ("index", "prompt"))
        and type(row.get("text")) is str
        and len(row["text"]) <= limits.current().letters
        and type(row.get("masks")) is list
    )


def _best_and_worst(rows: list[Any]) -> list[Any]:
    ordered = sorted(rows, key=lambda row: (row["value"], row["index"], row["prompt"]))
    return ordered if len(ordered) <= 2 * CASES else ordered[:CASES] + ordered[-CASES:]


def _tile(row: Mapping[str, Any], example: Example) -> np.ndarray:
    prompt, frame = example.prompts[row["prompt"]], example.frames[0]
    with budget.record_budget():
        masks = [decode_segmentation(mask, frame.shape[0], frame.shape[1], example.name) for mask in row["masks"]]
    answer = f" -> {row['text']}" if row["text"] else ""
    text = f"{row['value']:.3f}  {example.name}  {describe_prompt(prompt)}{answer}"
    return draw_comparison(frame, prompt, masks, text, longest=TILE, height=44)
