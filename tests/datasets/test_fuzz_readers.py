"""Damaged files of every benchmark: each record is a valid Example or a one-line error, and checks complete."""

import copy
import functools
import json
import random

import fuzz
import hypothesis.strategies as st
import numpy as np
import pytest

from hyperseg_jax.datasets import layouts
from hyperseg_jax.datasets.check import check_reader
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Region
from hyperseg_jax.untrusted import limits

ROOTS = {"folder": "yours/folder", "labelme": "yours/labelme", "coco_json": "yours/coco_json"}
NOTES, IMAGES = (".json", ".jsonl", ".tsv", ".txt", ".p"), (".jpg", ".png")
RECORDS = 3
"""Of a reader, that are read."""
WITHIN = {"pixels": 10**6, "masks": 2000, "mask_pixels": 2 * 10**8, "frame_pixels": 10**8, "seconds": 5.0}
OTHER_KINDS = (
    b"",
    b"\0" * 50,
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 3\nshowpage\n",
    b"P6\n100000 100000\n255\n",
    b"BM" + bytes(range(250)),
    b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08",
    b"ffconcat version 1.0\nfile a.jpg\n",
    b"{}",
    b"[]",
    b"[{}]",
    b"null",
    b"\x80\x02cposix\nsystem\nX\x02\0\0\0id\x85R.",
)


def assert_valid(example):
    """Asserts that an Example is valid."""
    assert isinstance(example, Example) and isinstance(example.name, str)
    assert example.frames.ndim == 4 and example.frames.dtype == np.uint8 and example.frames.shape[3] == 3
    size = example.frames.shape[1:3]
    for prompt in example.prompts:
        texts = (prompt.text, prompt.answer, prompt.group, prompt.key, *prompt.classes, *prompt.answers)
        assert all(isinstance(text, str) for text in texts)
        for masks, axes in ((prompt.masks, 4), (prompt.ignore, 3), (prompt.crowds, 4), (prompt.others, 4)):
            assert masks is None or (masks.dtype == bool and masks.ndim == axes)
            assert masks is None or not len(masks) or masks.shape[-2:] in (size, (1, 1))
        for region in prompt.regions:
            assert isinstance(region, Region)
            assert region.mask is None or (region.mask.dtype == bool and region.mask.shape in (size, (1, 1)))
        if prompt.task == "panoptic":
            assert len(prompt.things) == len(prompt.classes) and all(0 <= k < len(prompt.classes) for k in prompt.labels)
        if prompt.task in ("panoptic", "region") and prompt.masks is not None:
            assert len(prompt.labels) == len(prompt.masks)


def read_all(root, layout, split):
    """Reads the first records and returns the messages."""
    reader, messages = layout.open(root, split), []
    for k in range(min(RECORDS, len(reader))):
        try:
            assert_valid(reader[k])
        except UserError as error:
            messages.append(str(error))
    return messages


def check_all(root, layout, split):
    """Runs a check and returns its messages."""
    report = check_reader(lambda: layout.open(root, split), lambda **_: None, threads=1)
    return list(report.collected.problems)


def check_content(root, layout, split, path, content):
    """Asserts the property for a benchmark with one file replaced by `content`; returns the messages."""
    original, messages = path.read_bytes(), []
    path.write_bytes(content)
    try:
        with limits.temporary_limits(**WITHIN):
            for read in (read_all, check_all):
                outcome = fuzz.check_call(lambda read=read: read(root, layout, split), seconds=20)
                messages += outcome if isinstance(outcome, list) else [str(outcome)]
    finally:
        path.write_bytes(original)
    for message in messages:
        fuzz.assert_one_line(message)
    return messages


def check_messages(root, layout, split, path, content):
    """Asserts that every message has no Python terms, and names an annotation file (the damaged one or one that mismatches it),
    or a missing file that a field now names."""
    names = [": no such ", *(note.name for note in list_files(root, layout, split)[0])]
    for message in check_content(root, layout, split, path, content):
        fuzz.assert_plain_words(message, names)


def list_files(root, layout, split):
    """Returns the annotation files that a benchmark's reader opens for a split, and a few of the images."""
    tops = [root / part.format(split=split) for part in layout.paths(split)]
    result = {path for top in tops for path in ([top] if top.is_file() else top.rglob("*")) if path.is_file()}
    notes = sorted(path for path in result if path.suffix in NOTES)
    images = sorted(path for path in result if path.suffix in IMAGES)
    return notes[:20], random.Random(0).sample(images, min(4, len(images)))


def _fields(value, path=()):
    """Yields (field, path, member) of all members of a JSON value; the members of a list are one field."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        here = (*path, name)
        yield tuple("*" if isinstance(part, int) else part for part in here), here, member
        yield from _fields(member, here)


@st.composite
def edit_fields(draw, value):
    """Replaces or removes one or two fields of a JSON value, with equal probability per field."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        positions = {}
        for field, path, _ in _fields(value):
            positions.setdefault(field, []).append(path)
        if not positions:
            break
        *path, last = draw(st.sampled_from(positions[draw(st.sampled_from(list(positions)))][:3]))
        folder = functools.reduce(lambda part, name: part[name], path, value)
        if draw(st.integers(0, 5)):
            folder[last] = draw(fuzz.VALUES)
        else:
            del folder[last]
    return value


KINDS = (None, True, 7, -1, 0.5, 10**30, "x", "", [], [3], ["x"], [[]], {}, {"x": 3})
NUMBERS = (int, float)


@st.composite
def change_type(draw, value):
    """Replaces one field of a JSON value by a value of another type, with equal probability per field; nulls are kept."""
    value = copy.deepcopy(value)
    positions = {field: path for field, path, member in reversed(list(_fields(value))) if member is not None}
    *path, last = positions[draw(st.sampled_from(list(positions)))]
    folder = functools.reduce(lambda part, name: part[name], path, value)
    folder[last] = draw(st.sampled_from([one for one in KINDS if _kind(one) != _kind(folder[last])]))
    return value


def _kind(value):
    return NUMBERS if type(value) in NUMBERS else type(value)


def is_lines(path):
    return path.suffix == ".jsonl" or path.parent.name == "pope"


def contents_of_other_types(path):
    """Returns a strategy for contents of a JSON file with a field of another type."""
    data = path.read_bytes()
    if is_lines(path):
        rows = [json.loads(line) for line in data.splitlines()[:20]]
        return change_type(rows).map(lambda result: "\n".join(map(json.dumps, result)).encode())
    return change_type(json.loads(data)).map(lambda result: json.dumps(result).encode())


def json_notes(root, layout, split):
    return [path for path in list_files(root, layout, split)[0] if path.suffix in (".json", ".jsonl")]


def cases_of_other_types(root, layout, split):
    notes = json_notes(root, layout, split)
    return st.sampled_from(notes).flatmap(lambda path: st.tuples(st.just(path), contents_of_other_types(path)))


def contents(path):
    """Returns a strategy for damaged contents of a file."""
    data = path.read_bytes()
    bytewise = st.one_of(fuzz.damaged_bytes(data), st.sampled_from(OTHER_KINDS))
    if path.suffix == ".json" and not is_lines(path):
        value = json.loads(data)
        fields = edit_fields(value).map(lambda result: json.dumps(result).encode())
        return st.integers(0, 9).flatmap(lambda k: bytewise if k == 0 else fuzz.damaged_json(value) if k < 3 else fields)
    if is_lines(path):
        rows = [json.loads(line) for line in data.splitlines()[:20]]
        fields = edit_fields(rows).map(lambda result: "\n".join(map(json.dumps, result)).encode())
        return st.integers(0, 9).flatmap(lambda k: bytewise if k == 0 else fields)
    return bytewise


def cases(root, layout, split):
    notes, images = list_files(root, layout, split)
    paths = st.integers(0, 3).flatmap(lambda k: st.sampled_from(notes if notes and (k or not images) else images))
    return paths.flatmap(lambda path: st.tuples(st.just(path), contents(path)))


def copy_benchmark(copy_samples, samples, name):
    root = copy_samples(
        *(path.name for path in samples.iterdir() if path.is_dir() and (name in ROOTS) == (path.name == "yours"))
    )
    return root / ROOTS.get(name, "."), layouts.find_layout(name), layouts.find_layout(name).splits[-1]


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_damaged_files(copy_samples, samples, name):
    where = copy_benchmark(copy_samples, samples, name)
    root, layout, split = where
    with limits.temporary_limits(**WITHIN):  # valid files are read within the limits for damaged ones
        assert len(fuzz.check_call(lambda: layout.open(root, split), seconds=20))
    fuzz.run_property(lambda case: check_content(*where, *case), cases(*where), examples=5)
    if json_notes(*where):
        fuzz.run_property(lambda case: check_messages(*where, *case), cases_of_other_types(*where), examples=5)


@pytest.fixture
def benchmarks(copy_samples, samples):
    """(folder, layout, split) of each benchmark."""
    root = copy_samples(*(path.name for path in samples.iterdir() if path.is_dir()))
    return [(root / ROOTS.get(name, "."), layout, layout.splits[-1]) for name, layout in layouts.LAYOUTS.items()]


def sample_cases(benchmarks, cases):
    return st.sampled_from(benchmarks).flatmap(lambda where: st.tuples(st.just(where), cases(*where)))


@pytest.mark.slow
def test_damaged_files_for_long(benchmarks, run_property_long):
    run_property_long(lambda one: check_content(*one[0], *one[1]), sample_cases(benchmarks, cases))


@pytest.mark.slow
def test_fields_of_other_types_for_long(benchmarks, run_property_long):
    noted = [where for where in benchmarks if json_notes(*where)]
    run_property_long(lambda one: check_messages(*one[0], *one[1]), sample_cases(noted, cases_of_other_types))
