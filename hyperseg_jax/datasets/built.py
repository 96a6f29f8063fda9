"""A build (`hyperseg data build`): <folder>/<split>/index.json and its shards, on this machine or in a bucket.

Shards on this machine (a mounted bucket too) are read in place; those of a store are copied into the cache folder when they are
first asked for, and checked.
"""

from __future__ import annotations

import bisect
import collections
import itertools
import os
import pathlib
import threading
from typing import Any

import numpy as np

from hyperseg_jax.atomic import atomic_file
from hyperseg_jax.cache import cache_folder
from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.builds.clips import clip
from hyperseg_jax.datasets.builds.index import SETTINGS, Shard, read_index
from hyperseg_jax.datasets.builds.records import Record
from hyperseg_jax.datasets.builds.store import Store, sha256
from hyperseg_jax.datasets.check_errors import Problem, collected, complain
from hyperseg_jax.datasets.class_prompts import ClassLists
from hyperseg_jax.datasets.clip_sampling import Sampling
from hyperseg_jax.datasets.record_errors import one_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.locks.process_lock import process_lock
from hyperseg_jax.structs import Example, Prompt

OPEN = 256
"""Shards that a process keeps open."""


def splits(folder: str | os.PathLike) -> list[str]:
    """The splits of a build, finished or not; a UserError where there is none."""
    home = Store(folder)
    found = [name for name in home.folders() if home.below(name).size(SETTINGS) is not None]
    if not found:
        raise Problem("missing file", f"{home}: holds no build; give the --out of `hyperseg data build`")
    return found


def open_checked(folder: str | os.PathLike, split: str) -> Built:
    """A split whose shards have their checksums, or problems for each that has not."""
    reader = Built(folder, split)
    reader.check_shards()
    return reader


class Built:
    """Random access to the records of one split of a build, in the order of their source."""

    def __init__(
        self,
        folder: str | os.PathLike,
        split: str,
        *,
        max_classes: int | None = None,
        prompts_per_example: int = 1,
        frames: int | None = None,
        sampling: str = "stride",
        reach: int | None = None,
        seed: int = 0,
    ):
        """folder: --out of the build, a path or a URL of fsspec. max_classes, prompts_per_example: of class lists of images,
        see class_prompts.ClassLists. frames, sampling, reach: of clips, see clip_sampling.Sampling. seed: what both are drawn
        from, with the index. UserError where there is no finished build of the split.
        """
        home = Store(folder)
        self._store = home.below(split)
        try:
            self._index = read_index(self._store)
        except Problem as error:
            if error.kind != "missing file":
                raise
            there = ", ".join(name for name in home.folders() if not name.startswith(".")) or "none"
            raise Problem("missing file", f"{error}; splits there: {there}") from error
        self._sampling = Sampling(frames, sampling, reach)
        self._lists = ClassLists((), (), max_classes, prompts_per_example, seed)
        self._relists = max_classes is not None or prompts_per_example > 1
        if self._index.clips and self._relists:
            raise UserError(f"{self._store}: max_classes and prompts_per_example are for images; this is a build of clips")
        if not self._index.clips and frames is not None:
            raise UserError(f"{self._store}: frames={frames} is for clips; this is a build of images")
        self._seed = seed
        self._ends = list(itertools.accumulate(shard.records for shard in self._index.shards))
        self._open: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_open", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _open=collections.OrderedDict(), _lock=threading.Lock())

    def __getattr__(self, name: str) -> Any:
        """classes, things, category_ids: those of the source, where it has them."""
        if name.startswith("_") or name not in self._index.facts:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return tuple(self._index.facts[name])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        return self.sample(index, np.random.default_rng([self._seed, index]))

    @one_record
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """A record: an image, a video, or a clip of it drawn with rng."""
        index = range(len(self))[index]
        record, where = self._record(index)
        if (seen := collected()) is not None:
            seen.sizes[pathlib.Path(where)] = record.size
        if self._index.clips:
            return clip(record, self._sampling, rng, where)
        example = record.example()
        if self._relists and all(prompt.task == "panoptic" for prompt in example.prompts):
            return Example(example.name, example.frames, self._drawn(index, example.prompts[0], record.size))
        return example

    def _drawn(self, index: int, prompt: Prompt, size: tuple[int, int]) -> tuple[Prompt, ...]:
        """Other class lists of the image, out of the one that names all."""
        given = self._lists
        lists = ClassLists(prompt.classes, prompt.things, given.max_classes, given.prompts_per_example, given.seed)
        masks = np.zeros((0, *size), bool) if prompt.masks is None else prompt.masks[:, 0]
        ignore = np.zeros(size, bool) if prompt.ignore is None else prompt.ignore[0]
        crowds = [] if prompt.crowds is None else list(zip(prompt.crowd_labels, prompt.crowds[:, 0], strict=True))
        return lists.prompts(index, masks, list(prompt.labels), ignore, key=prompt.key, crowds=crowds, areas=prompt.areas)

    def check_shards(self) -> None:
        """Compares every shard with its checksum; a Problem, or while a check collects all of them."""
        for shard in self._index.shards:
            try:
                path = self._local(shard)
                if sha256(path) != shard.sha256:
                    raise Problem("bad record", f"{self._store}/{shard.file}: its checksum differs; remove it and build again")
            except Problem as problem:
                complain(problem.kind, str(problem))

    def _record(self, index: int) -> tuple[Record, str]:
        number = bisect.bisect_right(self._ends, index)
        shard = self._index.shards[number]
        place = index - (self._ends[number] - shard.records)
        where = f"{self._store}/{shard.file}#{place}"
        try:
            data = self._reader(number).read([place])[0]
        except UserError:
            raise
        except Exception as error:  # of every kind on a damaged shard
            raise Problem("bad record", f"{where}: cannot be read ({str(error)[:120]}); build this shard again") from error
        return Record(data, where), where

    def _reader(self, number: int) -> Any:
        """The open shard of that number."""
        from array_record.python.array_record_module import ArrayRecordReader

        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        shard = self._index.shards[number]
        reader = ArrayRecordReader(str(self._local(shard)), "readahead_buffer_size:0", file_reader_buffer_size=32768)
        if reader.num_records() != shard.records:
            raise Problem(
                "bad record",
                f"{self._store}/{shard.file}: has {reader.num_records()} records, its index says "
                f"{shard.records}; remove it and build again",
            )
        with self._lock:
            self._open[number] = reader
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
        return reader

    def _local(self, shard: Shard) -> pathlib.Path:
        """The shard on this machine. UserError where it is missing, of another size, or not what its checksum says."""
        if self._store.path is not None:
            path, size = files.inside(self._store.path, shard.file, str(self._store)), self._store.size(shard.file)
            if size is None:
                raise Problem("missing file", f"{path}: no such shard; build again, or copy it there")
            if size != shard.bytes:
                raise Problem("wrong size", f"{path}: has {size} bytes, its index says {shard.bytes}; build again")
            files.check_regular(path, "shard")
            return path
        path = cache_folder() / "builds" / f"{shard.sha256}.array_record"  # the same content is the same file
        if path.is_file():
            return path
        with process_lock(path.with_suffix(".lock"), wait=True):
            if not path.is_file():  # no other process has fetched it meanwhile
                self._fetch(shard, path)
        return path

    def _fetch(self, shard: Shard, path: pathlib.Path) -> None:
        size = self._store.size(shard.file)
        if size is None:
            raise Problem("missing file", f"{self._store}/{shard.file}: no such shard; build again, or copy it there")
        with atomic_file(path) as part:
            self._store.get(shard.file, part)
            if part.stat().st_size != shard.bytes or sha256(part) != shard.sha256:
                raise Problem("bad record", f"{self._store}/{shard.file}: its checksum differs; remove it and build again")
