"""What a run shows and leaves behind: progress bar, lines on the console, metrics.jsonl, TensorBoard scalars, loss.png."""

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
from hyperseg_jax.training import clock
from hyperseg_jax.training.flops import utilization
from hyperseg_jax.training.means import RunningMeans
from hyperseg_jax.training.plots import plot_losses
from hyperseg_jax.training.state import COUNTERS
from hyperseg_jax.untrusted import paths, printing, stores, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile

LARGEST, LINE = 2**28, 2**16  # bytes of a log, and of one of its lines
LARGEST_LOSS = 1e39  # a loss is a float32


class Observers:
    """A context manager around the record of one run. Lines of steps after `start` (of a run cut off) are dropped.

    timer: where the run's time goes. profiled: (first, last) step to write a profile of for TensorBoard; (0, 0) for none. look:
    called with a step and its counters (state.COUNTERS) once they are told. headlines: names of the validation scores to
    plot (plots.plot_losses). untold: `untold` of the run that this one goes on with.
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
        look: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
        headlines: Sequence[str] = (),
        untold: Mapping[str, Any] | None = None,
    ) -> None:
        self._look, self._headlines = look, headlines
        self._path = workdir / "metrics.jsonl"
        damage = [told for told in (_truncate(self._path, start), _own_folder(workdir / "tensorboard")) if told]
        self._file = self._path.open("a", buffering=1)
        self._board = _Board(workdir / "tensorboard", start)
        self._refused = ""
        self._plot = workdir / "loss.png"
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
        for told in damage:
            self.say(told)
        self._timer, self._profiled, self._folder, self._profiling = timer, profiled, workdir / "tensorboard", False
        self._last, self._note = (timer.read(), 0.0), ""
        self._means, self._counters, self._timed = RunningMeans(untold), dict[str, jax.Array](), 0
        self._waiting: tuple[int, RunningMeans, Mapping[str, jax.Array], int, float] | None = None
        self._validated: set[str] = set()
        self._validation_mark = 0.0

    def __enter__(self) -> Observers:
        self._progress.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._profiling:
            jax.profiler.stop_trace()
        if exception[0] is None:
            self.tell()
        self._progress.stop()
        for end in (self._file.close, self._board.flush, self._draw):
            self._unless_refused(end)

    def advance(self, step: int) -> None:
        """Moves the bar; never waits for the device."""
        self._progress.update(self._bar, completed=step, note=self._note)

    def note(self, text: str) -> None:
        """What takes long just now, behind the bar until it moves."""
        self._progress.update(self._bar, note=text)

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Says that a program is compiled inside, and afterwards how long that took."""
        self.say(f"compiling {what}")
        self.note(f"compiling {what}")
        began = time.monotonic()
        yield
        self.say(f"compiled {what} in {time.monotonic() - began:.1f} s")

    def begin_validation(self) -> None:
        """Says that a validation begins, and that the first one compiles a program for each task."""
        first = "" if self._validated else "; the first time, a program is compiled for each task"
        self.say(f"validating{first}")
        self._validation_mark = time.monotonic()

    def validating(self, task: str, done: int, count: int) -> None:
        """How far a validation is. The first time it comes to a task, it says how long the first batch took to compile."""
        self.note(f"validating {task} {done}/{count}")
        if task not in self._validated:
            self._validated.add(task)
            took = time.monotonic() - self._validation_mark
            self.say(f"validation of {task}: compiled and answered the first batch in {took:.1f} s")
        self._validation_mark = time.monotonic()

    def count(self, task: str, metrics: Mapping[str, jax.Array], *, timed: bool = True) -> None:
        """Takes the metrics of a step; never waits for the device. timed: it counts in the steps a second, as all steps do but
        those that compiled their program."""
        self._means.add(task, {name: value for name, value in metrics.items() if name not in COUNTERS})
        self._counters = {name: metrics[name] for name in COUNTERS if name in metrics}
        self._timed += timed

    def losses(self, step: int, flops: float) -> None:
        """Ends an interval with this step; `tell` writes its means once the device has the next step to do.

        flops: arithmetic of all timed steps of this process so far.
        """
        self._waiting = (step, self._means, self._counters, self._timed, flops)
        self._means, self._timed = RunningMeans(), 0

    def untold(self) -> dict[str, Any]:
        """The sums of the interval that has not ended yet, for the checkpoint. Waits for the device."""
        return self._means.state()

    def tell(self) -> None:
        """Writes a line of means for each task of the interval that waits; waits for the device to have computed them."""
        if self._waiting is None:
            return
        (step, means, counted, timed, flops), self._waiting = self._waiting, None
        told = means.compute()
        counters = {name: float(value) for name, value in counted.items()}
        seconds, (then, done) = self._timer.read(), self._last
        self._last = (seconds, flops)
        rates = self._rates(seconds, then, timed, flops - done)
        for task, values in told.items():
            line = {"kind": "train", "step": step, "task": task, **rates, **values, **counters, "seconds": seconds}
            self._write(line)
            for name, value in (values | counters).items():
                self._unless_refused(self._board.scalar, f"train/{task}/{name}", value, step)
        for name, value in rates.items():
            self._unless_refused(self._board.scalar, f"speed/{name}", value, step)
        self._note = "loss " + ", ".join(f"{values['loss']:.3f} ({task})" for task, values in told.items())
        self._note += f"  {rates['steps_per_second']:.2f} steps/s" if "steps_per_second" in rates else ""
        self._note += f"  MFU {100 * rates['mfu']:.1f} %" if "mfu" in rates else ""
        if not self._progress.console.is_terminal:  # one line an interval where no bar can be seen
            self.say(f"step {step}  {self._note}  {clock.told(seconds)}")
        self._look(step, counters)

    def _rates(self, seconds: Mapping[str, float], before: Mapping[str, float], timed: int, flops: float) -> dict[str, float]:
        """Of an interval: timed steps a second and MFU, where it had any, and the goodput of the whole run."""
        trained = max(sum(seconds[share] - before[share] for share in ("step", "data")), 1e-9)
        rates = {"goodput": clock.goodput(seconds)}
        if timed:
            rates["steps_per_second"] = timed / trained
            if (mfu := utilization(flops, trained, jax.devices())) is not None:
                rates["mfu"] = mfu
        return {name: round(value, 4) for name, value in rates.items()}

    def profile(self, step: int) -> None:
        """Begins a profile before its first step and ends it after its last one."""
        first, last = self._profiled
        if step == first:
            for folder in (self._folder / "plugins", self._folder / "plugins" / "profile"):  # where the profiler writes
                if told := _own_folder(folder):
                    self.say(told)
            jax.profiler.start_trace(self._folder)
            self._profiling = True
        if self._profiling and step == last + 1:
            jax.profiler.stop_trace()
            self._profiling = False
            self.say(f"profile of steps {first} to {last}: tensorboard --logdir {self._folder}")

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
        printing.log(self._progress.console, text)

    def _draw(self) -> None:
        try:
            plot_losses(sound_lines(self._path), self._plot, self._headlines)
        except UserError as error:
            self.say(str(error))

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
        self._events.write_event(
            Event(wall_time=time.time(), step=start + 1, session_log=SessionLog(status=SessionLog.SessionStatus.Value("START")))
        )
        self.flush()

    def scalar(self, name: str, value: float, step: int) -> None:
        from tensorboardX.summary import scalar

        self._events.write_event(self._event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        if time.monotonic() > self._flushed + 20:
            self.flush()

    def flush(self) -> None:
        self._events.flush()
        self._flushed = time.monotonic()


def sound_lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The sound lines of a metrics file, one after the other; one cut off by a kill is left out, as is all else that no run
    wrote."""
    return (line for line in _lines(path) if line is not None)


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """All of `sound_lines`, which take up to ten times as much memory as the file."""
    return list(sound_lines(path))


def _lines(path: pathlib.Path) -> Iterator[dict[str, Any] | None]:
    """One after the other; None for each that is not sound."""
    if not _is_log(path):
        return
    with path.open("rb") as file:
        goes_on = False
        for data in iter(lambda: file.readline(LINE), b""):
            if data.strip() and not goes_on:
                yield _line(data)
            goes_on = not data.endswith(b"\n")  # what is beyond LINE is left out


def _line(data: bytes) -> dict[str, Any] | None:
    """A line as a run writes it, else None."""
    try:
        line = strict_json.parse_any(data, "a line", finite=False)  # losses may be NaN
    except BadFile:
        return None
    if not isinstance(line, dict) or not all(printing.is_name(line.get(name)) for name in ("kind", "task")):
        return None
    others = [value for name, value in line.items() if name not in ("kind", "task", "seconds")]
    seconds = line.get("seconds", {})
    sound = (
        line["kind"] in ("train", "validation")
        and all(map(_is_number, others))
        and type(line.get("step")) is int
        and 0 <= line["step"] < 2**53
        and (line["kind"] != "train" or "loss" in line)
        and line.get("steps", 1) > 0
    )
    return line if sound and isinstance(seconds, dict) and all(map(_is_number, seconds.values())) else None


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value) or abs(value) < LARGEST_LOSS
    return isinstance(value, int) and abs(value) < 2**63


def seconds_lost(path: pathlib.Path, kept: Mapping[str, float]) -> float:
    """How long a run went on after its checkpoint, to no avail. kept: its seconds at the checkpoint."""
    told: Mapping[str, float] = kept
    for line in _lines(path):
        told = line.get("seconds", told) if line else told
    lost = sum(told.values()) - sum(kept.values())
    return max(0.0, lost) if math.isfinite(lost) else 0.0


def _is_log(path: pathlib.Path) -> bool:
    """Whether a file, which may lie in a bucket, can be a log: a link out of the workdir is none, nor is a pipe."""
    if not stores.is_url(os.fspath(path)):
        path = pathlib.Path(path)  # epath takes a pipe for a file
        try:
            paths.own(path)
        except BadFile:
            return False
    return path.is_file() and epath.Path(path).stat().length <= LARGEST


def _truncate(path: pathlib.Path, step: int) -> str:
    """Leaves the sound lines up to a step; what is no plain file of a plausible size is put aside. A line about what else was
    there, "" for nothing."""
    if not path.is_symlink() and not path.exists():
        return ""
    if not _is_log(path):
        return f"{paths.rename_damaged(path)}: was no log of metrics; a new one is begun"
    others = 0
    with atomic_file(path) as part, part.open("w") as file:
        for line in _lines(path):
            others += line is None
            if line and line["step"] <= step:
                file.write(json.dumps(line) + "\n")
    return f"{path}: {others} damaged lines are left out" if others > 1 else ""  # the last one may be cut off


def _own_folder(folder: pathlib.Path) -> str:
    """Puts aside what is no folder, or one out of the workdir; a line about it, "" for nothing."""
    with contextlib.suppress(BadFile):
        paths.own(folder)
        if folder.is_dir() or not os.path.lexists(folder):
            return ""
    return f"{paths.rename_damaged(folder)}: was no folder of this run; a new one is begun"
