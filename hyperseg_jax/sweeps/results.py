"""What a sweep found: a table, JSON, and a plot."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from rich.table import Column, Table

from hyperseg_jax.atomic import write_text
from hyperseg_jax.errors import UserError
from hyperseg_jax.sweeps.trials import Metric, Trial, available_metrics
from hyperseg_jax.training.plots import saved_panels
from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.printing import cell, shown


@dataclasses.dataclass(frozen=True)
class Row:
    """One trial: its status, and its scores over steps, from the first to the last."""

    trial: Trial
    status: str
    scores: tuple[tuple[int, float], ...]

    @property
    def last(self) -> float | None:
        return self.scores[-1][1] if self.scores else None

    def best(self, metric: Metric) -> tuple[int, float] | None:
        """(step, score) of the best validation; the earliest of equals."""
        found: tuple[int, float] | None = None
        for step, score in self.scores:
            if found is None or metric.better(score, found[1]):
                found = step, score
        return found


def collect(trials: Sequence[Trial], metric: Metric) -> list[Row]:
    """The best last score first, trials without any at the end. UserError where runs have ended, and none wrote the metric."""
    rows = [Row(trial, trial.status(), tuple(metric.scores(trial.lines()))) for trial in trials]
    finished = [row for row in rows if row.status == "finished"]
    if finished and not any(row.scores for row in rows):
        seen = available_metrics(line for row in finished for line in row.trial.lines())
        raise UserError(
            f"--metric {metric}: never appears in metrics.jsonl; there are {', '.join(map(shown, seen)) or 'none'}. Nothing "
            "is lost: the same command with another --metric trains nothing again"
        )
    sign = -1.0 if metric.mode == "max" else 1.0
    return sorted(rows, key=lambda row: (row.last is None, sign * (row.last or 0.0)))


def fields(rows: Sequence[Row]) -> list[str]:
    """The fields that the sweep varies, in the order of the command line."""
    return list(dict.fromkeys(field for row in rows for field in row.trial.values))


def table(rows: Sequence[Row], metric: Metric) -> Table:
    """For the terminal."""
    heads = (*fields(rows), str(metric), f"best ({metric.mode})", "at step", "last step", "status")
    shown = Table(*(Column(cell(head), overflow="fold") for head in heads))
    for row in rows:
        best = row.best(metric)
        numbers = ("", "", "", "")
        if best:
            numbers = (f"{row.last:.4f}", f"{best[1]:.4f}", str(best[0]), str(row.scores[-1][0]))
        shown.add_row(*(cell(row.trial.values.get(field, "")) for field in fields(rows)), *numbers, row.status)
    return shown


def save(rows: Sequence[Row], metric: Metric, out: pathlib.Path) -> None:
    """results.json and, once there are scores, results.png."""
    told: list[dict[str, Any]] = []
    for row in rows:
        best = row.best(metric)
        told.append(
            {
                "name": row.trial.name,
                "values": dict(row.trial.values),
                "workdir": row.trial.workdir,
                "status": row.status,
                "last": row.last,
                "best": best[1] if best else None,
                "best_step": best[0] if best else None,
                "scores": row.scores,
            }
        )
    write_text(out / "results.json", strict_json.text({"metric": str(metric), "mode": metric.mode, "trials": told}))
    if any(row.scores for row in rows):
        plot(rows, metric, out / "results.png")


def plot(rows: Sequence[Row], metric: Metric, image: pathlib.Path) -> None:
    """Score over steps by trial, then the last score by each field."""
    scored, varied = [row for row in rows if row.scores], fields(rows)
    columns = min(len(varied) + 1, 3)
    lines = -(-(len(varied) + 1) // columns)
    with saved_panels(image, lines, columns, (5 * columns, 3.8 * lines)) as panels:
        over, *by_field = panels.flat
        for row in scored:
            label = ", ".join(f"{field.rpartition('.')[2]} {value}" for field, value in row.trial.values.items())
            over.plot(*zip(*row.scores, strict=True), "o-", markersize=3, linewidth=1, label=label)
        over.set(xlabel="step", ylabel=str(metric))
        if len(scored) <= 10:
            over.legend(fontsize=7)
        for panel, field in zip(by_field, varied, strict=False):
            given = list(dict.fromkeys(row.trial.values[field] for row in scored if field in row.trial.values))
            places = {value: place for place, value in enumerate(sorted(given, key=_order))}
            mine = [row for row in scored if field in row.trial.values]
            panel.plot(
                [places[row.trial.values[field]] for row in mine], [row.last for row in mine], "o", markersize=5, alpha=0.7
            )
            panel.set(xlabel=field, ylabel=f"last {metric}", xlim=(-0.5, len(places) - 0.5))
            panel.set_xticks(range(len(places)), list(places))
        for panel in by_field[len(varied) :]:
            panel.set_visible(False)


def _order(value: str) -> tuple[bool, float, str]:
    """Numbers by size, then words."""
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value
