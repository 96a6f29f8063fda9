"""Analysis of compiled programs: collectives are located, and matching runs without any."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hyperseg_jax.losses.criterion import match_targets
from hyperseg_jax.ops.matching import hungarian
from hyperseg_jax.parallel import placement
from hyperseg_jax.planning import program


@pytest.fixture(scope="module")
def sharded_costs():
    return placement.make("data", devices=jax.devices()[:8])


def compile_matching(function, sharded_costs):
    """Compiles matching of 8 rows and 2 stages, sharded by rows."""
    cost = jax.ShapeDtypeStruct((2, 8, 6, 3), jnp.float32, sharding=NamedSharding(sharded_costs.mesh, P(None, "data")))
    valid = jax.ShapeDtypeStruct((8, 3), bool, sharding=sharded_costs.batch)
    with placement.use(sharded_costs):
        return program.parse_program(
            jax.jit(function, out_shardings=sharded_costs.replicated).lower(cost, valid).compile().as_text()
        )


def test_matching_has_no_collectives(sharded_costs):
    result = compile_matching(match_targets, sharded_costs)
    assert len(result.loops("matching")) >= 2  # loops over targets and of the search
    assert result.collectives()  # the result is gathered outside the loop
    assert not result.collectives_in_loops("matching")


def test_naive_matching_has_collectives_in_its_loop(sharded_costs):
    def naive(cost, valid):
        with jax.named_scope("matching"):
            return jax.vmap(jax.vmap(hungarian), in_axes=(0, None))(cost, valid)

    assert compile_matching(naive, sharded_costs).collectives_in_loops("matching")


def test_loops_are_identified_by_scope(sharded_costs):
    def double(x):
        with jax.named_scope("outer"):
            return jax.lax.fori_loop(0, 3, lambda _, y: jax.lax.with_sharding_constraint(y + y.sum(), sharded_costs.batch), x)

    x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=sharded_costs.batch)
    with placement.use(sharded_costs):
        result = program.parse_program(jax.jit(double).lower(x).compile().as_text())
    assert result.collectives_in_loops("outer") and not result.loops("matching")
    assert set(result.collectives()) == {"all-reduce"}


def test_invalid_programs_are_refused():
    with pytest.raises(ValueError, match="optimized HLO"):
        program.parse_program("no program")
    with pytest.raises(ValueError, match="no HLO operation found in %x"):
        program.parse_program("%main (p: f32[]) -> f32[] {\n  %x = f32[]\n}\n")
