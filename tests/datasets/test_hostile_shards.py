"""Shards that unpack to much more than they are: of builds and of prepared data sets."""

import dataclasses
import json
import os
import shutil

import fuzz
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from test_prepared import write

from hyperseg_jax.datasets import layouts
from hyperseg_jax.datasets.builds import index as indices
from hyperseg_jax.datasets.builds.build import Plan, build_split
from hyperseg_jax.datasets.builds.store import sha256
from hyperseg_jax.datasets.built import open_checked
from hyperseg_jax.datasets.prepared import Prepared
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits

BOMB = bytes(2**30)


def rewritten(path, options, changed):
    """Writes the records of a shard again, some of them changed: {number: record}."""
    reader = ArrayRecordReader(str(path))
    records = reader.read(list(range(reader.num_records())))
    reader.close()
    writer = ArrayRecordWriter(str(path), options)
    for k, record in enumerate(records):
        writer.write(changed.get(k, record))
    writer.close()
    assert os.path.getsize(path) < 2**20


def test_a_build_is_not_compressed(samples, tmp_path):
    reader = layouts.find_layout("coco_panoptic").open(samples, "val2017")
    shard = build_split(reader, tmp_path / "b" / "s", Plan({"name": "a", "split": "s"})).shards[0]
    path = tmp_path / "b" / "s" / shard.file
    rewritten(path, "group_size:1", {0: BOMB})
    shard = dataclasses.replace(shard, bytes=path.stat().st_size, sha256=sha256(path))
    content = json.loads((path.parent / indices.INDEX).read_text())
    (path.parent / indices.INDEX).write_text(json.dumps(content | {"shards": [dataclasses.asdict(shard)]}))
    built = open_checked(tmp_path / "b", "s")
    fuzz.check_call(lambda: built[0], memory=2**28, says=f"{shard.file}: is compressed in a way that is not supported; write")


def test_a_record_of_a_prepared_data_set_is_bounded(tmp_path):
    folder = write(tmp_path / "made", "instances")
    (path,) = folder.glob("*.array_record-*")
    rewritten(path, "group_size:1", {1: BOMB})
    reader = Prepared(shutil.copytree(folder, tmp_path / "1.0.0"), "train")
    assert reader[0].frames.shape == reader[2].frames.shape
    fuzz.check_call(
        lambda: reader[1], memory=2**28, says="train#1: has 1073741824 bytes in a record, and the limit is 268435456"
    )
    with (
        limits.temporary_limits(record_bytes=100),
        pytest.raises(UserError, match=r"train#0: has \d+ bytes .*limits\.record_bytes"),
    ):
        reader[0]
    with pytest.raises(IndexError):
        reader[3]
