"""Reading compiled programs: collectives are found where they are, and the matching runs without any."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hyperseg_jax.losses.criterion import match_all
from hyperseg_jax.ops.matching import hungarian
from hyperseg_jax.parallel import placement
from hyperseg_jax.planning import program


@pytest.fixture(scope="module")
def placed():
    return placement.make("data", devices=jax.devices()[:8])


def matched(function, placed):
    """The program that assigns 8 rows of 2 stages, split over the devices by their rows."""
    cost = jax.ShapeDtypeStruct((2, 8, 6, 3), jnp.float32, sharding=NamedSharding(placed.mesh, P(None, "data")))
    valid = jax.ShapeDtypeStruct((8, 3), bool, sharding=placed.batch)
    with placement.use(placed):
        return program.read(jax.jit(function, out_shardings=placed.replicated).lower(cost, valid).compile().as_text())


def test_matching_waits_for_nobody(placed):
    found = matched(match_all, placed)
    assert len(found.loops("matching")) >= 2  # over targets, and the search
    assert found.collectives()  # the result is gathered, outside
    assert not found.waiting("matching")


def test_matching_split_by_the_compiler_waits_in_every_turn(placed):
    def naive(cost, valid):
        with jax.named_scope("matching"):
            return jax.vmap(jax.vmap(hungarian), in_axes=(0, None))(cost, valid)

    assert matched(naive, placed).waiting("matching")


def test_loops_are_told_apart_by_their_scope(placed):
    def double(x):
        with jax.named_scope("outer"):
            return jax.lax.fori_loop(0, 3, lambda _, y: jax.lax.with_sharding_constraint(y + y.sum(), placed.batch), x)

    x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=placed.batch)
    with placement.use(placed):
        found = program.read(jax.jit(double).lower(x).compile().as_text())
    assert found.waiting("outer") and not found.loops("matching")
    assert set(found.collectives()) == {"all-reduce"}


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="optimized HLO"):
        program.read("no program")
    with pytest.raises(ValueError, match="no operation in %x"):
        program.read("%main (p: f32[]) -> f32[] {\n  %x = f32[]\n}\n")
