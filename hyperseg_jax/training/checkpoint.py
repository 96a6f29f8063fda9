"""Checkpoints: parameters, train state and run facts, saved asynchronously and atomically by Orbax v1."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from hyperseg_jax.errors import UserError
from hyperseg_jax.training.state import TrainState

FORMAT = 1


class Checkpoints:
    """A context manager around the folder of checkpoints of one run."""

    def __init__(self, folder: pathlib.Path, *, keep: int = 2) -> None:
        policy = ocp.training.preservation_policies.LatestN(keep)
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(), preservation_policy=policy, cleanup_tmp_directories=True
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else int(newest.step)

    def save(self, state: TrainState, run: dict[str, Any], *, wait: bool = False) -> None:
        """Starts to save; `run` holds JSON facts, the data position among them."""
        step = int(state.step)
        torn = any(found.step == step for found in self._checkpointer.checkpoints)  # else the run would be past it
        parts: dict[str, Any] = {"params": {"trainable": state.trainable, "frozen": state.frozen},
                                 "train": _train_part(state)}  # fmt: skip
        parts["run"] = {"format": FORMAT, **run}
        self._checkpointer.save_checkpointables_async(step, parts, force=True, overwrite=torn)
        if wait:
            self._checkpointer.wait()

    def restore(self, state: TrainState, *, say: Callable[[str], None]) -> tuple[TrainState, dict[str, Any]]:
        """The newest whole checkpoint in the shapes and placement of `state` (which needs no values), and its run facts.

        say: takes a line about each one that is passed over. UserError where none fits.
        """
        parts = {"params": {"trainable": state.trainable, "frozen": state.frozen}, "train": _train_part(state)}
        abstract = jax.tree.map(_abstract, parts)
        reason = ""
        for kept in reversed(self._checkpointer.checkpoints):
            try:
                found = self._checkpointer.load_checkpointables(kept.step, {**abstract, "run": None})
            except Exception as error:  # a torn file shows itself in many ways
                reason = reason or f"step {kept.step}: {_cause(error)}"
                say(f"{kept.path}: cannot be read whole, trying the one before ({_cause(error)})")
                continue
            if found["run"]["format"] != FORMAT:
                raise UserError(f"{kept.path}: format {found['run']['format']}, this version reads {FORMAT}")
            train = found["train"]
            # A restored key spells its placement otherwise (P(None) for P()), which would compile the step again.
            train["key"] = jax.device_put(train["key"], state.key.sharding)
            return state.replace(**found["params"], optimizer=train["optimizer"], average=train["average"],
                                 step=train["step"], skipped=train["skipped"], key=train["key"]), found["run"]  # fmt: skip
        raise UserError(f"{self._checkpointer.directory}: no checkpoint fits this config or can be read whole ({reason}); "
                        "use the config it was trained with, or another --workdir")  # fmt: skip


def _cause(error: BaseException) -> str:
    """The first line of what an error began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _train_part(state: TrainState) -> dict[str, Any]:
    return {"optimizer": state.optimizer, "average": state.average, "step": state.step, "skipped": state.skipped,
            "key": state.key}  # fmt: skip


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
