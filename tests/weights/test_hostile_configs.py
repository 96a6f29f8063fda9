"""config.json of a model folder has valid types and bounds, or is refused with one line before anything large is built."""

import contextlib
import functools
import json
import os
import shutil

import fuzz
import ml_collections
import pytest

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import benchmarks
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.training.loop import train
from hyperseg_jax.untrusted import limits, paths
from hyperseg_jax.weights import model_folder

SHIPPED = json.loads((model_folder.find_model_folder("tiny") / "config.json").read_text())


@pytest.fixture
def folder(tmp_path):
    """A folder with the config of the shipped tiny model."""
    shutil.copy(model_folder.find_model_folder("tiny") / "config.json", tmp_path / "config.json")
    return tmp_path


def change(path, value):
    config = json.loads(json.dumps(SHIPPED))
    *parents, last = path.split("/")
    root = config
    for name in parents:
        root = root[name]
    root[last] = value
    return config


def nest(depth):
    return json.loads("[" * depth + "]" * depth)


HOSTILE = [
    ("model/llm", None, "model.llm = None: give a block"),
    ("model/llm", [1], r"model\.llm = \[1\]: give a block"),
    ("model", "x", "model = 'x': give a block"),
    ("data", None, "data = None: give a block"),
    ("data/tasks", {}, "is empty; add at least one task"),
    ("data/tasks", {"a": None}, "data.tasks.a = None"),
    ("data/tasks/a.b", {"reader": "toy"}, "'a.b' is not a valid field name"),
    ("data/image_size", 0, "data.image_size = 0: give an integer from 1"),
    ("data/image_size", 10**9, "data.image_size = 1000000000"),
    ("data/image_size", 8192, r"is 8192, and the limit is 2048; .* limits\.side"),
    ("data/buckets", [10**9], "data.buckets = 1000000000"),
    ("data/buckets", [64, 100_000], r"is 100000, and the limit is 4096; .* limits\.tokens"),
    ("data/buckets", [], "give a list of 1 or more"),
    ("data/buckets", None, "data.buckets = None"),
    ("model/llm/num_layers", 10**9, "model.llm.num_layers = 1000000000"),
    ("model/llm/num_layers", True, "model.llm.num_layers = True"),
    ("model/llm/num_layers", 2.5, "model.llm.num_layers = 2.5"),
    ("model/llm/hidden_size", 0, "model.llm.hidden_size = 0"),
    ("model/mask_encoder/depths", [1, 1], "give a list of 4 values"),
    ("model/llm/parent", 1, "model.llm.parent: no such field"),
    ("model/llm/__class__", 1, "'__class__' is not a valid field name"),
    ("model/a.b", {}, "'a.b' is not a valid field name"),
    ("__dict__", {}, "'__dict__' is not a valid field name"),
    ("seed", nest(120), "nests deeper than 100"),
    ("seed", 2**70, "seed = 1180591620717411303424"),
    ("optimizer", {"param_groups": [{"pattern": "(", "rate": 1.0}]}, "give a regular expression"),
    ("optimizer", {"param_groups": [{"pattern": "(([a-z0-9_/])+)+!", "rate": 1.0}]}, "at most 3 repeats, none of them"),
    ("init_optional", ["[[a]"], r"init_optional = '\[\[a\]': give a regular expression"),
    ("data/toy", 3, "data.toy = 3: give a block of fields"),
    ("data/toy/bogus", 1, "data.toy: 'bogus': no such field; known fields: seed, train"),
    ("data/toy/workers", 2, "data.toy: 'workers': no such field"),
    ("data/toy/expressions", "x", "data.toy: 'expressions': no such field"),
    ("data/toy/compositional", "x", "data.toy.compositional = 'x': give an integer from 0 to 20000"),
    ("data/toy/compositional", 1.5, "data.toy.compositional = 1.5: give an integer"),
    ("data/toy/compositional", 10**9, "data.toy.compositional = 1000000000: give an integer"),
    ("data/toy/train", 20_001, "data.toy.train = 20001: give an integer"),
    ("data/toy/clips", 2_001, "data.toy.clips = 2001: give an integer from 0 to 2000"),
    ("data/toy/seed", True, "data.toy.seed = True: give an integer"),
    ("data/toy/kinds", [], r"data.toy.kinds = \[\]: give a string"),
]


@pytest.mark.parametrize(("path", "value", "message"), HOSTILE)
def test_invalid_fields_are_named_in_one_line(folder, path, value, message):
    (folder / "config.json").write_text(json.dumps(change(path, value)))
    with pytest.raises(UserError, match=message) as raised:
        model_folder.read_config(folder)
    assert str(raised.value).startswith(f"{folder / 'config.json'}: ")
    fuzz.assert_one_line(str(raised.value))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": "\xff"}', "not readable JSON"),
        (b"[" * 100_000, "nests deeper than 100"),
        (b'{"seed": NaN}', "has the number nan"),
        (b'{"seed": 1e999}', "has the number inf"),
        (b'{"seed": 1, "seed": 2}', "the key 'seed' twice"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "not readable JSON"),
        (b" " * (2**24 + 1), "bytes, and the limit is 16777216"),
        (b"", "not readable JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "lacks system, model, data"),
    ],
)
def test_invalid_configs_are_refused_in_one_line(folder, data, message):
    (folder / "config.json").write_bytes(data)
    with pytest.raises(UserError, match=message) as raised:
        model_folder.read_config(folder)
    fuzz.assert_one_line(str(raised.value))


def test_pipes_and_endless_files_are_not_read(folder):
    file = folder / "config.json"
    for make in (lambda: os.mkfifo(file), lambda: file.symlink_to("/dev/zero"), lambda: file.symlink_to(file), file.mkdir):
        if file.exists() or file.is_symlink():
            file.unlink()
        make()
        with fuzz.limit_resources(seconds=5), pytest.raises(UserError, match=r"config\.json[: ]"):
            model_folder.read_config(folder)


READ = {
    "config.json": model_folder.read_config,
    "tokenizer.json": Tokenizer.load,
    "model.safetensors": model_folder.read_arrays,
}


TOO_LARGE = {
    "window, model.mask_encoder.num_heads, data.image_size": {
        "data/image_size": 2048,
        "model/mask_encoder/window": 64,
        "model/mask_encoder/num_heads": [32, 32, 32, 32],
    },
    "mask_encoder.window, ": {"model/mask_encoder/window": 64, "model/mask_encoder/num_heads": [1, 1, 1, 64]},
    "mask_encoder.hidden_size, ": {"model/mask_encoder/hidden_size": 2**16, "data/image_size": 512},
    "num_queries, data.image_size": {
        "data/image_size": 2048,
        "model/num_queries": 4000,
        "model/mask_decoder/num_queries": 4000,
    },
    "mask_decoder.num_queries, data.image_size, model.mask_decoder.num_heads": {
        "model/mask_decoder/num_queries": 4096,
        "model/mask_decoder/num_heads": 1024,
    },
    "clip_encoder.image_size, model.clip_encoder.patch_size, model.clip_encoder.num_heads": {
        "model/clip_encoder/image_size": 512,
        "model/clip_encoder/patch_size": 2,
    },
    "data.buckets, data.tasks, model.llm.num_heads": {"data/buckets": [4096], "model/llm/num_heads": 1024},
    "llm.mlp_size, data.buckets": {"data/buckets": [4096], "model/llm/mlp_size": 2**18},
    "pixel_decoder.feedforward_dim, data.image_size": {"data/image_size": 2048, "model/pixel_decoder/feedforward_dim": 2**18},
    "data.image_size, model.pixel_decoder.conv_dim": {"data/image_size": 2048, "model/pixel_decoder/conv_dim": 2**10},
    "perceiver.num_queries, data.image_size, model.perceiver.num_heads": {
        "model/perceiver/num_queries": 4096,
        "model/perceiver/num_heads": 1024,
    },
    "perceiver.head_dim, ": {"data/image_size": 1024, "model/perceiver/head_dim": 4096, "model/perceiver/num_heads": 64},
}


@pytest.mark.parametrize("fields", TOO_LARGE)
def test_products_of_fields_are_bounded(folder, fields):
    """Each of these fields is within its bounds, but with them a model would need more memory than most machines have."""
    config = json.loads(json.dumps(SHIPPED))
    for path, value in TOO_LARGE[fields].items():
        block = config
        for name in path.split("/")[:-1]:
            block = block[name]
        block[path.rpartition("/")[2]] = value
    (folder / "config.json").write_text(json.dumps(config))
    message = rf"{fields}.*: together they need an array of \d+ numbers .* limit is 536870912; .*raise limits\.array$"
    with fuzz.limit_resources(seconds=20, memory=2**28), pytest.raises(UserError, match=message) as raised:
        model_folder.read_config(folder)
    assert str(raised.value).startswith(f"{folder / 'config.json'}: model.") or "config.json: data." in str(raised.value)
    fuzz.assert_one_line(str(raised.value))
    with limits.temporary_limits(array=2**60):
        assert model_folder.read_config(folder)


def test_sizes_of_an_unknown_system_may_be_anything(folder):
    model = {"a": {"window": "x", "num_heads": [], "image_size": True}, "b": {"patch_size": 0, "image_size": 5}, "c": 3}
    model |= {"d": {"mask_dim": 1, "num_queries": [2]}, "e": {"conv_dim": 2, "num_heads": "x"}, "f": {"vocab_size": 1}}
    model |= {"mask_encoder": None, "mask_decoder": {"num_heads": None}, "num_queries": [1]}
    (folder / "config.json").write_text(json.dumps({**SHIPPED, "system": "other", "model": model}))
    assert model_folder.read_config(folder).model.c == 3


@pytest.mark.parametrize(
    "path", ["model/x\nerror: made up", "data/tasks/x\nerror: made up", "data/tasks/referring/x\nerror: y"]
)
def test_field_names_with_control_characters_are_one_line(folder, path):
    (folder / "config.json").write_text(json.dumps(change(path, {"reader": "toy"})))
    with pytest.raises(UserError, match="is not a valid field name") as raised:
        model_folder.read_config(folder)
    fuzz.assert_one_line(str(raised.value))


def test_the_number_of_tasks_is_bounded(folder):
    task = SHIPPED["data"]["tasks"]["referring"]
    (folder / "config.json").write_text(json.dumps(change("data/tasks", {f"t{k}": task for k in range(101)})))
    with pytest.raises(UserError, match=r"data\.tasks: has 101 tasks, and the limit is 100; .*raise limits\.tasks"):
        model_folder.read_config(folder)
    with limits.temporary_limits(tasks=101):
        assert len(model_folder.read_config(folder).data.tasks) == 101


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("inner", ["", "runs/model"])
def test_linked_files(tmp_path, name, inner):
    """Links out of the folder are refused; those of the Hugging Face cache are read, also in subfolders of a snapshot."""
    read = READ[name]
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "0abc" / inner, tmp_path / "models--x" / "blobs"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(model_folder.find_model_folder("tiny"), snapshot)
    blobs.mkdir()
    shutil.move(snapshot / name, blobs / "0")
    (snapshot / name).symlink_to(os.path.relpath(blobs / "0", snapshot))
    assert read(snapshot)
    shutil.move(blobs / "0", tmp_path / "away")
    (blobs / "0").symlink_to(tmp_path / "away")
    with pytest.raises(UserError, match=rf"{name} is a link out of this folder; .*--limits outside=True"):
        read(snapshot)
    with limits.temporary_limits(outside=True):
        assert read(snapshot)


def test_shipped_models_of_a_linked_installation(tmp_path, monkeypatch):
    assets, links = model_folder.find_model_folder("tiny"), tmp_path / "assets"
    (links / "tiny").mkdir(parents=True)
    for name in READ:
        (links / "tiny" / name).symlink_to(assets / name)
    with pytest.raises(UserError, match="is a link out of this folder"):
        model_folder.read_config(links / "tiny")
    monkeypatch.setattr(paths, "ASSETS", links)
    assert model_folder.find_model_folder("tiny") == links / "tiny" and all(read(links / "tiny") for read in READ.values())


def test_a_model_linked_outside_its_workdir(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(model_folder.find_model_folder("tiny"))
    with pytest.raises(UserError, match=r"run/model: .*--limits outside=True"):
        model_folder.find_model_folder(tmp_path / "run")
    (tmp_path / "mine").symlink_to(model_folder.find_model_folder("tiny"))
    assert model_folder.find_model_folder(tmp_path / "mine") == tmp_path / "mine"


@pytest.mark.parametrize("name", ["run", "run/model"])
def test_a_model_is_found_after_a_kill_while_it_was_replaced(tmp_path, name):
    folder = tmp_path / name
    before = folder.parent / f".{folder.name}.hyperseg-{'0' * 8}-aaaaaaaa" / "before"
    shutil.copytree(model_folder.find_model_folder("tiny"), before / folder.name)
    (before.parent.parent / f".other.hyperseg-{'0' * 8}-aaaaaaaa").mkdir()
    for path in (*before.glob("*/*"), *before.iterdir(), before, *folder.parent.iterdir()):
        os.utime(path, (1e9, 1e9))
    assert model_folder.find_model_folder(tmp_path / "run") == folder and not before.parent.exists()
    assert len(list(folder.parent.iterdir())) == 2  # temporary folders of other outputs are kept


def test_limits_come_from_the_user_only(folder):
    (folder / "config.json").write_text(json.dumps({**SHIPPED, "limits": {"side": 10**9, "outside": True}}))
    config = model_folder.read_config(folder)
    assert "limits" not in config and limits.current() == limits.Limits()
    (folder / "config.json").write_text(json.dumps(change("data/image_size", 4096)))
    with limits.temporary_limits(side=4096):
        assert model_folder.read_config(folder).data.image_size == 4096


def test_ids_beyond_the_embeddings_are_refused(zero_model, tmp_path):
    shutil.copytree(zero_model / "model", tmp_path / "model")
    content = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    size, rows = Tokenizer.toy().vocab_size, model_folder.read_config(tmp_path / "model").model.llm.vocab_size
    for k in range(size, rows + 1):
        content["added_tokens"].append({**content["added_tokens"][0], "id": k, "content": f"<{k}>"})
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"tokenizer\.json: has ids up to {rows}, but the model has embeddings of {rows} "):
        Model.load(tmp_path)


def test_ids_beyond_the_embeddings_are_refused_by_training_and_evaluation(micro, tmp_path):
    config, line = micro(model__llm__vocab_size=10), benchmarks.find_benchmarks("toy_referring")["toy_referring"]
    open_task = lambda: benchmarks.open_task("toy_referring", line, config, systems.get(config.system), config.data.root)
    for begin in (lambda: train(config, tmp_path / "run"), open_task):
        with pytest.raises(UserError, match=r"^\S*toy_tokenizer\.json: has ids up to \d+, but the model has embeddings of 10 "):
            begin()


def make_property(folder):
    """Returns the property of damaged config.json files: a config that describes a model, or a one-line error."""

    def check_value(data):
        (folder / "config.json").write_bytes(data)
        result = fuzz.check_call(lambda: model_folder.read_config(folder), says=str(folder))
        if isinstance(result, ml_collections.ConfigDict):
            fuzz.check_call(lambda: model_folder.expected_params(folder, result), seconds=120, memory=2**32)

    return check_value


def read_only(folder):
    """Like make_property, without building the model."""

    def check_value(data):
        (folder / "config.json").write_bytes(data)
        fuzz.check_call(lambda: model_folder.read_config(folder), says=str(folder))

    return check_value


def test_damaged_configs(folder):
    fuzz.run_property(read_only(folder), fuzz.damaged_json(SHIPPED), examples=150)


@pytest.mark.slow
def test_damaged_configs_for_long(folder, run_property_long):
    run_property_long(read_only(folder), fuzz.damaged_json(SHIPPED))


@pytest.mark.slow
def test_models_of_damaged_configs_for_long(folder, run_property_long):
    small = {**SHIPPED, "loss": {}, "optimizer": {}, "train": {}}  # the fields that define the model
    run_property_long(make_property(folder), fuzz.damaged_json({name: small[name] for name in ("system", "model", "data")}))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data.resize.long_side", 2048, ""),
        ("data.resize.long_side", 4096, r"data\.resize or tasks is 4096, and the limit is 2048; .* limits\.side"),
        ("data.resize.multiple", 4096, r"data\.resize or tasks is 4096, and the limit is 2048"),
        ("data.tasks.panoptic.long_side", 4096, r"data\.resize or tasks is 4096, and the limit is 2048"),
        ("data.resize.bicubic", 2, "data.resize.bicubic = 2: give an integer from 0 to 1"),
        ("data.resize", 7, "data.resize = 7: give a block"),
        ("model.pixel_decoder.conv_dim", 2048, r"sides of data\.resize and data\.tasks, .* need an array of \d+ numbers"),
    ],
)
def test_sides_of_images_in_prediction(tmp_path, path, value, message):
    config = configs.load("seem_focalt").to_dict()
    *parents, last = path.split(".")
    functools.reduce(lambda block, name: block[name], parents, config)[last] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
        model_folder.read_config(tmp_path)
