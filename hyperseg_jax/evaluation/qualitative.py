"""The best and the worst predictions of an evaluation, small enough to be kept and sent, drawn at the end."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.datasets.masks import decode
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.results.drawing import compare, contact_sheet, describe, save_image
from hyperseg_jax.structs import Example, Prediction
from hyperseg_jax.untrusted import budget, limits

KEPT = 6  # of each end
LARGEST = 1e9  # a score
TILE = 320  # pixels: the longer side of each of the two images of a case


class QualitativeExamples:
    """The KEPT best and worst prompts by their headline score. A case is {"value", "index" of the example, "prompt", "masks":
    run lengths on the first frame, "text"}; equal values stand in the order of the examples, so hosts do not matter."""

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self.rows: list[dict[str, Any]] = []
        self.merge(rows)

    def add(self, value: float | None, index: int, prompt: int, prediction: Prediction) -> None:
        """Keeps a case if it is among the best or worst so far. value None: it has no score."""
        if value is None or not math.isfinite(value):
            return
        row = {"value": float(value), "index": index, "prompt": prompt, "text": prediction.text}
        if self._keeps(row):
            self.merge([{**row, "masks": [run_lengths.encode(mask) for mask in prediction.masks]}])

    def _keeps(self, row: Mapping[str, Any]) -> bool:
        rows = [*self.rows, row]
        return any(kept is row for kept in _ends(rows))

    def merge(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds the rows of another."""
        self.rows = _ends([*self.rows, *rows])

    def save_sheet(self, path: pathlib.Path, examples: Sequence[Example]) -> None:
        """Worst and best, from the lowest score up, as one PNG: targets on the left, predictions on the right."""
        cases = ((row, examples[row["index"]]) for row in self.rows)
        tiles = [_tile(row, example) for row, example in cases if row["prompt"] < len(example.prompts)]
        if tiles:
            save_image(path, contact_sheet(tiles, 3))


def is_example_row(row: Any) -> bool:
    """Whether this may be a case that was kept in a file."""
    return (
        type(row) is dict
        and type(row.get("value")) in (int, float)
        and abs(row["value"]) < LARGEST
        and all(type(row.get(name)) is int and 0 <= row[name] < 2**31 for name in ("index", "prompt"))
        and type(row.get("text")) is str
        and len(row["text"]) <= limits.current().letters
        and type(row.get("masks")) is list
    )


def _ends(rows: list[Any]) -> list[Any]:
    ordered = sorted(rows, key=lambda row: (row["value"], row["index"], row["prompt"]))
    return ordered if len(ordered) <= 2 * KEPT else ordered[:KEPT] + ordered[-KEPT:]


def _tile(row: Mapping[str, Any], example: Example) -> np.ndarray:
    prompt, frame = example.prompts[row["prompt"]], example.frames[0]
    with budget.record_budget():
        masks = [decode(mask, frame.shape[0], frame.shape[1], example.name) for mask in row["masks"]]
    answer = f" -> {row['text']}" if row["text"] else ""
    text = f"{row['value']:.3f}  {example.name}  {describe(prompt)}{answer}"
    return compare(frame, prompt, masks, text, longest=TILE, height=44)
