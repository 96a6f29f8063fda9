"""Examples as records and back: nothing lost, and damaged bytes are told from whole ones."""

import dataclasses
import re

import msgpack
import numpy as np
import pytest

from hyperseg_jax.datasets.builds import pictures, records
from hyperseg_jax.datasets.builds.records import Record
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import fit, resize_and_pad_map
from hyperseg_jax.structs import Example, Prompt


@pytest.fixture
def full():
    """A clip whose prompts use every field."""
    rng = np.random.default_rng(0)
    blobs = lambda *shape: np.repeat(np.repeat(rng.random((*shape, 3, 4)) > 0.5, 5, -2), 6, -1)
    asked = Prompt(
        task="panoptic",
        text="é\ud83d",
        answer="so",
        answers=("a",),
        classes=("cat", "sky"),
        things=(True, False),
        masks=blobs(3, 2),
        labels=(0, 0, 1),
        regions=blobs(2),
        kinds=("box", "point"),
        ignore=blobs(2),
        group="g",
        crowds=blobs(1, 2),
        crowd_labels=(0,),
        foreground=blobs(2),
        areas=(7.0, 8.5, 9.0),
        others=blobs(1, 2),
        key="17",
    )
    nothing = Prompt(task="video", text="none", masks=np.zeros((0, 2, 15, 24), bool))
    frames = rng.integers(0, 256, (2, 15, 24, 3), np.uint8)
    return Example("clip/1", frames, (asked, nothing, Prompt(task="chat")), ("00000", "00005"))


def packed(example):
    return records.encode(example, pictures.as_files(example.frames, []))


def test_every_field_comes_back(full, assert_equal):
    values = {field.name: getattr(full.prompts[0], field.name) for field in dataclasses.fields(Prompt)}
    given = {name for name, value in values.items() if isinstance(value, np.ndarray) or value}
    assert given == {field.name for field in dataclasses.fields(Prompt)}, "a new field of Prompt: give it a value in `full`"
    assert_equal(Record(packed(full), "s#0").example(), full)


def test_arrays_of_frames_are_known():
    arrays = {field.name for field in dataclasses.fields(Prompt) if "ndarray" in str(field.type)}
    assert arrays == {*records.TIMED, "regions"}, "a new array of Prompt: does it have an axis of frames (records.TIMED)?"


def test_equal_planes_are_kept_once(full):
    twice = dataclasses.replace(full, prompts=(full.prompts[0],) * 40)
    content = msgpack.unpackb(packed(twice), unicode_errors="surrogatepass")
    assert len(content["planes"]) <= 17 and len(packed(twice)) < 40 * len(packed(full)) / 3


PYTHON = re.compile(r"Error\b|Exception|\bobject\b|zip\(\)|argument|indices|'(int|str|list|dict|NoneType)'|unpack")
"""Words that Python says of a program."""


def test_damage_is_named_or_harmless(full):
    data, rng, refused = packed(full), np.random.default_rng(1), 0
    for _ in range(400):
        hurt = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            hurt[place] = rng.integers(0, 256)
        try:
            Record(bytes(hurt), "shard#7").example()
        except UserError as error:
            refused += 1
            assert "shard#7" in str(error) and not PYTHON.search(str(error)), error
    assert refused > 100
    for short in (b"", data[: len(data) // 2], data + b"x", msgpack.packb([1]), msgpack.packb({"name": 3})):
        with pytest.raises(UserError, match="shard#7: is damaged") as told:
            Record(short, "shard#7")
        assert not PYTHON.search(str(told.value)), told.value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", []),
        ("crowd_labels", [0, 1]),
        ("things", [True]),
        ("areas", ["many"]),
        ("masks", {"shape": [3], "planes": [0, 0, 0]}),
        ("masks", {"shape": [3, 1], "planes": [0, 0, 0]}),
        ("ignore", {"shape": [], "planes": [0]}),
        ("regions", [0]),
        ("others", 5),
    ],
)
def test_prompts_whose_fields_do_not_fit_are_damaged(full, field, value):
    """What a Prompt must be is held by all who read it, far from its file."""
    content = msgpack.unpackb(packed(full), unicode_errors="surrogatepass")
    content["prompts"][0][field] = value
    with pytest.raises(UserError, match=r"^s#0: is damaged") as told:
        Record(msgpack.packb(content, unicode_errors="surrogatepass"), "s#0")
    assert not PYTHON.search(str(told.value)), told.value


def test_a_newer_field_is_named(full):
    content = msgpack.unpackb(packed(full), unicode_errors="surrogatepass")
    content["prompts"][0]["depth"] = 1
    with pytest.raises(UserError, match="'depth' of a newer version"):
        Record(msgpack.packb(content, unicode_errors="surrogatepass"), "s#0")


def test_shrinking_is_that_of_the_pipeline(full):
    noise = np.random.default_rng(2).random((8, 2, 15, 24)) > 0.5
    full = dataclasses.replace(full, prompts=(dataclasses.replace(full.prompts[0], masks=noise),))
    small = pictures.shrunk(full, 12)
    geometry = fit(15, 24, 12)
    assert small.frames.shape == (2, *geometry.filled, 3) and small.prompts[0].text == full.prompts[0].text
    for mask, before in zip(small.prompts[0].masks[:, 0], full.prompts[0].masks[:, 0], strict=True):
        np.testing.assert_array_equal(mask, resize_and_pad_map(before, geometry)[: geometry.filled[0], : geometry.filled[1]])
    assert pictures.shrunk(full, 24) is full  # never up
    dot = np.zeros((1, 2, 15, 24), bool)
    dot[..., 14, 23] = True
    one = dataclasses.replace(full, prompts=(Prompt(task="video", masks=dot),))
    assert (pictures.shrunk(one, 4).prompts[0].masks.sum((-2, -1)) == 1).all()
