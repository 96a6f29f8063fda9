"""The helpers of property tests: they repeat themselves, and see what breaks the promise."""

import json

import fuzz
import pytest

from hyperseg_jax.errors import UserError

SAMPLE = {"a": [1, {"b": "c"}], "d": {"e": 2.5, "f": None}}


def test_the_same_seed_gives_the_same_examples():
    drawn = [[], [], []]
    for seen, seed in zip(drawn, (0, 0, 1), strict=True):
        fuzz.tried(seen.append, fuzz.damaged_json(SAMPLE), examples=40, seed=seed)
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
    ],
)
def test_a_broken_promise_is_seen(call):
    with pytest.raises((AssertionError, ValueError, MemoryError, TimeoutError)):
        fuzz.kept_promise(call, seconds=0.2, memory=2**29)


def test_a_kept_promise():
    assert fuzz.kept_promise(lambda: 5) == 5
    assert str(fuzz.kept_promise(lambda: _raise(UserError("x: bad; fix it")), says="x:")) == "x: bad; fix it"


def test_longer_runs_go_on(tried_long):
    seen = []
    count = fuzz.tried_for(0.5, seen.append, fuzz.damaged_bytes(b"some bytes"))
    assert count >= 200 and len(seen) <= count and len(set(seen)) > 100 and tried_long
