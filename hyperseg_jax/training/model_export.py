"""Writes the model folder of a checkpoint of a run."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections
from etils import epath

from hyperseg_jax.atomic import check_replaceable, scratch_folder
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import LARGEST
from hyperseg_jax.training import param_groups
from hyperseg_jax.training.checkpoint import Checkpoints
from hyperseg_jax.training.initial_state import trace_initial_state
from hyperseg_jax.training.state import TrainState
from hyperseg_jax.training.workdir import CONFIG, TOKENIZER, has_checkpoints
from hyperseg_jax.untrusted import paths, stores
from hyperseg_jax.untrusted.bad_file import failure_reason
from hyperseg_jax.weights import model_folder

NEEDED = (
    *("seed", "init_from", "init_optional", "optimizer.param_groups", "optimizer.betas", "optimizer.clip_norm"),
    *("train.frozen_type", "train.average"),
)
"""The fields of a config that determine the state of its run."""


def write_model(
    workdir: str | os.PathLike[str], out: pathlib.Path, *, step: int | None = None, log: Callable[[str], None] = print
) -> int:
    """Writes the model folder of a checkpoint to `out`, and returns its step. The moving average of the weights is written, if
    the run has one.

    workdir: a folder or a bucket, which is untrusted. step: of the checkpoint; None: the newest that can be read. log: receives
    a line for each checkpoint that cannot be read. Raises UserError if there is no such checkpoint.
    """
    stores.check_workdir(workdir)
    check_replaceable(out, model_folder.FILES)
    if not has_checkpoints(epath.Path(workdir)):
        raise UserError(f"{workdir}: has no checkpoints; give the workdir of a run of `hyperseg train`")
    with scratch_folder() as files:
        root = epath.Path(workdir)
        earlier = root / "model" / TOKENIZER  # workdirs of earlier versions have their tokenizer only there
        tokenizer_file = root / TOKENIZER if (root / TOKENIZER).exists() or not earlier.exists() else earlier
        for path in (root / CONFIG, tokenizer_file):
            (files / path.name).write_bytes(_read_file(path, LARGEST))
        try:
            config = model_folder.read_config(files)
        except UserError as error:
            raise UserError(str(error).replace(str(files), str(workdir))) from error
        if missing := [name for name in NEEDED if not _has_field(config, name)]:
            raise UserError(f"{workdir}/{CONFIG}: lacks {', '.join(missing)}; give a workdir of `hyperseg train`")
        system = systems.get(config.system)
        tokenizer = system.load_tokenizer(config, files)
    with Checkpoints(epath.Path(workdir) / "checkpoints", log=log, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(_abstract_state(config, system), step=step)
    model_folder.save_model(out, config, tokenizer, state.params)
    return int(state.step)


def _has_field(config: ml_collections.ConfigDict, name: str) -> bool:
    """Returns whether a config has a field, given as "train.average"."""
    block, _, field = name.rpartition(".")
    return field in (config.get(block, {}) if block else config)


def _abstract_state(config: ml_collections.ConfigDict, system: systems.System[Any]) -> TrainState:
    """Returns the shapes of the train state of a config, on one device."""
    groups = param_groups.groups_from_config(config.optimizer.param_groups)
    mesh = placement.make("single")
    return trace_initial_state(config, system, system.build(config), groups, lambda step: 0.0, mesh).abstract


def _read_file(path: epath.Path, largest: int) -> bytes:
    """Reads a file of a workdir, which is untrusted."""
    try:
        if stores.is_url(os.fspath(path)):
            return stores.read_contents(path, largest)
        return paths.read_file(paths.check_link(pathlib.Path(path)), largest)
    except Exception as error:  # storage clients raise many types of errors
        raise UserError(f"{path}: cannot be read ({failure_reason(error)}); give a workdir of `hyperseg train`") from error
