"""What readers of videos share: an index gives the same clip each time, `sample` draws one."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperseg_jax.structs import Example


class ClipReader(abc.ABC):
    """Random access to videos. A reader fills `_items`, one for each example, and `_seed`, and says what `sample` gives."""

    _items: Sequence[Any]
    _seed: int

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Example:
        return self.sample(index, np.random.default_rng([self._seed, index]))

    @abc.abstractmethod
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """Example `index`, with its whole video or a clip of it drawn with rng."""
