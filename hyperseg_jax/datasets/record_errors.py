"""Converts any error of a single record into a one-line message.

The data stream drops no records: an unreadable record becomes an element without loss that carries the error message.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from hyperseg_jax.datasets import fields
from hyperseg_jax.datasets.check_errors import Problem, has_reported_problem
from hyperseg_jax.errors import EXIT_EXCEPTIONS, UserError
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.untrusted import budget
from hyperseg_jax.untrusted.printing import escaped, escaped_value, one_line

MESSAGE_BYTES = 400
"""Size of an encoded error message in bytes."""


def error_message(error: BaseException) -> str:
    """Returns a one-line message for an error of a record. Re-raises errors that end the process, such as a Ctrl-C."""
    if isinstance(error, EXIT_EXCEPTIONS):
        raise error
    if isinstance(error, UserError | OSError):
        return one_line(" ".join(str(error).split()))
    if isinstance(error, MemoryError):
        return "needs more memory than is available; lower the limits for untrusted files (docs/security.md)"
    why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return one_line(f"is in an unexpected format ({why}); correct or remove it")


@contextlib.contextmanager
def opening_reader(what: str) -> Iterator[None]:
    """Turns any exception while a reader is opened into a UserError. what: the reader, for messages."""
    try:
        yield
    except UserError as error:
        _raise_printable(error)
    except BaseException as error:
        error_message(error)
        why = describe_error(error)
        raise Problem("bad record", f"{what} cannot be opened with these files and options ({why}); correct them") from error


def describe_error(error: BaseException) -> str:
    """Describes what a Python exception means for the content of a file."""
    if isinstance(error, KeyError):
        return f"{escaped_value(error.args[0] if error.args else '')} is missing"
    if isinstance(error, MemoryError):
        return "it needs more memory than is available"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, UnicodeError):
        return "a text is not valid Unicode"
    if isinstance(error, OSError):
        return f"a file cannot be read: {escaped(error.strerror or str(error))}"
    return "a value has the wrong type or size"


def _raise_printable(error: UserError) -> NoReturn:
    """Re-raises the current error, or a Problem with an escaped message if the text is not printable."""
    message = str(error)
    if one_line(message) == message:
        raise
    raise Problem(getattr(error, "kind", "bad record"), message) from error


TEXTS = ("text", "answer", "group", "key")
LISTS = ("classes", "answers", "entities")
MASKS = ("masks", "ignore", "crowds", "others", "foreground")
READ_BY_MODELS = ("text", "answer", "classes", "entities", "history")
"""The fields whose texts are tokenized."""
LONGEST_GROUP = 100
"""Maximum letters of the tag for grouped scores."""
EXPRESSIONS = ("referring", "reasoning", "video")
"""The tasks whose text describes an object."""


def _check_prompts(example: Example) -> None:
    """Raises a Problem if a text field of a prompt is not a string or a label is out of range. Without this check, the error
    would occur later and not name the file."""
    for prompt in example.prompts:
        lists = ((name, value) for name in LISTS for value in getattr(prompt, name) or ())
        history = [("history", text) for texts in prompt.history for text in texts]
        for name, value in (*((name, getattr(prompt, name)) for name in TEXTS), *lists, *history):
            if not isinstance(value, str):
                why = f"field {name!r} of a prompt is {escaped_value(value)}, expected a string"
                raise Problem("bad record", f"{example.name}: {why}; correct the record")
            if name == "group" and len(value) > LONGEST_GROUP:
                why = f"field 'group' of a prompt has {len(value)} letters, and at most {LONGEST_GROUP} are allowed"
                raise Problem("bad record", f"{example.name}: {why}; give a shorter name")
            if name in READ_BY_MODELS:
                fields.check_text(value, f"{example.name}: field {name!r} of a prompt")
        if not all(len(texts) == 2 and all(text.strip() for text in texts) for texts in prompt.history):
            why = "field 'history' of a prompt lacks a question or an answer"
            raise Problem("bad record", f"{example.name}: {why}; give both of each round")
        for name in MASKS:
            value = getattr(prompt, name)
            if value is not None and (not isinstance(value, np.ndarray) or value.dtype.kind != "b"):
                why = f"field {name!r} of a prompt is {getattr(value, 'dtype', type(value).__name__)}, expected bool"
                raise Problem("bad record", f"{example.name}: {why}; threshold it in the reader")
        if not isinstance(prompt.needs_reasoning, bool):
            why = f"field 'needs_reasoning' of a prompt is {escaped_value(prompt.needs_reasoning)}, expected true or false"
            raise Problem("bad record", f"{example.name}: {why}; correct the record")
        if prompt.task in EXPRESSIONS and not prompt.text.strip(" .") and not has_reported_problem():
            raise Problem(
                "bad record", f"{example.name}: field 'text' of a prompt is empty; describe the object, or remove the record"
            )
        if not isinstance(prompt.regions, tuple) or not all(isinstance(region, Region) for region in prompt.regions):
            why = f"field 'regions' of a prompt is a {type(prompt.regions).__name__}, expected a tuple of Region"
            raise Problem("bad record", f"{example.name}: {why}; correct the reader")
        _check_captions(prompt, example.name)
        if odd := [thing for thing in prompt.things if not isinstance(thing, bool | int | np.bool_)]:
            why = f"field 'things' of a prompt has {escaped_value(odd[0])}, expected a boolean per class"
            raise Problem("bad record", f"{example.name}: {why}; give true or false")
        count = len(prompt.classes if prompt.task == "panoptic" else prompt.regions)
        for label in (*prompt.labels, *prompt.crowd_labels) if prompt.task in ("panoptic", "region") else ():
            if not isinstance(label, int) or not 0 <= label < count:
                why = f"a mask has the label {escaped_value(label)}, and there are {count} classes or regions"
                raise Problem("bad record", f"{example.name}: {why}; correct the record")


def _check_captions(prompt: Prompt, name: str) -> None:
    """Raises a Problem if the captions of a prompt are not one or several texts for each region, which can be tokenized."""
    captions = prompt.captions
    if not all(isinstance(texts, tuple) and texts and all(isinstance(text, str) for text in texts) for texts in captions):
        raise Problem("bad record", f"{name}: field 'captions' of a prompt is not a tuple of texts for each region; correct it")
    if captions and len(captions) != len(prompt.regions):
        why = f"a prompt has {len(captions)} captions for {len(prompt.regions)} regions"
        raise Problem("bad record", f"{name}: {why}; give texts for each region")
    for number, text in ((k, text) for k, texts in enumerate(captions) for text in texts):
        fields.check_text(text, f"{name}: a caption of region {number}")


def guard_record(read: Callable[..., Example]) -> Callable[..., Example]:
    """Decorates `__getitem__` or `sample` of a reader: applies the limits per record and turns any exception into a
    UserError."""

    @functools.wraps(read)
    def bounded(reader: Any, index: int, *rest: Any, **options: Any) -> Example:
        with budget.record_budget():
            try:
                example = read(reader, index, *rest, **options)
                with _naming_file(reader):
                    _check_prompts(example)
                return example
            except UserError as error:
                _raise_printable(error)
            except BaseException as error:
                if isinstance(error, IndexError) and not -len(reader) <= index < len(reader):
                    raise  # ends iteration over the reader
                with _naming_file(reader):
                    raise Problem("bad record", f"{type(reader).__name__}[{index}]: {error_message(error)}") from error

    return bounded


@contextlib.contextmanager
def _naming_file(reader: Any) -> Iterator[None]:
    """Adds the path of the annotations of a reader, or of its folder, to the front of UserErrors raised in the body."""
    try:
        yield
    except UserError as error:
        values = list(vars(reader).values())
        paths = [getattr(value, "path", None) for value in values] + values  # files, then folders
        path = next((path for path in paths if isinstance(path, pathlib.Path)), None)
        if path is None:
            raise
        raise Problem(getattr(error, "kind", "bad record"), f"{path}: {error}") from error


@contextlib.contextmanager
def naming_example(example: Example) -> Iterator[None]:
    """Adds the name of the example to the front of UserErrors that are raised in the body."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{example.name}: {error}") from error


NO_MESSAGE = np.zeros(MESSAGE_BYTES, np.uint8)
"""The encoding of an empty message."""


def encode_message(text: str) -> np.ndarray:
    """Encodes a message as uint8 [MESSAGE_BYTES], so that it can be stored in a batch; an empty message is all zeros."""
    if not text:
        return NO_MESSAGE
    codes = np.frombuffer(text.encode(errors="replace")[:MESSAGE_BYTES], np.uint8)
    return np.pad(codes, (0, MESSAGE_BYTES - len(codes)))


def decode_message(codes: np.ndarray) -> str:
    """Inverse of `encode_message`."""
    return codes.tobytes().rstrip(b"\0").decode(errors="ignore")
