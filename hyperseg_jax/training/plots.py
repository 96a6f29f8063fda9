"""Plots that a run or a sweep leaves as PNG files."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.atomic import whole_file
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import first_line, shown

DRAWN = 50


@contextlib.contextmanager
def saved_panels(picture: pathlib.Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[np.ndarray]:
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
            with whole_file(picture) as part:
                figure.savefig(part, dpi=110, format="png")
        except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError) as error:
            raise UserError(
                f"{picture}: cannot be drawn ({shown(first_line(error))}); look for odd values in the log"
            ) from error
        finally:
            pyplot.close(figure)


def plot_losses(lines: Sequence[dict[str, Any]], picture: pathlib.Path, headlines: Sequence[str]) -> None:
    """Draws the training loss of each task and, beside it, its headline score of validation over steps.

    lines: those of metrics.jsonl. headlines: names of scores; of each task the first one that it has is drawn. Nothing is
    written where there are no training lines. Of more than DRAWN tasks the first ones are drawn.
    """
    train, validation = (_by_task(lines, kind) for kind in ("train", "validation"))
    if not train:
        return
    with saved_panels(picture, 1, 2 if validation else 1, (11 if validation else 6, 3.6)) as panels:
        left = panels[0][0]
        for task, mine in train.items():
            left.plot([line["step"] for line in mine], [line["loss"] for line in mine], label=task, linewidth=1)
        left.set(xlabel="step", ylabel="training loss")
        left.legend(fontsize=8)
        if not validation:
            return
        right = panels[0][1]
        for task, mine in validation.items():
            name = next((name for name in headlines if name in mine[-1]), None)
            if name:
                steps, scores = zip(*((line["step"], line[name]) for line in mine if name in line), strict=True)
                right.plot(steps, scores, "o-", markersize=3, label=f"{task} {name}")
        right.set(xlabel="step", ylabel="validation score", ylim=(0, 1))
        right.legend(fontsize=8)


def _by_task(lines: Sequence[dict[str, Any]], kind: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["kind"] == kind:
            found.setdefault(line["task"], []).append(line)
    return {task: found[task] for task in sorted(found)[:DRAWN]}
