"""Reads the config.json of a language model of transformers, which is untrusted."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import escaped_value

LARGEST = 2**24
"""Maximum value of a size."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The content of a config.json. A field that is missing or null has its default; without a default, it is required.

    Methods raise UserError that names an invalid field.
    """

    content: Mapping[str, Any]

    def _value(self, name: str, default: Any) -> Any:
        value = self.content.get(name)
        value = default if value is None else value
        if value is None:
            raise UserError(f"has no {name}; give the config.json that the model was published with")
        return value

    def size(self, name: str, default: int | None = None) -> int:
        """Returns a positive integer."""
        value = self._value(name, default)
        if type(value) is not int or not 0 < value <= LARGEST:
            raise UserError(f"{name} = {escaped_value(value)} must be an integer of 1 to {LARGEST}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Returns a number of at least 0."""
        value = self._value(name, default)
        if type(value) not in (int, float) or not 0 <= value <= sys.float_info.max:
            raise UserError(f"{name} = {escaped_value(value)} must be a number of at least 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Returns a flag."""
        value = self._value(name, default)
        if type(value) is not bool:
            raise UserError(f"{name} = {escaped_value(value)} must be true or false")
        return value

    def block(self, name: str) -> Settings:
        """Returns the fields of a block, which may be missing."""
        value = self._value(name, {})
        if not isinstance(value, Mapping):
            raise UserError(f"{name} = {escaped_value(value)} must be a block of fields")
        return Settings(value)

    def check(self, name: str, *supported: str | bool | int) -> None:
        """Raises UserError if a field is present and has none of the supported values."""
        value = self.content.get(name)
        if value is not None and not any(type(value) is type(known) and value == known for known in supported):
            known = " or ".join(map(escaped_value, supported))
            raise UserError(f"{name} = {escaped_value(value)} is not supported, only {known}; use another model")
