"""Checkpoints: parameters, train state and run facts, saved asynchronously and atomically by Orbax v1."""

from __future__ import annotations

import pathlib
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
        if self.latest == step:
            return
        parts = {"params": {"trainable": state.trainable, "frozen": state.frozen}, "train": _train_part(state)}
        self._checkpointer.save_checkpointables_async(step, {**parts, "run": {"format": FORMAT, **run}}, force=True)
        if wait:
            self._checkpointer.wait()

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint in the shapes and placement of `state`, and its run facts."""
        abstract = jax.tree.map(_abstract, {"params": {"trainable": state.trainable, "frozen": state.frozen},
                                            "train": _train_part(state)})  # fmt: skip
        try:
            found = self._checkpointer.load_checkpointables(None, {**abstract, "run": None})
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{self._checkpointer.directory}: the checkpoint at step {self.latest} does not fit this config "
                f"({str(error).splitlines()[0]}); use the config it was trained with, or another --workdir"
            ) from error
        if found["run"]["format"] != FORMAT:
            raise UserError(f"{self._checkpointer.directory}: format {found['run']['format']}, this version reads {FORMAT}")
        train = found["train"]
        restored = state.replace(**found["params"], optimizer=train["optimizer"], step=train["step"],
                                 skipped=train["skipped"], key=train["key"])  # fmt: skip
        return restored, found["run"]


def _train_part(state: TrainState) -> dict[str, Any]:
    return {"optimizer": state.optimizer, "step": state.step, "skipped": state.skipped, "key": state.key}


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
