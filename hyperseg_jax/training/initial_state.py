"""The initial train state: its shapes and shardings, whose tracing validates most of a config, and its first values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import optax

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten
from hyperseg_jax.training import param_groups
from hyperseg_jax.training.state import TrainState, create_state, state_shardings
from hyperseg_jax.weights import model_folder


@dataclasses.dataclass(frozen=True)
class InitialState:
    """The description of a train state before anything is computed.

    abstract: shapes, types and shardings of the state; checkpoints are restored into it. shardings: shardings of its leaves.
    tx: the optimizer.
    init_fn(params): builds the state from these parameters; missing ones are randomly initialized.
    source: model folder to initialize from, "" for none. optional_params, ignored_params: regexes of parameters that may be
    missing in the source, or in the model.
    """

    abstract: TrainState
    shardings: TrainState
    tx: optax.GradientTransformation
    init_fn: Callable[[dict[str, Any]], TrainState]
    source: str
    optional_params: tuple[str, ...]
    ignored_params: tuple[str, ...]

    @property
    def params(self) -> Mapping[str, Any]:
        """Shapes, types and shardings of all parameters; frozen parameters have the type they are stored in."""
        return param_groups.merge_params(self.abstract.trainable, self.abstract.frozen)

    @property
    def _differences(self) -> dict[str, tuple[str, ...]]:
        return {"optional": self.optional_params, "ignored": self.ignored_params}

    def check_source(self, config: ml_collections.ConfigDict) -> None:
        """Raises UserError if the parameters of the source model do not fit, or if its config says that they compute something
        else than in a model of this config (System.published_fields that may not change). Reads only their names and shapes."""
        if not self.source:
            return
        model_folder.read_params(self.source, flatten(self.params), **self._differences)
        folder = model_folder.find_model_folder(self.source)
        saved, given = (flatten(each.to_dict()) for each in (model_folder.read_config(folder), config))
        rows = systems.get(config.system).published_fields
        paths = [row.field.replace(".", "/") for row in rows if not row.may_change]
        before, now = ({path: fields[path] for path in paths if path in saved and path in given} for fields in (saved, given))
        if changes := configs.describe_differences(before, now):
            raise UserError(
                f"init_from = {self.source}: {changes}; its weights were trained for the saved value: give that one, or import "
                "them again for the other"
            )

    def create(self) -> TrainState:
        """Creates the initial state from the model `config.init_from`, if set, and from the seed."""
        loaded = model_folder.load_params(self.source, self.params, **self._differences) if self.source else {}
        init: Any = jax.jit(self.init_fn, out_shardings=self.shardings, donate_argnums=0)
        state = init(loaded)
        init.clear_cache()  # the program runs once; JAX would keep it in memory as long as `init_fn` exists
        return state


def trace_initial_state(
    config: ml_collections.ConfigDict,
    system: systems.System,
    model: Any,
    groups: tuple[param_groups.ParamGroup, ...],
    learning_rate: optax.Schedule,
    mesh: placement.Placement,
) -> InitialState:
    """Traces the parameters and the state without computing, reading or writing anything. Raises UserError for a bad config."""
    boxed, shapes = system.boxed_shapes(config), system.shapes(config)
    tx = param_groups.optimizer(
        param_groups.split_params(shapes, groups)[0],
        groups,
        learning_rate,
        betas=tuple(config.optimizer.betas),
        clip_norm=config.optimizer.clip_norm,
    )

    def with_params(params: Any) -> TrainState:
        return create_state(
            params, groups, tx, config.seed, frozen_type=config.train.frozen_type, averaged=config.train.average > 0
        )

    def init_fn(loaded: dict[str, Any]) -> TrainState:
        random = system.init_plain(model, config, jax.random.key(config.seed))
        return with_params(model_folder.replace_leaves(random, loaded))

    abstract = jax.eval_shape(with_params, shapes)
    shardings = state_shardings(abstract, placement.parameter_shardings(boxed, mesh), groups, tx, mesh.replicated)
    return InitialState(
        placement.add_shardings(abstract, shardings),
        shardings,
        tx,
        init_fn,
        config.init_from,
        tuple(config.init_optional),
        tuple(config.get("init_ignored", ())),
    )
