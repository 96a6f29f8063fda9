"""Damaged builds and prepared datasets give an Example or a one-line error."""

import json
import shutil

import fuzz
import hypothesis.strategies as st
import msgpack
import pytest
from test_fuzz_readers import WITHIN, assert_valid
from test_prepared import write

from hyperseg_jax.datasets import layouts, record_errors
from hyperseg_jax.datasets.builds import images, records
from hyperseg_jax.datasets.builds import index as indices
from hyperseg_jax.datasets.builds.build import Plan, build_split
from hyperseg_jax.datasets.built import Built
from hyperseg_jax.datasets.prepared import Prepared
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits


@pytest.fixture(scope="module")
def build_folders(samples, tmp_path_factory):
    """(a record, the folder of a build, the folder of a prepared dataset)."""
    reader = layouts.find_layout("coco_panoptic").open(samples, "val2017")
    folder = tmp_path_factory.mktemp("made")
    build_split(reader, folder / "build" / "val", Plan({"name": "coco_panoptic", "split": "val"}))
    return (
        records.encode_example(reader[0], images.encode_as_jpegs(reader[0].frames)),
        folder / "build",
        write(folder / "prepared", "instances"),
    )


class SingleRecord:
    """A reader of one record."""

    def __init__(self, data):
        self._data = data

    def __len__(self):
        return 1

    @guard_record
    def __getitem__(self, index):
        return records.Record(self._data, "shard#0").example()


def read_record(data):
    with limits.temporary_limits(**WITHIN):
        read_all(SingleRecord(data))


def record_contents(data):
    content = msgpack.unpackb(data)
    packed = fuzz.damaged(content | {"frames": [], "planes": []}).map(lambda value: _packed(value, content))
    return st.one_of(packed, packed, fuzz.damaged_bytes(data))


def _packed(value, content):
    if isinstance(value, dict):
        value = {
            **value,
            **{name: content[name] for name in ("frames", "planes") if value.get(name) == []},
        }
    try:
        return msgpack.packb(value, unicode_errors="surrogatepass")
    except (ValueError, OverflowError, TypeError):
        return b""


def open_and_read(kind, folder, split):
    with record_errors.opening_reader("the reader"):  # like all callers that open readers
        reader = kind(folder, split)
    read_all(reader)


def read_all(reader):
    for k in range(min(2, len(reader))):
        try:
            assert_valid(reader[k])
        except UserError as error:
            fuzz.assert_one_line(str(error))


def read_with_content(path, content, read):
    original = path.read_bytes()
    path.write_bytes(content)
    try:
        with limits.temporary_limits(**WITHIN):
            fuzz.check_call(read, memory=2**34)  # ArrayRecord reserves address space that it never uses
    finally:
        path.write_bytes(original)


def make_properties(build_folders, tmp_path):
    """Returns (property, contents) of each kind of file."""
    data, built, prepared = build_folders
    built, prepared = shutil.copytree(built, tmp_path / "build"), shutil.copytree(prepared, tmp_path / "1.0.0")
    yield lambda content: fuzz.check_call(lambda: read_record(content)), record_contents(data)
    read_all(Prepared(prepared, "train"))  # import everything before memory is limited
    jobs = [(built / "val" / indices.INDEX, lambda: open_and_read(Built, built, "val"))]
    jobs += [
        (prepared / name, lambda: open_and_read(Prepared, prepared, "train")) for name in ("features.json", "dataset_info.json")
    ]
    for path, read in jobs:
        damage = fuzz.damaged_json(json.loads(path.read_bytes()))
        yield lambda content, path=path, read=read: read_with_content(path, content, read), damage


def test_damaged_builds_and_prepared_datasets(build_folders, tmp_path):
    for holds, contents in make_properties(build_folders, tmp_path):
        fuzz.run_property(holds, contents, examples=15)


@pytest.mark.slow
def test_damaged_builds_and_prepared_datasets_for_long(build_folders, tmp_path, run_property_long):
    pairs = list(make_properties(build_folders, tmp_path))
    drawn = st.sampled_from(pairs).flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1]))
    run_property_long(lambda one: one[0](one[1]), drawn)
