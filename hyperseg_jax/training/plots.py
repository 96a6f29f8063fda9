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
from hyperseg_jax.systems.moments import MEAN, SPREAD
from hyperseg_jax.untrusted.printing import escaped, first_line

MAX_TASKS = MAX_GATES = 50
GATES = "gates/"
"""Start of the names of the metrics that are drawn in gates.png."""


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


def plot_gates(lines: Iterable[dict[str, Any]], image: pathlib.Path) -> None:
    """Plots the mean of each gate over steps, in a band of one spread above and below, over the steps of all tasks.

    lines: lines of metrics.jsonl, read one at a time. Writes nothing if they have no gates. Plots the first MAX_GATES gates in
    alphabetical order.
    """
    gates = _collect_gates(lines)
    if not gates:
        return
    with saved_panels(image, 1, 1, (8, 3.6)) as panels:
        axes = panels[0][0]
        for name in sorted(gates):
            steps, weights, sums, square_sums = map(np.asarray, gates[name])
            mean = sums / weights
            spread = np.sqrt(np.maximum(square_sums / weights - mean**2, 0))
            (line,) = axes.plot(steps, mean, label=escaped(name), linewidth=1)
            face, edge = (line.get_color(), 0.12), (line.get_color(), 0.6)
            axes.fill_between(steps, mean - spread, mean + spread, facecolor=face, edgecolor=edge, linewidth=0.6)
        axes.set(xlabel="step", ylabel="gate: mean and spread")
        axes.legend(fontsize=8)


Sums = tuple["array[float]", "array[float]", "array[float]", "array[float]"]
"""Steps, and for each the sums over tasks of the weights, the weighted means and the weighted mean squares."""


def _collect_gates(lines: Iterable[dict[str, Any]]) -> dict[str, Sums]:
    """Returns the sums of each gate by its name without GATES. The lines of a step follow each other, one for each task."""
    gates = dict[str, Sums]()
    for line in lines:
        for metric in line:
            name = metric.removeprefix(GATES).removesuffix(MEAN)
            if line["kind"] != "train" or metric != GATES + name + MEAN or GATES + name + SPREAD not in line:
                continue
            weight, mean, spread = (float(value) for value in (line.get("steps", 1), line[metric], line[GATES + name + SPREAD]))
            steps, *sums = gates.setdefault(name, (array("d"), array("d"), array("d"), array("d")))
            if not steps or steps[-1] != line["step"]:
                for each in (steps, *sums):
                    each.append(0.0)
                steps[-1] = line["step"]
            for each, value in zip(sums, (1.0, mean, mean**2 + spread**2), strict=True):
                each[-1] += weight * value
            if len(gates) > MAX_GATES:
                del gates[max(gates)]
    return gates
