"""Wall time is attributed to one category each; FLOP are counted as often as they are executed."""

import jax
import jax.numpy as jnp
import pytest

from hyperseg_jax.training import clock, flops
from hyperseg_jax.training.clock import SHARES, Clock


def test_every_second_is_counted_once(advance_clock):
    timed = Clock()
    advance_clock(5)
    for share, count in (("data", 1), ("compile", 4), ("step", 10), ("data", 0), ("step", 5)):
        timed.begin(share)
        advance_clock(count)
    result = timed.read()
    assert result == {"start": 5, "compile": 4, "data": 1, "step": 15, "evaluation": 0, "checkpoint": 0, "lost": 0}
    assert list(result) == list(SHARES)
    assert clock.goodput(result) == 15 / 25
    assert clock.summary(result) == "goodput 60.0 %  (start 20.0  compile 16.0  data 4.0  step 60.0)"


def test_a_resumed_run_includes_earlier_and_lost_time(advance_clock):
    timed = Clock()
    advance_clock(7)
    timed.resume({"step": 50.0, "start": 3.0}, lost=20.0)
    result = timed.read()
    assert result["start"] == 10 and result["step"] == 50 and result["lost"] == 20
    assert clock.goodput(result) == 50 / 80


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda x, w: x @ w, ((4, 8), (8, 16)), 2 * 4 * 8 * 16),
        (lambda x, w: jnp.einsum("bij,bjk->bik", x, w), ((3, 4, 8), (3, 8, 5)), 3 * 2 * 4 * 8 * 5),
        (lambda w: jax.lax.scan(lambda c, _: (c @ w, None), w, None, length=5)[0], ((8, 8),), 5 * 2 * 8**3),
        (lambda x, k: jax.lax.conv(x, k, (1, 1), "VALID"), ((2, 3, 8, 8), (5, 3, 2, 2)), 2 * (2 * 5 * 7 * 7) * 3 * 2 * 2),
        # two products with the gradient of one factor, three with both
        (jax.grad(lambda w, x: ((x @ w) ** 2).sum()), ((8, 8), (4, 8)), 2 * 2 * 4 * 8 * 8),
        (jax.grad(lambda w, x: ((x @ w) ** 2).sum(), argnums=(0, 1)), ((8, 8), (4, 8)), 3 * 2 * 4 * 8 * 8),
        (lambda x: jnp.sin(x) + 1, ((4,),), 0),
    ],
)
def test_arithmetic(function, shapes, expected):
    assert flops.count_flops(function, *[jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]) == expected


def test_utilization():
    chip = type("Chip", (), {"device_kind": "TPU v5e"})()
    assert flops.utilization(197e12, 2.0, [chip] * 4) == 0.125
    assert flops.utilization(1.0, 1.0, jax.devices()) is None
