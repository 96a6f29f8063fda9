"""Progress and metrics of a run: progress bar, console lines, metrics.jsonl, TensorBoard scalars, loss.png and gates.png."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hyperseg_jax.atomic import atomic_file
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems.moments import with_spreads
from hyperseg_jax.training import clock
from hyperseg_jax.training.flops import utilization
from hyperseg_jax.training.means import RunningMeans
from hyperseg_jax.training.plots import plot_gates, plot_losses
from hyperseg_jax.training.state import COUNTERS
from hyperseg_jax.training.tensorboard import Profile, Scalars, ensure_folder, remove_stale_profiles
from hyperseg_jax.untrusted import paths, printing, stores, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped

MAX_LOG_BYTES, MAX_LINE_BYTES = 2**28, 2**16
MAX_LOSS = 1e39  # a loss is a float32


class Observers:
    """A context manager that reports one run. Removes lines of steps after `start`, which an interrupted run wrote.

    timer: time accounting of the run. profiled: (first, last) step to profile for TensorBoard; (0, 0) for none. on_metrics:
    called with a step and its counters (state.COUNTERS) after they are written. headlines: names of the validation scores to
    plot (plots.plot_losses). pending: `pending_state()` of the run that is resumed.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        start: int,
        steps: int,
        console: Console,
        timer: clock.Clock,
        profiled: tuple[int, int] = (0, 0),
        on_metrics: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
        headlines: Sequence[str] = (),
        pending: Mapping[str, Any] | None = None,
    ) -> None:
        self._on_metrics, self._headlines = on_metrics, headlines
        self._path = workdir / "metrics.jsonl"
        messages = [_truncate_metrics(self._path, start), ensure_folder(workdir / "tensorboard")]
        remove_stale_profiles(workdir / "tensorboard")
        self._file = self._path.open("a", buffering=1)
        self._board = Scalars(workdir / "tensorboard", start)
        self._write_error = ""
        self._loss_plot, self._gates_plot = workdir / "loss.png", workdir / "gates.png"
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._progress = Progress(*columns, console=console, refresh_per_second=2)
        self._bar = self._progress.add_task("training", total=steps, completed=start, note="")
        for message in filter(None, messages):
            self.log(message)
        self._timer, self._profiled, self._folder = timer, profiled, workdir / "tensorboard"
        self._profile: Profile | None = None
        self._last, self._note = (timer.read(), 0.0), ""
        self._means, self._counters, self._timed_steps = RunningMeans(pending), dict[str, jax.Array](), 0
        self._pending: tuple[int, RunningMeans, Mapping[str, jax.Array], int, float] | None = None
        self.recompilations = 0  # unexpected compilations of the train step so far
        self._validated: set[str] = set()
        self._validation_time = 0.0

    def __enter__(self) -> Observers:
        self._progress.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._profile is not None:
            self._profile.stop()
        if exception[0] is None:
            self.write_pending()
        self._progress.stop()
        for end in (self._file.close, self._board.flush):
            self._try_write(end)
        self._try_write(self._draw, self._loss_plot, lambda lines, image: plot_losses(lines, image, self._headlines))
        self._try_write(self._draw, self._gates_plot, plot_gates)

    def advance(self, step: int) -> None:
        """Updates the progress bar without waiting for the device."""
        self._progress.update(self._bar, completed=step, note=self._note)

    def note(self, text: str) -> None:
        """Shows a text behind the progress bar until its next update."""
        self._progress.update(self._bar, note=text)

    @contextlib.contextmanager
    def log_compilation(self, what: str) -> Iterator[None]:
        """Logs the start and the duration of a compilation in its body."""
        self.log(f"compiling {what}")
        self.note(f"compiling {what}")
        start = time.monotonic()
        yield
        self.log(f"compiled {what} in {time.monotonic() - start:.1f} s")

    def begin_validation(self) -> None:
        """Logs the start of a validation. In the first validation of a run, a program is compiled for each task."""
        first = "" if self._validated else "; the first validation compiles a program for each task"
        self.log(f"validating{first}")
        self._validation_time = time.monotonic()

    def show_validation_progress(self, task: str, done: int, count: int) -> None:
        """Shows the progress of a validation. Logs the time of the first batch of each task, which includes compilation."""
        self.note(f"validating {task} {done}/{count}")
        if task not in self._validated:
            self._validated.add(task)
            seconds = time.monotonic() - self._validation_time
            self.log(f"validation of {task}: compiled and ran the first batch in {seconds:.1f} s")
        self._validation_time = time.monotonic()

    def add_metrics(self, task: str, metrics: Mapping[str, jax.Array], *, timed: bool = True) -> None:
        """Adds the metrics of a step without waiting for the device. timed: whether the step counts for steps per second; False
        for steps that compiled their program."""
        self._means.add(task, {name: value for name, value in metrics.items() if name not in COUNTERS})
        self._counters = {name: metrics[name] for name in COUNTERS if name in metrics}
        self._timed_steps += timed

    def end_interval(self, step: int, flops: float) -> None:
        """Ends an interval with this step. Call `write_pending` after the next step has been dispatched, to write the means.

        flops: FLOPs of all timed steps of this process so far.
        """
        self._pending = (step, self._means, self._counters, self._timed_steps, flops)
        self._means, self._timed_steps = RunningMeans(), 0

    def pending_state(self) -> dict[str, Any]:
        """Returns the sums of the current interval, for the checkpoint. Waits for the device."""
        return self._means.state()

    def write_pending(self) -> None:
        """Writes a line of means for each task of the last ended interval, if not written yet. Waits for the device."""
        if self._pending is None:
            return
        (step, means, device_counters, timed, flops), self._pending = self._pending, None
        means_by_task = {task: with_spreads(values) for task, values in means.compute().items()}
        counters = {name: float(value) for name, value in device_counters.items()}
        counters |= {"recompilations": float(self.recompilations)} if self.recompilations else {}
        seconds, (last_seconds, last_flops) = self._timer.read(), self._last
        self._last = (seconds, flops)
        rates = self._rates(seconds, last_seconds, timed, flops - last_flops)
        for task, values in means_by_task.items():
            line = {"kind": "train", "step": step, "task": task, **rates, **values, **counters, "seconds": seconds}
            self._write_line(line)
            for name, value in (values | counters).items():
                self._try_write(self._board.write, f"train/{task}/{name}", value, step)
        for name, value in rates.items():
            self._try_write(self._board.write, f"speed/{name}", value, step)
        self._note = "loss " + ", ".join(f"{values['loss']:.3f} ({task})" for task, values in means_by_task.items())
        self._note += f"  {rates['steps_per_second']:.2f} steps/s" if "steps_per_second" in rates else ""
        self._note += f"  MFU {100 * rates['mfu']:.1f} %" if "mfu" in rates else ""
        if not self._progress.console.is_terminal:  # without a progress bar, one line per interval
            self.log(f"step {step}  {self._note}  {clock.summary(seconds)}")
        self._on_metrics(step, counters)

    def _rates(self, seconds: Mapping[str, float], before: Mapping[str, float], timed: int, flops: float) -> dict[str, float]:
        """Returns steps per second and MFU of the timed steps of an interval, if any, and the goodput of the whole run."""
        trained = max(sum(seconds[share] - before[share] for share in ("step", "data")), 1e-9)
        rates = {"goodput": clock.goodput(seconds)}
        if timed:
            rates["steps_per_second"] = timed / trained
            if (mfu := utilization(flops, trained, jax.devices())) is not None:
                rates["mfu"] = mfu
        return {name: round(value, 4) for name, value in rates.items()}

    def profile(self, step: int) -> None:
        """Starts the profiler before the first profiled step and stops it after the last one."""
        first, last = self._profiled
        if step == first:
            self._profile = Profile(self._folder)
            for message in self._profile.moved:
                self.log(message)
        if self._profile is not None and step == last + 1:
            self._profile.stop()
            self._profile = None
            self.log(f"profile of steps {first} to {last}: tensorboard --logdir {self._folder}")

    def scores(self, step: int, scores: dict[str, dict[str, float]]) -> None:
        """Writes and logs the validation scores of each task."""
        for task, values in scores.items():
            self._write_line(self._fit_line({"kind": "validation", "step": step, "task": task}, values))
            for name, value in values.items():
                self._try_write(self._board.write, f"validation/{task}/{name}", value, step)
            text = ", ".join(f"{escaped(name)} {value:.3f}" for name, value in values.items() if isinstance(value, float))
            self.log(f"step {step}  {task}: {text}")

    def _fit_line(self, line: dict[str, Any], values: Mapping[str, float]) -> dict[str, Any]:
        """Returns a line of metrics.jsonl with those scores that fit; scores of groups ("NAME/GROUP") come last."""
        length, left_out = len(json.dumps(line)), 0
        for name in sorted(values, key=lambda name: "/" in name):
            length += len(json.dumps({name: values[name]})) + 2
            if length < MAX_LINE_BYTES:
                line[name] = values[name]
            else:
                left_out += 1
        if left_out:
            self.log(f"{self._path}: {left_out} scores of groups are left out, because there are too many for a line")
        return line

    def log(self, text: str) -> None:
        """Prints a line above the progress bar."""
        printing.log(self._progress.console, text)

    def _draw(self, image: pathlib.Path, plot: Callable[[Iterator[dict[str, Any]], pathlib.Path], None]) -> None:
        """Writes a plot of the metrics log; a failure is only logged. plot: called with the lines of the log and the image."""
        if message := paths.make_replaceable(image, "an image"):
            self.log(message)
        try:
            plot(read_valid_lines(self._path), image)
        except UserError as error:
            self.log(str(error))
        except Exception as error:  # the log and matplotlib may have surprises, and the run is complete without a plot
            if isinstance(error, OSError):
                raise
            self.log(f"{image}: was not drawn ({escaped(f'{type(error).__name__}: {error}')}); training is not affected")

    def _write_line(self, line: dict[str, Any]) -> None:
        self._try_write(self._file.write, json.dumps(line) + "\n")

    def _try_write(self, write: Callable[..., Any], *args: Any) -> None:
        """Calls write(*args). A full disk loses some metrics but never ends the run; the first error is logged."""
        try:
            write(*args)
        except OSError as error:
            if not self._write_error:
                path = error.filename or self._path.parent
                reason = error.strerror or error
                self.log(f"{path}: metrics cannot be written ({reason}); training continues; free disk space or fix the folder")
            self._write_error = str(error)


def read_valid_lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the valid lines of a metrics file. Skips truncated lines of killed runs and anything that no run wrote."""
    return (line for line, _ in _read_lines(path) if line is not None)


def _read_lines(path: pathlib.Path) -> Iterator[tuple[dict[str, Any] | None, bytes]]:
    """Yields (content, bytes) of all lines of a metrics file; the content of an invalid line is None."""
    if not _is_metrics_file(path):
        return
    with path.open("rb") as file:
        inside_line = False
        for data in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
            if data.strip() and not inside_line:
                yield _parse_line(data), data
            inside_line = not data.endswith(b"\n")  # the rest of a line that is too long is skipped


def _parse_line(data: bytes) -> dict[str, Any] | None:
    """Parses a line of a metrics file. Returns None if no run can have written it."""
    try:
        line = strict_json.parse_any(data, "a line", finite=False)  # losses may be NaN
    except BadFile:
        return None
    if not isinstance(line, dict) or not all(printing.is_name(line.get(name)) for name in ("kind", "task")):
        return None
    values = [value for name, value in line.items() if name not in ("kind", "task", "seconds")]
    seconds = line.get("seconds", {})
    valid = (
        line["kind"] in ("train", "validation")
        and all(map(_is_number, values))
        and type(line.get("step")) is int
        and 0 <= line["step"] < 2**53
        and (line["kind"] != "train" or "loss" in line)
        and line.get("steps", 1) > 0
    )
    return line if valid and isinstance(seconds, dict) and all(map(clock.is_seconds, seconds.values())) else None


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value) or abs(value) < MAX_LOSS
    return isinstance(value, int) and abs(value) < 2**63


def lost_seconds(path: pathlib.Path, saved: Mapping[str, float]) -> float:
    """Returns the seconds that a run spent after its last checkpoint. saved: its seconds by category at the checkpoint."""
    last: Mapping[str, float] = saved
    for line, _ in _read_lines(path):
        last = line.get("seconds", last) if line else last
    return max(0.0, sum(last.values()) - sum(saved.values()))


def _is_metrics_file(path: pathlib.Path) -> bool:
    """Returns whether a path, possibly in a bucket, is a regular file of plausible size inside the workdir."""
    if not stores.is_url(os.fspath(path)):
        path = pathlib.Path(path)  # epath treats a pipe as a file
        try:
            paths.check_link(path)
        except BadFile:
            return False
    return path.is_file() and epath.Path(path).stat().length <= MAX_LOG_BYTES


def _truncate_metrics(path: pathlib.Path, step: int) -> str:
    """Keeps the valid lines up to a step. Moves the path aside if it is not a regular file of plausible size. Returns a message
    about removed content, "" if there is none."""
    if not path.is_symlink() and not path.exists():
        return ""
    if not _is_metrics_file(path):
        return paths.move_aside(path, "a metrics log")
    invalid = 0
    with atomic_file(path) as part, part.open("wb") as file:
        for line, data in _read_lines(path):
            invalid += line is None
            if line and line["step"] <= step:  # written as it was: another spelling might be too long to be read again
                file.write(data.strip() + b"\n")
    return f"{path}: {invalid} damaged lines are removed" if invalid > 1 else ""  # one truncated line is normal after a kill
