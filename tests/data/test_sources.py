"""Errors for invalid reader fields in configs."""

import ml_collections
import pytest
from rich.console import Console

from hyperseg_jax import toy
from hyperseg_jax.data.augment import Augment
from hyperseg_jax.data.sources import check_untrusted_paths, open_reader, prepare_toy_world
from hyperseg_jax.datasets.reader_fields import check_fields
from hyperseg_jax.errors import UserError


def assert_refused(reader, fields, root="."):
    with pytest.raises(UserError) as error:
        open_reader("data.tasks.x", reader, fields, root)
    return str(error.value)


def test_misspelt_fields_are_reported_with_the_closest_name():
    assert assert_refused("folder", {"folder": "{root}", "spilt": "train"}) == (
        "data.tasks.x: reader 'folder' has no field 'spilt' (did you mean 'split'?); "
        "its fields are folder, split, task, prompts_per_example"
    )


def test_unknown_fields():
    message = assert_refused("folder", {"folder": "{root}", "zzz": 1})
    assert "has no field 'zzz'; its fields are folder, split" in message


def test_missing_fields():
    message = assert_refused("folder", {"split": "train"})
    assert message.startswith("data.tasks.x: reader 'folder' needs the field 'folder'; its fields are folder, split")


def test_options_of_benchmark_readers():
    """Only the options of the class are fields, not the paths of the registry."""
    message = assert_refused("benchmark", {"name": "refcoco", "split": "train", "root": "{root}", "sentence": "joined"})
    assert message == (
        "the reader RefCocoRefs has no field 'sentence' (did you mean 'sentences'?); "
        "its fields are split, sentences, prompts_per_example, polygons"
    )
    assert "has no field 'image_root'" in assert_refused(
        "benchmark", {"name": "gqa", "split": "train_balanced", "root": ".", "image_root": "."}
    )


def test_options_that_a_reader_passes_to_its_base_class():
    for reader, fields in (
        ("segmentation_table", {"table_path": "x"}),
        ("pseudo_labels", {"folder": "x", "image_root": "x"}),
        ("benchmark", {"name": "ade20k", "split": "validation", "root": "."}),
    ):
        message = assert_refused(reader, {**fields, "max_class": 3})
        assert "has no field 'max_class' (did you mean 'max_classes'?); its fields are " in message
        assert "max_classes = 'x'; give a whole number or None" in assert_refused(reader, {**fields, "max_classes": "x"})


def test_lists_of_wrong_length():
    for crop in ([0.5], (0.1, 0.2, 0.3), 0.5, ["a", "b"]):
        with pytest.raises(UserError, match=r"^augment: crop = .*; give a list of 2 numbers$"):
            check_fields("augment", Augment, {"crop": crop})
    check_fields("augment", Augment, {"crop": [0.5, 1]})


def test_lists_of_reader_fields_are_bounded():
    for value, problem in (
        (["x"] * 2, "has an entry twice"),
        ([f"{k}" for k in range(10_001)], "has 10001 entries; give at most"),
    ):
        assert problem in assert_refused("labelme", {"folder": "x", "classes": value})
        assert problem in assert_refused("refcoco", {"json_path": value, "image_root": "x"})


def test_options_of_the_toy_world(world):
    message = assert_refused("toy", {"folder": "{root}", "task": "panoptic", "split": "val", "max_class": 3}, str(world))
    assert message.startswith("the toy reader of task 'panoptic' has no field 'max_class' (did you mean 'max_classes'?)")


def test_values_of_wrong_type(tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "text": "x", "mask": null}')
    for reader, fields, messages in (
        ("folder", {"prompts_per_example": "three"}, "prompts_per_example = 'three'; give a whole number"),
        ("folder", {"prompts_per_example": True}, "prompts_per_example = True; give a whole number"),
        ("folder", {"split": 3}, "split = 3; give a text"),
        ("labelme", {"classes": "cat"}, "classes = 'cat'; give a list of texts"),
        ("labelme", {"max_classes": 1.5}, "max_classes = 1.5; give a whole number or None"),
    ):
        message = assert_refused(reader, {"folder": "{root}", **fields}, str(tmp_path))
        assert message == f"data.tasks.x: reader {reader!r}: {messages}"
    message = assert_refused("benchmark", {"name": "gqa", "split": "train_balanced", "root": ".", "prompts_per_example": "six"})
    assert message == "the reader Gqa: prompts_per_example = 'six'; give a whole number"


@pytest.mark.parametrize(
    "block, message",
    [
        (None, "data.toy: is missing, but a task reads the toy world; add it "),
        ({"log": 1}, "data.toy: 'log': no such field; known fields: seed, train, "),
        ({"compositional": 10**9}, "data.toy.compositional = 1000000000: give an integer from 0 to 20000"),
        ({"level": "x"}, "data.toy: level='x' is unknown; choose one of default, hard"),
        ({"kinds": "held_back", "compositional": 1}, "data.toy: compositional images exist only for kinds='known'; "),
    ],
)
def test_parameters_of_the_toy_world(tmp_path, monkeypatch, block, message):
    """Configs that were not loaded from a file are checked as well."""
    monkeypatch.setenv("HYPERSEG_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        prepare_toy_world(ml_collections.ConfigDict({} if block is None else {"toy": block}), Console(quiet=True))
    assert str(error.value).startswith(message) and not list(tmp_path.glob("toy-*"))


def test_the_toy_world_of_a_config(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERSEG_CACHE", str(tmp_path))
    monkeypatch.setattr("os.cpu_count", lambda: 0)
    data = ml_collections.ConfigDict({"toy": {"seed": 3, "train": 9, "val": 1, "compositional": 1, "clips": 0}})
    folder = prepare_toy_world(data, Console(quiet=True), for_training=False)
    world = toy.read_world(folder)
    assert (world.seed, world.train, world.val, world.compositional, world.clips) == (3, 0, 1, 1, 0)
    assert prepare_toy_world(data, Console(quiet=True), for_training=False) == folder


@pytest.mark.parametrize("value", ["{root}/{root}/secret", "{root}{root}", "x{root}/y", "{root}/link", "{root}/link/x"])
@pytest.mark.parametrize("field, listed", [("folder", False), ("split", False), ("json_path", True)])
def test_untrusted_paths_cannot_leave_the_root(tmp_path, monkeypatch, field, listed, value):
    """Neither a relative root that is written twice, nor a link in the root leads out of it; nor does one path of a list."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "data")

    def check(root, value):
        tasks = {"referring": {"reader": "folder", "val": {field: ["{root}", value] if listed else value}}}
        check_untrusted_paths(ml_collections.ConfigDict({"data": {"tasks": tasks}}), "config.json", root)

    for root in ("../data", "."):
        check(root, "{root}/none/yet")
        check(root, "{root}")
        with pytest.raises(
            UserError, match=rf"^config.json: data.tasks.referring.val.{field} = .*(--data-root|is a link that)"
        ):
            check(root, value)
