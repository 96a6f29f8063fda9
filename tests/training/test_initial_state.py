"""How a run begins."""

import gc

import jax
import jax.numpy as jnp
import optax

from hyperseg_jax.training.initial_state import InitialState
from hyperseg_jax.training.param_groups import ParamGroup
from hyperseg_jax.training.state import create


def programs():
    """Names of the compiled programs in memory."""
    gc.collect()
    return {module.name for program in jax.devices()[0].client.live_executables() for module in program.hlo_modules()}


def test_the_program_that_makes_the_first_state_is_not_kept():
    tx = optax.sgd(1.0)

    def first_state(given):
        return create({"kernel": jnp.ones(3)}, (ParamGroup(".*"),), tx, seed=0)

    plain = jax.jit(first_state)
    plain({})
    assert "jit_first_state" in programs()
    plain.clear_cache()

    abstract = jax.eval_shape(first_state, {})
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    begun = InitialState(abstract, jax.tree.map(lambda _: here, abstract), tx, first_state, "", ())
    assert begun.create().trainable["kernel"].sum() == 3
    assert "jit_first_state" not in programs()
