"""One change for all mask arrays of a prompt: its targets, ignored pixels, crowds and so on, but not its regions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from hyperseg_jax.structs import Prompt


def map_masks(prompt: Prompt, change: Callable[[str, np.ndarray], np.ndarray | None], **fields: Any) -> Prompt:
    """The prompt with another array in the place of each of its mask arrays [..., H, W].

    change: takes a field's name and its array. fields: other fields of the prompt to replace. Regions hold more than masks, so
    `datasets/regions` changes them, and they are given here as a field.
    """
    given = ((field.name, getattr(prompt, field.name)) for field in dataclasses.fields(prompt))
    arrays: dict[str, Any] = {name: change(name, value) for name, value in given if isinstance(value, np.ndarray)}
    return dataclasses.replace(prompt, **arrays, **fields) if arrays or fields else prompt
