"""Samples of every benchmark in its original layout, and temporary copies for tests that damage files."""

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
def toy_scenes():
    """The toy images of the samples."""
    world = toy_images.World(0, train=0, val=COUNT, compositional=0, clips=0)
    return [toy_images.generate_image(world, "val", k) for k in range(COUNT)]


@pytest.fixture
def copy_samples(samples, tmp_path):
    """copy_samples("coco", "refer"): a temporary copy of these folders of the samples."""

    def copy(*folders):
        for folder in folders:
            shutil.copytree(samples / folder, tmp_path / folder)
        return tmp_path

    return copy


def mask_iou(a, b):
    """Returns the intersection over union of two masks."""
    return np.logical_and(a, b).sum() / max(1, np.logical_or(a, b).sum())
