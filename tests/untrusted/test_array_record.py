"""ArrayRecord shards are validated before the library reads them: declared sizes are bounded, and valid shards are read."""

import os
import subprocess
import sys

import fuzz
import hypothesis.strategies as st
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from hyperseg_jax.datasets.shards import OpenShard
from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.array_record import CheckedShard
from hyperseg_jax.untrusted.bad_file import BadFile

UNCOMPRESSED, PREPARED = "group_size:1,uncompressed", "group_size:1"  # as our builds and as tensorflow-datasets write


def write_shard(path, options, records):
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return path


@pytest.mark.parametrize("options", [UNCOMPRESSED, PREPARED, "group_size:3", f"{PREPARED},pad_to_block_boundary:true"])
@pytest.mark.parametrize("count, size", [(0, 0), (1, 0), (7, 65_480), (5, 65_536), (40, 70_000), (5000, 9)])
def test_valid_shards(tmp_path, options, count, size):
    records = [os.urandom(size) if k % 2 else bytes([k % 256]) * size for k in range(count)]
    path = write_shard(tmp_path / "a", options, records)
    shard = OpenShard(path, count, "index.json", compressed=True)
    assert [shard.read(k) for k in range(count)] == records
    with pytest.raises(BadFile, match=f"has {count} records, but index.json says {count + 1}; write it again"):
        OpenShard(path, count + 1, "index.json", compressed=True)
    if options == UNCOMPRESSED:
        assert CheckedShard(path, compressed=False).records == count
    else:
        with pytest.raises(BadFile, match="is compressed in a way that is not supported; write it again without compression"):
            CheckedShard(path, compressed=False)


@pytest.mark.parametrize(
    "options, words", [("brotli", "is compressed"), ("snappy", "is compressed"), ("transpose", "chunks of")]
)
def test_unsupported_options_are_refused(tmp_path, options, words):
    path = write_shard(tmp_path / "a", f"{PREPARED},{options}", [b"a" * 500] * 4)
    with pytest.raises(BadFile, match=f"{words}.*; write it again with"):
        CheckedShard(path, compressed=True).check(3)


def test_record_sizes_are_checked_before_decompression(tmp_path):
    path = write_shard(tmp_path / "a", PREPARED, [b"small", bytes(2**29)])
    assert path.stat().st_size < 2**18
    shard = OpenShard(path, 2, "index.json", compressed=True)
    assert shard.read(0) == b"small"

    def assert_refused():
        with pytest.raises(
            BadFile, match=r"has 536870912 bytes in a record, and the limit is 268435456; .*limits\.record_bytes"
        ):
            shard.read(1)

    fuzz.check_call(assert_refused, memory=2**27)
    with limits.temporary_limits(record_bytes=2**29):
        assert len(shard.read(1)) == 2**29


def move_chunk(path, offset):
    """Returns the shard with a changed offset of the second chunk in its footer."""
    data, shard = path.read_bytes(), CheckedShard(path, compressed=False)
    start, second = shard._offsets[-1], shard._offsets[1]
    entry = lambda number: b"\x08" + bytes([number & 127 | 128, number >> 7 & 127 | 128, number >> 14])
    assert 2**14 <= second < 2**21 and data.count(entry(second), start) == 1
    path.write_bytes(data[:start] + data[start:].replace(entry(second), entry(offset)))


def test_overlapping_chunks_are_refused(tmp_path):
    path = write_shard(tmp_path / "a", UNCOMPRESSED, [os.urandom(30_000), os.urandom(40_000), b"c"])
    move_chunk(path, 20_000)
    shard = CheckedShard(path, compressed=False)
    for record in (0, 1):
        with pytest.raises(BadFile, match=r"is not a complete ArrayRecord shard|chunks of an unsupported kind"):
            shard.check(record)
    shard.check(2)
    moved_back = write_shard(tmp_path / "b", UNCOMPRESSED, [os.urandom(30_000), os.urandom(40_000), b"c"])
    move_chunk(moved_back, 2**20)
    with pytest.raises(BadFile, match="is not a complete ArrayRecord shard; write it again"):
        CheckedShard(moved_back, compressed=False)


def damaged_shards(folder):
    """Returns (property, contents): a damaged shard gives the original records or a BadFile."""
    path = folder / "damaged"
    records = [bytes([k]) * 200 for k in range(30)]
    contents = [
        write_shard(folder / str(k), options, records).read_bytes() for k, options in enumerate((UNCOMPRESSED, PREPARED))
    ]

    def check():
        shard = CheckedShard(path, compressed=True)
        for k in range(shard.records):
            shard.check(k)
        OpenShard(path, shard.records, "index.json", compressed=True).read(0)

    def check_content(content):
        path.write_bytes(content)
        fuzz.check_call(check, memory=2**34)  # ArrayRecord reserves address space that it never uses

    pieces = st.one_of(*(st.sampled_from([place(data) for place in PLACES]) for data in contents))
    return check_content, pieces.flatmap(lambda at: fuzz.damaged_bytes(at[1]).map(lambda piece: at[0] + piece + at[2]))


PLACES = (  # the first chunks, the footer and the postscript
    lambda data: (b"", data[:600], data[600:]),
    lambda data: (data[: len(data) - 2**17], data[len(data) - 2**17 :][:1000], data[len(data) - 2**17 + 1000 :]),
    lambda data: (data[: -(2**16)], data[-(2**16) :][:120], data[-(2**16) + 120 :]),
)


def test_damaged_shards(tmp_path):
    check_content, contents = damaged_shards(tmp_path)
    fuzz.run_property(check_content, contents, examples=60)


@pytest.mark.slow
def test_damaged_shards_for_long(tmp_path, run_property_long):
    run_property_long(*damaged_shards(tmp_path))


def test_the_library_agrees_on_the_number_of_records(tmp_path):
    """Its count of records equals ours."""
    for k, options in enumerate((UNCOMPRESSED, PREPARED, "group_size:7")):
        path = write_shard(tmp_path / str(k), options, [b"a"] * 100)
        assert ArrayRecordReader(str(path)).num_records() == CheckedShard(path, compressed=True).records == 100


def test_a_shard_that_is_open_at_the_end_of_the_interpreter_prints_nothing(tmp_path):
    path = write_shard(tmp_path / "a", UNCOMPRESSED, [b"a"])
    code = """
import os, pathlib, sys
from hyperseg_jax.untrusted import array_record
os.shard = array_record.CheckedShard(pathlib.Path(sys.argv[1]), compressed=False)  # is deleted after os.close
"""
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == ran.stderr == ""
