"""What a model encoded of a batch, kept while the next batches have the same: ten prompts about one image encode it once."""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from hyperseg_jax.data.processor import Batch, Encoding
from hyperseg_jax.parallel import hosts

KEPT = 2
"""Features of each part that are kept, the latest used."""


class FeatureCache:
    """Features by the content of a part, and of the parts that it needs."""

    def __init__(self, encodings: Mapping[str, Encoding]) -> None:
        """encodings: of a system, by part, each after those that it needs."""
        self._encodings = encodings
        self._jitted = {name: jax.jit(encoding.function) for name, encoding in encodings.items()}
        self._kept: dict[str, collections.OrderedDict[str, Any]] = {name: collections.OrderedDict() for name in encodings}
        self._params: list[Any] = []

    def clear(self) -> None:
        """Lets all features go, and their memory on the devices."""
        for kept in self._kept.values():
            kept.clear()
        self._params = []

    def features(
        self, params: Any, parts: Mapping[str, Batch], put: Callable[[Batch], Any], *, memory: bool = False
    ) -> dict[str, Any]:
        """The features of a batch's parts, by name. put: brings a part's arrays to the devices. memory: whether the model has a
        memory of the frame before. All hosts encode the same parts: what one of them lacks, all encode anew."""
        leaves = jax.tree.leaves(params)  # the same arrays: the dictionary may have been changed in place
        if len(leaves) != len(self._params) or any(one is not other for one, other in zip(leaves, self._params, strict=True)):
            self.clear()
            self._params = leaves
        if self._encodings and (unknown := parts.keys() - self._encodings.keys()):
            raise ValueError(f"the processor gives the part {min(unknown)!r}, which the system does not encode")
        names = [name for name in self._encodings if name in parts and not (memory and self._encodings[name].first)]
        keys: dict[str, str] = {}
        for name in names:
            before = [keys[needed] for needed in self._encodings[name].needs if needed in keys]
            keys[name] = _digest(parts[name], before)
        names, known = self._agreed(names, parts, keys)
        made: dict[str, Any] = {}
        for name in names:
            kept = self._kept[name]
            if name not in known:
                while keys[name] not in kept and len(kept) >= KEPT:
                    kept.popitem(last=False)  # before the new one takes memory
                needed = {other: made[other] for other in self._encodings[name].needs if other in made}
                kept[keys[name]] = self._jitted[name](params, put(parts[name]), needed)
            kept.move_to_end(keys[name])
            made[name] = kept[keys[name]]
        return made

    def _agreed(self, names: list[str], parts: Mapping[str, Batch], keys: Mapping[str, str]) -> tuple[list[str], set[str]]:
        """The parts that all hosts have in the same shapes, with all that they need on any host, and those of them that all
        hosts have kept."""
        shapes = {name: [leaf.shape[1:] for leaf in jax.tree.leaves(parts[name])] for name in names}
        mine = {name: [shapes[name], keys[name] in self._kept[name]] for name in names}
        told = [json.loads(text) for text in hosts.exchange("parts of a batch", json.dumps(mine))]
        shared: list[str] = []
        for name in names:
            needed = [other for other in self._encodings[name].needs if any(other in one for one in told)]
            alike = all(name in one and one[name][0] == told[0][name][0] for one in told)
            shared += [name] * (alike and set(needed) <= set(shared))
        return shared, {name for name in shared if all(one[name][1] for one in told)}


def _digest(part: Batch, before: list[str]) -> str:
    """Of the content of arrays, and of what came before."""
    found = hashlib.blake2b(" ".join(before).encode(), digest_size=16)
    for path, leaf in jax.tree.leaves_with_path(part):
        found.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()
