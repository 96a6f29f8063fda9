"""Applies a function to all mask arrays of a prompt: targets, ignored pixels, crowds and so on, but not regions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from hyperseg_jax.structs import Prompt


def map_masks(prompt: Prompt, function: Callable[[str, np.ndarray], np.ndarray | None], **fields: Any) -> Prompt:
    """Returns the prompt with each mask array [..., H, W] replaced by function(field name, array).

    fields: further fields of the prompt to replace. Regions contain more than masks: transform them with `datasets/regions` and
    pass them here as a field.
    """
    values = ((field.name, getattr(prompt, field.name)) for field in dataclasses.fields(prompt))
    arrays: dict[str, Any] = {name: function(name, value) for name, value in values if isinstance(value, np.ndarray)}
    return dataclasses.replace(prompt, **arrays, **fields) if arrays or fields else prompt
