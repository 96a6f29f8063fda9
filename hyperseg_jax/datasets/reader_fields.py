"""Checks the fields that a reader is given, with messages in the words of a config instead of Python's."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection
from typing import Any

from hyperseg_jax.errors import UserError


def check_fields(what: str, make: Callable[..., Any], given: Collection[str], *, fixed: Collection[str] = ()) -> None:
    """UserError unless `make` takes all fields that are given, and needs no others.

    what: is made, for the message, as "reader 'folder'". fixed: arguments of `make` that are filled in already, so that nobody
    may give them. Where `make` takes any keyword (**options), whoever uses those has to check them.
    """
    parameters = [p for name, p in inspect.signature(make).parameters.items() if name not in fixed]
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    known = [p.name for p in named]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                guess = f" (did you mean {near[0]!r}?)" if near else ""
                raise UserError(f"{what} has no field {name!r}{guess}; its fields are {', '.join(known) or 'none'}")
    for p in named:
        if p.default is p.empty and p.name not in given:
            raise UserError(f"{what} needs the field {p.name!r}; its fields are {', '.join(known)}")
