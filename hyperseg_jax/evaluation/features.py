"""Cache of encoded features: ten prompts about one image encode it only once."""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from hyperseg_jax.data.processor import Batch, Encoding
from hyperseg_jax.evaluation.array_limit import limit_arrays
from hyperseg_jax.parallel import hosts

CACHE_SIZE = 2
"""Number of cached features per part; the least recently used are evicted."""


class FeatureCache:
    """Caches features by the content of a batch part and of the parts that it needs."""

    def __init__(self, encodings: Mapping[str, Encoding]) -> None:
        """encodings: encodings of a system by part, each one after those that it needs."""
        self._encodings = encodings
        self._jitted = {name: limit_arrays(jax.jit(encoding.function)) for name, encoding in encodings.items()}
        self._cached: dict[str, collections.OrderedDict[str, Any]] = {name: collections.OrderedDict() for name in encodings}
        self._params: list[Any] = []

    def clear(self) -> None:
        """Drops the features of images and frees their device memory."""
        for name, encoding in self._encodings.items():
            if encoding.of_images:
                self._cached[name].clear()

    def _clear_all(self, leaves: list[Any]) -> None:
        """Drops all features. leaves: the arrays of the new parameters."""
        for cached in self._cached.values():
            cached.clear()
        self._params = leaves

    def features(
        self, params: Any, parts: Mapping[str, Batch], put: Callable[[Batch], Any], *, memory: bool = False
    ) -> dict[str, Any]:
        """Returns the features of the parts of a batch, by name.

        put: transfers the arrays of a part to the devices. memory: whether the model has a memory of the previous frame. All
        hosts encode the same parts: a part that is not cached on all hosts is encoded again on all of them.
        """
        leaves = jax.tree.leaves(params)  # compares arrays by identity, because the dictionary may be updated in place
        if len(leaves) != len(self._params) or any(new is not old for new, old in zip(leaves, self._params, strict=True)):
            self._clear_all(leaves)
        if self._encodings and (unknown := parts.keys() - self._encodings.keys()):
            raise ValueError(f"the processor returns the part {min(unknown)!r}, which the system does not encode")
        names = [name for name in self._encodings if name in parts and not (memory and self._encodings[name].without_memory)]
        keys: dict[str, str] = {}
        for name in names:
            needed_keys = [keys[needed] for needed in self._encodings[name].needs if needed in keys]
            keys[name] = _digest(parts[name], needed_keys)
        names, cached_everywhere = self._parts_on_all_hosts(names, parts, keys)
        features: dict[str, Any] = {}
        for name in names:
            cached = self._cached[name]
            if name not in cached_everywhere:
                while keys[name] not in cached and len(cached) >= CACHE_SIZE:
                    cached.popitem(last=False)  # frees memory before the new features are allocated
                needed = {other: features[other] for other in self._encodings[name].needs if other in features}
                cached[keys[name]] = self._jitted[name](params, put(parts[name]), needed)
            cached.move_to_end(keys[name])
            features[name] = cached[keys[name]]
        return features

    def _parts_on_all_hosts(
        self, names: list[str], parts: Mapping[str, Batch], keys: Mapping[str, str]
    ) -> tuple[list[str], set[str]]:
        """Exchanges which parts each host has, their shapes, and whether they are cached. Returns the parts that all hosts have
        with equal shapes, and whose needed parts are among them as well; and the subset that is cached on all hosts."""
        shapes = {name: [leaf.shape[1:] for leaf in jax.tree.leaves(parts[name])] for name in names}
        local = {name: [shapes[name], keys[name] in self._cached[name]] for name in names}
        by_host = [json.loads(text) for text in hosts.exchange("parts of a batch", json.dumps(local))]
        shared: list[str] = []
        for name in names:
            needed = [other for other in self._encodings[name].needs if any(other in host for host in by_host)]
            alike = all(name in host and host[name][0] == by_host[0][name][0] for host in by_host)
            shared += [name] * (alike and set(needed) <= set(shared))
        return shared, {name for name in shared if all(host[name][1] for host in by_host)}


def _digest(part: Batch, needed_keys: list[str]) -> str:
    """Returns a digest of the arrays of a part and of the keys of the parts that it needs."""
    digest = hashlib.blake2b(" ".join(needed_keys).encode(), digest_size=16)
    for path, leaf in jax.tree.leaves_with_path(part):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
