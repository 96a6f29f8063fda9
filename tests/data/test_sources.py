"""Errors for invalid reader fields in configs."""

import pytest

from hyperseg_jax.data.augment import Augment
from hyperseg_jax.data.sources import open_reader
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


def test_lists_of_wrong_length():
    for crop in ([0.5], (0.1, 0.2, 0.3), 0.5, ["a", "b"]):
        with pytest.raises(UserError, match=r"^augment: crop = .*; give a list of 2 numbers$"):
            check_fields("augment", Augment, {"crop": crop})
    check_fields("augment", Augment, {"crop": [0.5, 1]})


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
