"""Checkpoints: parameters, train state and run facts, saved asynchronously and atomically by Orbax v1, from any number of
hosts."""

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import os
import pathlib
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts
from hyperseg_jax.training.clock import SHARES
from hyperseg_jax.training.state import TrainState
from hyperseg_jax.untrusted import checkpoints as untrusted
from hyperseg_jax.untrusted import paths, stores
from hyperseg_jax.untrusted.bad_file import BadFile, reason
from hyperseg_jax.untrusted.checkpoint_arrays import Arrays, check_arrays
from hyperseg_jax.untrusted.printing import is_name, shown

# Of saves that wait or fail it is told here in one line, if at all; Orbax has lines of its own.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)

FORMAT = 1
FLOAT32 = float(np.finfo(np.float32).max)
PROBE, UNFINISHED = ".probe-", ".orbax-checkpoint-tmp"
Say = Callable[[str], None]


class Checkpoints:
    """A context manager around the folder of checkpoints of one run: a path, or a bucket such as gs://name/run.

    keep: so many of the newest stay, and the one that is best by the score `best` ("referring/ciou"; none by default). say:
    takes a line about each save that fails and each checkpoint that is passed over. seconds: how long a save may take, and
    how long hosts wait for each other in it.

    A save that fails on any host counts as failed on all; the run goes on to the next one.
    """

    def __init__(
        self, folder: os.PathLike[str] | str, *, keep: int = 2, best: str = "", say: Say = print, seconds: float = 1200
    ) -> None:
        self._folder, self._keep, self._best, self._say, self._seconds = epath.Path(folder), keep, best, say, seconds
        self._remote = stores.is_url(os.fspath(self._folder))  # where no links and pipes are
        self._look()
        self._checkpointer = self._open()
        self._closed = False  # after a save that failed, until the folder can be written
        self._under_way: tuple[int, str] | None = None  # step, and why it has failed already
        self.failed: list[str] = []

    def _look(self) -> None:
        """UserError, on all hosts, where the folder leads elsewhere, or none of its checkpoints may be opened."""
        failure = ""
        if hosts.leads():
            try:
                self._clean()
            except (BadFile, OSError) as error:
                fix = error.fix if isinstance(error, BadFile) else "give another --workdir"
                failure = f"{self._folder}: {_cause(error)}; {fix}"
        if failure := hosts.exchange("the folder of checkpoints", failure)[0]:
            raise UserError(failure)

    def _clean(self) -> None:
        """Removes what killed saves left, and puts aside what Orbax must not open. BadFile where no checkpoint is left."""
        if not self._remote:
            paths.own(pathlib.Path(self._folder))
        with contextlib.suppress(Exception):  # a store's client raises what it likes
            for probe in self._folder.glob(f"{PROBE}*"):
                probe.unlink()
        if self._remote:
            self._check_remote()
            return
        home = pathlib.Path(self._folder)
        bad, sound = dict[pathlib.Path, str](), 0
        for path in sorted(home.iterdir()) if home.is_dir() else ():
            if UNFINISHED in path.name and (path.is_symlink() or not path.is_dir()):
                path.unlink()  # Orbax removes the folders
            elif untrusted.is_step_name(path.name):
                try:
                    untrusted.check(path)
                    sound += 1
                except (BadFile, OSError) as error:
                    bad[path] = _cause(error)
        for path, why in bad.items():
            if not sound:
                raise BadFile(
                    f"{shown(path.name)} is no checkpoint that can be opened ({why}), and there is no other",
                    "remove it, or give another --workdir",
                )
            aside = paths.rename_damaged(path)
            self._say(
                f"{self._folder}: {shown(path.name)} is no checkpoint that can be opened ({why}); it is now {shown(aside.name)}"
            )

    def _check_remote(self) -> None:
        """BadFile where Orbax must not open a checkpoint of a bucket, in which nothing is renamed."""
        try:
            steps = [path for path in self._folder.iterdir() if untrusted.is_step_name(path.name)]
        except Exception:  # as above; Orbax tells, or makes the folder
            return
        for path in sorted(steps):
            try:
                untrusted.check(path)
            except Exception as error:  # as above
                why = f"{shown(path.name)} is no checkpoint that can be opened ({_cause(error)})"
                raise BadFile(why, "remove it, or give another --workdir") from error

    def _open(self) -> ocp.training.Checkpointer:
        policies = ocp.training.preservation_policies
        kept: list[Any] = [policies.LatestN(self._keep)]
        if self._best:
            best_one = lambda metrics: metrics["best"]
            kept.append(policies.BestN(get_metric_fn=best_one, n=1, keep_checkpoints_without_metrics=False))
        context = ocp.Context()
        context.async_options.timeout_secs = int(self._seconds)
        try:
            return ocp.training.Checkpointer(
                self._folder if self._remote else self._folder.absolute(),
                preservation_policy=policies.AnyPreservationPolicy(kept),
                cleanup_tmp_directories=True,
                context=context,
            )
        except (OSError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
            wanted = "written" if isinstance(error, OSError) else "read"
            raise UserError(f"{self._folder}: cannot be {wanted} ({_cause(error)}); give another --workdir") from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, *exception: Any) -> None:
        if kind is None:
            self._settle()
        with contextlib.suppress(Exception):  # what is still under way is of a run that is broken off
            self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else int(newest.step)

    def save(
        self,
        state: TrainState,
        run: dict[str, Any],
        *,
        scores: Mapping[str, Mapping[str, float]] | None = None,
        wait: bool = False,
    ) -> str:
        """Starts to save; `run` holds JSON facts, the data position among them; scores: of this step's validation, by task.

        Returns why the save before this one has failed, with wait: why this one has; "" where it has not.
        """
        before = self._settle()
        step = int(state.step)
        failure = hosts.agree(f"the save of step {step}", self._probe())
        if not failure:
            parts: dict[str, Any] = {
                "params": {"trainable": state.trainable, "frozen": state.frozen},
                "train": _train_part(state),
            }
            parts["run"] = {"format": FORMAT, **run}
            metrics = {"best": best_of(scores, self._best)} if scores and self._best else None
            try:
                if self._closed:
                    self._checkpointer, self._closed = self._open(), False
                torn = any(found.step == step for found in self._checkpointer.checkpoints)  # else the run would be past it
                self._checkpointer.save_checkpointables_async(step, parts, force=True, overwrite=torn, metrics=metrics)
            except Exception as error:  # files, stores and Orbax fail in many ways
                failure = _cause(error)
        self._under_way = step, failure
        return self._settle() if wait else before

    def _probe(self) -> str:
        """What keeps a file from being written just now. Asked before a save begins: Orbax fails on some hosts only."""
        if not hosts.leads():
            return ""
        file = self._folder / f"{PROBE}{uuid.uuid4().hex}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file.write_text("a save begins\n")
            file.unlink()
        except Exception as error:  # a store's client raises what it likes
            return _cause(error)
        return ""

    def _settle(self) -> str:
        """Waits for the save under way, if one is, and tells its failure."""
        if self._under_way is None:
            return ""
        (step, failure), self._under_way = self._under_way, None
        if not failure:
            try:
                self._checkpointer.wait()
            except Exception as error:  # as above
                failure = _cause(error)
        # Where it failed on one host, the others wait for it at Orbax's barriers first, one after the other.
        failure = hosts.agree(f"the end of the save of step {step}", failure, seconds=4 * self._seconds)
        if failure:
            self.failed.append(f"step {step}: {failure}")
            self._say(
                f"{self._folder}: the save of step {step} failed ({failure}); {len(self.failed)} failed so far, "
                f"training goes on; free space or mend the folder"
            )
            with contextlib.suppress(Exception):
                self._checkpointer.close()
            self._closed = True
            if hosts.leads():
                self._clear(step)
        return failure

    def _clear(self, step: int) -> None:
        """Removes what a failed save leaves. Orbax would while the next save begins, and fail it; and where one part of a save
        has failed, others are still written for a moment."""
        gone = 0
        for _ in range(50):
            left = list(self._folder.glob(f"{step}{UNFINISHED}*"))
            gone = 0 if left else gone + 1
            if gone == 3:
                break
            for path in left:
                with contextlib.suppress(Exception):
                    path.rmtree()
            time.sleep(0.1)

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint that all hosts read whole, in the shapes and placement of `state` (which needs no values), and
        its run facts. It may have been saved on any mesh, by any number of hosts. UserError where none fits."""
        parts = {"params": {"trainable": state.trainable, "frozen": state.frozen}, "train": _train_part(state)}
        abstract = jax.tree.map(_abstract, parts)
        reason = ""
        for kept in reversed(self._checkpointer.checkpoints):
            found, failure = self._read(kept.step, epath.Path(kept.path), abstract)
            if failure:
                reason = reason or f"step {kept.step}: {failure}"
                self._say(f"{kept.path}: cannot be read whole, trying the one before ({failure})")
                continue
            if found["run"]["format"] != FORMAT:
                raise UserError(f"{kept.path}: format {found['run']['format']}, this version reads {FORMAT}")
            train = found["train"]
            # A restored key spells its placement otherwise (P(None) for P()), which would compile the step again.
            train["key"] = jax.device_put(train["key"], state.key.sharding)
            bad = _everywhere(found["run"].get("bad", 0), state.bad)  # older checkpoints do not count
            return state.replace(
                **found["params"],
                optimizer=train["optimizer"],
                average=train["average"],
                bad=bad,
                step=train["step"],
                skipped=train["skipped"],
                key=train["key"],
            ), found["run"]
        raise UserError(
            f"{self._checkpointer.directory}: no checkpoint fits this config or can be read whole ({reason}); "
            "use the config it was trained with, or another --workdir"
        )

    def _read(self, step: int, path: epath.Path, abstract: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """What a checkpoint holds, and what keeps any host from reading it, "" for nothing; the same on all."""
        found, failure = dict[str, Any](), ""
        try:
            if hosts.leads():
                check_arrays(path, {name: _arrays(part) for name, part in abstract.items()})
        except Exception as error:  # a torn file shows itself in many ways
            failure = _cause(error)
        if failure := hosts.exchange(f"the arrays of step {step}", failure)[0]:
            return found, failure
        try:
            with _unheard():
                found = self._load(step, {**abstract, "run": None})
            check_facts(found["run"])
        except Exception as error:  # as above
            failure = _cause(error)
        if failure := hosts.agree(f"reading step {step}", failure):
            return found, failure
        held, finite = jax.device_get((found["train"]["step"], _are_finite(found["params"], found["train"])))
        if int(held) != step:
            failure = f"it holds step {int(held)}"
        elif not finite:
            failure = "it has numbers that are not finite, so the training diverged"
        return found, failure

    def _load(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        try:
            return dict(self._checkpointer.load_checkpointables(step, abstract))
        except Exception as error:  # as above
            cause = _cause(error)
        gc.collect()  # the tasks that it leaves behind, now that no error refers to them
        raise BadFile(cause)


def check_facts(run: Any) -> None:
    """ValueError for run facts that no run of any version saved."""
    whole = lambda value: type(value) is int and 0 <= value < 2**62
    counted = lambda value: whole(value) and value < 2**31 - 1
    if not isinstance(run, dict) or not whole(run.get("format")):
        raise ValueError("its run facts have no format")
    if run["format"] != FORMAT:
        return  # told by whoever asks
    seconds, untold = run.get("seconds", {}), run.get("untold")
    if not counted(run.get("global_next_index")) or not counted(run.get("bad", 0)):
        raise ValueError("its run facts have no position in the data")
    number = lambda value: type(value) in (int, float) and 0 <= value < 2**53
    if not isinstance(seconds, dict) or not all(k in SHARES and number(value) for k, value in seconds.items()):
        raise ValueError("its run facts have no times")
    if not (untold is None or (isinstance(untold, dict) and all(_is_of_interval(*item) for item in untold.items()))):
        raise ValueError("its run facts have no sums of the interval")


def _is_of_interval(task: Any, held: Any) -> bool:
    """Whether these may be the sums of a task (means.RunningMeans)."""
    if not isinstance(held, dict) or type(held.get("steps")) is not int or not isinstance(held.get("sums"), dict):
        return False
    number = lambda value: type(value) in (int, float) and not FLOAT32 < abs(value) < np.inf  # a sum may overflow
    pair = lambda value: (
        isinstance(value, list) and len(value) == 2 and all(map(number, value)) and 0 <= value[1] <= held["steps"]
    )
    return (
        0 <= held["steps"] < 2**31
        and all(map(is_name, (task, *held["sums"])))
        and "loss" in held["sums"]
        and not held["sums"].keys() & {"kind", "task", "step", "steps", "seconds"}  # which a line of the log has as well
        and all(map(pair, held["sums"].values()))
    )


def _cause(error: BaseException) -> str:
    """Why, by what an error began with."""
    while error.__cause__ is not None and not isinstance(error, BadFile):
        error = error.__cause__
    return reason(error)


def best_of(scores: Mapping[str, Mapping[str, float]], name: str) -> float:
    """The score called "task/metric". UserError where the validation gives none of that name."""
    task, _, metric = name.partition("/")
    if metric not in scores.get(task, {}):
        there = ", ".join(f"{one}/{other}" for one in scores for other in scores[one])
        raise UserError(f"train.best = {name!r}: no score of a validation; there are {there}")
    return float(scores[task][metric])


def _train_part(state: TrainState) -> dict[str, Any]:
    return {
        "optimizer": state.optimizer,
        "average": state.average,
        "step": state.step,
        "skipped": state.skipped,
        "key": state.key,
    }


@jax.jit
def _are_finite(*parts: Any) -> jax.Array:
    """Whether all floating-point numbers are finite."""
    leaves = [leaf for leaf in jax.tree.leaves(parts) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _everywhere(count: int, like: jax.Array) -> jax.Array:
    """A counter on all devices of another."""
    return jax.make_array_from_callback((), like.sharding, lambda _: np.asarray(count, like.dtype))


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _arrays(tree: Any) -> Arrays:
    """The shapes and types that Orbax keeps a part's arrays in, by their paths; a typed key is its numbers."""
    key = lambda x: jax.eval_shape(jax.random.key_data, x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    path = lambda keys: tuple(jax.tree_util.keystr((one,), simple=True) for one in keys)
    leaves = ((path(keys), key(x)) for keys, x in jax.tree_util.tree_leaves_with_path(tree))
    return {name: (tuple(x.shape), x.dtype.name) for name, x in leaves}


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """While Orbax reads: where one array of a checkpoint is damaged, the tasks for the others are dropped, and each would
    complain on stderr for itself."""
    of_tasks = logging.getLogger("asyncio")
    hook, level = sys.unraisablehook, of_tasks.level
    sys.unraisablehook = lambda told: None if inspect.iscoroutine(told.object) else hook(told)
    of_tasks.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
    finally:
        sys.unraisablehook = hook
        of_tasks.setLevel(level)
