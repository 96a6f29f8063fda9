"""A system of a few matrices, for what does not depend on the model: a run of it compiles in a moment; and a clock."""

import dataclasses
import importlib.util
import pathlib

import pytest

from hyperseg_jax.training import clock, loop


@pytest.fixture(scope="session")
def _small():
    spec = importlib.util.spec_from_file_location("one_of_many", pathlib.Path(__file__).with_name("one_of_many.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    whole = loop.systems.get("hyperseg")
    return dataclasses.replace(whole, **{name: getattr(module, name) for name in ("init", "counts", "loss", "predict")})


@pytest.fixture
def small_system(_small, monkeypatch):
    """A few matrices in the place of the model."""
    monkeypatch.setattr(loop.systems, "get", lambda name: _small)
    return _small


@pytest.fixture
def seconds(monkeypatch):
    """seconds(count): moves the clock of a run and of its observers by hand."""
    now = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])

    def passes(count):
        now[0] += count

    return passes
