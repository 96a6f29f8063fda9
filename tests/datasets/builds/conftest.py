"""Whether two examples are the same to the last bit."""

import dataclasses

import numpy as np
import pytest


def same(a, b, path=""):
    """Of examples, prompts and what is in them; arrays with their types."""
    assert type(a) is type(b), (path, a, b)
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            same(getattr(a, field.name), getattr(b, field.name), f"{path}.{field.name}")
    elif isinstance(a, tuple):
        assert len(a) == len(b), (path, a, b)
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{k}]")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b), path
    else:
        assert a == b, path


@pytest.fixture
def assert_equal():
    """Compares examples, prompts and what is in them; arrays with their types."""
    return same
