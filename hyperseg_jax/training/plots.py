"""Plots of runs and sweeps, saved as PNG files."""

from __future__ import annotations

import contextlib
import pathlib
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.atomic import atomic_file
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import escaped, first_line

MAX_TASKS = 50


@contextlib.contextmanager
def saved_panels(image: pathlib.Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[np.ndarray]:
    """Yields matplotlib axes [rows, columns] to draw in, and saves them as a PNG at the end. size: (width, height) in inches.

    Texts are drawn literally, including "$". Raises UserError if matplotlib fails to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as letters that the font lacks, in names that may be from other people
        figure, panels = pyplot.subplots(rows, columns, figsize=size, squeeze=False)
        try:
            yield panels
            for panel in panels.flat:
                panel.spines[["top", "right"]].set_visible(False)
            figure.tight_layout()
            with atomic_file(image) as part:
                figure.savefig(part, dpi=110, format="png")
        except Exception as error:  # matplotlib raises many types
            if isinstance(error, OSError):
                raise
            raise UserError(
                f"{image}: cannot be drawn ({escaped(first_line(error))}); look for odd values in the log"
            ) from error
        finally:
            pyplot.close(figure)


Curve = tuple["array[float]", "array[float]"]
"""Steps and values, eight bytes each, because a log may be long."""


def plot_losses(lines: Iterable[dict[str, Any]], image: pathlib.Path, headlines: Sequence[str]) -> None:
    """Plots the training loss and the headline validation score of each task over steps.

    lines: lines of metrics.jsonl, read one at a time. headlines: score names; for each task, the first one that its last line
    has is plotted. Writes nothing if there are no training lines. Plots the first MAX_TASKS tasks in alphabetical order.
    """
    train, validation = _collect_curves(lines, headlines)
    if not train:
        return
    with saved_panels(image, 1, 2 if validation else 1, (11 if validation else 6, 3.6)) as panels:
        loss_axes = panels[0][0]
        for task in sorted(train):
            loss_axes.plot(*train[task]["loss"], label=task, linewidth=1)
        loss_axes.set(xlabel="step", ylabel="training loss")
        loss_axes.legend(fontsize=8)
        if not validation:
            return
        score_axes = panels[0][1]
        for task in sorted(validation):
            if curves := validation[task]:
                name = next(iter(curves))
                score_axes.plot(*curves[name], "o-", markersize=3, label=f"{task} {name}")
        score_axes.set(xlabel="step", ylabel="validation score", ylim=(0, 1))
        score_axes.legend(fontsize=8)


def _collect_curves(
    lines: Iterable[dict[str, Any]], headlines: Sequence[str]
) -> tuple[dict[str, dict[str, Curve]], dict[str, dict[str, Curve]]]:
    """Returns the training losses of each task, and its values of one headline score (as in `plot_losses`), both in order."""
    train, validation = dict[str, dict[str, Curve]](), dict[str, dict[str, Curve]]()
    last: dict[str, set[str]] = {}
    for line in lines:
        task, names = line["task"], ("loss",) if line["kind"] == "train" else headlines
        by_task = train if line["kind"] == "train" else validation
        curves = by_task.setdefault(task, {})
        for name in names:
            if name in line:
                steps, values = curves.setdefault(name, (array("d"), array("d")))
                steps.append(line["step"])
                values.append(line[name])
        if by_task is validation:
            last[task] = {name for name in headlines if name in line}
        if len(by_task) > MAX_TASKS:
            removed = max(by_task)
            del by_task[removed]
            if by_task is validation:
                last.pop(removed, None)
    return train, {
        task: {name: curves[name] for name in headlines if name in last[task]} for task, curves in validation.items()
    }
