"""Results of a sweep as a table, JSON and a plot."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Column, Table

from hyperseg_jax.atomic import write_text
from hyperseg_jax.errors import UserError
from hyperseg_jax.sweeps.trials import Metric, Trial, available_metrics
from hyperseg_jax.training.plots import saved_panels
from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.printing import escape_markup, escaped


@dataclasses.dataclass(frozen=True)
class Row:
    """The result of one trial. scores: (step, value of the metric), in order of steps."""

    trial: Trial
    status: str
    scores: tuple[tuple[int, float], ...]

    @property
    def last(self) -> float | None:
        """The last score."""
        return self.scores[-1][1] if self.scores else None

    def best(self, metric: Metric) -> tuple[int, float] | None:
        """Returns (step, score) of the best score, the earliest one if several are equal; None without scores."""
        best: tuple[int, float] | None = None
        for step, score in self.scores:
            if best is None or metric.is_better(score, best[1]):
                best = step, score
        return best


def collect_rows(trials: Sequence[Trial], metric: Metric) -> list[Row]:
    """Reads the scores of all trials. Returns the trials sorted by their last score, best first; those without scores come
    last. Raises UserError if a trial has finished but none has written the metric."""
    rows = [Row(trial, trial.status(), tuple(metric.scores(trial.metric_lines()))) for trial in trials]
    finished = [row for row in rows if row.status == "finished"]
    if finished and not any(row.scores for row in rows):
        seen = available_metrics(line for row in finished for line in row.trial.metric_lines())
        raise UserError(
            f"--metric {metric}: never appears in metrics.jsonl; known metrics: {', '.join(map(escaped, seen)) or 'none'}. "
            "Run the same command with another --metric; no trial is trained again"
        )
    sign = -1.0 if metric.mode == "max" else 1.0
    return sorted(rows, key=lambda row: (row.last is None, sign * (row.last or 0.0)))


def varied_fields(rows: Sequence[Row]) -> list[str]:
    """Returns the fields that the sweep varies, in the order of the command line."""
    return list(dict.fromkeys(field for row in rows for field in row.trial.values))


def results_table(rows: Sequence[Row], metric: Metric) -> Table:
    """Returns the results as a table for the terminal."""
    heads = (*varied_fields(rows), str(metric), f"best ({metric.mode})", "at step", "last step", "status")
    result = Table(*(Column(escape_markup(head), overflow="fold") for head in heads))
    for row in rows:
        best = row.best(metric)
        numbers = ("", "", "", "")
        if best:
            numbers = (f"{row.last:.4f}", f"{best[1]:.4f}", str(best[0]), str(row.scores[-1][0]))
        result.add_row(*(escape_markup(row.trial.values.get(field, "")) for field in varied_fields(rows)), *numbers, row.status)
    return result


def save_results(rows: Sequence[Row], metric: Metric, out: pathlib.Path, log: Callable[[str], None]) -> None:
    """Writes results.json and, if there are scores, results.png. log: receives a line if the plot cannot be drawn."""
    entries: list[dict[str, Any]] = []
    for row in rows:
        best = row.best(metric)
        entries.append(
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
    write_text(out / "results.json", strict_json.dumps_finite({"metric": str(metric), "mode": metric.mode, "trials": entries}))
    if any(row.scores for row in rows):
        try:
            plot_scores(rows, metric, out / "results.png")
        except UserError as error:
            log(str(error))


def plot_scores(rows: Sequence[Row], metric: Metric, image: pathlib.Path) -> None:
    """Plots the scores of each trial over steps, and the last score by each varied field."""
    scored, varied = [row for row in rows if row.scores], varied_fields(rows)
    columns = min(len(varied) + 1, 3)
    lines = -(-(len(varied) + 1) // columns)
    with saved_panels(image, lines, columns, (5 * columns, 3.8 * lines)) as panels:
        curve_panel, *field_panels = panels.flat
        for row in scored:
            label = ", ".join(f"{field.rpartition('.')[2]} {value}" for field, value in row.trial.values.items())
            curve_panel.plot(*zip(*row.scores, strict=True), "o-", markersize=3, linewidth=1, label=label)
        curve_panel.set(xlabel="step", ylabel=str(metric))
        if len(scored) <= 10:
            curve_panel.legend(fontsize=7)
        for panel, field in zip(field_panels, varied, strict=False):
            field_values = list(dict.fromkeys(row.trial.values[field] for row in scored if field in row.trial.values))
            positions = {value: position for position, value in enumerate(sorted(field_values, key=_sort_key))}
            with_field = [row for row in scored if field in row.trial.values]
            panel.plot(
                [positions[row.trial.values[field]] for row in with_field],
                [row.last for row in with_field],
                "o",
                markersize=5,
                alpha=0.7,
            )
            panel.set(xlabel=field, ylabel=f"last {metric}", xlim=(-0.5, len(positions) - 0.5))
            panel.set_xticks(range(len(positions)), list(positions))
        for panel in field_panels[len(varied) :]:
            panel.set_visible(False)


def _sort_key(value: str) -> tuple[bool, float, str]:
    """Sorts numbers by value, then texts."""
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value
