"""Validates the fields of a reader, with error messages about config fields instead of Python arguments."""

from __future__ import annotations

import difflib
import inspect
import os
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import escaped_value

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    os.PathLike: "a path",
    types.NoneType: "None",
}
"""Field types and their description in messages. Lists of one type are allowed as well."""

LONGEST = 10_000
"""Maximum number of entries of a list."""


def check_fields(what: str, make: Callable[..., Any], fields: Mapping[str, Any], *, fixed: Collection[str] = ()) -> None:
    """Raises UserError if `fields` has unknown names, values of the wrong type, or lacks required fields of `make`.

    what: description for messages, such as "reader 'folder'". fixed: arguments of `make` that are already set and cannot be
    fields. If `make` is a function that accepts arbitrary keywords (**options), the callee has to check them.
    """
    parameters = [p for p in _list_parameters(make) if p.name not in fixed]
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    known = ", ".join(named) or "none"
    for name, value in fields.items():
        if name in named:
            kind = named[name].annotation
            if not _has_type(value, kind):
                raise UserError(f"{what}: {name} = {escaped_value(value)}; give {_describe_type(kind)}")
            if isinstance(value, list | tuple) and len(value) > LONGEST:
                raise UserError(f"{what}: {name} has {len(value)} entries; give at most {LONGEST}")
            if isinstance(value, list | tuple) and _fixed_length(kind) is None and len(set(map(repr, value))) < len(value):
                raise UserError(f"{what}: {name} has an entry twice; give each once")
        elif not any(p.kind is p.VAR_KEYWORD for p in parameters):
            near = difflib.get_close_matches(name, named, 1)
            guess = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"{what} has no field {name!r}{guess}; its fields are {known}")
    for p in named.values():
        if p.default is p.empty and p.name not in fields:
            raise UserError(f"{what} needs the field {p.name!r}; its fields are {known}")


def _list_parameters(make: Callable[..., Any]) -> list[inspect.Parameter]:
    """Returns the parameters of a function or class. The **options of a class are the keyword-only parameters of its base."""
    parameters = list(inspect.signature(make, eval_str=True).parameters.values())
    if not (isinstance(make, type) and any(p.kind is p.VAR_KEYWORD for p in parameters)):
        return parameters
    base = next(each for each in make.__mro__[1:] if "__init__" in vars(each))
    return [
        *(p for p in parameters if p.kind is not p.VAR_KEYWORD),
        *(p for p in _list_parameters(base) if p.kind is p.KEYWORD_ONLY),
    ]


def _has_type(value: Any, kind: Any) -> bool:
    """Returns whether a value of a config has the annotated type: a class, a union, or a list of one class."""
    inner = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_has_type(value, option) for option in inner)
    if inner:  # a sequence or a fixed-length tuple
        return (
            isinstance(value, list | tuple)
            and _fixed_length(kind) in (None, len(value))
            and all(_has_type(item, inner[0]) for item in value)
        )
    if kind not in WORDS:
        return True
    return isinstance(value, int | float if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def _describe_type(kind: Any) -> str:
    """Describes an annotated type in a message, such as "a number or null"."""
    inner = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_describe_type, inner))
    if not inner:
        return WORDS[kind]
    parts = " or ".join(f"{WORDS[option].removeprefix('a ')}s" for option in typing.get_args(inner[0]) or inner[:1])
    return f"a list of {parts}" if _fixed_length(kind) is None else f"a list of {_fixed_length(kind)} {parts}"


def _fixed_length(kind: Any) -> int | None:
    """Returns the required length of a list (fixed-length tuples); None if any length is allowed."""
    inner = typing.get_args(kind)
    return len(inner) if typing.get_origin(kind) is tuple and ... not in inner else None
