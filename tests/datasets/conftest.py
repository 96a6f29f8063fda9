"""Samples of every benchmark in the true layout, and a private copy of them for tests that break files."""

import shutil

import numpy as np
import pytest

from hyperseg_jax.toy import toy_images
from hyperseg_jax.toy.samples import write_samples

COUNT = 2


@pytest.fixture(scope="session")
def samples(shared):
    """The root folder of the samples; nothing in it may be changed."""
    return shared("samples", lambda folder: write_samples(folder, count=COUNT))


@pytest.fixture(scope="session")
def drawn():
    """What the samples show."""
    world = toy_images.World(0, train=0, val=COUNT, compositional=0, clips=0)
    return [toy_images.image(world, "val", k) for k in range(COUNT)]


@pytest.fixture
def own(samples, tmp_path):
    """own("coco", "refer"): a copy of these folders of the samples, to be broken."""

    def copy(*folders):
        for folder in folders:
            shutil.copytree(samples / folder, tmp_path / folder)
        return tmp_path

    return copy


def overlap(a, b):
    """Intersection over union of two masks."""
    return np.logical_and(a, b).sum() / max(1, np.logical_or(a, b).sum())
