"""What a run shows and leaves behind: progress bar, JSON lines, TensorBoard scalars, a loss plot."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Observers:
    """A context manager around the record of one run. Lines of steps after `start` (of a run cut off) are dropped."""

    def __init__(self, workdir: pathlib.Path, *, start: int, steps: int, console: Console) -> None:
        self._path = workdir / "metrics.jsonl"
        _truncate(self._path, start)
        self._file = self._path.open("a", buffering=1)
        self._board = _Board(workdir / "tensorboard", start)
        self._refused = ""
        self._plot = workdir / "loss.png"
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                   TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
                   TextColumn("{task.fields[note]}"))  # fmt: skip
        self._progress = Progress(*columns, console=console, refresh_per_second=2)
        self._bar = self._progress.add_task("training", total=steps, completed=start, note="")
        self._last = (start, time.monotonic())
        self._note = ""

    def __enter__(self) -> Observers:
        self._progress.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._progress.stop()
        for end in (self._file.close, self._board.flush, lambda: plot_losses(self._path, self._plot)):
            self._unless_refused(end)

    def advance(self, step: int) -> None:
        """Moves the bar; never waits for the device."""
        self._progress.update(self._bar, completed=step, note=self._note)

    def note(self, text: str) -> None:
        """What takes long just now, behind the bar until it moves."""
        self._progress.update(self._bar, note=text)

    def validating(self, task: str, done: int, count: int) -> None:
        """How far a validation is."""
        self.note(f"validating {task} {done}/{count}")

    def losses(self, step: int, task: str, values: dict[str, float]) -> None:
        """One line of training metrics."""
        now = time.monotonic()
        rate = (step - self._last[0]) / max(now - self._last[1], 1e-9)
        self._last = (step, now)
        self._write({"kind": "train", "step": step, "task": task, "steps_per_second": round(rate, 3), **values})
        for name, value in values.items():
            self._unless_refused(self._board.scalar, f"train/{task}/{name}", value, step)
        self._note = f"loss {values['loss']:.3f} ({task})  {rate:.1f} steps/s"
        self.advance(step)

    def scores(self, step: int, scores: dict[str, dict[str, float]]) -> None:
        """One line of validation scores for each task."""
        for task, values in scores.items():
            self._write({"kind": "validation", "step": step, "task": task, **values})
            for name, value in values.items():
                self._unless_refused(self._board.scalar, f"validation/{task}/{name}", value, step)
            told = ", ".join(f"{name} {value:.3f}" for name, value in values.items() if isinstance(value, float))
            self.say(f"step {step}  {task}: {told}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(text, highlight=False)

    def _write(self, line: dict[str, Any]) -> None:
        self._unless_refused(self._file.write, json.dumps(line) + "\n")

    def _unless_refused(self, write: Callable[..., Any], *given: Any) -> None:
        """write(*given). A full disk costs the record some lines, never the run; it is told once."""
        try:
            write(*given)
        except OSError as error:
            if not self._refused:
                self.say(f"{self._path.parent}: metrics cannot be written ({error.strerror or error}); training goes on")
            self._refused = str(error)


class _Board:
    """Scalars for TensorBoard. Written at once: the threads of tensorboardX's own writer end at a full disk, and its queue
    then waits for ever."""

    def __init__(self, folder: pathlib.Path, start: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # imported late: slow to import
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._flushed = Event, time.monotonic()
        self._events = EventsWriter(str(folder / "events"))
        self._events.write_event(Event(wall_time=time.time(), step=start + 1,
                                       session_log=SessionLog(status=SessionLog.SessionStatus.Value("START"))))  # fmt: skip
        self.flush()

    def scalar(self, name: str, value: float, step: int) -> None:
        from tensorboardX.summary import scalar

        self._events.write_event(self._event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        if time.monotonic() > self._flushed + 20:
            self.flush()

    def flush(self) -> None:
        self._events.flush()
        self._flushed = time.monotonic()


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line cut off by a kill is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def _truncate(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(json.dumps(line) + "\n" for line in kept))
    part.replace(path)


def plot_losses(metrics: pathlib.Path, picture: pathlib.Path) -> None:
    """Draws training loss by task and validation scores over steps; nothing where there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = read_metrics(metrics)
    train = [line for line in lines if line["kind"] == "train"]
    if not train:
        return
    validation = [line for line in lines if line["kind"] == "validation"]
    figure, panels = pyplot.subplots(1, 2 if validation else 1, figsize=(11 if validation else 6, 3.6), squeeze=False)
    left = panels[0][0]
    for task in sorted({line["task"] for line in train}):
        mine = [line for line in train if line["task"] == task]
        left.plot([line["step"] for line in mine], [line["loss"] for line in mine], label=task, linewidth=1)
    left.set(xlabel="step", ylabel="training loss")
    left.legend(fontsize=8)
    if validation:
        right = panels[0][1]
        for task in sorted({line["task"] for line in validation}):
            mine = [line for line in validation if line["task"] == task]
            name = next((n for n in ("ciou", "pq", "miou", "j_and_f") if n in mine[-1]), None)
            if name:
                right.plot([line["step"] for line in mine], [line[name] for line in mine], "o-", markersize=3,
                           label=f"{task} {name}")  # fmt: skip
        right.set(xlabel="step", ylabel="validation score", ylim=(0, 1))
        right.legend(fontsize=8)
    for panel in panels[0]:
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    part = picture.with_name(f".{picture.name}")
    figure.savefig(part, dpi=110, format="png")
    pyplot.close(figure)
    part.replace(picture)
