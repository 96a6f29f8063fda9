"""Small weight files in every format, made by the real writers, and a bound on memory for files that lie."""

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
def state():
    """A state dict of several types and makes of tensors."""
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
def samples(state):
    """{format: the bytes of a file of it}."""
    arrays = {name: tensor.numpy() for name, tensor in state.items() if tensor.dtype != torch.bfloat16}
    extra = {"__author__": "someone", "matching_heuristics": True}
    return {
        "zip": torch_bytes({"model": state, "epoch": 3}),
        "stream": torch_bytes({"model": state, "epoch": 3}, _use_new_zipfile_serialization=False),
        "safetensors": safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()}),
        "pickle 2": pickle.dumps({"model": arrays, **extra}, 2),
        "pickle 4": pickle.dumps({"model": arrays, **extra}, 4),
        "pickle 5": pickle.dumps({"model": arrays, **extra}, 5),
    }


def torch_bytes(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def as_numpy():
    """A tensor as an array of the type that the readers give."""

    def convert(tensor):
        if tensor.dtype == torch.bfloat16:
            return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    return convert


@pytest.fixture
def little_memory():
    """Half a GiB more than what the process has, and no more."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29, before[1]))
    try:
        np.empty(2**20)  # the limit itself leaves room for this
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
