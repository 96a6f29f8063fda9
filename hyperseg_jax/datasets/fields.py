"""Reads values of records of annotation files: one rule for each kind of value, for all formats (docs/data.md). An error names
the file, the record, the field and the fix.

record: a value of JSON, which may have any type. where: its file and place in it, for messages.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import json_text, limits
from hyperseg_jax.untrusted.printing import escaped_value

T = TypeVar("T")

LARGEST_NUMBER = 2**60
"""Larger integers could be chosen to collide in a dict, which would make lookups take hours."""
LONGEST_NUMBER = 40
"""Maximum characters of a number that is written as text."""
FLAGS = {"0": False, "1": True}
"""Flags that are written as text."""
_INTEGER = re.compile(r"0|-?[1-9]\d*", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", re.ASCII)


def field(record: Any, name: str, where: str) -> Any:
    """Returns record[name]; name may be nested, such as "image_info.height". Raises UserError if the field is missing."""
    if isinstance(record, dict) and name in record:  # a name from a file may contain a dot
        return record[name]
    value = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise Problem("bad record", f"{where}: field {name!r} is missing; check that the file has this format")
        value = value[part]
    return value


def is_given(record: Any, name: str) -> bool:
    """Whether a record is an object with a field whose value is not null."""
    return isinstance(record, dict) and record.get(name) is not None


def _refuse(value: Any, expected: str, name: str, where: str) -> Problem:
    return Problem("bad record", f"{where}: field {name!r} is {escaped_value(value)}, expected {expected}; correct the record")


def _check_type(value: Any, kind: type[T], what: str, name: str, where: str) -> T:
    if not isinstance(value, kind):
        raise _refuse(value, what, name, where)
    return value


def text_field(record: Any, name: str, where: str, default: str | None = None) -> str:
    """Returns a string field of a record, or default if the field is missing. Raises UserError for null and other types."""
    if default is not None and isinstance(record, dict) and name not in record:
        return default
    return _check_string(field(record, name, where), name, where)


def optional_text_field(record: Any, name: str, where: str) -> str:
    """Returns a string field that a record need not have: "" if it is missing or null. Raises UserError for other types."""
    return text_field(record, name, where) if is_given(record, name) else ""


def sentence_field(record: Any, name: str, where: str) -> str:
    """Returns a string field. Reports a problem if it has nothing but spaces, and raises UserError for other types."""
    text = text_field(record, name, where)
    if not text.strip():
        report_problem("bad record", f"{where}: field {name!r} is empty; write the text, or remove the record")
    return text


def name_field(record: Any, name: str, where: str) -> str:
    """Returns the name of a class or group: a string that is not empty, or a number, whose digits are the name. Raises
    UserError for other values."""
    value = field(record, name, where)
    if type(value) in (int, float) and parse_number(value) is not None:
        return str(value)
    if not _check_string(value, name, where, "a name").strip():
        raise _refuse(value, "a name that is not empty", name, where)
    return str(value)


def optional_name_field(record: Any, name: str, where: str) -> str:
    """Returns a name that a record need not have: "" if it is missing, null or empty. Raises UserError for other values."""
    return name_field(record, name, where) if is_given(record, name) and record[name] != "" else ""


def _check_string(value: Any, name: str, where: str, what: str = "a string") -> str:
    check_text(_check_type(value, str, what, name, where), f"{where}: field {name!r}")
    return str(value)


def check_text(text: str, where: str) -> None:
    """Raises UserError for a text that cannot be tokenized: longer than limits.letters, or with a lone surrogate. where: the
    field, for messages."""
    limits.check_limit("letters", len(text), where, "letters")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Problem(
                "bad record", f"{where} has the lone surrogate {escaped_value(text[error.start])}; correct it"
            ) from error


def list_field(record: Any, name: str, where: str) -> list:
    """Returns a list field of a record. Raises UserError for other types."""
    return _check_type(field(record, name, where), list, "a list", name, where)


def text_list_field(record: Any, name: str, where: str) -> list[str]:
    """Returns a field that is a list of strings. Raises UserError for other types."""
    return [_check_string(value, f"{name}[{k}]", where) for k, value in enumerate(list_field(record, name, where))]


def frames_field(record: Any, name: str, where: str) -> list[str]:
    """Returns a field that lists the frames of a video. Raises UserError if there are none, more than limits.frames, or one of
    them twice."""
    names = text_list_field(record, name, where)
    limits.check_limit("frames", len(names), where, "frames")
    if not names or len(set(names)) < len(names):
        why = "lists a frame twice" if names else "lists no frames"
        raise Problem("bad record", f"{where}: field {name!r} {why}; correct or remove the video")
    return names


def dict_field(record: Any, name: str, where: str) -> dict[str, Any]:
    """Returns a field that is a json object. Raises UserError for other types."""
    return _check_type(field(record, name, where), dict, "an object {...}", name, where)


def id_field(record: Any, name: str, where: str) -> int | str:
    """Returns a field that is a record id: an integer or a string. The ids 1, 1.0 and "1" are the same; "01" is another one.
    Raises UserError for other types."""
    return _check_id(field(record, name, where), name, where)


def id_list_field(record: Any, name: str, where: str) -> list[int | str]:
    """Returns a field that is a list of record ids, see `id_field`."""
    return [_check_id(value, f"{name}[{k}]", where) for k, value in enumerate(list_field(record, name, where))]


def _check_id(value: Any, name: str, where: str) -> int | str:
    if isinstance(value, str):
        if len(value) > LONGEST_NUMBER or not _INTEGER.fullmatch(value):
            return _check_string(value, name, where)
        number = int(value)
        return number if abs(number) < LARGEST_NUMBER else value
    whole = parse_number(value)
    if whole is None or not float(whole).is_integer():
        raise Problem(
            "bad record", f"{where}: field {name!r} is {escaped_value(value)}, expected an integer or string id; correct it"
        )
    return int(whole)


def parse_number(value: object) -> int | float | None:
    """Returns a number, which may be written as text ("12", "-1.5e3"); None for other values: true and false, NaN, infinity,
    and numbers of LARGEST_NUMBER or more."""
    if isinstance(value, str):
        if len(value) > LONGEST_NUMBER or not _NUMBER.fullmatch(value):
            return None
        value = int(value) if value.lstrip("-").isdecimal() else float(value)
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    return number if number is not None and abs(number) < LARGEST_NUMBER else None


def parse_numbers(value: object) -> list[int | float] | None:
    """Returns a list of numbers, see `parse_number`; None if the value is no list, or one of its values no number."""
    if not isinstance(value, list):
        return None
    if json_text.is_list_of_numbers(value):
        return value  # callers check the range of all of them at once
    numbers = [parse_number(item) for item in value]
    return None if None in numbers else [number for number in numbers if number is not None]


def integer_field(record: Any, name: str, where: str) -> int:
    """Returns a whole number of a record. Raises UserError for other values."""
    value = field(record, name, where)
    number = parse_number(value)
    if number is None or not float(number).is_integer():
        raise _refuse(value, "an integer", name, where)
    return int(number)


def number_field(record: Any, name: str, where: str) -> float:
    """Returns a number of a record as float. Raises UserError for other values."""
    value = field(record, name, where)
    number = parse_number(value)
    if number is None:
        raise _refuse(value, "a number", name, where)
    return float(number)


def flag_field(record: Any, name: str, where: str) -> bool:
    """Returns a flag: true, false, 1 or 0, also 1 and 0 as text. Raises UserError for other values."""
    value = field(record, name, where)
    flag = FLAGS.get(value) if isinstance(value, str) else bool(value) if value in (0, 1) else None
    if flag is None:
        raise _refuse(value, "0 or 1, or true or false", name, where)
    return flag


def optional_flag_field(record: Any, name: str, where: str) -> bool:
    """Returns a flag that a record need not have: False if it is missing or null. Reports a problem for values that are no
    flags; a check continues with False."""
    try:
        return is_given(record, name) and flag_field(record, name, where)
    except UserError as error:
        report_problem("bad record", str(error))
    return False


def declared_image_size(record: Any, where: str, height: str = "height", width: str = "width") -> tuple[int, int]:
    """Returns the (height, width) declared by a record. height, width: the names of its fields."""
    size = integer_field(record, height, where), integer_field(record, width, where)
    most = limits.current().pixels
    if min(size) < 1 or size[0] * size[1] > most:
        shape = escaped_value(size[1]) + "x" + escaped_value(size[0])
        raise Problem(
            "bad record",
            f"{where}: the declared image size is {shape} pixels, and the limit is {most}; correct its height and width, or "
            "raise limits.pixels",
        )
    return size
