"""Reads records of ArrayRecord shards, each checked by untrusted/array_record before it is unpacked."""

from __future__ import annotations

import collections
import contextlib
import pathlib
import threading
from collections.abc import Callable, Iterator

from hyperseg_jax.untrusted.array_record import AGAIN, CheckedShard
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped

OPEN = 128
"""Maximum number of open shards per reader; each has two file descriptors."""


class OpenShard:
    """A shard that is open for reading single records. Its structure is checked before the ArrayRecord library reads it."""

    def __init__(self, path: pathlib.Path, records: int, source: str, *, compressed: bool) -> None:
        """records: the expected number of records. source: the file that states this number, for messages. compressed: whether
        the shard may be compressed with zstd. Raises BadFile, OSError."""
        from array_record.python.array_record_module import ArrayRecordReader

        self._checked = CheckedShard(path, compressed=compressed)
        if self._checked.records != records:
            raise BadFile(f"has {self._checked.records} records, but {source} says {records}", AGAIN)
        with _converting_library_errors():
            self._reader = ArrayRecordReader(str(path), "readahead_buffer_size:0", file_reader_buffer_size=32768)

    def read(self, record: int) -> bytes:
        """Returns the bytes of a record. Raises BadFile if they are damaged or more than limits.record_bytes."""
        self._checked.check(record)
        with _converting_library_errors():
            return self._reader.read([record])[0]


@contextlib.contextmanager
def _converting_library_errors() -> Iterator[None]:
    """Turns all exceptions of the ArrayRecord library into BadFile."""
    try:
        yield
    except Exception as error:  # a damaged shard can raise any exception
        raise BadFile(f"cannot be read ({escaped(str(error)[:120])})", AGAIN) from error


class OpenShards:
    """Keeps the most recently used shards of a reader open. A copy that is pickled to another process starts without open
    shards."""

    def __init__(self) -> None:
        self._shards: collections.OrderedDict[int, OpenShard] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[OpenShards], tuple[()]]:
        return OpenShards, ()

    def get(self, number: int, open_shard: Callable[[], OpenShard]) -> OpenShard:
        """Returns the shard with this number; calls `open_shard` if it is not open."""
        with self._lock:
            if number in self._shards:
                self._shards.move_to_end(number)
                return self._shards[number]
        shard = open_shard()
        with self._lock:
            self._shards[number] = shard
            while len(self._shards) > OPEN:
                self._shards.popitem(last=False)
        return shard
