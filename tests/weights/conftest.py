"""Small weight files of every format, written by the original libraries, and a memory limit for malformed files."""

import collections
import io
import pathlib
import pickle
import resource

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch


@pytest.fixture(scope="session")
def state_dict():
    """A state dict with several dtypes and memory layouts."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return collections.OrderedDict(
        {
            "a.weight": base,
            "a.transposed": base.t(),
            "a.cut": base[1:3, ::2],
            "b.half": base.half(),
            "b.bfloat": base.bfloat16() / 3,
            "c.count": torch.tensor(7),
            "c.mask": torch.tensor([True, False, True]),
            "c.empty": torch.zeros(0, 3),
        }
    )


@pytest.fixture(scope="session")
def sample_files(state_dict):
    """{format: bytes of a sample file}."""
    arrays = {name: tensor.numpy() for name, tensor in state_dict.items() if tensor.dtype != torch.bfloat16}
    extra = {"__author__": "someone", "matching_heuristics": True}
    return {
        "zip": serialize({"model": state_dict, "epoch": 3}),
        "stream": serialize({"model": state_dict, "epoch": 3}, _use_new_zipfile_serialization=False),
        "safetensors": safetensors.torch.save({name: tensor.contiguous() for name, tensor in state_dict.items()}),
        "pickle 2": pickle.dumps({"model": arrays, **extra}, 2),
        "pickle 4": pickle.dumps({"model": arrays, **extra}, 4),
        "pickle 5": pickle.dumps({"model": arrays, **extra}, 5),
    }


def serialize(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def to_numpy():
    """to_numpy(tensor): the array that the readers return for a tensor."""

    def convert(tensor):
        if tensor.dtype == torch.bfloat16:
            return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    return convert


@pytest.fixture
def limited_memory():
    """Limits memory to half a GiB more than the process uses."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29, before[1]))
    try:
        np.empty(2**20)  # the limit itself leaves room for this
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
