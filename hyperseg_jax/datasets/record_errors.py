"""The boundary around one record: whatever it makes a reader or a library raise is one line about it.

The stream has no filter: a record that cannot be read is an element that teaches nothing and says why.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.errors import EXIT_EXCEPTIONS, UserError
from hyperseg_jax.structs import Example, Region
from hyperseg_jax.untrusted import budget
from hyperseg_jax.untrusted.printing import one_line, shown, shown_value

ROOM = 400
"""Bytes of a message on its way from a worker."""


def reason(error: BaseException) -> str:
    """One line of what was wrong with a record. What is no fault of a record is raised again: a Ctrl-C, the end of the
    process."""
    if isinstance(error, EXIT_EXCEPTIONS):
        raise error
    if isinstance(error, UserError | OSError):
        return one_line(" ".join(str(error).split()))
    if isinstance(error, MemoryError):
        return "asks for more memory than there is; lower the limits of what a file may ask for (docs/security.md)"
    why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return one_line(f"is in an unexpected format ({why}); correct or remove it")


@contextlib.contextmanager
def opening(what: str) -> Iterator[None]:
    """Around the opening of a reader: whatever its files and options make it raise is a UserError. what: is opened."""
    try:
        yield
    except UserError as error:
        _raise_printable(error)
    except BaseException as error:
        reason(error)
        why = in_words(error)
        raise Problem("bad record", f"{what} cannot be opened with these files and options ({why}); correct them") from error


def in_words(error: BaseException) -> str:
    """What a Python error means for the content of a file, in plain words."""
    if isinstance(error, KeyError):
        return f"{shown_value(error.args[0] if error.args else '')} is missing"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, UnicodeError):
        return "a text is not valid Unicode"
    if isinstance(error, OSError):
        return f"a file cannot be read: {shown(error.strerror or str(error))}"
    return "a value is of another kind or size than belongs there"


def _raise_printable(error: UserError) -> NoReturn:
    """The error that is being handled, or where its text cannot be printed as it is, a Problem of the same words."""
    told = str(error)
    if one_line(told) == told:
        raise
    raise Problem(getattr(error, "kind", "bad record"), told) from error


TEXTS = ("text", "answer", "group", "key")
LISTS = ("classes", "answers")


def _check_prompts(example: Example) -> None:
    """A Problem where a prompt has something else in the place of a text, or the label of no class or region: it would be found
    far from its file."""
    for prompt in example.prompts:
        lists = ((name, value) for name in LISTS for value in getattr(prompt, name))
        for name, value in (*((name, getattr(prompt, name)) for name in TEXTS), *lists):
            if not isinstance(value, str):
                why = f"a prompt has {shown_value(value)} as its {name}, where a text belongs"
                raise Problem("bad record", f"{example.name}: {why}; correct the record")
        if not isinstance(prompt.regions, tuple) or not all(isinstance(region, Region) for region in prompt.regions):
            why = f"a prompt has a {type(prompt.regions).__name__} as its regions, where a tuple of Region belongs"
            raise Problem("bad record", f"{example.name}: {why}; correct the reader")
        if odd := [thing for thing in prompt.things if not isinstance(thing, bool | int | np.bool_)]:
            why = f"a class has {shown_value(odd[0])} where it is told whether it is a thing"
            raise Problem("bad record", f"{example.name}: {why}; give true or false")
        room = len(prompt.classes if prompt.task == "panoptic" else prompt.regions)
        for label in (*prompt.labels, *prompt.crowd_labels) if prompt.task in ("panoptic", "region") else ():
            if not isinstance(label, int) or not 0 <= label < room:
                why = f"a mask has the label {shown_value(label)}, and there are {room} classes or regions"
                raise Problem("bad record", f"{example.name}: {why}; correct the record")


def one_record(read: Callable[..., Example]) -> Callable[..., Example]:
    """A reader's __getitem__ or sample: within the limits of one record, and whatever it raises is a UserError."""

    @functools.wraps(read)
    def bounded(reader: Any, index: int, *rest: Any, **options: Any) -> Example:
        with budget.record_budget():
            try:
                example = read(reader, index, *rest, **options)
                _check_prompts(example)
                return example
            except UserError as error:
                _raise_printable(error)
            except BaseException as error:
                if isinstance(error, IndexError) and not -len(reader) <= index < len(reader):
                    raise  # the end of the reader, for whoever goes through it
                raise Problem("bad record", f"{type(reader).__name__}[{index}]: {reason(error)}") from error

    return bounded


NONE = np.zeros(ROOM, np.uint8)
"""No message."""


def written(text: str) -> np.ndarray:
    """A message as uint8 [ROOM], which travels in a batch; zeros for none."""
    if not text:
        return NONE
    codes = np.frombuffer(text.encode(errors="replace")[:ROOM], np.uint8)
    return np.pad(codes, (0, ROOM - len(codes)))


def read(codes: np.ndarray) -> str:
    """The message of `written`."""
    return codes.tobytes().rstrip(b"\0").decode(errors="ignore")
