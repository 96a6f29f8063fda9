"""Time is counted once, for the share that it belongs to; arithmetic is counted as often as it is done."""

import jax
import jax.numpy as jnp
import pytest

from hyperseg_jax.training import clock, flops
from hyperseg_jax.training.clock import SHARES, Clock


def test_every_second_counts_once(seconds):
    timed = Clock()
    seconds(5)
    for share, count in (("data", 1), ("compile", 4), ("step", 10), ("data", 0), ("step", 5)):
        timed.begin(share)
        seconds(count)
    found = timed.read()
    assert found == {"start": 5, "compile": 4, "data": 1, "step": 15, "evaluation": 0, "checkpoint": 0, "lost": 0}
    assert list(found) == list(SHARES)
    assert clock.goodput(found) == 15 / 25
    assert clock.summary(found) == "goodput 60.0 %  (start 20.0  compile 16.0  data 4.0  step 60.0)"


def test_a_run_that_goes_on_counts_what_was_and_what_was_lost(seconds):
    timed = Clock()
    seconds(7)
    timed.resume({"step": 50.0, "start": 3.0}, lost=20.0)
    found = timed.read()
    assert found["start"] == 10 and found["step"] == 50 and found["lost"] == 20
    assert clock.goodput(found) == 50 / 80


@pytest.mark.parametrize(
    ("function", "shapes", "wanted"),
    [
        (lambda x, w: x @ w, ((4, 8), (8, 16)), 2 * 4 * 8 * 16),
        (lambda x, w: jnp.einsum("bij,bjk->bik", x, w), ((3, 4, 8), (3, 8, 5)), 3 * 2 * 4 * 8 * 5),
        (lambda w: jax.lax.scan(lambda c, _: (c @ w, None), w, None, length=5)[0], ((8, 8),), 5 * 2 * 8**3),
        (lambda x, k: jax.lax.conv(x, k, (1, 1), "VALID"), ((2, 3, 8, 8), (5, 3, 2, 2)), 2 * (2 * 5 * 7 * 7) * 3 * 2 * 2),
        # with the gradient of one factor two products, of both three
        (jax.grad(lambda w, x: ((x @ w) ** 2).sum()), ((8, 8), (4, 8)), 2 * 2 * 4 * 8 * 8),
        (jax.grad(lambda w, x: ((x @ w) ** 2).sum(), argnums=(0, 1)), ((8, 8), (4, 8)), 3 * 2 * 4 * 8 * 8),
        (lambda x: jnp.sin(x) + 1, ((4,),), 0),
    ],
)
def test_arithmetic(function, shapes, wanted):
    assert flops.count_flops(function, *[jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]) == wanted


def test_utilization():
    chip = type("Chip", (), {"device_kind": "TPU v5e"})()
    assert flops.utilization(197e12, 2.0, [chip] * 4) == 0.125
    assert flops.utilization(1.0, 1.0, jax.devices()) is None
