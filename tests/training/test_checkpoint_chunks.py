"""Each chunk of an array needs time and memory when it is read, however small it is: checkpoints have few, and no others are
read."""

import jax
import numpy as np
import pytest
from checkpoint_states import edit_array, edit_chunks, make_state
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hyperseg_jax.errors import UserError
from hyperseg_jax.training import checks
from hyperseg_jax.training.checkpoint_folder import CheckpointFolder
from hyperseg_jax.untrusted import checkpoint_arrays
from hyperseg_jax.untrusted.bad_file import BadFile

SIDE = 64
SPECS = {"whole": P(), "rows": P("a"), "columns": P(None, "b"), "both": P("a", "b"), "joint": P(("a", "b"))}
BYTES, CHECKSUM = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}


def sharding_codec(inner, *codecs, index=(BYTES, CHECKSUM)):
    return {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": inner, "codecs": [BYTES, *codecs], "index_codecs": list(index)},
    }


@pytest.fixture
def arrays():
    """An array in each sharding over eight devices, and a large one on each of them."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    values = np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    put = lambda array, spec: jax.device_put(array, NamedSharding(mesh, spec))
    return {name: put(values, spec) for name, spec in SPECS.items()} | {"large": put(np.ones((SIDE, 2**12), np.float32), P())}


@pytest.fixture
def folder(arrays, tmp_path):
    """A checkpoint of step 0 with these arrays."""
    with CheckpointFolder(tmp_path, log=print, seconds=60) as folder:
        assert folder.save(0, {"params": arrays, "run": {"format": 2}}, wait=True) == ""
    return tmp_path


def check(folder):
    shapes = {(name,): ((SIDE, SIDE), "float32") for name in SPECS} | {("large",): ((SIDE, 2**12), "float32")}
    checkpoint_arrays.check_arrays(folder / "0", {"params": shapes})


def chunks_on_disk(folder):
    import tensorstore

    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{folder}/0/params/"}).result()
    names = [key.decode().split("/")[0] for key in store.list().result() if b"zarr.json" not in key]
    return {name: names.count(name) for name in names}


def test_arrays_of_all_shardings_load_and_small_copies_are_one_chunk(folder, arrays):
    other = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arrays)
    other["whole"], other["both"] = other["both"], other["whole"]
    with CheckpointFolder(folder, log=print, seconds=60) as opened:
        loaded, failure = opened.load(0, {"params": other})
    assert failure == ""
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded["params"][name], array)
    assert chunks_on_disk(folder) == {"whole": 1, "rows": 4, "columns": 2, "both": 8, "joint": 8, "large": 8}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"codecs": [sharding_codec([1, 1])]}, "whole has chunks inside of its chunks"),
        ({"codecs": [sharding_codec([SIDE, SIDE], sharding_codec([1, 1]))]}, "whole has the codecs .*sharding_indexed"),
        ({"codecs": [sharding_codec([SIDE, SIDE], {"name": "gzip"})]}, "whole has the codecs .*gzip"),
        ({"codecs": [sharding_codec([SIDE, SIDE], index=[BYTES])]}, "whole has the codecs"),
        ({"codecs": [sharding_codec([SIDE, SIDE])] * 2}, "whole has invalid metadata"),
        ({"codecs": [BYTES]}, "whole has invalid metadata"),
        *(
            ({"chunk_grid": edit_chunks(*chunk), "codecs": [sharding_codec(chunk)]}, "whole has chunks of the shape")
            for chunk in ([0, SIDE], [-1, SIDE], [1.5, SIDE], [True, SIDE], [SIDE], [2 * SIDE, SIDE])
        ),
        (
            {"codecs": [sharding_codec([SIDE, SIDE], {"name": "zstd", "configuration": {"level": "x"}})]},
            "whole has metadata that TensorStore cannot read",
        ),
    ],
)
def test_other_chunks_and_codecs_are_refused(folder, changed, why):
    check(folder)
    edit_array("whole", **changed)(folder / "0" / "params")
    with pytest.raises(BadFile, match=why):
        check(folder)


def test_many_small_chunks_are_refused(folder, monkeypatch):
    """Large arrays may have more."""
    monkeypatch.setattr(checkpoint_arrays, "CHUNKS", 8)
    check(folder)
    monkeypatch.setattr(checkpoint_arrays, "CHUNKS", 7)
    with pytest.raises(BadFile, match="has 8 chunks, and the limit for its size is 7"):
        check(folder)
    assert checkpoint_arrays.max_chunks(SIDE * 2**12 * 4) == 7 + 16


def test_a_run_whose_checkpoints_would_be_refused_does_not_start(arrays, monkeypatch):
    state = make_state().replace(frozen=arrays)
    checks.check_shards(state)
    monkeypatch.setattr(checkpoint_arrays, "CHUNKS", 7)
    with pytest.raises(
        UserError, match=r"train\.preset: both has 8 shards, and a checkpoint may have 7 of an array of that size"
    ):
        checks.check_shards(state)
