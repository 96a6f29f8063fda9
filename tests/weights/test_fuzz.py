"""Damaged files give a UserError or valid tensors, in bounded memory.

python -m pytest tests/weights/test_fuzz.py --fuzz-rounds 100000 --fuzz-seed 1      # for longer runs
"""

import json
import random

import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.weights.tensor_file import open_checkpoint, open_tensors

WORDS = [
    b"\xff" * 8,
    b"\0" * 8,
    b"\xff\xff\xff\x7f",
    b"\x8a\x08" + b"\xff" * 8,
    b"h\x00",
    b"q\x00",
    b"\x85",
    b"\x86",
    b"\x93",
    *(bytes([code]) for code in b"()Rb}]uetQ.N"),
    b"cos\nsystem\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"cnumpy\nndarray\n",
    b"ccollections\nOrderedDict\n",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"-1",
    b"[]",
    b"{}",
    b'"F64"',
    b"1e9",
]


def damage(data, rng, rest):
    """Returns the bytes after one to four random edits: flips, cuts, inserted words, and pieces moved or from another file."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, 40))
        accident = rng.randrange(6)
        if accident == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif accident == 1:
            del data[at:]
        elif accident == 2:
            del data[at : at + size]
        elif accident == 3:
            word = rng.choice(WORDS)
            data[at : at + rng.choice((0, len(word)))] = word
        elif accident == 4:
            other = rng.choice(rest)
            begin = rng.randrange(len(other))
            data[at : at + rng.choice((0, size))] = other[begin : begin + size]
        else:
            data[at:at] = data[at : at + size]
    return bytes(data)


def open_and_read(path, opens=open_tensors):
    """Opens and reads a file; returns "refused" or "read" and fails on anything else."""
    try:
        with opens(path) as file:
            for name, info in file.tensors.items():
                array = file.read(name)
                assert (array.shape, array.dtype) == (info.shape, info.dtype) and not array.flags.writeable
                assert array.nbytes <= path.stat().st_size
                array.sum(dtype="f8" if array.dtype.kind == "f" else None)  # reads every byte
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return "refused"
    return "read"


@pytest.mark.usefixtures("limited_memory")
@pytest.mark.filterwarnings("ignore")  # sums of damaged values
@pytest.mark.parametrize("form", ["zip", "stream", "safetensors", "pickle 2", "pickle 4", "pickle 5"])
def test_damaged_files(tmp_path, sample_files, form, request):
    rounds, seed = request.config.getoption("--fuzz-rounds"), request.config.getoption("--fuzz-seed")
    rng, path = random.Random(f"{form} {seed}"), tmp_path / "x"
    outcomes = set()
    for _ in range(rounds):
        path.write_bytes(damage(sample_files[form], rng, list(sample_files.values())))
        outcomes.add(open_and_read(path))
    assert outcomes == {"refused", "read"}


@pytest.mark.usefixtures("limited_memory")
def test_damaged_indices(tmp_path, sample_files, request):
    rounds, seed = request.config.getoption("--fuzz-rounds"), request.config.getoption("--fuzz-seed")
    rng, path = random.Random(f"index {seed}"), tmp_path / "model.safetensors.index.json"
    (tmp_path / "shard").write_bytes(sample_files["safetensors"])
    names = open_tensors(tmp_path / "shard").tensors
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "shard")}).encode()
    outcomes = set()
    for _ in range(rounds // 4):
        path.write_bytes(damage(index, rng, [index]))
        try:
            open_checkpoint(tmp_path).close()
            outcomes.add("read")
        except UserError:
            outcomes.add("refused")
    assert outcomes == {"refused", "read"}
