"""How a run begins."""

import gc

import jax
import jax.numpy as jnp
import optax

from hyperseg_jax.training.beginning import Beginning
from hyperseg_jax.training.param_groups import Group
from hyperseg_jax.training.state import create


def programs():
    """Names of the compiled programs in memory."""
    gc.collect()
    return {module.name for program in jax.devices()[0].client.live_executables() for module in program.hlo_modules()}


def test_the_program_that_makes_the_first_state_is_not_kept():
    tx = optax.sgd(1.0)

    def first_state(given):
        return create({"kernel": jnp.ones(3)}, (Group(".*"),), tx, seed=0)

    plain = jax.jit(first_state)
    plain({})
    assert "jit_first_state" in programs()
    plain.clear_cache()

    abstract = jax.eval_shape(first_state, {})
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    begun = Beginning(abstract, jax.tree.map(lambda _: here, abstract), tx, first_state, "", ())
    assert begun.fresh().trainable["kernel"].sum() == 3
    assert "jit_first_state" not in programs()
