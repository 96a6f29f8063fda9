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
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import limits

ROOTS = {"folder": "yours/folder", "labelme": "yours/labelme", "coco_json": "yours/coco_json"}
NOTES, PICTURES = (".json", ".jsonl", ".tsv", ".txt", ".p"), (".jpg", ".png")
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
        texts = (prompt.text, prompt.answer, prompt.group, prompt.key, *prompt.classes, *prompt.answers, *prompt.kinds)
        assert all(isinstance(text, str) for text in texts)
        for masks, axes in ((prompt.masks, 4), (prompt.regions, 3), (prompt.ignore, 3), (prompt.crowds, 4), (prompt.others, 4)):
            assert masks is None or (masks.dtype == bool and masks.ndim == axes)
            assert masks is None or not len(masks) or masks.shape[-2:] in (size, (1, 1))
        if prompt.task == "panoptic":
            assert len(prompt.things) == len(prompt.classes) and all(0 <= k < len(prompt.classes) for k in prompt.labels)
        if prompt.task in ("panoptic", "region") and prompt.masks is not None:
            assert len(prompt.labels) == len(prompt.masks)


def read_all(root, layout, split):
    reader = layout.open(root, split)
    for k in range(min(RECORDS, len(reader))):
        try:
            sound(reader[k])
        except UserError as error:
            fuzz.one_line(str(error))


def check_all(root, layout, split):
    report = check(lambda: layout.open(root, split), lambda **_: None, threads=1)
    for message in report.collected.problems:
        fuzz.one_line(message)


def holds(root, layout, split, path, content):
    original = path.read_bytes()
    path.write_bytes(content)
    try:
        with limits.applied(**WITHIN):
            fuzz.kept_promise(lambda: read_all(root, layout, split), seconds=20)
            fuzz.kept_promise(lambda: check_all(root, layout, split), seconds=20)
    finally:
        path.write_bytes(original)


def files_of(root, layout, split):
    """The annotation files of a benchmark that its reader of a split opens, and a few of the pictures."""
    tops = [root / part.format(split=split) for part in (layout.files | layout.files_of.get(split, {})).values()]
    found = {path for top in tops for path in ([top] if top.is_file() else top.rglob("*")) if path.is_file()}
    notes = sorted(path for path in found if path.suffix in NOTES)
    pictures = sorted(path for path in found if path.suffix in PICTURES)
    return notes[:20], random.Random(0).sample(pictures, min(4, len(pictures)))


def _fields(value, path=()):
    """(field, path) of all members of a JSON value; the members of a list are one field."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        here = (*path, name)
        yield tuple("*" if isinstance(part, int) else part for part in here), here
        yield from _fields(member, here)


@st.composite
def other_fields(draw, value):
    """The JSON value with one or two fields replaced or taken out, each field as likely as any other."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        places = {}
        for field, path in _fields(value):
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


def contents(path):
    """Damaged contents of a file."""
    data = path.read_bytes()
    bytewise = st.one_of(fuzz.damaged_bytes(data), st.sampled_from(OTHER_KINDS))
    if path.suffix == ".json" and path.parent.name != "pope":
        value = json.loads(data)
        fields = other_fields(value).map(lambda made: json.dumps(made).encode())
        return st.integers(0, 9).flatmap(lambda k: bytewise if k == 0 else fuzz.damaged_json(value) if k < 3 else fields)
    if path.suffix == ".jsonl" or path.parent.name == "pope":
        rows = [json.loads(line) for line in data.splitlines()[:20]]
        fields = other_fields(rows).map(lambda made: "\n".join(map(json.dumps, made)).encode())
        return st.integers(0, 9).flatmap(lambda k: bytewise if k == 0 else fields)
    return bytewise


def cases(root, layout, split):
    notes, pictures = files_of(root, layout, split)
    paths = st.integers(0, 3).flatmap(lambda k: st.sampled_from(notes if notes and (k or not pictures) else pictures))
    return paths.flatmap(lambda path: st.tuples(st.just(path), contents(path)))


def copied(own, samples, name):
    root = own(*(path.name for path in samples.iterdir() if path.is_dir() and (name in ROOTS) == (path.name == "yours")))
    return root / ROOTS.get(name, "."), layouts.find(name), layouts.find(name).splits[-1]


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_damaged_files(own, samples, name):
    where = copied(own, samples, name)
    root, layout, split = where
    with limits.applied(**WITHIN):  # sound files are read within the bounds that damaged ones must keep
        assert len(fuzz.kept_promise(lambda: layout.open(root, split), seconds=20))
    fuzz.tried(lambda case: holds(*where, *case), cases(*where), examples=5)


@pytest.mark.slow
def test_damaged_files_for_long(own, samples, tried_long):
    root = own(*(path.name for path in samples.iterdir() if path.is_dir()))
    benchmarks = [(root / ROOTS.get(name, "."), layout, layout.splits[-1]) for name, layout in layouts.LAYOUTS.items()]
    drawn = st.sampled_from(benchmarks).flatmap(lambda where: st.tuples(st.just(where), cases(*where)))
    tried_long(lambda one: holds(*one[0], *one[1]), drawn)
