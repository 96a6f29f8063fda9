"""The helpers of property tests are reproducible and detect violations."""

import json
import time

import fuzz
import pytest

from hyperseg_jax.errors import UserError

SAMPLE = {"a": [1, {"b": "c"}], "d": {"e": 2.5, "f": None}}


def test_the_same_seed_gives_the_same_examples():
    drawn = [[], [], []]
    for recorded, seed in zip(drawn, (0, 0, 1), strict=True):
        fuzz.run_property(recorded.append, fuzz.damaged_json(SAMPLE), examples=40, seed=seed)
    assert drawn[0] == drawn[1] != drawn[2] and set(drawn[0]) - {json.dumps(SAMPLE).encode()}


def _raise(error):
    raise error


@pytest.mark.parametrize(
    "call",
    [
        lambda: _raise(ValueError("x")),
        lambda: _raise(UserError("two\nlines")),
        lambda: _raise(UserError("\x1b[31m")),
        lambda: bytearray(2**31),
        lambda: [None for _ in iter(int, 1)],
        lambda: time.sleep(5),
    ],
)
def test_violations_are_detected(call):
    with pytest.raises((AssertionError, ValueError, MemoryError, TimeoutError)):
        fuzz.check_call(call, seconds=0.2, memory=2**29)


def test_accepted_results():
    assert fuzz.check_call(lambda: 5) == 5
    assert str(fuzz.check_call(lambda: _raise(UserError("x: bad; fix it")), says="x:")) == "x: bad; fix it"


def test_longer_runs(run_property_long):
    recorded = []
    count = fuzz.run_property_for(0.5, recorded.append, fuzz.damaged_bytes(b"some bytes"))
    assert count >= 200 and len(recorded) <= count and len(set(recorded)) > 100 and run_property_long
