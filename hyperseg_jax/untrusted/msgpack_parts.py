"""Counts the values of a msgpack record before it is unpacked: a few bytes can ask for long lists in lists."""

from __future__ import annotations

from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.bad_file import BadFile

_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bytes and texts: bytes of their length
_NUMBERS = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_LISTS = {0xDC: (1, 2), 0xDD: (1, 4), 0xDE: (2, 2), 0xDF: (2, 4)}  # values of an entry, bytes of their number
_AGAIN = "build this shard again"


def check_msgpack(data: bytes) -> None:
    """Raises BadFile if a record is damaged, has too many values (limits.values), or nests too deep (limits.depth)."""
    most, depth = limits.current().values, limits.current().depth
    at, parts, pending = 0, 1, [1]  # values that are still to come at each depth
    while pending:
        if not pending[-1]:
            pending.pop()
            continue
        pending[-1] -= 1
        if at >= len(data):
            raise BadFile("is damaged (its bytes are not a complete record)", _AGAIN)
        kind = data[at]
        at += 1
        inner = 0
        if kind < 0x80 or kind >= 0xE0:
            continue
        if kind < 0x90:
            inner = 2 * (kind & 15)
        elif kind < 0xA0:
            inner = kind & 15
        elif kind < 0xC0:
            at += kind & 31
        elif kind in _NUMBERS:
            at += _NUMBERS[kind]
        elif kind in _LENGTHS:
            width = _LENGTHS[kind]
            at += width + int.from_bytes(data[at : at + width])
        elif kind in _LISTS:
            each, width = _LISTS[kind]
            inner = each * int.from_bytes(data[at : at + width])
            at += width
        else:
            raise BadFile("is damaged (it has a value of an unknown kind)", _AGAIN)
        if inner:
            parts += inner
            pending.append(inner)
            if parts > most:
                raise BadFile(f"has {parts} values, and the limit is {most}", "if that is intended, raise limits.values")
            if len(pending) > depth:
                raise BadFile(f"nests deeper than {depth} values", "if that is intended, raise limits.depth")
    if at != len(data):
        raise BadFile("is damaged (its bytes are not a complete record)", _AGAIN)
