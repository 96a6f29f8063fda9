"""Base class of video readers: indexing returns a deterministic clip, `sample` a random one."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperseg_jax.structs import Example


class VideoReader(abc.ABC):
    """Random access to videos. Subclasses set `_items` (one entry per example) and `_seed` and implement `sample`."""

    _items: Sequence[Any]
    _seed: int

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Example:
        return self.sample(index, np.random.default_rng([self._seed, index]))

    @abc.abstractmethod
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """Returns example `index` with its full video or a clip sampled with rng."""
