"""Damaged files: whatever bytes change, a UserError or sound tensors come out, in bounded memory.

python -m pytest tests/weights/test_fuzz.py --fuzz-rounds 100000 --fuzz-seed 1      # for as long as one likes
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


def damaged(data, chance, others):
    """The bytes after one to four accidents: flips, cuts, foreign words, pieces moved or of another file."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, size = chance.randrange(len(data) + 1), chance.choice((1, 2, 4, 8, 40))
        accident = chance.randrange(6)
        if accident == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif accident == 1:
            del data[at:]
        elif accident == 2:
            del data[at : at + size]
        elif accident == 3:
            word = chance.choice(WORDS)
            data[at : at + chance.choice((0, len(word)))] = word
        elif accident == 4:
            other = chance.choice(others)
            begin = chance.randrange(len(other))
            data[at : at + chance.choice((0, size))] = other[begin : begin + size]
        else:
            data[at:at] = data[at : at + size]
    return bytes(data)


def outcome(path, opens=open_tensors):
    """What came of it: "refused" or "read". Anything else fails."""
    try:
        with opens(path) as file:
            for name, info in file.tensors.items():
                array = file.read(name)
                assert (array.shape, array.dtype) == (info.shape, info.dtype) and not array.flags.writeable
                assert array.nbytes <= path.stat().st_size
                array.sum(dtype="f8" if array.dtype.kind == "f" else None)  # every byte of it is there
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return "refused"
    return "read"


@pytest.mark.usefixtures("little_memory")
@pytest.mark.filterwarnings("ignore")  # sums of damaged numbers
@pytest.mark.parametrize("form", ["zip", "stream", "safetensors", "pickle 2", "pickle 4", "pickle 5"])
def test_damaged_files(tmp_path, samples, form, request):
    rounds, seed = request.config.getoption("--fuzz-rounds"), request.config.getoption("--fuzz-seed")
    chance, path = random.Random(f"{form} {seed}"), tmp_path / "x"
    outcomes = set()
    for _ in range(rounds):
        path.write_bytes(damaged(samples[form], chance, list(samples.values())))
        outcomes.add(outcome(path))
    assert outcomes == {"refused", "read"}


@pytest.mark.usefixtures("little_memory")
def test_damaged_indices(tmp_path, samples, request):
    rounds, seed = request.config.getoption("--fuzz-rounds"), request.config.getoption("--fuzz-seed")
    chance, path = random.Random(f"index {seed}"), tmp_path / "model.safetensors.index.json"
    (tmp_path / "shard").write_bytes(samples["safetensors"])
    names = open_tensors(tmp_path / "shard").tensors
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "shard")}).encode()
    outcomes = set()
    for _ in range(rounds // 4):
        path.write_bytes(damaged(index, chance, [index]))
        try:
            open_checkpoint(tmp_path).close()
            outcomes.add("read")
        except UserError:
            outcomes.add("refused")
    assert outcomes == {"refused", "read"}
