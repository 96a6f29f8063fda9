"""How a run begins: the shapes and shardings of its state, which checks most of a config, and its first values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import optax

from hyperseg_jax.parallel import placement
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten
from hyperseg_jax.training import param_groups
from hyperseg_jax.training.state import TrainState, create
from hyperseg_jax.training.state import shardings as state_shardings
from hyperseg_jax.weights import model_folder


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What a state is made of before anything is computed.

    abstract: the state as shapes, types and shardings, what a checkpoint is read into. shardings: those of its leaves.
    tx: its optimizer.
    make(params): the state with these parameters, and fresh ones for those that are not given.
    source: the model that it begins from, "" for none. lacking: regexes of parameters that may be missing there.
    """

    abstract: TrainState
    shardings: TrainState
    tx: optax.GradientTransformation
    make: Callable[[dict[str, Any]], TrainState]
    source: str
    lacking: tuple[str, ...]

    @property
    def params(self) -> Mapping[str, Any]:
        """All parameters as shapes, types and shardings, the frozen half in the type that it is kept in."""
        return param_groups.merge(self.abstract.trainable, self.abstract.frozen)

    def check_source(self) -> None:
        """UserError where the run begins from a model whose parameters are others. Reads their names and shapes alone."""
        if self.source:
            model_folder.read_params(self.source, flatten(self.params), fresh=self.lacking)

    def fresh(self) -> TrainState:
        """The first state: from config.init_from where that names a model, else from the seed."""
        given = model_folder.load_params(self.source, self.params, fresh=self.lacking) if self.source else {}
        make: Any = jax.jit(self.make, out_shardings=self.shardings, donate_argnums=0)
        state = make(given)
        make.clear_cache()  # a program that runs once; JAX would keep it as long as `make`
        return state


def begin(
    config: ml_collections.ConfigDict,
    system: systems.System,
    model: Any,
    rules: tuple[param_groups.Group, ...],
    rate: optax.Schedule,
    mesh: placement.Placement,
) -> Beginning:
    """Traces the parameters and the state; nothing is computed, read or written. UserError where the config describes none."""
    boxed, shapes = system.boxed_shapes(config), system.shapes(config)
    tx = param_groups.optimizer(
        param_groups.split(shapes, rules)[0],
        rules,
        rate,
        betas=tuple(config.optimizer.betas),
        clip_norm=config.optimizer.clip_norm,
    )

    def with_params(params: Any) -> TrainState:
        return create(params, rules, tx, config.seed, frozen_type=config.train.frozen_type, averaged=config.train.average > 0)

    def make(given: dict[str, Any]) -> TrainState:
        fresh = system.init_plain(model, config, jax.random.key(config.seed))
        return with_params(model_folder.overlay(fresh, given))

    abstract = jax.eval_shape(with_params, shapes)
    where = state_shardings(abstract, placement.shardings(boxed, mesh), rules, tx, mesh.whole)
    return Beginning(placement.abstract_arrays(abstract, where), where, tx, make, config.init_from, tuple(config.init_fresh))
