"""Reads a build of `hyperseg data build`: <folder>/<split>/index.json and its shards, on a local disk or in a bucket.

Local shards (including mounted buckets) are read in place. Shards of a remote store are copied to the cache folder on first
access, and their checksum is verified.
"""

from __future__ import annotations

import bisect
import itertools
import os
import pathlib
from typing import Any

import numpy as np

from hyperseg_jax.atomic import atomic_file
from hyperseg_jax.cache import cache_folder
from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.builds.clips import sample_clip
from hyperseg_jax.datasets.builds.index import INDEX, SETTINGS, Shard, read_index
from hyperseg_jax.datasets.builds.records import Record
from hyperseg_jax.datasets.builds.store import Store, sha256
from hyperseg_jax.datasets.check_errors import Problem, active_collector, report_problem
from hyperseg_jax.datasets.class_prompts import ClassLists
from hyperseg_jax.datasets.frame_sampling import Sampling
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.shards import OpenShard, OpenShards
from hyperseg_jax.errors import UserError
from hyperseg_jax.locks.process_lock import process_lock
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted.bad_file import BadFile


def list_splits(folder: str | os.PathLike) -> list[str]:
    """Returns the splits of a build, finished or not. Raises UserError if there are none."""
    root = Store(folder)
    names = [name for name in root.folders() if root.subfolder(name).size(SETTINGS) is not None]
    if not names:
        raise Problem("missing file", f"{root}: contains no build; give the --out of `hyperseg data build`")
    return names


def open_checked(folder: str | os.PathLike, split: str) -> Built:
    """Opens a split and verifies the checksums of its shards; reports a problem for each mismatch."""
    reader = Built(folder, split)
    reader.check_shards()
    return reader


class Built:
    """Random access to the records of one split of a build, in the order of the source dataset."""

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
        """folder: --out of the build, a path or fsspec URL. max_classes, prompts_per_example: for class lists of images, see
        class_prompts.ClassLists. frames, sampling, reach: for videos, see frame_sampling.Sampling. seed: class lists and clips
        are sampled from the seed and the index. Raises UserError if there is no finished build of the split.
        """
        root = Store(folder)
        self._store = root.subfolder(split)
        try:
            self._index = read_index(self._store)
        except Problem as error:
            if error.kind != "missing file":
                raise
            available = ", ".join(name for name in root.folders() if not name.startswith(".")) or "none"
            raise Problem("missing file", f"{error}; available splits: {available}") from error
        self._sampling = Sampling(frames, sampling, reach)
        self._class_lists = ClassLists((), (), max_classes, prompts_per_example, seed)
        self._redraws_class_lists = max_classes is not None or prompts_per_example > 1
        if self._index.clips and self._redraws_class_lists:
            raise UserError(f"{self._store}: max_classes and prompts_per_example apply to images; this is a build of videos")
        if not self._index.clips and frames is not None:
            raise UserError(f"{self._store}: frames={frames} applies to videos; this is a build of images")
        self._seed = seed
        self._ends = list(itertools.accumulate(shard.records for shard in self._index.shards))
        self._shards = OpenShards()

    def __getattr__(self, name: str) -> Any:
        """classes, things, category_ids: attributes of the source reader, if it has them."""
        if name.startswith("_") or name not in self._index.facts:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return tuple(self._index.facts[name])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        return self.sample(index, np.random.default_rng([self._seed, index]))

    @guard_record
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """Returns a record: an image, a video, or a clip sampled with rng."""
        index = range(len(self))[index]
        record, where = self._read_record(index)
        if (collector := active_collector()) is not None:
            collector.sizes[pathlib.Path(where)] = record.size
        if self._index.clips:
            return sample_clip(record, self._sampling, rng, where)
        if len(record) > 1:
            raise Problem("bad record", f"{where}: has {len(record)} frames in a build of images; build this shard again")
        example = record.example()
        if self._redraws_class_lists and all(prompt.task == "panoptic" for prompt in example.prompts):
            return Example(example.name, example.frames, self._redraw_prompts(index, example.prompts[0], record.size))
        return example

    def _redraw_prompts(self, index: int, prompt: Prompt, size: tuple[int, int]) -> tuple[Prompt, ...]:
        """Samples new class lists of an image from its stored prompt, which has all classes."""
        options = self._class_lists
        lists = ClassLists(prompt.classes, prompt.things, options.max_classes, options.prompts_per_example, options.seed)
        masks = np.zeros((0, *size), bool) if prompt.masks is None else prompt.masks[:, 0]
        ignore = np.zeros(size, bool) if prompt.ignore is None else prompt.ignore[0]
        crowds = [] if prompt.crowds is None else list(zip(prompt.crowd_labels, prompt.crowds[:, 0], strict=True))
        return lists.build_prompts(index, masks, list(prompt.labels), ignore, key=prompt.key, crowds=crowds, areas=prompt.areas)

    def check_shards(self) -> None:
        """Verifies the checksum of every shard. Raises a Problem for a mismatch, or reports all of them during a check."""
        for shard in self._index.shards:
            try:
                path = self._find_or_fetch_shard(shard)
                if sha256(path) != shard.sha256:
                    raise Problem("bad record", f"{self._store}/{shard.file}: wrong checksum; remove it and build again")
            except Problem as problem:
                report_problem(problem.kind, str(problem))

    def _read_record(self, index: int) -> tuple[Record, str]:
        """Returns a record, whose images and masks are not decoded yet, and its location for messages."""
        number = bisect.bisect_right(self._ends, index)
        shard = self._index.shards[number]
        position = index - (self._ends[number] - shard.records)
        where = f"{self._store}/{shard.file}#{position}"
        try:
            data = self._shards.get(number, lambda: self._open_shard(shard)).read(position)
        except BadFile as error:
            raise Problem("bad record", f"{where}: {error}") from error
        return Record(data, where), where

    def _open_shard(self, shard: Shard) -> OpenShard:
        path = self._find_or_fetch_shard(shard)
        try:
            return OpenShard(path, shard.records, INDEX, compressed=False)
        except BadFile as error:
            raise Problem("bad record", f"{self._store}/{shard.file}: {error}") from error

    def _find_or_fetch_shard(self, shard: Shard) -> pathlib.Path:
        """Returns the local path of a shard, which is downloaded first if the build is in a remote store. Raises UserError if
        it is missing or its size or checksum is wrong."""
        if self._store.path is not None:
            path, size = files.join_inside(self._store.path, shard.file, str(self._store)), self._store.size(shard.file)
            if size is None:
                raise Problem("missing file", f"{path}: no such shard; build again, or copy it there")
            if size != shard.bytes:
                raise Problem("wrong size", f"{path}: has {size} bytes, its index says {shard.bytes}; build again")
            files.check_regular(path, "shard")
            return path
        path = cache_folder() / "builds" / f"{shard.sha256}.array_record"  # content-addressed
        if path.is_file():
            return path
        with process_lock(path.with_suffix(".lock"), wait=True):
            if not path.is_file():  # another process may have fetched it while this one waited
                self._fetch_shard(shard, path)
        return path

    def _fetch_shard(self, shard: Shard, path: pathlib.Path) -> None:
        """Downloads a shard and verifies its size and checksum."""
        size = self._store.size(shard.file)
        if size is None:
            raise Problem("missing file", f"{self._store}/{shard.file}: no such shard; build again, or copy it there")
        with atomic_file(path) as part:
            self._store.get(shard.file, part)
            if part.stat().st_size != shard.bytes or sha256(part) != shard.sha256:
                raise Problem("bad record", f"{self._store}/{shard.file}: wrong checksum; remove it and build again")
