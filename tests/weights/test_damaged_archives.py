"""Damaged pickles and archives: memo numbers with colliding hashes, and modified bytes."""

import time

import fuzz
import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.old_pickles import OLD_TABLE
from hyperseg_jax.untrusted.pickle_machine import PickleMachine
from hyperseg_jax.weights.tensor_file import open_tensors

PRIME = 2**61 - 1  # integers that differ by multiples of it have the same hash


@pytest.mark.parametrize("make", ["N" + "p%d\n0", "N" + "p-%d\n0", "g%d\n0"])
def test_colliding_memo_numbers_are_fast(make):
    body = "".join(make % (k * PRIME) for k in range(1, 100_000)).encode()
    began = time.perf_counter()
    with pytest.raises(BadFile, match=r"stores a value as memo|never stored"):
        PickleMachine(memoryview(body + b"N."), {}, table=OLD_TABLE).run()
    assert time.perf_counter() - began < 1


def test_many_memo_values():
    body = "(" + "".join(f"I{k}\np{k}\n" for k in range(50_000)) + "l."
    assert PickleMachine(memoryview(body.encode()), {}, table=OLD_TABLE).run() == list(range(50_000))


def test_a_wrong_tensor_checksum_is_reported_on_read(tmp_path, sample_files):
    data = bytearray(sample_files["zip"])
    at = bytes(data).index(np.arange(24, dtype=np.float32).tobytes())
    data[at + 5] ^= 1
    (tmp_path / "x").write_bytes(data)
    with open_tensors(tmp_path / "x") as file:
        assert file.read("c.count") == 7, "the other storages are whole"
        for name in ("a.weight", "a.transposed"):
            with pytest.raises(UserError, match="has a wrong checksum") as raised:
                file.read(name)
            assert str(raised.value).startswith(f"{tmp_path / 'x'}: ")
            fuzz.assert_one_line(str(raised.value))


def test_a_wrong_pickle_checksum_is_reported_on_open(tmp_path, sample_files):
    data = bytearray(sample_files["zip"])
    at = bytes(data).index(b"epoch")
    data[at] ^= 1
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(UserError, match=r"data\.pkl in its archive has a wrong checksum"):
        open_tensors(tmp_path / "x")


def make_property(folder):
    """Returns the property of damaged archives: a one-line error, or exactly the original arrays."""

    def check_value(data):
        (folder / "x").write_bytes(data)

        def values():
            with open_tensors(folder / "x") as file:
                return {name: np.array(file.read(name)) for name in file.tensors}

        fuzz.check_call(values, says=str(folder))

    return check_value


def test_damaged_archives(tmp_path, sample_files):
    for form in ("zip", "safetensors"):
        fuzz.run_property(make_property(tmp_path), fuzz.damaged_bytes(sample_files[form]), examples=60)


@pytest.mark.slow
def test_damaged_archives_for_long(tmp_path, sample_files, run_property_long):
    for form in ("zip", "safetensors"):
        run_property_long(make_property(tmp_path), fuzz.damaged_bytes(sample_files[form]))
