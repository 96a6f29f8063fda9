"""Plots that a run or a sweep leaves as PNG files."""

from __future__ import annotations

import contextlib
import pathlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.atomic import atomic_file
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import first_line, shown

DRAWN = 50


@contextlib.contextmanager
def saved_panels(image: pathlib.Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[np.ndarray]:
    """Axes [rows, columns] of matplotlib to draw in; at the end they are saved as a PNG. size: (width, height) in inches.

    Names are drawn as they are, a "$" too. UserError where matplotlib cannot draw what it was given.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"text.parse_math": False}):
        figure, panels = pyplot.subplots(rows, columns, figsize=size, squeeze=False)
        try:
            yield panels
            for panel in panels.flat:
                panel.spines[["top", "right"]].set_visible(False)
            figure.tight_layout()
            with atomic_file(image) as part:
                figure.savefig(part, dpi=110, format="png")
        except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError) as error:
            raise UserError(f"{image}: cannot be drawn ({shown(first_line(error))}); look for odd values in the log") from error
        finally:
            pyplot.close(figure)


Curve = tuple["array[float]", "array[float]"]
"""Steps and values, eight bytes each: a log may be long."""


def plot_losses(lines: Iterable[dict[str, Any]], image: pathlib.Path, headlines: Sequence[str]) -> None:
    """Draws the training loss of each task and, beside it, its headline score of validation over steps.

    lines: those of metrics.jsonl, of which one at a time is looked at. headlines: names of scores; of each task the first one
    that its last line has is drawn. Nothing is written where there are no training lines. Of more than DRAWN tasks the first
    ones are drawn.
    """
    train, validation = _curves(lines, headlines)
    if not train:
        return
    with saved_panels(image, 1, 2 if validation else 1, (11 if validation else 6, 3.6)) as panels:
        left = panels[0][0]
        for task in sorted(train):
            left.plot(*train[task]["loss"], label=task, linewidth=1)
        left.set(xlabel="step", ylabel="training loss")
        left.legend(fontsize=8)
        if not validation:
            return
        right = panels[0][1]
        for task in sorted(validation):
            if drawn := validation[task]:
                name = next(iter(drawn))
                right.plot(*drawn[name], "o-", markersize=3, label=f"{task} {name}")
        right.set(xlabel="step", ylabel="validation score", ylim=(0, 1))
        right.legend(fontsize=8)


def _curves(
    lines: Iterable[dict[str, Any]], headlines: Sequence[str]
) -> tuple[dict[str, dict[str, Curve]], dict[str, dict[str, Curve]]]:
    """The training losses of each task, and those headline scores that the last line of each has, in their order."""
    train, validation = dict[str, dict[str, Curve]](), dict[str, dict[str, Curve]]()
    last: dict[str, set[str]] = {}
    for line in lines:
        task, wanted = line["task"], ("loss",) if line["kind"] == "train" else headlines
        kept = train if line["kind"] == "train" else validation
        curves = kept.setdefault(task, {})
        for name in wanted:
            if name in line:
                steps, values = curves.setdefault(name, (array("d"), array("d")))
                steps.append(line["step"])
                values.append(line[name])
        if kept is validation:
            last[task] = {name for name in headlines if name in line}
        if len(kept) > DRAWN:
            gone = max(kept)
            del kept[gone]
            last.pop(gone, None)
    return train, {
        task: {name: curves[name] for name in headlines if name in last[task]} for task, curves in validation.items()
    }
