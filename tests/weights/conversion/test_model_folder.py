"""Model folders: parameters are read one by one, each onto its devices."""

import os
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hyperseg_jax.atomic import remove_tree
from hyperseg_jax.errors import UserError
from hyperseg_jax.tables import flatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.weights import model_folder
from hyperseg_jax.weights.safetensors_writer import SafetensorsWriter


@pytest.fixture
def saved_model(full_config, random_params, tmp_path):
    """(folder, parameters by path) in bfloat16."""
    params = random_params(full_config(), ml_dtypes.bfloat16)
    model_folder.save_model(tmp_path / "model", full_config(), Tokenizer.toy(), params)
    return tmp_path / "model", flatten(params)


def test_each_device_gets_its_shard(saved_model):
    folder, params = saved_model
    mesh = Mesh(np.array(jax.devices()[:4]), ("fsdp",))
    make_sharding = lambda x: NamedSharding(mesh, P("fsdp") if x.ndim and x.shape[0] % 4 == 0 else P())
    expected = {path: jax.ShapeDtypeStruct(x.shape, np.float32, sharding=make_sharding(x)) for path, x in params.items()}
    loaded = flatten(model_folder.load_params(folder, expected))
    kernel = loaded["expression_projector/kernel"]
    assert kernel.dtype == np.float32 and kernel.sharding == expected["expression_projector/kernel"].sharding
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(kernel.shape[0] // 4, kernel.shape[1])}
    for path, leaf in loaded.items():
        np.testing.assert_array_equal(np.asarray(leaf), params[path].astype(np.float32), err_msg=path)


def test_reading_copies_nothing(saved_model):
    array = model_folder.read_arrays(saved_model[0])["llm/layers/mlp/up/kernel"]
    assert not array.flags.owndata and not array.flags.writeable


def test_all_mismatches_are_listed(saved_model):
    folder, params = saved_model
    expected = {path: jax.ShapeDtypeStruct(x.shape, np.float32) for path, x in params.items() if path != "queries"}
    expected["stray"] = jax.ShapeDtypeStruct((2,), np.float32)
    expected["perceiver/query"] = jax.ShapeDtypeStruct((3, 3), np.float32)
    with pytest.raises(UserError) as error:
        model_folder.load_params(folder, expected)
    for part in ("missing: stray", "unknown: queries", "perceiver/query: shape (2, 16), the config expects (3, 3)"):
        assert part in str(error.value)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_non_finite_weights_are_named(full_config, random_params, tmp_path, number):
    params = random_params(full_config(), ml_dtypes.bfloat16)
    with_nan = params["expression_projector"]["kernel"].copy()
    with_nan[0, 0] = number
    params["expression_projector"]["kernel"] = with_nan
    model_folder.save_model(tmp_path / "model", full_config(), Tokenizer.toy(), params)
    expected = {path: jax.ShapeDtypeStruct(x.shape, np.float32) for path, x in flatten(params).items()}
    with pytest.raises(UserError, match="expression_projector/kernel has values that are not finite"):
        model_folder.load_params(tmp_path / "model", expected)


@pytest.mark.parametrize(
    "dtype, largest, loaded",
    [(np.float64, 1e300, np.float32), (np.float64, -3e38, ml_dtypes.bfloat16), (np.float32, 1e6, np.float16)],
)
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.filterwarnings("error")
def test_values_that_the_cast_would_make_infinite_are_refused(tmp_path, dtype, largest, loaded, sharded):
    values = np.full((2, 2), 1.5, dtype)
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("fsdp",)), P("fsdp")) if sharded else None
    expected = {"a": jax.ShapeDtypeStruct(values.shape, loaded, sharding=sharding)}
    for number in (1.5, largest * 2 if loaded == ml_dtypes.bfloat16 else largest):
        values[1, 1] = number
        with SafetensorsWriter(tmp_path / "model.safetensors", {"a": (values.shape, dtype)}, {}) as writer:
            writer.write("a", values)
        if number == 1.5:
            np.testing.assert_array_equal(np.asarray(model_folder.load_params(tmp_path, expected)["a"], np.float64), values)
            continue
        name = np.dtype(loaded).name
        message = rf"^\S*model\.safetensors: a has values that are not finite or outside the range of {name}; "
        with pytest.raises(UserError, match=message) as raised:
            model_folder.load_params(tmp_path, expected)
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.uint8])
def test_parameters_that_are_no_floats_are_refused(tmp_path, dtype):
    with SafetensorsWriter(tmp_path / "model.safetensors", {"a": ((2,), dtype)}, {}) as writer:
        writer.write("a", np.ones(2, dtype))
    expected = {"a": jax.ShapeDtypeStruct((2,), np.float32)}
    message = rf"^\S*model\.safetensors: a is {np.dtype(dtype).name}, but parameters are floating-point arrays; "
    for read in (model_folder.load_params, model_folder.read_params):
        with pytest.raises(UserError, match=message):
            read(tmp_path, expected)


def test_linked_files_are_not_copied(saved_model, full_config, random_params, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "id").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    model_folder.save_model(tmp_path / "link", full_config(), Tokenizer.toy(), random_params(full_config()))
    assert not (tmp_path / "link" / "id").exists() and [path.name for path in (tmp_path / "other").iterdir()] == ["id"]


def test_other_files_of_a_model_folder_stay_and_are_not_copied(saved_model, full_config, random_params, tmp_path):
    """It may be large, and nested deeper than Python's recursion limit."""
    folder, _ = saved_model
    (folder / "notes" / "of").mkdir(parents=True)
    (folder / "notes" / "of" / "mine").write_text("kept")
    (folder / "link").symlink_to("notes/of/mine")
    os.mkfifo(folder / "pipe")
    deep = folder / "deep"
    before = pathlib.Path.cwd()
    deep.mkdir()
    os.chdir(deep)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(before)
    file = (folder / "notes" / "of" / "mine").stat().st_ino
    model_folder.save_model(folder, full_config(), Tokenizer.toy(), random_params(full_config()))
    assert (folder / "notes" / "of" / "mine").read_text() == "kept" and (folder / "link").read_text() == "kept"
    assert (folder / "notes" / "of" / "mine").stat().st_ino == file and (deep / "d" / "d").is_dir()
    assert not (folder / "pipe").exists() and not list(folder.parent.glob(".*hyperseg*"))
    remove_tree(folder)  # pytest cannot remove it
