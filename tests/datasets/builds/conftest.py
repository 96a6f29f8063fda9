"""Bit-exact comparison of examples."""

import dataclasses

import numpy as np
import pytest


def check_equal(a, b, path=""):
    """Asserts equality of examples, prompts and their fields, including array dtypes."""
    assert type(a) is type(b), (path, a, b)
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            check_equal(getattr(a, field.name), getattr(b, field.name), f"{path}.{field.name}")
    elif isinstance(a, tuple):
        assert len(a) == len(b), (path, a, b)
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            check_equal(x, y, f"{path}[{k}]")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b), path
    else:
        assert a == b, path


@pytest.fixture
def assert_equal():
    """Asserts equality of examples, prompts and their fields, including array dtypes."""
    return check_equal
