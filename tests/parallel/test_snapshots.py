"""Shardings of every parameter of the published size on each default topology, as text snapshots for review.

Rewrite the files: pytest -n 0 tests/parallel/test_snapshots.py --write-snapshots
"""

import functools
import pathlib

import jax
import pytest

from hyperseg_jax import config as configs
from hyperseg_jax.parallel import placement, presets, report
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training import param_groups
from hyperseg_jax.training.initial_state import trace_initial_state
from hyperseg_jax.training.state import state_shardings

FOLDER = pathlib.Path(__file__).parent / "snapshots"
# topology -> (JAX device kind, chips)
TOPOLOGIES = {
    "v4_2x2x4": ("TPU v4", 16),
    "v5e_4x4": ("TPU v5 lite", 16),
    "v5e_16x16": ("TPU v5 lite", 256),
    "v5p_4x4x8": ("TPU v5", 128),
    "v6e_4x4": ("TPU v6 lite", 16),
    "tpu7x_2x2x4": ("TPU7x", 32),
}


@pytest.fixture(scope="module")
def shapes():
    """get(kind): (config, boxed parameters, state, groups and optimizer) of a recipe, abstract and without shardings."""

    @functools.cache
    def get(kind):
        config = configs.load(f"hyperseg_3b_{kind}")
        system = systems.get(config.system)
        rules = tuple(param_groups.ParamGroup(**dict(rule)) for rule in config.optimizer.param_groups)
        boxed = system.boxed_shapes(config)
        anywhere = placement.abstract_placement("single", {}, 1)
        initial_state = trace_initial_state(config, system, system.build(config), rules, lambda step: 1.0, anywhere)
        state, tx = initial_state.abstract, initial_state.tx
        return config, boxed, state, rules, tx

    return get


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_shardings_equal_the_snapshot(shapes, topology, kind, request):
    config, boxed, state, rules, tx = shapes(kind)
    device_kind, chips = TOPOLOGIES[topology]
    preset, sizes = presets.choose_preset("auto", device_kind, chips, 1, config.model.lora.rank > 0)
    placed = placement.abstract_placement(preset, sizes, chips)
    where = state_shardings(state, placement.parameter_shardings(boxed, placed), rules, tx, placed.replicated)
    state = placement.add_shardings(state, where)
    rows = report.sharding_rows(state.params, placed)
    assert not [row.path for row in rows if row.flagged]
    moments = sum(row.megabytes for row in report.sharding_rows(arrays(state), placed))
    text = "\n".join([*report.format_rows(rows, placed), f"optimizer: {moments:.1f} MB per device\n"])
    file = FOLDER / f"{topology}_{kind}.txt"
    if request.config.getoption("--write-snapshots"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text)
    assert file.read_text() == text


def arrays(state):
    return {str(k): leaf for k, leaf in enumerate(jax.tree.leaves(state.optimizer))}
