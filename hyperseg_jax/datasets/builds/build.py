"""Builds the shards of one split: workers write them to a staging folder, and the main process publishes them.

The bytes of a shard depend only on the reader, the settings and the shard number, not on workers, machines or restarts.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hyperseg_jax.atomic import atomic_file, remove_stale, write_text
from hyperseg_jax.cache import cache_folder
from hyperseg_jax.datasets import files, record_errors
from hyperseg_jax.datasets.builds import images, records
from hyperseg_jax.datasets.builds.index import (
    FACTS,
    FORMAT,
    Index,
    Shard,
    check_settings,
    find_published_shard,
    hash_settings,
    parse_shard_metadata,
    shard_name,
    write_index,
    write_shard_metadata,
)
from hyperseg_jax.datasets.builds.store import Store, sha256
from hyperseg_jax.errors import UserError
from hyperseg_jax.locks.process_lock import process_lock
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import limits, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.workers import block_ctrl_c_in_children, exit_with_parent

OPTIONS = "group_size:1,uncompressed,max_parallelism:1"  # random access; images are already compressed
IMAGES, CLIPS = 512, 32
"""Default number of records per shard, for images and for videos."""
NAMED = 20
"""Maximum number of bad records in an error message."""
UPLOADS = 2
"""Number of shards that are uploaded while workers build others."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings of a build.

    source: identifies the source dataset: "name" and "split", the options of the reader, the sizes of its files. shard_size:
    records per shard; None uses IMAGES or CLIPS. long_edge: downscales larger images to this many pixels; None keeps them.
    skip_bad: True skips bad records and lists them in the index; False aborts the build.
    """

    source: Mapping[str, Any]
    shard_size: int | None = None
    long_edge: int | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        for name in ("shard_size", "long_edge"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: give at least 1")


@dataclasses.dataclass(frozen=True)
class _Job:
    """One shard to write: the records start..stop-1 of the reader, to this path."""

    path: pathlib.Path
    start: int
    stop: int
    long_edge: int | None
    skip_bad: bool


def build_split(
    reader: Sequence[Example],
    out: str | os.PathLike,
    plan: Plan,
    *,
    workers: int = 0,
    verify: bool = False,
    advance: Callable[..., object] = lambda **_: None,
) -> Index:
    """Builds the missing shards of one split and returns its index. The same call resumes an interrupted build.

    out: the folder of the split, a path or fsspec URL. workers: number of processes; 0 builds in this process. verify: checks
    the checksums of existing shards, not only their sizes. advance: called with `completed` (records done) and `total`.
    Raises UserError for bad records, a different build in the folder, a concurrent build on this machine, a full disk, or a
    store error.
    """
    store, total, clips = Store(out), len(reader), hasattr(reader, "sample")
    limits.check_limit("records", total, str(store), "records")
    if not total:
        raise UserError(f"{store}: the reader has no records; there is nothing to build")
    size = plan.shard_size or (CLIPS if clips else IMAGES)
    settings = {"format": FORMAT, **plan.source, "records": total, "shard_size": size, "long_edge": plan.long_edge}
    settings, settings_hash = json.loads(json.dumps(settings)), hash_settings(settings)
    stage = _make_staging_folder(store)
    with process_lock(stage / "lock", wait=False) as free:
        if not free:
            raise UserError(f"{store}: another process on this machine is building it; wait until it has finished")
        count = -(-total // size)
        names = [shard_name(k, count) for k in range(count)]
        jobs = [
            _Job(stage / settings_hash / name, k * size, min(total, (k + 1) * size), plan.long_edge, plan.skip_bad)
            for k, name in enumerate(names)
        ]
        _make_local_folder(stage / settings_hash)
        try:
            check_settings(store, settings)
            shards = _build_shards(reader, store, jobs, settings_hash, workers, verify, advance)
            facts = {name: list(getattr(reader, name)) for name in FACTS if hasattr(reader, name)}
            index = Index(settings, shards, clips, facts)
            if not index.records:
                raise UserError(f"{store}: every record is bad; fix them, the first: {shards[0].bad[0][1]}")
            write_index(store, index)
            store.remove_stale()
        finally:
            _clean_staging_folder(stage, stage / settings_hash)
    return index


def _clean_staging_folder(stage: pathlib.Path, shards: pathlib.Path) -> None:
    """Removes temporary files. The staging folder is kept if it still contains finished shards."""
    remove_stale(shards)
    for metadata in shards.glob("*.json"):
        if not metadata.with_suffix(".array_record").exists():  # the process was killed after it published the shard
            metadata.unlink()
    with contextlib.suppress(OSError):
        shards.rmdir()
        (stage / "lock").unlink()
        stage.rmdir()


def _make_staging_folder(store: Store) -> pathlib.Path:
    """Creates and returns the folder where shards are written before they are published: inside the folder of the build, or in
    the cache folder if the store is remote."""
    if store.path is not None:
        stage = store.path / ".staging"
    else:
        stage = cache_folder() / "staging" / hashlib.sha256(store.folder.encode()).hexdigest()[:16]
    _make_local_folder(stage)
    return stage


def _make_local_folder(folder: pathlib.Path) -> None:
    """Creates a folder on this machine. Raises UserError if it is a link or cannot be created."""
    if folder.is_symlink():
        raise UserError(f"{folder}: is a symbolic link; remove it and run the same command again")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); check --out and the cache folder") from error


def _build_shards(
    reader: Sequence[Example],
    store: Store,
    jobs: list[_Job],
    settings_hash: str,
    workers: int,
    verify: bool,
    advance: Callable[..., object],
) -> tuple[Shard, ...]:
    """Builds and publishes all shards and returns them in order. Each thread takes a shard from build to upload, which limits
    the number of staged shards on disk."""
    total, done = jobs[-1].stop, 0
    bad_records: list[tuple[int, str]] = []
    shards: dict[str, Shard] = {}
    with _shard_writer(reader, workers) as (write, stop):

        def build_shard(job: _Job) -> tuple[_Job, Shard | None]:
            if stop.is_set():
                return job, None
            shard = find_published_shard(store, job.path.name, settings_hash, range(job.start, job.stop))
            if shard is not None and verify and _compute_checksum(store, shard, job.path) != shard.sha256:
                shard = None
            if shard is None:
                shard = _read_staged(job) or write(job)
                if shard is not None and (not shard.bad or job.skip_bad):
                    _publish_shard(store, job, shard, settings_hash)
            return job, shard

        with concurrent.futures.ThreadPoolExecutor(max(1, workers + UPLOADS if workers else 1)) as threads:
            try:
                with block_ctrl_c_in_children():  # inherited by the threads and the workers that they start
                    futures = [threads.submit(build_shard, job) for job in jobs]
                for future in concurrent.futures.as_completed(futures):
                    job, shard = future.result()
                    if shard is None:
                        continue
                    if shard.bad and not job.skip_bad:
                        stop.set()
                        bad_records += shard.bad
                        continue
                    shards[job.path.name] = shard
                    done += job.stop - job.start
                    advance(completed=done, total=total)
            except BrokenProcessPool as error:
                stop.set()
                raise UserError(
                    f"{store}: a worker process was killed, possibly because memory ran out; run the same command with "
                    "fewer --workers to resume"
                ) from error
            except BaseException:
                stop.set()
                raise
    if bad_records:
        bad_records.sort()
        lines = "".join(f"\n  record {number}: {why}" for number, why in bad_records[:NAMED])
        more = f"\n  and {len(bad_records) - NAMED} more" if len(bad_records) > NAMED else ""
        raise UserError(
            f"{store}: {len(bad_records)} bad records so far; fix them (`hyperseg data check` lists all), "
            f"or skip them with --skip-bad{lines}{more}"
        )
    return tuple(shards[job.path.name] for job in jobs)


def _compute_checksum(store: Store, shard: Shard, scratch: pathlib.Path) -> str:
    """Returns the SHA-256 of a published shard. A shard in a remote store is copied to a temporary file beside `scratch`."""
    if store.path is not None:
        return sha256(store.path / shard.file)
    copy = scratch.with_suffix(".copy")
    try:
        store.get(shard.file, copy)
        return sha256(copy)
    finally:
        copy.unlink(missing_ok=True)


def _publish_shard(store: Store, job: _Job, shard: Shard, settings_hash: str) -> None:
    """Moves or copies a staged shard to the store, marks it as complete there, and removes the staged files."""
    try:
        store.put(job.path, shard.file)
    except UserError:
        if store.size(shard.file) != shard.bytes:  # otherwise another machine has published the same shard
            raise
    write_shard_metadata(store, shard, settings_hash)
    job.path.unlink(missing_ok=True)
    _metadata_path(job).unlink(missing_ok=True)


def _metadata_path(job: _Job) -> pathlib.Path:
    """Returns the path of the json file that is written beside a staged shard once it is complete."""
    return job.path.with_suffix(".json")


def _read_staged(job: _Job) -> Shard | None:
    """Returns a shard that an earlier run staged but did not publish; None if it does not match its metadata."""
    try:
        shard = parse_shard_metadata(strict_json.parse(strict_json.read_bytes(_metadata_path(job)), "the metadata of a shard"))
        fits = shard.file == job.path.name and shard.bytes == job.path.lstat().st_size
        fits = fits and shard.covers(range(job.start, job.stop))
        return shard if fits and not job.path.is_symlink() and sha256(job.path) == shard.sha256 else None
    except (OSError, BadFile, ValueError):
        return None


# in the workers

_reader: Sequence[Example]
_stop: Any


@contextlib.contextmanager
def _shard_writer(reader: Sequence[Example], workers: int) -> Iterator[tuple[Callable[[_Job], Shard | None], Any]]:
    """Yields a function that writes a shard, in a worker or in this process, and the event that stops it."""
    context = multiprocessing.get_context("spawn")
    if not workers:
        local_stop = threading.Event()
        yield (lambda job: _write_shard(job, reader, local_stop)), local_stop
        return
    stop = context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _init_worker, (reader, stop, limits.current()))
    try:
        yield (lambda job: pool.submit(_write_shard_in_worker, job).result()), stop
    finally:
        pool.shutdown(cancel_futures=True)


def _init_worker(reader: Sequence[Example], stop: Any, data_limits: limits.Limits) -> None:
    """Keeps the reader and the stop event in a new worker process, and sets its limits."""
    global _reader, _stop
    limits.set_limits(data_limits)
    _reader, _stop = reader, stop
    exit_with_parent()


def _write_shard_in_worker(job: _Job) -> Shard | None:
    """Calls `_write_shard` with the reader and the stop event of this worker process."""
    return _write_shard(job, _reader, _stop)


def _write_shard(job: _Job, reader: Sequence[Example], stop: Any) -> Shard | None:
    """Writes a shard atomically, with its metadata; returns None if stopped. If bad records abort the build, the shard is not
    kept, but all its records are read to report further bad ones."""
    from array_record.python.array_record_module import ArrayRecordWriter

    written, bad = 0, []
    try:
        with atomic_file(job.path) as part:
            writer = ArrayRecordWriter(str(part), OPTIONS)
            try:
                for number in range(job.start, job.stop):
                    if stop.is_set():
                        break
                    try:
                        record = _encode_record(reader, number, job.long_edge)
                    except BaseException as error:
                        bad.append((number, record_errors.error_message(error)))
                    else:
                        writer.write(record)
                        written += 1
            finally:
                writer.close()
            with part.open("rb") as file:
                os.fsync(file.fileno())
            shard = Shard(job.path.name, written, part.stat().st_size, sha256(part), tuple(bad))
            keep = written + len(bad) == job.stop - job.start and (not bad or job.skip_bad)
            if not keep:
                part.unlink()
        if keep:
            write_text(_metadata_path(job), json.dumps(dataclasses.asdict(shard)))
    except (OSError, RuntimeError) as error:  # ArrayRecord raises RuntimeError
        raise UserError(f"{job.path}: cannot be written ({error}); free disk space and run the same command again") from error
    return shard if written + len(bad) == job.stop - job.start else None


def _encode_record(reader: Sequence[Example], number: int, long_edge: int | None) -> bytes:
    """Reads record `number`, downscales it to `long_edge` if it is larger, and returns its bytes."""
    with files.record_image_reads() as read:
        example = reader[number]
    if len(example.frames) > 1 and not hasattr(reader, "sample"):
        raise UserError(f"{example.name}: has {len(example.frames)} frames; give its reader a method sample(index, rng)")
    if long_edge is not None and max(example.frames.shape[1:3]) > long_edge:
        example = images.downscale_example(example, long_edge)
        return records.encode_example(example, images.encode_as_jpegs(example.frames))
    return records.encode_example(example, images.encode_losslessly(example.frames, read))
