"""The initial state of a run."""

import gc

import jax
import jax.numpy as jnp
import optax

from hyperseg_jax.training.initial_state import InitialState
from hyperseg_jax.training.param_groups import ParamGroup
from hyperseg_jax.training.state import create_state


def list_programs():
    """Names of the compiled programs in memory."""
    gc.collect()
    return {module.name for program in jax.devices()[0].client.live_executables() for module in program.hlo_modules()}


def test_the_initialization_program_is_released():
    tx = optax.sgd(1.0)

    def first_state(inputs):
        return create_state({"kernel": jnp.ones(3)}, (ParamGroup(".*"),), tx, seed=0)

    plain = jax.jit(first_state)
    plain({})
    assert "jit_first_state" in list_programs()
    plain.clear_cache()

    abstract = jax.eval_shape(first_state, {})
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    initial_state = InitialState(abstract, jax.tree.map(lambda _: sharding, abstract), tx, first_state, "", (), ())
    assert initial_state.create().trainable["kernel"].sum() == 3
    assert "jit_first_state" not in list_programs()
