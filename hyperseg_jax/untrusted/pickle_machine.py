"""Reads a pickle as data. It runs the pickle's own small language, but a name in it is only looked up in a table of ours.

Python's unpickler imports and calls what a file names; this one never does. The table gives for each known name a constant
or a `Builder`, which makes an inert value. Every other name, and every operation that weights do not need, is refused.
Memory and time are bounded by the length of the data: bytes are views of it, and what must be copied is paid for.
The language: `pickletools` in Python's standard library.
"""

from __future__ import annotations

import abc
import dataclasses
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

from hyperseg_jax.untrusted.bad_file import CONVERT, DISTRUST, BadFile
from hyperseg_jax.untrusted.printing import shown

OPERATIONS = 2_000_000  # some 40 a tensor; each may take 200 bytes of memory
INTEGER_BYTES = 16
NAME_BYTES = 256
MEMO = 2**32  # no pickle of protocol 2 and later can count further
KEY_INTEGERS = 2**60  # beyond it, integers can be made to collide in a dict: their hash is a remainder of 2**61 - 1


@dataclasses.dataclass(frozen=True)
class Builder:
    """Stands for a callable that a file may name; `make` gets the machine and the arguments, and gives an inert value."""

    name: str
    make: Callable[[PickleMachine, tuple[Any, ...]], object]


class Unfinished(abc.ABC):
    """An inert value that a file may complete with a state (operation BUILD)."""

    @abc.abstractmethod
    def finish(self, machine: PickleMachine, state: object) -> None: ...


def known(*builders: Builder) -> dict[str, object]:
    """Rows of a machine's table."""
    return {builder.name: builder for builder in builders}


class PickleMachine:
    """Reads pickles that lie in `data` (protocols 2 to 5); `names` is the table, `persistent` makes values of persistent ids.

    what: a plural that stands for the content in messages. limit: operations a pickle. table: the operations (another one
    where older protocols are read, `old_pickles`).

    The values it gives: None, bool, int, float, str, tuple, list, dict, memoryview (for bytes), and what builders make.
    """

    def __init__(
        self,
        data: memoryview,
        names: Mapping[str, object],
        persistent: Callable[[PickleMachine, object], object] | None = None,
        *,
        what: str = "weights",
        limit: int | None = None,
        table: Mapping[int, Callable[[PickleMachine], None]] | None = None,
    ) -> None:
        self.data, self.names, self.persistent, self.what = data, names, persistent, what
        self.limit = OPERATIONS if limit is None else limit
        self.table = TABLE if table is None else table
        self.at = 0
        self._reset()

    def _reset(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under open marks
        self.memo: dict[int, Any] = {}
        self.paid = 0

    def run(self, start: int = 0) -> Any:
        """The value of the pickle that begins at `start`; `at` is then the byte behind it. Raises BadFile."""
        self._reset()
        self.at = start
        for _ in range(self.limit):
            code = self.take(1)[0]
            if code == STOP:
                value = self.pop()
                if self.stack or self.below:
                    raise BadFile("its pickle ends with values left over")
                self._reset()
                return value
            operation = self.table.get(code)
            if operation is None:
                raise BadFile(f"uses the pickle operation {_operation_name(code)}, which {self.what} never need", CONVERT)
            operation(self)
        raise BadFile(f"its pickle has more than {self.limit} operations", CONVERT)

    def take(self, size: int) -> memoryview:
        """The next bytes."""
        if size > len(self.data) - self.at:
            raise BadFile(f"its pickle wants {size} bytes where {len(self.data) - self.at} are left")
        self.at += size
        return self.data[self.at - size : self.at]

    def pay(self, size: int) -> None:
        """Called by builders before they copy `size` bytes or items: what a file holds once is copied once."""
        self.paid += size
        if self.paid > len(self.data):
            raise BadFile("its pickle unpacks to more than the file holds", DISTRUST)

    def pop(self) -> Any:
        if not self.stack:
            raise BadFile("its pickle takes a value from an empty stack")
        return self.stack.pop()

    def top(self, kind: type, doing: str) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise BadFile(f"its pickle {doing} what is no {kind.__name__}")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        """The values above the last mark."""
        if not self.below:
            raise BadFile("its pickle ends a group that never began")
        values, self.stack = self.stack, self.below.pop()
        return values

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def signed(self, size: int) -> int:
        if size > INTEGER_BYTES:
            raise BadFile(f"its pickle has an integer of {size} bytes")
        return int.from_bytes(self.take(size), "little", signed=True)

    def text(self, size: int) -> str:
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError as error:
            raise BadFile(f"its pickle has a text that is not UTF-8 ({error.reason})") from error

    def line(self) -> str:
        """A line of ASCII: half of a name in GLOBAL and INST."""
        line, end, _ = bytes(self.data[self.at : self.at + NAME_BYTES]).partition(b"\n")
        if not end or not line.isascii():
            raise BadFile("its pickle names something with no or too long a name")
        self.at += len(line) + 1
        return line.decode("ascii")

    def look_up(self, module: object, name: object) -> object:
        """The inert value that stands for a name."""
        if type(module) is not str or type(name) is not str:
            raise BadFile("its pickle asks for a name that is no text", DISTRUST)
        if f"{module}.{name}" not in self.names:
            raise BadFile(f"asks for {shown(f'{module}.{name}')}, which {self.what} never need", DISTRUST)
        return self.names[f"{module}.{name}"]

    def recall(self, index: int) -> object:
        if not 0 <= index < MEMO or index not in self.memo:
            raise BadFile(f"its pickle recalls value {index}, which it never kept")
        return self.memo[index]

    def keep(self, index: int) -> None:
        if not self.stack:
            raise BadFile("its pickle keeps a value of an empty stack")
        if not 0 <= index < MEMO:
            raise BadFile(f"its pickle keeps a value as number {index}", CONVERT)
        self.memo[index] = self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        fill(self.top(dict, "puts items into"), items[::2], items[1::2])

    def reduce(self) -> object:
        args, builder = self.pop(), self.pop()
        if type(builder) is not Builder or type(args) is not tuple:
            raise BadFile(f"its pickle calls {_kind(builder)} with {_kind(args)}", DISTRUST)
        return builder.make(self, args)

    def build(self) -> None:
        state = self.pop()
        target = self.pop()
        if isinstance(target, Unfinished):
            target.finish(self, state)
        elif type(target) is not dict or type(state) is not dict:  # a state dict's own attributes (_metadata) are not needed
            raise BadFile(f"its pickle sets the state of {_kind(target)}", DISTRUST)
        self.stack.append(target)

    def by_persistent_id(self) -> object:
        if self.persistent is None:
            raise BadFile("its pickle refers to data outside of it", DISTRUST)
        return self.persistent(self, self.pop())

    def refuse_instance(self) -> None:
        self.look_up(self.line(), self.line())
        raise BadFile("uses the pickle operation INST, which weights never need", CONVERT)


def fill(target: dict[Any, Any], keys: list[Any], values: list[Any]) -> None:
    """Puts items into a dict: keys are texts or small integers, and each comes once."""
    if len(keys) != len(values):
        raise BadFile("its pickle has a name without a value")
    for key, value in zip(keys, values, strict=True):
        if type(key) is not str and not (type(key) is int and abs(key) < KEY_INTEGERS):
            raise BadFile(f"its pickle has {_kind(key)} as a name", CONVERT)
        if key in target:
            raise BadFile(f"its pickle names {shown(str(key))} twice")
        target[key] = value


def _kind(value: object) -> str:
    return shown(value.name) if isinstance(value, Builder) else f"a {type(value).__name__}"


def _operation_name(code: int) -> str:
    return next((info.name for info in pickletools.opcodes if info.code == chr(code)), f"0x{code:02x}")


def _ordered_dict(machine: PickleMachine, args: tuple[Any, ...]) -> dict[Any, Any]:
    """OrderedDict(), or of a list of pairs as Python 2 wrote it."""
    pairs = args[0] if args else []
    if len(args) > 1 or type(pairs) is not list:
        raise BadFile("its pickle makes an OrderedDict of what is no list", DISTRUST)
    machine.pay(len(pairs))
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise BadFile("its pickle makes an OrderedDict of what are no pairs", DISTRUST)
    made: dict[Any, Any] = {}
    fill(made, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return made


def _encode(machine: PickleMachine, args: tuple[Any, ...]) -> memoryview:
    """Bytes as Python 3 writes them in protocol 2: a text, to be encoded as latin1."""
    if len(args) != 2 or type(args[0]) is not str or args[1] != "latin1":
        raise BadFile("its pickle asks for _codecs.encode with other than a text and latin1", DISTRUST)
    return latin1(machine, args[0])


def latin1(machine: PickleMachine, text: str) -> memoryview:
    """The bytes that a text of code points below 256 stands for."""
    machine.pay(len(text))
    try:
        return memoryview(text.encode("latin1"))
    except UnicodeEncodeError as error:
        raise BadFile("its pickle has bytes beyond 255") from error


def _empty_bytes(machine: PickleMachine, args: tuple[Any, ...]) -> memoryview:
    if args:
        raise BadFile("its pickle asks for bytes(...) with arguments", DISTRUST)
    return memoryview(b"")


def _proto(machine: PickleMachine) -> None:
    if machine.unsigned(1) not in (2, 3, 4, 5):
        raise BadFile("its pickle is of an unknown protocol", CONVERT)


def _frame(machine: PickleMachine) -> None:
    if machine.unsigned(8) > len(machine.data) - machine.at:
        raise BadFile("its pickle has a frame longer than the file")


def _mark(machine: PickleMachine) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _tuple_of(count: int) -> Callable[[PickleMachine], object]:
    return lambda m: tuple([m.pop() for _ in range(count)][::-1])


def _binary_float(machine: PickleMachine) -> float:
    return struct.unpack(">d", machine.take(8))[0]


def _stack_global(machine: PickleMachine) -> object:
    name, module = machine.pop(), machine.pop()
    return machine.look_up(module, name)


def _append(machine: PickleMachine) -> None:
    value = machine.pop()
    machine.top(list, "appends to").append(value)


def _appends(machine: PickleMachine) -> None:
    values = machine.pop_mark()
    machine.top(list, "appends to").extend(values)


def _set_item(machine: PickleMachine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _pushing(make: Callable[[PickleMachine], object]) -> Callable[[PickleMachine], None]:
    def push(machine: PickleMachine) -> None:
        value = make(machine)  # first: it may put another stack in the place of this one
        machine.stack.append(value)

    return push


PLAIN_NAMES = known(
    Builder("collections.OrderedDict", _ordered_dict),
    Builder("_codecs.encode", _encode),
    Builder("__builtin__.bytes", _empty_bytes),
    Builder("builtins.bytes", _empty_bytes),
)
STOP = ord(".")
TABLE: dict[int, Callable[[PickleMachine], None]] = {
    ord(code): operation
    for code, operation in {
        b"\x80": _proto,
        b"\x95": _frame,
        b"(": _mark,
        b"a": _append,
        b"e": _appends,
        b"s": _set_item,
        b"u": lambda m: m.set_items(m.pop_mark()),
        b"q": lambda m: m.keep(m.unsigned(1)),
        b"r": lambda m: m.keep(m.unsigned(4)),
        b"\x94": lambda m: m.keep(len(m.memo)),
        b"b": lambda m: m.build(),
        b"i": lambda m: m.refuse_instance(),
    }.items()
} | {
    ord(code): _pushing(make)
    for code, make in {
        b"N": lambda m: None,
        b"\x88": lambda m: True,
        b"\x89": lambda m: False,
        b"J": lambda m: m.signed(4),
        b"K": lambda m: m.unsigned(1),
        b"M": lambda m: m.unsigned(2),
        b"\x8a": lambda m: m.signed(m.unsigned(1)),
        b"\x8b": lambda m: m.signed(m.unsigned(4)),
        b"G": _binary_float,
        b"U": lambda m: str(m.take(m.unsigned(1)), "latin1"),  # a short str of Python 2 is a name, a long one is bytes
        b"T": lambda m: m.take(m.unsigned(4)),
        b"C": lambda m: m.take(m.unsigned(1)),
        b"B": lambda m: m.take(m.unsigned(4)),
        b"\x8e": lambda m: m.take(m.unsigned(8)),
        b"\x96": lambda m: m.take(m.unsigned(8)),
        b"\x8c": lambda m: m.text(m.unsigned(1)),
        b"X": lambda m: m.text(m.unsigned(4)),
        b"\x8d": lambda m: m.text(m.unsigned(8)),
        b")": lambda m: (),
        b"t": lambda m: tuple(m.pop_mark()),
        b"\x85": _tuple_of(1),
        b"\x86": _tuple_of(2),
        b"\x87": _tuple_of(3),
        b"]": lambda m: [],
        b"}": lambda m: {},
        b"h": lambda m: m.recall(m.unsigned(1)),
        b"j": lambda m: m.recall(m.unsigned(4)),
        b"c": lambda m: m.look_up(m.line(), m.line()),
        b"\x93": _stack_global,
        b"R": lambda m: m.reduce(),
        b"Q": lambda m: m.by_persistent_id(),
    }.items()
}
