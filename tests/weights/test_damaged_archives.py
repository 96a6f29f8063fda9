"""What pickles and archives could hide: memo numbers whose hashes collide, and bytes that are not those that were written."""

import time

import fuzz
import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.old_pickles import OLD_TABLE
from hyperseg_jax.untrusted.pickle_machine import PickleMachine
from hyperseg_jax.weights.tensor_file import open_tensors

PRIME = 2**61 - 1  # integers that differ by multiples of it have one hash


@pytest.mark.parametrize("make", ["N" + "p%d\n0", "N" + "p-%d\n0", "g%d\n0"])
def test_numbers_of_values_that_collide_take_no_time(make):
    body = "".join(make % (k * PRIME) for k in range(1, 100_000)).encode()
    began = time.perf_counter()
    with pytest.raises(BadFile, match=r"stores a value as memo|never stored"):
        PickleMachine(memoryview(body + b"N."), {}, table=OLD_TABLE).run()
    assert time.perf_counter() - began < 1


def test_many_values_are_kept():
    body = "(" + "".join(f"I{k}\np{k}\n" for k in range(50_000)) + "l."
    assert PickleMachine(memoryview(body.encode()), {}, table=OLD_TABLE).run() == list(range(50_000))


def test_a_wrong_checksum_is_told_when_its_tensor_is_read(tmp_path, samples):
    data = bytearray(samples["zip"])
    at = bytes(data).index(np.arange(24, dtype=np.float32).tobytes())
    data[at + 5] ^= 1
    (tmp_path / "x").write_bytes(data)
    with open_tensors(tmp_path / "x") as file:
        assert file.read("c.count") == 7, "the other storages are whole"
        for name in ("a.weight", "a.transposed"):
            with pytest.raises(UserError, match="has a wrong checksum") as raised:
                file.read(name)
            assert str(raised.value).startswith(f"{tmp_path / 'x'}: ")
            fuzz.one_line(str(raised.value))


def test_a_wrong_checksum_of_the_pickle_is_told_at_once(tmp_path, samples):
    data = bytearray(samples["zip"])
    at = bytes(data).index(b"epoch")
    data[at] ^= 1
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(UserError, match=r"data\.pkl in its archive has a wrong checksum"):
        open_tensors(tmp_path / "x")


def promise(folder):
    """Of a damaged archive: one line, or exactly the arrays that were written."""

    def holds(data):
        (folder / "x").write_bytes(data)

        def values():
            with open_tensors(folder / "x") as file:
                return {name: np.array(file.read(name)) for name in file.tensors}

        fuzz.kept_promise(values, says=str(folder))

    return holds


def test_any_archive(tmp_path, samples):
    for form in ("zip", "safetensors"):
        fuzz.tried(promise(tmp_path), fuzz.damaged_bytes(samples[form]), examples=60)


@pytest.mark.slow
def test_any_archive_for_long(tmp_path, samples, tried_long):
    for form in ("zip", "safetensors"):
        tried_long(promise(tmp_path), fuzz.damaged_bytes(samples[form]))
