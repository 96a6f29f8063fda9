"""Sums of the compiler's estimates: loops, slices, padding, and buffers that are passed on."""

import pathlib

import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.planning import cost, program

MODULE = (pathlib.Path(__file__).parent / "example.hlo").read_text()
TILE = 8 * 128 * 4


@pytest.fixture(scope="module")
def costs():
    return cost.sum_costs(program.parse_program(MODULE))


def test_a_loop_counts_as_often_as_it_runs_and_of_branches_the_largest(costs):
    assert costs.cycles == 10 * 100 + 7 + 50 and costs.matmul_cycles == 7


def test_kernels_are_not_other_custom_calls(costs):
    assert costs.kernels == 1


def test_bytes_are_those_that_are_read_and_written(costs):
    """A slice instead of the whole stack; no bytes for a result in the chip's memory, and none for a buffer passed on."""
    in_loop = 3 * TILE + 4 * 4  # slice, sum and result; index of the slice, and operands and result of the addition
    matrix = 256 * 256 * 2
    product, passed = 2 * matrix, 2 * matrix
    taken = 304 * 128 * 4  # the rows of the table, with padding
    condition = 10 * (4 + 4 + 1)
    custom_calls = 2 * 2 * TILE  # of a kernel and another that computes something
    branch = 3 * TILE
    assert costs.bytes == 10 * in_loop + product + passed + taken + condition + custom_calls + branch


def test_rows_of_gathers(costs):
    assert costs.gathered_rows == 300 and costs.scattered_rows == 0


def test_an_unknown_clock_is_named():
    assert cost.clock("v5e") == 1.5e9
    with pytest.raises(UserError, match="--topology tpu7x: its clock is unknown; use one of v4, v5e"):
        cost.clock("tpu7x")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[5,100]{1,0:T(8,128)}", 8 * 128 * 4),
        ("f32[5,100]{0,1:T(8,128)}", 128 * 104 * 4),
        ("bf16[3]{0:T(256)(128)(2,1)}", 256 * 2),
        ("pred[16,128]{1,0:T(32,128)(4,1)}", 32 * 128),
        ("f32[8,128]{1,0:T(8,128)S(1)}", 0),
        ("(f32[8,128]{1,0:T(8,128)}, s8[32,128]{1,0:T(32,128)(4,1)})", 8 * 128 * 4 + 32 * 128),
        ("f32[]", 4),
    ],
)
def test_sizes_have_the_padding_of_tiles(shape, expected):
    assert cost.array_bytes(shape) == expected
