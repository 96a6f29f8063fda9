"""Reads pickles as data. It interprets the pickle opcodes, but only looks up names in a fixed table.

Python's unpickler imports and calls what a file names; this one never does. The table maps each known name to a constant or a
`Builder`, which builds an inert value. All other names, and all operations that weights do not need, are rejected. Memory and
time are bounded by the length of the data: bytes are views of it, and copies are charged to a budget.
Reference for the opcodes: `pickletools` in Python's standard library.
"""

from __future__ import annotations

import abc
import dataclasses
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

from hyperseg_jax.untrusted.bad_file import CONVERT, DISTRUST, BadFile
from hyperseg_jax.untrusted.printing import escaped

OPERATIONS = 2_000_000  # about 40 per tensor; each may take 200 bytes of memory
INTEGER_BYTES = 16
NAME_BYTES = 256
MEMO = 2**32  # bound of memo indices in protocol 2 and later
KEY_INTEGERS = 2**60  # larger integers can collide in a dict on purpose, since their hash is modulo 2**61 - 1


@dataclasses.dataclass(frozen=True)
class Builder:
    """An allowed callable of a pickle. Instead of calling it, the machine calls `make` with itself and the arguments; the
    result is an inert value. creates: whether it is a class whose objects pickles create with the operation NEWOBJ, instead of
    calling it."""

    name: str
    make: Callable[[PickleMachine, tuple[Any, ...]], object]
    creates: bool = False


class Unfinished(abc.ABC):
    """An inert value that is completed later by the pickle operation BUILD, which gives its state."""

    @abc.abstractmethod
    def finish(self, machine: PickleMachine, state: object) -> None: ...


def name_table(*builders: Builder) -> dict[str, object]:
    """Returns {name: builder}, for the table of names of a machine."""
    return {builder.name: builder for builder in builders}


class PickleMachine:
    """Reads pickles in `data` (protocols 2 to 5). names: the table of names. persistent: builds the values of persistent ids.

    what: a plural noun for the content, for messages. limit: maximum operations per pickle. table: the operations (see
    `old_pickles` for older protocols).

    Values are None, bool, int, float, str, tuple, list, dict, memoryview (for bytes), and the results of builders.
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
        self.below: list[list[Any]] = []  # the stacks below open marks
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self, start: int = 0) -> Any:
        """Returns the value of the pickle that begins at `start`, and sets `at` to its end. Raises BadFile if it is invalid."""
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
        """Reads the next `size` bytes."""
        if size > len(self.data) - self.at:
            raise BadFile(f"its pickle needs {size} bytes, but {len(self.data) - self.at} are left")
        self.at += size
        return self.data[self.at - size : self.at]

    def charge(self, size: int) -> None:
        """Counts `size` copied bytes or items. Builders call it before they copy. Raises BadFile if the total exceeds the size
        of the file."""
        self.copied += size
        if self.copied > len(self.data):
            raise BadFile("its pickle unpacks to more than the size of the file", DISTRUST)

    def pop(self) -> Any:
        if not self.stack:
            raise BadFile("its pickle takes a value from an empty stack")
        return self.stack.pop()

    def top(self, kind: type, doing: str) -> Any:
        """Returns the top of the stack. Raises BadFile if its type is not `kind`. doing: what the pickle does with it, for the
        message."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise BadFile(f"its pickle {doing} a value that is not a {kind.__name__}")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        """Pops and returns the values above the last mark."""
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
            raise BadFile(f"its pickle has a string that is not UTF-8 ({error.reason})") from error

    def line(self) -> str:
        """Reads a line of ASCII: the module or the name in GLOBAL and INST."""
        line, end, _ = bytes(self.data[self.at : self.at + NAME_BYTES]).partition(b"\n")
        if not end or not line.isascii():
            raise BadFile("its pickle has a name that is invalid or too long")
        self.at += len(line) + 1
        return line.decode("ascii")

    def look_up(self, module: object, name: object) -> object:
        """Returns the inert value for a name from the table."""
        if type(module) is not str or type(name) is not str:
            raise BadFile("its pickle asks for a name that is not a string", DISTRUST)
        if f"{module}.{name}" not in self.names:
            raise BadFile(f"asks for {escaped(f'{module}.{name}')}, which {self.what} never need", DISTRUST)
        return self.names[f"{module}.{name}"]

    def memo_get(self, index: int) -> object:
        if not 0 <= index < MEMO or index not in self.memo:
            raise BadFile(f"its pickle reads memo {index}, which was never stored")
        return self.memo[index]

    def memo_put(self, index: int) -> None:
        if not self.stack:
            raise BadFile("its pickle stores a value of an empty stack")
        if not 0 <= index < MEMO:
            raise BadFile(f"its pickle stores a value as memo {index}", CONVERT)
        self.memo[index] = self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        fill_dict(self.top(dict, "puts items into"), items[::2], items[1::2])

    def reduce(self) -> object:
        """Pops the arguments and a builder, and returns the value that it makes (operation REDUCE)."""
        args, builder = self.pop(), self.pop()
        if type(builder) is not Builder or type(args) is not tuple:
            raise BadFile(f"its pickle calls {_describe_value(builder)} with {_describe_value(args)}", DISTRUST)
        return builder.make(self, args)

    def create(self) -> object:
        """Pops the arguments and a class, and returns the value in place of its object (operation NEWOBJ)."""
        args, builder = self.pop(), self.pop()
        if type(builder) is not Builder or not builder.creates or type(args) is not tuple:
            raise BadFile(
                f"uses the pickle operation NEWOBJ of {_describe_value(builder)}, which {self.what} never need", CONVERT
            )
        return builder.make(self, args)

    def build(self) -> None:
        """Pops a state and gives it to the value below it (operation BUILD)."""
        state = self.pop()
        target = self.pop()
        if isinstance(target, Unfinished):
            target.finish(self, state)
        elif type(target) is not dict or type(state) is not dict:  # attributes of a state dict (_metadata) are dropped
            raise BadFile(f"its pickle sets the state of {_describe_value(target)}", DISTRUST)
        self.stack.append(target)

    def by_persistent_id(self) -> object:
        if self.persistent is None:
            raise BadFile("its pickle refers to external data", DISTRUST)
        return self.persistent(self, self.pop())

    def refuse_instance(self) -> None:
        """Raises BadFile for the operation INST; if its class is not in the table of names, the message says so."""
        self.look_up(self.line(), self.line())
        raise BadFile("uses the pickle operation INST, which weights never need", CONVERT)


def fill_dict(target: dict[Any, Any], keys: list[Any], values: list[Any]) -> None:
    """Adds items to a dict. Raises BadFile unless keys are strings or small integers, and unique."""
    if len(keys) != len(values):
        raise BadFile("its pickle has a name without a value")
    for key, value in zip(keys, values, strict=True):
        if type(key) is not str and not (type(key) is int and abs(key) < KEY_INTEGERS):
            raise BadFile(f"its pickle has {_describe_value(key)} as a name", CONVERT)
        if key in target:
            raise BadFile(f"its pickle names {escaped(str(key))} twice")
        target[key] = value


def _describe_value(value: object) -> str:
    """Describes a value for a message: the name of a builder, or the type."""
    return escaped(value.name) if isinstance(value, Builder) else f"a {type(value).__name__}"


def _operation_name(code: int) -> str:
    return next((info.name for info in pickletools.opcodes if info.code == chr(code)), f"0x{code:02x}")


def _build_ordered_dict(machine: PickleMachine, args: tuple[Any, ...]) -> dict[Any, Any]:
    """Builds an OrderedDict(), or an OrderedDict of a list of pairs, as Python 2 writes it."""
    pairs = args[0] if args else []
    if len(args) > 1 or type(pairs) is not list:
        raise BadFile("its pickle builds an OrderedDict of a value that is not a list", DISTRUST)
    machine.charge(len(pairs))
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise BadFile("its pickle builds an OrderedDict of values that are not pairs", DISTRUST)
    result: dict[Any, Any] = {}
    fill_dict(result, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return result


def _build_bytes(machine: PickleMachine, args: tuple[Any, ...]) -> memoryview:
    """Builds bytes as Python 3 writes them in protocol 2: a string, to be encoded as latin1."""
    if len(args) != 2 or type(args[0]) is not str or args[1] != "latin1":
        raise BadFile("its pickle calls _codecs.encode with arguments other than a string and latin1", DISTRUST)
    return encode_latin1(machine, args[0])


def encode_latin1(machine: PickleMachine, text: str) -> memoryview:
    """Encodes a string of code points below 256 as latin1 bytes."""
    machine.charge(len(text))
    try:
        return memoryview(text.encode("latin1"))
    except UnicodeEncodeError as error:
        raise BadFile("its pickle has bytes beyond 255") from error


def _build_empty_bytes(machine: PickleMachine, args: tuple[Any, ...]) -> memoryview:
    if args:
        raise BadFile("its pickle calls bytes(...) with arguments", DISTRUST)
    return memoryview(b"")


class Settings(Unfinished):
    """An argparse.Namespace, in which fairseq saves the settings of a run. Its content is dropped."""

    def finish(self, machine: PickleMachine, state: object) -> None:
        if type(state) is not dict:
            raise BadFile("its pickle sets the state of an argparse.Namespace to a value that is not a dict", DISTRUST)


def _build_settings(machine: PickleMachine, args: tuple[Any, ...]) -> Settings:
    if args:
        raise BadFile("its pickle creates an argparse.Namespace with arguments", DISTRUST)
    return Settings()


def _check_protocol(machine: PickleMachine) -> None:
    if machine.unsigned(1) not in (2, 3, 4, 5):
        raise BadFile("its pickle has an unknown protocol", CONVERT)


def _check_frame(machine: PickleMachine) -> None:
    if machine.unsigned(8) > len(machine.data) - machine.at:
        raise BadFile("its pickle has a frame longer than the file")


def _push_mark(machine: PickleMachine) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _make_tuple_reader(count: int) -> Callable[[PickleMachine], object]:
    """Returns a function that pops `count` values and returns them as a tuple."""
    return lambda m: tuple([m.pop() for _ in range(count)][::-1])


def _read_float(machine: PickleMachine) -> float:
    return struct.unpack(">d", machine.take(8))[0]


def _look_up_from_stack(machine: PickleMachine) -> object:
    name, module = machine.pop(), machine.pop()
    return machine.look_up(module, name)


def _append_one(machine: PickleMachine) -> None:
    value = machine.pop()
    machine.top(list, "appends to").append(value)


def _append_many(machine: PickleMachine) -> None:
    values = machine.pop_mark()
    machine.top(list, "appends to").extend(values)


def _set_one_item(machine: PickleMachine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _pushing_result(make: Callable[[PickleMachine], object]) -> Callable[[PickleMachine], None]:
    """Returns an operation that pushes the value of `make(machine)` on the stack."""

    def push(machine: PickleMachine) -> None:
        value = make(machine)  # must run before machine.stack is accessed, since it may replace the stack
        machine.stack.append(value)

    return push


PLAIN_NAMES = name_table(
    Builder("collections.OrderedDict", _build_ordered_dict),
    Builder("_codecs.encode", _build_bytes),
    Builder("__builtin__.bytes", _build_empty_bytes),
    Builder("builtins.bytes", _build_empty_bytes),
    Builder("argparse.Namespace", _build_settings, creates=True),
)
STOP = ord(".")
TABLE: dict[int, Callable[[PickleMachine], None]] = {
    ord(code): operation
    for code, operation in {
        b"\x80": _check_protocol,
        b"\x95": _check_frame,
        b"(": _push_mark,
        b"a": _append_one,
        b"e": _append_many,
        b"s": _set_one_item,
        b"u": lambda m: m.set_items(m.pop_mark()),
        b"q": lambda m: m.memo_put(m.unsigned(1)),
        b"r": lambda m: m.memo_put(m.unsigned(4)),
        b"\x94": lambda m: m.memo_put(len(m.memo)),
        b"b": lambda m: m.build(),
        b"i": lambda m: m.refuse_instance(),
    }.items()
} | {
    ord(code): _pushing_result(make)
    for code, make in {
        b"N": lambda m: None,
        b"\x88": lambda m: True,
        b"\x89": lambda m: False,
        b"J": lambda m: m.signed(4),
        b"K": lambda m: m.unsigned(1),
        b"M": lambda m: m.unsigned(2),
        b"\x8a": lambda m: m.signed(m.unsigned(1)),
        b"\x8b": lambda m: m.signed(m.unsigned(4)),
        b"G": _read_float,
        b"U": lambda m: str(m.take(m.unsigned(1)), "latin1"),  # short str of Python 2 are names, long ones are bytes
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
        b"\x85": _make_tuple_reader(1),
        b"\x86": _make_tuple_reader(2),
        b"\x87": _make_tuple_reader(3),
        b"]": lambda m: [],
        b"}": lambda m: {},
        b"h": lambda m: m.memo_get(m.unsigned(1)),
        b"j": lambda m: m.memo_get(m.unsigned(4)),
        b"c": lambda m: m.look_up(m.line(), m.line()),
        b"\x93": _look_up_from_stack,
        b"R": lambda m: m.reduce(),
        b"\x81": lambda m: m.create(),
        b"Q": lambda m: m.by_persistent_id(),
    }.items()
}
