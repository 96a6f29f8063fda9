"""A small system that compiles quickly, for tests that do not depend on the model; and a fake clock."""

import dataclasses
import importlib.util
import pathlib

import pytest

from hyperseg_jax.training import clock, loop


@pytest.fixture(scope="session")
def _small_system():
    spec = importlib.util.spec_from_file_location("train_worker", pathlib.Path(__file__).with_name("train_worker.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    full = loop.systems.get("hyperseg")
    return dataclasses.replace(full, **{name: getattr(module, name) for name in ("init", "counts", "loss", "predict")})


@pytest.fixture
def small_system(_small_system, monkeypatch):
    """Replaces HyperSeg by a model of a few matrices."""
    monkeypatch.setattr(loop.systems, "get", lambda name: _small_system)
    return _small_system


@pytest.fixture
def advance_clock(monkeypatch):
    """advance_clock(count): advances the clock of a run and of its observers by `count` seconds."""
    now = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])

    def advance(count):
        now[0] += count

    return advance
