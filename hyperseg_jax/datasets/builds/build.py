"""Builds the shards of one split: workers write them into a staging folder, the process that asked for them puts them in place.

A shard follows from the reader, the settings and its number alone, so workers, machines and restarts change no byte.
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
    agree,
    fingerprint,
    parsed_shard,
    read_shard,
    shard_name,
    write_index,
    write_shard,
)
from hyperseg_jax.datasets.builds.store import Store, sha256
from hyperseg_jax.errors import UserError
from hyperseg_jax.locks.process_lock import process_lock
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import limits, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.workers import end_with_parent, without_ctrl_c

OPTIONS = "group_size:1,uncompressed,max_parallelism:1"  # random access; images are compressed already
IMAGES, CLIPS = 512, 32
"""Records of a shard by default."""
NAMED = 20
"""Bad records that a message names."""
UPLOADS = 2
"""Shards under way besides those that are being built."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a build is made of. shard_size: records; None takes IMAGES or CLIPS. long_edge: pixels; None keeps images as
    they are. skip_bad: leaves bad records out and lists them; else they end the build. told: what else tells builds apart
    ("name" and "split"; the reader's options, the sizes of its files)."""

    told: Mapping[str, Any]
    shard_size: int | None = None
    long_edge: int | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        for name in ("shard_size", "long_edge"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: give at least 1")


@dataclasses.dataclass(frozen=True)
class _Job:
    """A shard to be written: the reader's records start..stop, at this path."""

    path: pathlib.Path
    start: int
    stop: int
    long_edge: int | None
    skip_bad: bool


def build(
    reader: Sequence[Example],
    out: str | os.PathLike,
    plan: Plan,
    *,
    workers: int = 0,
    verify: bool = False,
    advance: Callable[..., object] = lambda **_: None,
) -> Index:
    """Writes what is not there yet of a build of one split and gives its index; the same call goes on after any end.

    out: the folder of the split, a path or a URL of fsspec. workers: processes; 0 builds in this one. verify: checks the sums
    of the shards that are there, not their sizes only. advance: takes `completed`, records done, and `total`.
    UserError for bad records, another build in that folder, another run of it on this machine, a full disk, a store that fails.
    """
    store, total, clips = Store(out), len(reader), hasattr(reader, "sample")
    limits.check("records", total, str(store), "records")
    if not total:
        raise UserError(f"{store}: the reader has no records; there is nothing to build")
    size = plan.shard_size or (CLIPS if clips else IMAGES)
    settings = {"format": FORMAT, **plan.told, "records": total, "shard_size": size, "long_edge": plan.long_edge}
    settings, mark = json.loads(json.dumps(settings)), fingerprint(settings)
    stage = _stage(store)
    with process_lock(stage / "lock", wait=False) as free:
        if not free:
            raise UserError(f"{store}: is being built by another process of this machine; wait for it")
        count = -(-total // size)
        names = [shard_name(k, count) for k in range(count)]
        jobs = [
            _Job(stage / mark / name, k * size, min(total, (k + 1) * size), plan.long_edge, plan.skip_bad)
            for k, name in enumerate(names)
        ]
        _make(stage / mark)
        try:
            agree(store, settings)
            shards = _all_shards(reader, store, jobs, mark, workers, verify, advance)
            facts = {name: list(getattr(reader, name)) for name in FACTS if hasattr(reader, name)}
            index = Index(settings, shards, clips, facts)
            if not index.records:
                raise UserError(f"{store}: every record is bad; {shards[0].bad[0][1]}")
            write_index(store, index)
            store.remove_stale()
        finally:
            _tidy(stage, stage / mark)
    return index


def _tidy(stage: pathlib.Path, shards: pathlib.Path) -> None:
    """Leaves a staging folder that still holds finished shards."""
    remove_stale(shards)
    for note in shards.glob("*.json"):
        if not note.with_suffix(".array_record").exists():  # killed between putting a shard in place and this
            note.unlink()
    with contextlib.suppress(OSError):
        shards.rmdir()
        (stage / "lock").unlink()
        stage.rmdir()


def _stage(store: Store) -> pathlib.Path:
    """Where shards are written before they are put in place: on the same disk, or in the cache folder for a store."""
    if store.path is not None:
        stage = store.path / ".staging"
    else:
        stage = cache_folder() / "staging" / hashlib.sha256(store.folder.encode()).hexdigest()[:16]
    _make(stage)
    return stage


def _make(folder: pathlib.Path) -> None:
    """A folder for staged shards."""
    if folder.is_symlink():
        raise UserError(f"{folder}: is a link; remove it, and the same command goes on")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); check --out and the cache folder") from error


def _all_shards(
    reader: Sequence[Example],
    store: Store,
    jobs: list[_Job],
    mark: str,
    workers: int,
    verify: bool,
    advance: Callable[..., object],
) -> tuple[Shard, ...]:
    """Each shard in its place, in order. Threads follow a shard from the build to the upload, so few wait on disk."""
    total, done = jobs[-1].stop, 0
    faults: list[tuple[int, str]] = []
    shards: dict[str, Shard] = {}
    with _workshop(reader, workers) as (write, stop):

        def one(job: _Job) -> tuple[_Job, Shard | None]:
            if stop.is_set():
                return job, None
            found = read_shard(store, job.path.name, mark)
            if found is not None and verify and _sum(store, found, job.path) != found.sha256:
                found = None
            if found is None:
                found = _staged(job) or write(job)
                if found is not None and (not found.bad or job.skip_bad):
                    _deliver(store, job, found, mark)
            return job, found

        with concurrent.futures.ThreadPoolExecutor(max(1, workers + UPLOADS if workers else 1)) as threads:
            try:
                with without_ctrl_c():  # so are the threads, and the workers that they start
                    asked = [threads.submit(one, job) for job in jobs]
                for future in concurrent.futures.as_completed(asked):
                    job, shard = future.result()
                    if shard is None:
                        continue
                    if shard.bad and not job.skip_bad:
                        stop.set()
                        faults += shard.bad
                        continue
                    shards[job.path.name] = shard
                    done += job.stop - job.start
                    advance(completed=done, total=total)
            except BrokenProcessPool as error:
                stop.set()
                raise UserError(
                    f"{store}: a worker was ended from outside, perhaps for want of memory; the same command with "
                    "fewer --workers goes on"
                ) from error
            except BaseException:
                stop.set()
                raise
    if faults:
        faults.sort()
        lines = "".join(f"\n  record {number}: {why}" for number, why in faults[:NAMED])
        more = f"\n  and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise UserError(
            f"{store}: {len(faults)} bad records so far; mend them (`hyperseg data check` lists all), "
            f"or leave them out with --skip-bad{lines}{more}"
        )
    return tuple(shards[job.path.name] for job in jobs)


def _sum(store: Store, shard: Shard, scratch: pathlib.Path) -> str:
    if store.path is not None:
        return sha256(store.path / shard.file)
    copy = scratch.with_suffix(".copy")
    try:
        store.get(shard.file, copy)
        return sha256(copy)
    finally:
        copy.unlink(missing_ok=True)


def _deliver(store: Store, job: _Job, shard: Shard, mark: str) -> None:
    try:
        store.put(job.path, shard.file)
    except UserError:
        if store.size(shard.file) != shard.bytes:  # else a run on another machine has put the very same there meanwhile
            raise
    write_shard(store, shard, mark)
    job.path.unlink(missing_ok=True)
    _note(job).unlink(missing_ok=True)


def _note(job: _Job) -> pathlib.Path:
    """Beside a staged shard, once it is whole."""
    return job.path.with_suffix(".json")


def _staged(job: _Job) -> Shard | None:
    """A shard that an earlier run built and could not put in place; None where it is not as its note says."""
    try:
        shard = parsed_shard(strict_json.parse(strict_json.contents(_note(job)), "the note of a shard"))
        size, count = job.path.lstat().st_size, shard.records + len(shard.bad)
        fits = shard.file == job.path.name and shard.bytes == size and count == job.stop - job.start
        return shard if fits and not job.path.is_symlink() and sha256(job.path) == shard.sha256 else None
    except (OSError, BadFile, ValueError):
        return None


# in the workers

_reader: Sequence[Example]
_stop: Any


@contextlib.contextmanager
def _workshop(reader: Sequence[Example], workers: int) -> Iterator[tuple[Callable[[_Job], Shard | None], Any]]:
    """What writes a shard, in a worker or here, and the event that stops it."""
    context = multiprocessing.get_context("spawn")
    if not workers:
        here = threading.Event()
        yield (lambda job: _write(job, reader, here)), here
        return
    stop = context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _begin, (reader, stop, limits.current()))
    try:
        yield (lambda job: pool.submit(_write_in_worker, job).result()), stop
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(reader: Sequence[Example], stop: Any, within: limits.Limits) -> None:
    global _reader, _stop
    limits.apply(within)
    _reader, _stop = reader, stop
    end_with_parent()


def _write_in_worker(job: _Job) -> Shard | None:
    return _write(job, _reader, _stop)


def _write(job: _Job, reader: Sequence[Example], stop: Any) -> Shard | None:
    """Writes a shard as a whole, and a note of it; None where it was stopped. One with bad records that end the build is not
    kept, but read to its end for more of them."""
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
                        record = _record(reader, number, job.long_edge)
                    except BaseException as error:
                        bad.append((number, record_errors.reason(error)))
                    else:
                        writer.write(record)
                        written += 1
            finally:
                writer.close()
            with part.open("rb") as file:
                os.fsync(file.fileno())
            shard = Shard(job.path.name, written, part.stat().st_size, sha256(part), tuple(bad))
            kept = written + len(bad) == job.stop - job.start and (not bad or job.skip_bad)
            if not kept:
                part.unlink()
        if kept:
            write_text(_note(job), json.dumps(dataclasses.asdict(shard)))
    except (OSError, RuntimeError) as error:  # ArrayRecord's own are RuntimeErrors
        raise UserError(f"{job.path}: cannot be written ({error}); make room, then the same command goes on") from error
    return shard if written + len(bad) == job.stop - job.start else None


def _record(reader: Sequence[Example], number: int, long_edge: int | None) -> bytes:
    with files.recording() as read:
        example = reader[number]
    if long_edge is not None and max(example.frames.shape[1:3]) > long_edge:
        example = images.shrunk(example, long_edge)
        return records.encode(example, images.as_jpegs(example.frames))
    return records.encode(example, images.as_files(example.frames, read))
