"""Operations of pickle protocols 0 and 1, the text format of Python 2: numbers, strings, lists, dicts, memo."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Callable
from typing import Any

from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.pickle_machine import TABLE, PickleMachine, fill_dict

LINE_BYTES = 65536
NUMBER_CHARACTERS = 40


def _read_line(machine: PickleMachine) -> bytes:
    """Reads the bytes up to the next newline."""
    start, step = machine.at, 256
    while True:
        end = min(start + step, len(machine.data))
        line, found, _ = bytes(machine.data[start:end]).partition(b"\n")
        if found:
            machine.at = start + len(line) + 1
            return line
        if end == len(machine.data) or step > LINE_BYTES:
            raise BadFile("its pickle has a line without a newline")
        step *= 4


def _read_number(machine: PickleMachine, kind: Callable[[str], Any]) -> Any:
    """Reads a number in text form and converts it with `kind` (int or float)."""
    text = _read_line(machine)
    with contextlib.suppress(ValueError):
        if len(text) <= NUMBER_CHARACTERS:
            return kind(text.decode("ascii").removesuffix("L"))
    raise BadFile("its pickle has an invalid number")


def _read_integer(machine: PickleMachine) -> int | bool:
    """Reads an integer; 00 and 01 are booleans."""
    for text, value in ((b"00\n", False), (b"01\n", True)):
        if bytes(machine.data[machine.at : machine.at + 3]) == text:
            machine.at += 3
            return value
    return _read_number(machine, int)


def _read_quoted(machine: PickleMachine) -> str:
    """Reads a quoted str of Python 2 with escapes; its bytes are decoded as latin1."""
    text = _read_line(machine)
    if len(text) < 2 or text[0] != text[-1] or text[:1] not in (b"'", b'"'):
        raise BadFile("its pickle has a string without quotes")
    try:
        return str(codecs.escape_decode(text[1:-1])[0], "latin1")  # type: ignore[attr-defined]
    except ValueError as error:
        raise BadFile("its pickle has a string with an unknown escape") from error


def _read_unicode(machine: PickleMachine) -> str:
    """Reads the rest of a line as a str with Python's raw-unicode escapes."""
    try:
        return _read_line(machine).decode("raw-unicode-escape")
    except UnicodeDecodeError as error:
        raise BadFile("its pickle has a string that is not Unicode") from error


def _build_dict(machine: PickleMachine) -> dict[Any, Any]:
    """Pops the keys and values above the last mark and builds a dict."""
    items = machine.pop_mark()
    result: dict[Any, Any] = {}
    fill_dict(result, items[::2], items[1::2])
    return result


def _pushing_result(make: Callable[[PickleMachine], object]) -> Callable[[PickleMachine], None]:
    """Returns an operation that pushes the value of `make(machine)` on the stack."""

    def push(machine: PickleMachine) -> None:
        value = make(machine)
        machine.stack.append(value)

    return push


OLD_TABLE = (
    TABLE
    | {
        ord(code): _pushing_result(make)
        for code, make in {
            b"I": _read_integer,
            b"L": lambda m: _read_number(m, int),
            b"F": lambda m: _read_number(m, float),
            b"S": _read_quoted,
            b"V": _read_unicode,
            b"l": lambda m: m.pop_mark(),
            b"d": _build_dict,
            b"g": lambda m: m.memo_get(_read_number(m, int)),
        }.items()
    }
    | {ord("p"): lambda m: m.memo_put(_read_number(m, int))}
)
"""All operations, including those of protocols 2 to 5."""
