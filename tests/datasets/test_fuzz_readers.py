"""Damaged files of every benchmark: each record is a sound Example or one line about it, and a check goes on to the end."""

import copy
import functools
import json
import random

import fuzz
import hypothesis.strategies as st
import numpy as np
import pytest

from hyperseg_jax.datasets import layouts
from hyperseg_jax.datasets.check import check
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


def sound(example):
    """That an Example is what structs say."""
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
    """What is told while the first records are read."""
    reader, told = layout.open(root, split), []
    for k in range(min(RECORDS, len(reader))):
        try:
            sound(reader[k])
        except UserError as error:
            told.append(str(error))
    return told


def check_all(root, layout, split):
    """What a check tells."""
    report = check(lambda: layout.open(root, split), lambda **_: None, threads=1)
    return list(report.collected.problems)


def holds(root, layout, split, path, content):
    """What is told of a benchmark with this content in the place of a file: the promise is kept."""
    original, told = path.read_bytes(), []
    path.write_bytes(content)
    try:
        with limits.applied(**WITHIN):
            for read in (read_all, check_all):
                outcome = fuzz.kept_promise(lambda read=read: read(root, layout, split), seconds=20)
                told += outcome if isinstance(outcome, list) else [str(outcome)]
    finally:
        path.write_bytes(original)
    for message in told:
        fuzz.one_line(message)
    return told


def told_plainly(root, layout, split, path, content):
    """Every message is in plain words, and names an annotation file (the damaged one, or another that does not fit it), or a
    file that is not there and that a field now names."""
    names = [": no such ", *(note.name for note in files_of(root, layout, split)[0])]
    for message in holds(root, layout, split, path, content):
        fuzz.plain_words(message, names)


def files_of(root, layout, split):
    """The annotation files of a benchmark that its reader of a split opens, and a few of the images."""
    tops = [root / part.format(split=split) for part in (layout.files | layout.split_files.get(split, {})).values()]
    found = {path for top in tops for path in ([top] if top.is_file() else top.rglob("*")) if path.is_file()}
    notes = sorted(path for path in found if path.suffix in NOTES)
    images = sorted(path for path in found if path.suffix in IMAGES)
    return notes[:20], random.Random(0).sample(images, min(4, len(images)))


def _fields(value, path=()):
    """(field, path, member) of all members of a JSON value; the members of a list are one field."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        here = (*path, name)
        yield tuple("*" if isinstance(part, int) else part for part in here), here, member
        yield from _fields(member, here)


@st.composite
def other_fields(draw, value):
    """The JSON value with one or two fields replaced or taken out, each field as likely as any other."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        places = {}
        for field, path, _ in _fields(value):
            places.setdefault(field, []).append(path)
        if not places:
            break
        *path, last = draw(st.sampled_from(places[draw(st.sampled_from(list(places)))][:3]))
        home = functools.reduce(lambda part, name: part[name], path, value)
        if draw(st.integers(0, 5)):
            home[last] = draw(fuzz.VALUES)
        else:
            del home[last]
    return value


KINDS = (None, True, 7, -1, 0.5, 10**30, "x", "", [], [3], ["x"], [[]], {}, {"x": 3})
NUMBERS = (int, float)


@st.composite
def other_kinds(draw, value):
    """The JSON value with one field replaced by a value of another kind, each field as likely as any other. Null is of none."""
    value = copy.deepcopy(value)
    places = {field: path for field, path, member in reversed(list(_fields(value))) if member is not None}
    *path, last = places[draw(st.sampled_from(list(places)))]
    home = functools.reduce(lambda part, name: part[name], path, value)
    home[last] = draw(st.sampled_from([one for one in KINDS if _kind(one) != _kind(home[last])]))
    return value


def _kind(value):
    return NUMBERS if type(value) in NUMBERS else type(value)


def is_lines(path):
    return path.suffix == ".jsonl" or path.parent.name == "pope"


def contents_of_other_kinds(path):
    """Contents of a JSON file with a field of another kind."""
    data = path.read_bytes()
    if is_lines(path):
        rows = [json.loads(line) for line in data.splitlines()[:20]]
        return other_kinds(rows).map(lambda made: "\n".join(map(json.dumps, made)).encode())
    return other_kinds(json.loads(data)).map(lambda made: json.dumps(made).encode())


def json_notes(root, layout, split):
    return [path for path in files_of(root, layout, split)[0] if path.suffix in (".json", ".jsonl")]


def cases_of_other_kinds(root, layout, split):
    notes = json_notes(root, layout, split)
    return st.sampled_from(notes).flatmap(lambda path: st.tuples(st.just(path), contents_of_other_kinds(path)))


def contents(path):
    """Damaged contents of a file."""
    data = path.read_bytes()
    bytewise = st.one_of(fuzz.damaged_bytes(data), st.sampled_from(OTHER_KINDS))
    if path.suffix == ".json" and not is_lines(path):
        value = json.loads(data)
        fields = other_fields(value).map(lambda made: json.dumps(made).encode())
        return st.integers(0, 9).flatmap(lambda k: bytewise if k == 0 else fuzz.damaged_json(value) if k < 3 else fields)
    if is_lines(path):
        rows = [json.loads(line) for line in data.splitlines()[:20]]
        fields = other_fields(rows).map(lambda made: "\n".join(map(json.dumps, made)).encode())
        return st.integers(0, 9).flatmap(lambda k: bytewise if k == 0 else fields)
    return bytewise


def cases(root, layout, split):
    notes, images = files_of(root, layout, split)
    paths = st.integers(0, 3).flatmap(lambda k: st.sampled_from(notes if notes and (k or not images) else images))
    return paths.flatmap(lambda path: st.tuples(st.just(path), contents(path)))


def copied(own, samples, name):
    root = own(*(path.name for path in samples.iterdir() if path.is_dir() and (name in ROOTS) == (path.name == "yours")))
    return root / ROOTS.get(name, "."), layouts.find_layout(name), layouts.find_layout(name).splits[-1]


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_damaged_files(own, samples, name):
    where = copied(own, samples, name)
    root, layout, split = where
    with limits.applied(**WITHIN):  # sound files are read within the bounds that damaged ones must keep
        assert len(fuzz.kept_promise(lambda: layout.open(root, split), seconds=20))
    fuzz.tried(lambda case: holds(*where, *case), cases(*where), examples=5)
    if json_notes(*where):
        fuzz.tried(lambda case: told_plainly(*where, *case), cases_of_other_kinds(*where), examples=5)


@pytest.fixture
def benchmarks(own, samples):
    """(folder, layout, split) of each."""
    root = own(*(path.name for path in samples.iterdir() if path.is_dir()))
    return [(root / ROOTS.get(name, "."), layout, layout.splits[-1]) for name, layout in layouts.LAYOUTS.items()]


def drawn_of(benchmarks, cases):
    return st.sampled_from(benchmarks).flatmap(lambda where: st.tuples(st.just(where), cases(*where)))


@pytest.mark.slow
def test_damaged_files_for_long(benchmarks, tried_long):
    tried_long(lambda one: holds(*one[0], *one[1]), drawn_of(benchmarks, cases))


@pytest.mark.slow
def test_fields_of_other_kinds_for_long(benchmarks, tried_long):
    noted = [where for where in benchmarks if json_notes(*where)]
    tried_long(lambda one: told_plainly(*one[0], *one[1]), drawn_of(noted, cases_of_other_kinds))
