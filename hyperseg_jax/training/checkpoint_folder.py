"""A folder of Orbax checkpoints: saved asynchronously and atomically on any number of hosts, and checked before Orbax opens
them."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import pathlib
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from orbax.checkpoint import v1 as ocp

from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts
from hyperseg_jax.training.orbax_messages import drop_task_messages
from hyperseg_jax.untrusted import checkpoints as untrusted
from hyperseg_jax.untrusted import paths, stores
from hyperseg_jax.untrusted.bad_file import BadFile, failure_reason
from hyperseg_jax.untrusted.checkpoint_arrays import CHUNK_BYTES, Arrays, check_arrays
from hyperseg_jax.untrusted.printing import escaped

# This module logs failed saves in one line each; the messages of Orbax are dropped.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)

PROBE, UNFINISHED = ".probe-", ".orbax-checkpoint-tmp"
RUN = "run"
"""The part of a checkpoint that is JSON; all other parts are trees of arrays."""
Log = Callable[[str], None]
Parts = dict[str, Any]
"""The content of a checkpoint: trees of arrays by name, and RUN."""


class CheckpointFolder:
    """A context manager around a folder of checkpoints by step: a path, or a bucket such as gs://name/run.

    keep: number of newest checkpoints to keep; None keeps all. best: whether to keep the one with the best score as well.
    log: receives a line for each failed save and each damaged checkpoint. seconds: timeout of a save, and of the barriers
    inside it. read_only: nothing is written, renamed or removed, because a run may still be writing to the folder.

    A save that fails on any host counts as failed on all hosts; training continues.
    """

    def __init__(
        self,
        folder: os.PathLike[str] | str,
        *,
        keep: int | None = None,
        best: bool = False,
        log: Log,
        seconds: float,
        read_only: bool = False,
    ) -> None:
        self._read_only = read_only
        self.path, self._keep, self._best, self._log, self._seconds = epath.Path(folder), keep, best, log, seconds
        self._remote = stores.is_url(os.fspath(self.path))  # a bucket has no links or pipes
        self._prepare_folder()
        self._checkpointer = self._open_checkpointer()
        self._closed = False  # True after a failed save, until the checkpointer is opened again
        self._pending: tuple[int, str] | None = None  # (step, error so far) of the save in progress
        self._failures = 0  # number of failed saves

    def _prepare_folder(self) -> None:
        """Cleans the folder on the primary host before Orbax opens it, see `_remove_leftovers`. Raises UserError on all hosts
        if the folder is a link that leads elsewhere, or if it has damaged checkpoints and no valid one."""
        failure = ""
        if hosts.is_primary():
            try:
                self._remove_leftovers()
            except (BadFile, OSError) as error:
                fix = error.fix if isinstance(error, BadFile) else "give another --workdir"
                failure = f"{self.path}: {_root_cause(error)}; {fix}"
        if failure := hosts.exchange("the folder of checkpoints", failure)[0]:
            raise UserError(failure)

    def _remove_leftovers(self) -> None:
        """Removes files of killed saves, and renames damaged checkpoints, which Orbax must not open. Raises BadFile if there
        are damaged checkpoints and no valid one, or if the folder is in a bucket and has damaged checkpoints."""
        if not self._remote:
            paths.check_link(pathlib.Path(self.path))
        if self._read_only:
            check_steps(self.path)
            return
        with contextlib.suppress(Exception):  # storage clients raise many types of errors
            for probe in self.path.glob(f"{PROBE}*"):
                probe.unlink()
        if self._remote:
            check_steps(self.path)
            return
        folder = pathlib.Path(self.path)
        invalid, valid = dict[pathlib.Path, str](), 0
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if UNFINISHED in path.name and (path.is_symlink() or not path.is_dir()):
                path.unlink()  # Orbax itself removes only folders
            elif untrusted.is_step_name(path.name):
                try:
                    untrusted.check_checkpoint(path)
                    valid += 1
                except (BadFile, OSError) as error:
                    invalid[path] = _root_cause(error)
        for path, why in invalid.items():
            if not valid:
                raise BadFile(
                    f"{escaped(path.name)} is not a readable checkpoint ({why}), and there is no other",
                    "remove it, or give another --workdir",
                )
            aside = paths.rename_damaged(path)
            self._log(
                f"{self.path}: {escaped(path.name)} is not a readable checkpoint ({why}); renamed to {escaped(aside.name)}"
            )

    def _open_checkpointer(self) -> ocp.training.Checkpointer:
        policies = ocp.training.preservation_policies
        preserved: list[Any] = [policies.LatestN(self._keep) if self._keep else policies.PreserveAll()]
        if self._best:
            # not a number, as of a validation without an object, is no score: it has no place in an order
            best_score = lambda metrics: -math.inf if math.isnan(metrics["best"]) else metrics["best"]
            preserved.append(policies.BestN(get_metric_fn=best_score, n=1, keep_checkpoints_without_metrics=False))
        drop_task_messages()
        context = ocp.Context()
        context.async_options.timeout_secs = int(self._seconds)
        # Otherwise each of n devices writes its own part of every replicated array, however small.
        context.array_options.saving.min_slice_bytes_for_replica_parallel = CHUNK_BYTES
        try:
            return ocp.training.Checkpointer(
                self.path if self._remote else self.path.absolute(),
                preservation_policy=policies.AnyPreservationPolicy(preserved),
                cleanup_tmp_directories=not self._read_only,
                context=context,
            )
        except (OSError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
            action = "written" if isinstance(error, OSError) else "read"
            raise UserError(f"{self.path}: cannot be {action} ({_root_cause(error)}); give another --workdir") from error

    def __enter__(self) -> CheckpointFolder:
        return self

    def __exit__(self, kind: Any, *exception: Any) -> None:
        if kind is None:
            self.finish_pending()
        with contextlib.suppress(Exception):  # a pending save of an aborted run may fail
            self._checkpointer.close()

    @property
    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, in ascending order."""
        return sorted(int(checkpoint.step) for checkpoint in self._checkpointer.checkpoints)

    def save(self, step: int, parts: Parts, *, score: float | None = None, wait: bool = False) -> str:
        """Starts a save. score: of this step, to find the best checkpoint.

        Returns the error of the previous save, or of this one if `wait`; "" if it succeeded.
        """
        previous_error = self.finish_pending()
        failure = hosts.combine_failures(f"the save of step {step}", self._write_probe())
        if not failure:
            try:
                if self._closed:
                    self._checkpointer, self._closed = self._open_checkpointer(), False
                # A checkpoint of this step is a torn one: a complete one would have been resumed from.
                torn = step in self.steps
                metrics = None if score is None else {"best": score}
                self._checkpointer.save_checkpointables_async(step, parts, force=True, overwrite=torn, metrics=metrics)
            except Exception as error:  # files, buckets and Orbax raise many types of errors
                failure = _root_cause(error)
        self._pending = step, failure
        return self.finish_pending() if wait else previous_error

    def _write_probe(self) -> str:
        """Checks on the primary host that the folder is writable, by writing and deleting a small file. Returns the error; ""
        if there is none, and on other hosts. Called before each save, because an Orbax save that fails on some hosts leaves the
        others waiting."""
        if not hosts.is_primary():
            return ""
        file = self.path / f"{PROBE}{uuid.uuid4().hex}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file.write_text("write test\n")
            file.unlink()
        except Exception as error:  # storage clients raise many types of errors
            return _root_cause(error)
        return ""

    @property
    def pending_error(self) -> str:
        """The error with which the pending save could not be started, "" if there is none."""
        return self._pending[1] if self._pending is not None else ""

    def finish_pending(self) -> str:
        """Waits for the pending save, if any, and returns its error, "" if there is none."""
        if self._pending is None:
            return ""
        (step, failure), self._pending = self._pending, None
        if not failure:
            try:
                self._checkpointer.wait()
            except Exception as error:  # as above
                failure = _root_cause(error)
        # If the save failed on one host, the others first run into the timeouts of Orbax's barriers, one after the other.
        failure = hosts.combine_failures(f"the end of the save of step {step}", failure, seconds=4 * self._seconds)
        if failure:
            self.report_failed_save(step, failure)
            if hosts.is_primary():
                self._remove_failed_save(step)
        return failure

    def report_failed_save(self, step: int, failure: str) -> None:
        """Counts and logs a failed save, and closes the checkpointer until the next save."""
        self._failures += 1
        self._log(
            f"{self.path}: the save of step {step} failed ({failure}); {self._failures} failed so far, "
            f"training continues; free disk space or fix the folder"
        )
        with contextlib.suppress(Exception):
            self._checkpointer.close()
        self._closed = True

    def _remove_failed_save(self, step: int) -> None:
        """Removes the files of a failed save. Orbax would remove them during the next save, which then fails. Repeats for up to
        thirty seconds, because other parts of the failed save may still be being written."""
        checks_without_files = 0
        for _ in range(300):
            leftovers = list(self.path.glob(f"{step}{UNFINISHED}*"))
            checks_without_files = 0 if leftovers else checks_without_files + 1
            if checks_without_files == 3:
                break
            for path in leftovers:
                with contextlib.suppress(Exception):
                    path.rmtree()
            time.sleep(0.1)

    def load(self, step: int, abstract: Mapping[str, Any]) -> tuple[Parts, str]:
        """Returns parts of a checkpoint, and the error of any host that cannot read them, "" if there is none. The error is the
        same on all hosts.

        abstract: shapes and shardings of the parts to load, by name. RUN is loaded as well.
        """
        loaded = Parts()
        if failure := compare_arrays(self.path / str(step), abstract):
            return loaded, failure
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
                loaded = self._load_arrays(step, {**abstract, RUN: None})
        except Exception as error:  # as above
            failure = _root_cause(error)
        if failure := hosts.combine_failures(f"reading step {step}", failure):
            return loaded, failure
        arrays = [loaded[name] for name in abstract]
        if arrays and not jax.device_get(_are_finite(*arrays)):
            failure = "it contains non-finite numbers, so the training diverged"
        return loaded, failure

    def _load_arrays(self, step: int, abstract: Mapping[str, Any]) -> Parts:
        """Loads parts of a checkpoint with Orbax. Raises BadFile with the root cause if that fails."""
        try:
            return dict(self._checkpointer.load_checkpointables(step, dict(abstract)))
        except Exception as error:  # as above
            cause = _root_cause(error)
        gc.collect()  # frees the asyncio tasks of the failed load, which the error no longer references
        raise BadFile(cause)


def check_steps(folder: epath.Path) -> None:
    """Raises BadFile if a folder has a damaged checkpoint, which Orbax must not open. Writes nothing."""
    try:
        steps = [path for path in folder.iterdir() if untrusted.is_step_name(path.name)]
    except Exception:  # as above; Orbax reports the error or creates the folder
        return
    for path in sorted(steps):
        try:
            untrusted.check_checkpoint(path)
        except FileNotFoundError:  # a run that uses the folder has removed an old checkpoint in the meantime
            continue
        except Exception as error:  # as above
            why = f"{escaped(path.name)} is not a readable checkpoint ({_root_cause(error)})"
            raise BadFile(why, "remove it, or give another --workdir") from error


def find_damage(folder: epath.Path, *, step: int | None = None) -> str:
    """Returns why Orbax must not open a folder of checkpoints, "" if there is no reason. Writes nothing. step: of a checkpoint
    that must exist; None: the folder may be missing."""
    try:
        is_local = not stores.is_url(os.fspath(folder)) and os.path.lexists(folder)
        if is_local and not paths.check_link(pathlib.Path(folder)).is_dir():
            raise BadFile("is not a folder")
        check_steps(folder)
        if step is not None and not (folder / str(step)).is_dir():
            raise BadFile(f"{step} does not exist")
    except Exception as error:  # as above
        return _root_cause(error)
    return ""


def move_damaged(folder: epath.Path, log: Log) -> None:
    """Renames a folder that Orbax must not open although its checkpoints will be replaced, and logs a line. All hosts must call
    it. Raises UserError if it cannot be renamed, or is in a bucket."""
    failure = ""
    if hosts.is_primary() and (why := find_damage(folder)):
        failure = f"{folder}: {why}; remove it, or give another --workdir"
        if not stores.is_url(os.fspath(folder)):
            try:
                log(f"{folder}: {why}; renamed to {paths.rename_damaged(pathlib.Path(folder)).name}")
                failure = ""
            except OSError as error:
                failure = f"{folder}: {why}, and cannot be renamed ({error.strerror}); give another --workdir"
    if failure := hosts.exchange(f"the folder {folder.name}", failure)[0]:
        raise UserError(failure)


def compare_arrays(checkpoint: epath.Path, abstract: Mapping[str, Any]) -> str:
    """Compares the names, shapes and types of the arrays of a checkpoint with those of the parts `abstract`, by name. Writes
    nothing. Returns the difference, which is the same on all hosts, "" if there is none."""
    failure = ""
    try:
        if hosts.is_primary():
            check_arrays(checkpoint, {name: _saved_array_specs(part) for name, part in abstract.items()})
    except Exception as error:  # damaged files raise many types of errors
        failure = _root_cause(error)
    return hosts.exchange(f"the arrays of step {checkpoint.name}", failure)[0]


def _root_cause(error: BaseException) -> str:
    """Returns the message of the root cause of an exception: the last __cause__ in the chain, or the first BadFile before
    it."""
    while error.__cause__ is not None and not isinstance(error, BadFile):
        error = error.__cause__
    return failure_reason(error)


@jax.jit
def _are_finite(*parts: Any) -> jax.Array:
    """Returns whether all floating-point numbers are finite."""
    leaves = [leaf for leaf in jax.tree.leaves(parts) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _saved_array_specs(tree: Any) -> Arrays:
    """Returns the shapes and types in which Orbax saves the arrays of a part, by path. A typed key is saved as its raw data."""
    raw = lambda x: jax.eval_shape(jax.random.key_data, x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    path = lambda keys: tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)
    leaves = ((path(keys), raw(x)) for keys, x in jax.tree_util.tree_leaves_with_path(tree))
    return {name: (tuple(x.shape), x.dtype.name) for name, x in leaves}
