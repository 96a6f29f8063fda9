"""Examples round-trip through records, and damaged records are detected."""

import dataclasses
import re

import fuzz
import msgpack
import numpy as np
import pytest
from sample_inputs import make_regions

from hyperseg_jax.datasets.builds import images, records
from hyperseg_jax.datasets.builds.records import Record
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import fit_to_square, resize_and_pad_map
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.untrusted import budget, limits, msgpack_parts
from hyperseg_jax.untrusted.bad_file import BadFile


@pytest.fixture
def full():
    """A video whose prompts use every field."""
    rng = np.random.default_rng(0)
    blobs = lambda *shape: np.repeat(np.repeat(rng.random((*shape, 3, 4)) > 0.5, 5, -2), 6, -1)
    requests = Prompt(
        task="panoptic",
        text="é\ud83d",
        answer="so",
        answers=("a",),
        classes=("cat", "sky"),
        things=(True, False),
        masks=blobs(3, 2),
        labels=(0, 0, 1),
        regions=(
            Region.from_mask(blobs(), "box"),
            Region("point", points=[[0.1, 3, 1], [23.999999999, 7 / 3, 0]], boxes=[[1, 2, 3.7, 15]], mask=blobs()),
            Region("scribble", scribbles=(np.array([[0.3, 0.7], [5, 9]]), np.array([[1.0, 1.0]]))),
        ),
        captions=(("a cat",), ("the sky", "é\ud83d"), ("a line",)),
        ignore=blobs(2),
        group="g",
        crowds=blobs(1, 2),
        crowd_labels=(0,),
        foreground=blobs(2),
        areas=(7.0, 8.5, 9.0),
        others=blobs(1, 2),
        key="17",
        history=(("what?", "that"),),
        needs_reasoning=True,
        entities=("a cat", "b"),
    )
    nothing = Prompt(task="video", text="none", masks=np.zeros((0, 2, 15, 24), bool))
    frames = rng.integers(0, 256, (2, 15, 24, 3), np.uint8)
    return Example("clip/1", frames, (requests, nothing, Prompt(task="chat")), ("00000", "00005"))


def pack(example):
    return records.encode_example(example, images.encode_losslessly(example.frames, []))


def test_every_field_round_trips(full, assert_equal):
    values = {field.name: getattr(full.prompts[0], field.name) for field in dataclasses.fields(Prompt)}
    inputs = {name for name, value in values.items() if isinstance(value, np.ndarray) or value}
    assert inputs == {field.name for field in dataclasses.fields(Prompt)}, "a new field of Prompt: give it a value in `full`"
    assert_equal(Record(pack(full), "s#0").example(), full)


def test_arrays_of_frames_are_known():
    arrays = {field.name for field in dataclasses.fields(Prompt) if "ndarray" in str(field.type)}
    assert arrays == set(records.PER_FRAME_MASKS), (
        "a new array of Prompt: does it have an axis of frames (records.PER_FRAME_MASKS)?"
    )


def test_equal_planes_are_stored_once(full):
    twice = dataclasses.replace(full, prompts=(full.prompts[0],) * 40)
    content = msgpack.unpackb(pack(twice), unicode_errors="surrogatepass")
    assert len(content["planes"]) <= 17 and len(pack(twice)) < 40 * len(pack(full)) / 3


@pytest.mark.parametrize("names", [["0"], ["0", "1", "2"]])
def test_names_of_other_frames_are_damaged(full, names):
    content = msgpack.unpackb(pack(full), unicode_errors="surrogatepass") | {"frame_names": names}
    with pytest.raises(UserError, match=rf"^s#0: is damaged .it has {len(names)} names for 2 frames"):
        Record(msgpack.packb(content, unicode_errors="surrogatepass"), "s#0")


PYTHON = re.compile(r"Error\b|Exception|\bobject\b|zip\(\)|argument|indices|'(int|str|list|dict|NoneType)'|unpack")
"""Words that Python says of a program."""


def test_damage_is_reported_or_harmless(full):
    data, rng, refused = pack(full), np.random.default_rng(1), 0
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
        with pytest.raises(UserError, match="shard#7: is damaged") as excinfo:
            Record(short, "shard#7")
        assert not PYTHON.search(str(excinfo.value)), excinfo.value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", []),
        ("crowd_labels", [0, 1]),
        ("things", [True]),
        ("areas", ["many"]),
        *(("areas", [1.0, 1.0, area]) for area in (float("nan"), float("inf"), -float("inf"))),
        *(("ignore", {"shape": [2], "planes": [0, plane]}) for plane in (0.7, "0", True, [0])),
        ("masks", {"shape": [3], "planes": [0, 0, 0]}),
        ("masks", {"shape": [3, 1], "planes": [0, 0, 0]}),
        ("ignore", {"shape": [], "planes": [0]}),
        ("regions", [0]),
        ("regions", 5),
        ("regions", {"shape": [2], "planes": [0, 1]}),
        ("kinds", ["point", "point", "point"]),
        *(("captions", captions) for captions in (["a"], [["a"], [5]], "a", 5, [["a", ["b"]]])),
        ("others", 5),
    ],
)
def test_inconsistent_prompts_are_refused(full, field, value):
    """Invalid prompts would fail far from their file."""
    content = msgpack.unpackb(pack(full), unicode_errors="surrogatepass")
    content["prompts"][0][field] = value
    with pytest.raises(UserError, match=r"^s#0: is damaged") as excinfo:
        Record(msgpack.packb(content, unicode_errors="surrogatepass"), "s#0")
    assert not PYTHON.search(str(excinfo.value)), excinfo.value


def pack_array(*values):
    return np.array(values, "<f8").tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"points": pack_array(1, float("nan"), 1)},
        {"points": pack_array(float("inf"), 1, 1)},
        {"points": pack_array(1, 2, 0.5)},
        {"points": pack_array(1, 2)},
        {"points": pack_array(1, 2, 1)[:-1]},
        {"points": pack_array(1, 2, 1) * 5000},
        {"points": [1, 2, 1]},
        {"boxes": pack_array(5, 5, 1, 9)},
        {"boxes": pack_array(0, 0, 1e7, 9)},
        {"scribbles": [pack_array(*range(2 * 4096)), pack_array(1, 1)]},
        {"scribbles": [b""]},
        {"scribbles": [b""] * 10**6},
        {"scribbles": [pack_array(0, 0, 9e5, 0) * 3]},
        {"scribbles": 7},
        {"mask": {"shape": [1], "planes": [0]}},
        {"mask": {"shape": [], "planes": [10**6]}},
        {"mask": [0]},
        {"kind": "blob"},
        {"kind": ["mask"]},
        {"radius": -1},
        {"radius": 1.5},
        {"radius": 10**9},
        {"depth": 1},
    ],
    ids=lambda changes: f"{next(iter(changes))} {str(changes)[-12:]}",
)
def test_invalid_regions_are_refused(full, changes):
    content = msgpack.unpackb(pack(full), unicode_errors="surrogatepass")
    content["prompts"][0]["regions"][1] |= changes
    with pytest.raises(UserError, match=r"^s#0: is damaged"):
        Record(msgpack.packb(content, unicode_errors="surrogatepass"), "s#0")


@pytest.mark.parametrize("field", ["answers", "classes", "labels", "things"])
def test_empty_masks_of_any_number_take_no_memory(full, field):
    """Masks of 2**40 rows and no column have no bytes, but would be processed row by row."""
    content = msgpack.unpackb(pack(full), unicode_errors="surrogatepass")
    for shape in ([2**40, 0], [0, 3]):
        content["prompts"][0][field] = {"shape": shape, "planes": []}
        with pytest.raises(UserError, match=r"^s#0: "):
            Record(msgpack.packb(content, unicode_errors="surrogatepass"), "s#0")


def test_captions_of_other_regions_are_refused(full):
    line = full.prompts[0].regions[2]
    prompt = Prompt("caption", regions=(line, line), captions=(("one",),))
    with pytest.raises(UserError, match=r"s#0: is damaged .it has 1 captions for 2 regions"):
        Record(pack(dataclasses.replace(full, prompts=(prompt,))), "s#0")


def test_more_regions_than_a_record_may_have_are_refused(full):
    line = full.prompts[0].regions[2]
    many = lambda count: pack(dataclasses.replace(full, prompts=(Prompt("region", regions=(line,) * count),) * 2))
    with limits.temporary_limits(masks=20), pytest.raises(UserError, match=r"^s#0: has 21 regions, and the limit is 20"):
        Record(many(21), "s#0")
    with limits.temporary_limits(masks=20), budget.record_budget(), pytest.raises(UserError, match=r"raise limits\.masks"):
        Record(many(15), "s#0").example()


def test_regions_of_older_records_are_read(full, assert_equal):
    """Earlier records have one mask array, with kinds in a separate field."""
    masks = np.array([region.mask for region in full.prompts[0].regions[:2]])
    content = msgpack.unpackb(pack(full), unicode_errors="surrogatepass")
    planes = [region["mask"]["planes"][0] for region in content["prompts"][0]["regions"][:2]]
    content["prompts"][0] |= {"regions": {"shape": [2], "planes": planes}, "kinds": ["box", "point"]}
    result = Record(msgpack.packb(content, unicode_errors="surrogatepass"), "s#0").example()
    expected = dataclasses.replace(full.prompts[0], regions=make_regions(masks, "box", "point"))
    assert_equal(result, dataclasses.replace(full, prompts=(expected, *full.prompts[1:])))


def test_example_images_are_stored(full):
    with pytest.raises(UserError, match="clip/1: its regions are drawn on another image"):
        pack(dataclasses.replace(full, drawn_on=full.frames[0]))


def test_downscaling_moves_marks(full):
    """15 x 24 pixels become 8 x 12: each mark keeps its relative position."""
    mask, mixed, lines = images.downscale_example(full, 12).prompts[0].regions
    down, across = 8 / 15, 12 / 24
    before = full.prompts[0].regions
    np.testing.assert_allclose(mixed.points, before[1].points * [across, down, 1])
    np.testing.assert_allclose(mixed.boxes, before[1].boxes * [across, down, across, down])
    np.testing.assert_allclose(lines.scribbles[0], before[2].scribbles[0] * [across, down])
    assert mask.mask.shape == mixed.mask.shape == (8, 12) and (mask.kind, mixed.kind) == ("box", "point")


def test_unknown_fields_are_named(full):
    content = msgpack.unpackb(pack(full), unicode_errors="surrogatepass")
    content["prompts"][0]["depth"] = 1
    with pytest.raises(UserError, match="'depth' is from a newer version"):
        Record(msgpack.packb(content, unicode_errors="surrogatepass"), "s#0")


def test_downscaling_equals_that_of_the_pipeline(full):
    noise = np.random.default_rng(2).random((8, 2, 15, 24)) > 0.5
    full = dataclasses.replace(full, prompts=(dataclasses.replace(full.prompts[0], masks=noise),))
    small = images.downscale_example(full, 12)
    geometry = fit_to_square(15, 24, 12)
    assert small.frames.shape == (2, *geometry.filled, 3) and small.prompts[0].text == full.prompts[0].text
    for mask, before in zip(small.prompts[0].masks[:, 0], full.prompts[0].masks[:, 0], strict=True):
        np.testing.assert_array_equal(mask, resize_and_pad_map(before, geometry)[: geometry.filled[0], : geometry.filled[1]])
    assert images.downscale_example(full, 24) is full  # never enlarged
    dot = np.zeros((1, 2, 15, 24), bool)
    dot[..., 14, 23] = True
    one = dataclasses.replace(full, prompts=(Prompt(task="video", masks=dot),))
    assert (images.downscale_example(one, 4).prompts[0].masks.sum((-2, -1)) == 1).all()


def test_lists_in_lists_take_no_memory():
    """Each list is said to be long, and holds the next: what is unpacked makes room for all of them."""
    nested = b"".join(b"\xdd" + (10**6).to_bytes(4) for _ in range(1000)) + bytes(10**6)

    def read(data, words):
        with pytest.raises(UserError, match=words):
            Record(data, "s#0")

    fuzz.check_call(lambda: read(nested, r"^s#0: has \d+ values, and the limit is 1048576; .*limits\.values"), memory=2**26)
    read(b"\x91" * 200 + b"\x00", r"^s#0: nests deeper than 100 values; .*limits\.depth")
    read(b"\xc7\x01\x01a", r"^s#0: is damaged \(it has a value of an unknown kind\)")


def test_the_values_of_a_record_are_counted_as_they_are_unpacked(full):
    data = pack(full)

    def count(value):
        inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + sum(map(count, inner))

    values = count(msgpack.unpackb(data, unicode_errors="surrogatepass"))
    with limits.temporary_limits(values=values):
        assert Record(data, "s#0").name == full.name
    with limits.temporary_limits(values=values - 1), pytest.raises(UserError, match=rf"^s#0: has {values} values"):
        Record(data, "s#0")
    for wide in (
        [0] * 15,
        [0] * 16,
        [0] * 70_000,
        {str(k): -k for k in range(16)},
        {str(k): k for k in range(70_000)},
        "a" * 300,
    ):
        for value in (wide, [wide, 2**40, 1.5, b"a" * 70_000, "b" * 70_000, None, True, -(2**30), -7, 300, 70_000]):
            msgpack_parts.check_msgpack(msgpack.packb(value))
    with pytest.raises(BadFile, match="is damaged"):
        msgpack_parts.check_msgpack(msgpack.packb([1, 2]) + b"a")


def test_a_record_that_no_reader_would_take_is_not_written(full):
    for name in ("record_bytes", "values"):
        with limits.temporary_limits(**{name: 50}), pytest.raises(UserError, match=rf"^clip/1: has \d+ .*limits\.{name}"):
            pack(full)
