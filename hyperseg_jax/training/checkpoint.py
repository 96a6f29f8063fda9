"""Checkpoints: parameters, train state and run metadata. Frozen parameters, which never change, are saved once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from hyperseg_jax.data.mixture import MAX_ELEMENTS
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts
from hyperseg_jax.tables import flatten
from hyperseg_jax.training.checkpoint_folder import CheckpointFolder, Log, compare_arrays, find_damage, move_damaged
from hyperseg_jax.training.clock import SHARES, is_seconds
from hyperseg_jax.training.state import TrainState
from hyperseg_jax.untrusted.printing import is_name

T = TypeVar("T")
FORMAT = 3
FORMATS = (1, 2, FORMAT)
"""Checkpoints of format 1 contain the frozen parameters; since format 3, their parameters contain the step."""
FLOAT32 = float(np.finfo(np.float32).max)
MAX_SUMS = 10_000
"""Maximum number of sums of metrics, of all tasks together."""
FROZEN = "frozen"
"""The folder of the frozen parameters, below that of the checkpoints, with one checkpoint of step 0."""
MODEL_SECONDS = 6 * 3600
"""Timeout of writing most or all parameters of a model. A process that fails in the meantime is noticed by the heartbeats."""


class Checkpoints:
    """A context manager around the folder of checkpoints of one run: a path, or a bucket such as gs://name/run.

    keep: number of newest checkpoints to keep, in addition to the best one by the score `best` ("referring/ciou"; empty: none).
    batch_size: of the run, to check the position in the data; None: not checked. log, seconds, read_only: see CheckpointFolder.

    The frozen parameters are saved once, to a folder of their own. Each checkpoint has their content hash, which is checked
    when it is restored.
    """

    def __init__(
        self,
        folder: os.PathLike[str] | str,
        *,
        keep: int = 2,
        best: str = "",
        batch_size: int | None = None,
        log: Log = print,
        seconds: float = 1200,
        read_only: bool = False,
    ) -> None:
        self._batch_size = batch_size
        self._best, self._log, self._seconds = best, log, seconds
        self._steps = CheckpointFolder(folder, keep=keep, best=bool(best), log=log, seconds=seconds, read_only=read_only)
        self._frozen_hash = ""  # of the saved frozen parameters of this run
        self._frozen_folder: CheckpointFolder | None = None  # while they are saved
        self._frozen_error: str | None = None  # with which that save could not start; None without a save

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._frozen_folder is not None:
            self._frozen_folder.__exit__(*exception)
        self._steps.__exit__(*exception)

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, None if there is none."""
        return max(self._steps.steps, default=None)

    def save(
        self,
        state: TrainState,
        run: dict[str, Any],
        *,
        scores: Mapping[str, Mapping[str, float]] | None = None,
        wait: bool = False,
    ) -> str:
        """Starts a save. run: JSON metadata, including the data position. scores: validation scores of this step, by task.

        Returns the error of the previous save, or of this one if `wait`; "" if it succeeded.
        """
        score = find_score(scores, self._best) if scores and self._best else None
        if failure := self._save_frozen(state.frozen):
            self._steps.report_failed_save(int(state.step), failure)
            return failure
        parts = {
            "params": _params_part(state, FORMAT),
            "train": _train_part(state),
            "run": {**run, "format": FORMAT, "frozen": self._frozen_hash},
        }
        return self._steps.save(int(state.step), parts, score=score, wait=wait)

    def start_saving_frozen(self, frozen: Any) -> None:
        """Starts to save the frozen parameters, unless this run has already saved or restored them. Training does not wait; the
        first checkpoint does, and repeats a save that failed. What is damaged in their folder is of no run, and is renamed.
        Raises UserError if that is not possible."""
        if frozen and not self._frozen_hash and self._frozen_error is None:
            move_damaged(self._steps.path / FROZEN, self._log)
            self._start_frozen(frozen)
            if self._frozen_error:
                self._log_early_failure(self._frozen_error)

    def _log_early_failure(self, failure: str) -> None:
        where = self._steps.path / FROZEN
        self._log(f"{where}: the early save of the frozen parameters failed ({failure}); the first checkpoint repeats it")

    def _save_frozen(self, frozen: Any) -> str:
        """Saves the frozen parameters and waits for them, or for the save that was started earlier; if that one failed, saves
        again. Returns the error of any host, "" if there is none."""
        if self._frozen_hash:
            return ""
        failure, early_error = "", self._frozen_error
        if early_error is not None and (failure := self._finish_frozen()) and not early_error:
            self._log_early_failure(failure)
        if frozen and (failure or early_error is None):
            self._start_frozen(frozen)
            failure = self._finish_frozen()
        if failure:
            return f"the frozen parameters: {failure}"
        self._frozen_hash = content_hash(frozen)
        return ""

    def _start_frozen(self, frozen: Any) -> None:
        """Starts a save of the frozen parameters."""
        try:
            self._frozen_folder = CheckpointFolder(self._steps.path / FROZEN, log=lambda _: None, seconds=MODEL_SECONDS)
            self._frozen_folder.save(0, {"params": frozen, "run": {"format": FORMAT}})
            self._frozen_error = self._frozen_folder.pending_error
        except UserError as error:
            self._frozen_error = str(error)

    def _finish_frozen(self) -> str:
        """Waits for the started save of the frozen parameters. Returns the error of any host, "" if it succeeded."""
        failure, self._frozen_error = self._frozen_error or "", None
        if self._frozen_folder is not None:
            with self._frozen_folder as folder:
                failure = folder.finish_pending() or failure
            self._frozen_folder = None
        return hosts.combine_failures("the save of the frozen parameters", failure)

    def restore(self, state: TrainState, *, step: int | None = None) -> tuple[TrainState, dict[str, Any]]:
        """Restores the newest checkpoint that all hosts can read completely, or that of `step`. state: gives the shapes and
        shardings; abstract arrays suffice. Returns the restored state and the run metadata of the checkpoint, which may have
        been saved on any mesh and any number of hosts. Raises UserError if no checkpoint fits."""
        return self._newest_that_fits(lambda candidate: self._restore_step(state, candidate), step)

    def check_newest(self, state: TrainState) -> tuple[int, dict[str, Any]]:
        """Returns the step and the run metadata of the newest checkpoint whose arrays have the names, shapes and types of
        `state`. Their values are not read. Raises UserError if no checkpoint fits."""
        return self._newest_that_fits(lambda candidate: self._check_step(state, candidate))

    def _newest_that_fits(self, read: Callable[[int], tuple[T | None, str]], step: int | None = None) -> T:
        """Returns the first result of read(candidate) -> (result, error), from the newest step to the oldest, or that of
        `step`."""
        reason, steps = "", self._steps.steps
        if step is not None and step not in steps:
            raise UserError(
                f"{self._steps.path}: has no complete checkpoint of step {step}; use one of {', '.join(map(str, steps))}"
            )
        for candidate in reversed(steps) if step is None else (step,):
            result, failure = read(candidate)
            if result is not None:
                return result
            reason = reason or f"step {candidate}: {failure}"
            if step is None:
                where = self._steps.path / str(candidate)
                self._log(f"{where}: cannot be read completely, trying the previous one ({failure})")
        raise UserError(
            f"{self._steps.path}: no checkpoint fits this config and can be read completely ({reason}); "
            "use the config it was trained with, or another --workdir"
        )

    def _read_run(self, step: int) -> tuple[dict[str, Any] | None, str]:
        """Returns the run metadata of a checkpoint, or None and the reason why it cannot be read."""
        loaded, failure = self._steps.load(step, {})
        if failure:
            return None, failure
        run = loaded["run"]
        try:
            check_run_metadata(run)
        except ValueError as error:
            return None, str(error)
        if run["format"] not in FORMATS:
            raise UserError(
                f"{self._steps.path / str(step)}: has format {run['format']}, but this version reads format {FORMAT}; use the "
                "version that saved it, or another --workdir"
            )
        if self._batch_size is not None and run["global_next_index"] != (expected := step * self._batch_size):
            return None, f"its position in the data is {run['global_next_index']}, but its steps end at {expected}"
        return run, ""

    def _check_step(self, state: TrainState, step: int) -> tuple[tuple[int, dict[str, Any]] | None, str]:
        """Returns the step and the run metadata of a checkpoint, or None and how its arrays differ from `state`."""
        run, failure = self._read_run(step)
        if run is None:
            return None, failure
        failure = compare_arrays(self._steps.path / str(step), _abstract_parts(state, run["format"]))
        if not failure and state.frozen and run["format"] != 1:
            where = self._steps.path / FROZEN / "0"
            if failure := self._find_frozen_damage() or compare_arrays(where, {"params": state.frozen}):
                failure = f"the frozen parameters in {where}: {failure}"
        return (None, failure) if failure else ((step, run), "")

    def _restore_step(self, state: TrainState, step: int) -> tuple[tuple[TrainState, dict[str, Any]] | None, str]:
        """Returns the state and the run metadata of a checkpoint, or None and the reason why it cannot be read."""
        run, failure = self._read_run(step)
        if run is None:
            return None, failure
        loaded, failure = self._steps.load(step, _abstract_parts(state, run["format"]))
        if failure:
            return None, failure
        params, train = loaded["params"], loaded["train"]
        steps = train["step"], params.pop("step", train["step"])
        if others := {int(saved) for saved in jax.device_get(steps)} - {step}:
            return None, f"it contains step {min(others)}"
        if run["format"] != 1:
            params["frozen"], failure = self._restore_frozen(state.frozen, run["frozen"])
            if failure:
                return None, failure
        # The sharding of a restored key is P(None) instead of P(), which would recompile the step.
        train["key"] = jax.device_put(train["key"], state.key.sharding)
        bad = _replicate_like(run.get("bad", 0), state.bad)  # older checkpoints have no count
        return (state.replace(**params, **train, bad=bad), run), ""

    def _restore_frozen(self, frozen: Any, expected: str) -> tuple[Any, str]:
        """Returns the frozen parameters, and the error if they cannot be read or do not have the expected content hash. frozen:
        their shapes and shardings."""
        where = self._steps.path / FROZEN / "0"
        params = frozen
        if frozen:
            loaded = dict[str, Any]()
            if not (failure := self._find_frozen_damage()):  # else Orbax would create a missing folder
                options: dict[str, Any] = {"log": self._log, "seconds": self._seconds, "read_only": True}
                with CheckpointFolder(self._steps.path / FROZEN, **options) as folder:
                    loaded, failure = folder.load(0, {"params": jax.tree.map(_abstract_array, frozen)})
            if failure:
                return None, f"the frozen parameters in {where} cannot be read: {failure}; restore that folder"
            params = loaded["params"]
        if (content := content_hash(params)) != expected:
            return None, f"the frozen parameters in {where} are not those of this run; restore that folder"
        self._frozen_hash = content
        return params, ""

    def _find_frozen_damage(self) -> str:
        """Returns why the frozen parameters cannot be restored, "" if their folder can be opened; the same on all hosts."""
        failure = find_damage(self._steps.path / FROZEN, step=0) if hosts.is_primary() else ""
        return hosts.exchange("the folder of the frozen parameters", failure)[0]


def content_hash(params: Any) -> str:
    """Returns a hash of the names, types, shapes and values of parameters. It is the same on any mesh and number of hosts.

    It detects damaged and mixed-up files; it is no protection against deliberate changes.
    """
    leaves = flatten(params)
    sums = jax.device_get(_sum_values(leaves)) if leaves else {}
    lines = [f"{path} {leaf.dtype} {leaf.shape} {int(sums[path])}" for path, leaf in sorted(leaves.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@jax.jit
def _sum_values(leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the sum of the bits of each array, weighted by a hash of the position, modulo 2^32. Integers add up to the same
    sum in any order."""

    def weighted_sum(leaf: jax.Array) -> jax.Array:
        bits = (
            leaf
            if jnp.issubdtype(leaf.dtype, jnp.integer)
            else jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize])
        )
        position = jnp.zeros((), jnp.uint32)
        for axis, size in enumerate(leaf.shape):
            position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        weight = (position ^ (position >> 16)) * jnp.uint32(0x85EBCA6B) + jnp.uint32(0x9E3779B9)  # the mixing of MurmurHash3
        weight = (weight ^ (weight >> 13)) * jnp.uint32(0xC2B2AE35)
        weight = weight ^ (weight >> 16)
        return jnp.sum(bits.astype(jnp.uint32) * (2 * weight + 1), dtype=jnp.uint32)

    return {path: weighted_sum(leaf) for path, leaf in leaves.items()}


_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def check_run_metadata(run: Any) -> None:
    """Raises ValueError if the run metadata of a checkpoint has invalid fields, so that no version of this package wrote it.
    The fields of an unknown format are not checked."""
    is_integer = lambda value: type(value) is int and 0 <= value < 2**62
    is_count = lambda value: is_integer(value) and value <= MAX_ELEMENTS
    if not isinstance(run, dict) or not is_integer(run.get("format")):
        raise ValueError("its run metadata has no valid format")
    if run["format"] not in FORMATS:
        return  # restore() reports the unknown format
    if run["format"] != 1 and not is_name(run.get("frozen")):
        raise ValueError("its run metadata has no valid hash of the frozen parameters")
    seconds, pending_sums = run.get("seconds", {}), run.get("untold")
    position: Any = run.get("global_next_index")
    if not is_count(position) or not is_count(run.get("bad", 0)) or run.get("bad", 0) > position:
        raise ValueError("its run metadata has no valid position in the data")
    records = run.get("records", {})  # older checkpoints have none
    if not isinstance(records, dict) or not all(is_name(name) and is_integer(count) for name, count in records.items()):
        raise ValueError("its run metadata has no valid number of records")
    if not isinstance(seconds, dict) or not all(k in SHARES and is_seconds(value) for k, value in seconds.items()):
        raise ValueError("its run metadata has no valid seconds by category")
    # None of these numbers exceeds the position, which is bounded, so those that the run adds to are valid as well.
    if pending_sums is not None and not (
        isinstance(pending_sums, dict)
        and all(_is_task_sums(*item, most_steps=position) for item in pending_sums.items())
        and sum(len(saved["sums"]) for saved in pending_sums.values()) <= MAX_SUMS
    ):
        raise ValueError("its run metadata has no valid sums of metrics")


def _is_task_sums(task: Any, saved: Any, *, most_steps: int) -> bool:
    """Returns whether `saved` can be the state of a task in means.RunningMeans after up to `most_steps` steps."""
    if not isinstance(saved, dict) or type(saved.get("steps")) is not int or not isinstance(saved.get("sums"), dict):
        return False
    is_number = lambda value: type(value) in (int, float) and not FLOAT32 < abs(value) < np.inf  # a sum may overflow
    is_pair = lambda value: (
        isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and 0 <= value[1] <= saved["steps"]
    )
    return (
        0 <= saved["steps"] <= most_steps
        and all(map(is_name, (task, *saved["sums"])))
        and "loss" in saved["sums"]
        and not saved["sums"].keys() & {"kind", "task", "step", "steps", "seconds"}  # reserved names of a log line
        and all(map(is_pair, saved["sums"].values()))
    )


def find_score(scores: Mapping[str, Mapping[str, float]], name: str) -> float:
    """Returns the score with this name, "task/metric". Raises UserError if the validation has no such score."""
    task, _, metric = name.partition("/")
    if metric not in scores.get(task, {}):
        known = ", ".join(f"{scored}/{metric}" for scored in scores for metric in scores[scored])
        raise UserError(f"train.best = {name!r}: not a validation score; use one of {known}")
    return float(scores[task][metric])


def _params_part(state: TrainState, format: int) -> dict[str, Any]:
    """Returns the fields that are saved as the part `params` in this format."""
    more = {1: {"frozen": state.frozen}, 2: {}, FORMAT: {"step": state.step}}
    return {"trainable": state.trainable, **more[format]}


def _train_part(state: TrainState) -> dict[str, Any]:
    """Returns the fields that are saved as the part `train`: all but the parameters."""
    return {
        "optimizer": state.optimizer,
        "average": state.average,
        "step": state.step,
        "skipped": state.skipped,
        "key": state.key,
    }


def _abstract_parts(state: TrainState, format: int) -> dict[str, Any]:
    """Returns the shapes, types and shardings of the arrays in a checkpoint of this format, by part."""
    return jax.tree.map(_abstract_array, {"params": _params_part(state, format), "train": _train_part(state)})


def _replicate_like(count: int, like: jax.Array) -> jax.Array:
    """Returns an integer as an array with the sharding and type of `like`."""
    return jax.make_array_from_callback((), like.sharding, lambda _: np.asarray(count, like.dtype))


def _abstract_array(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
