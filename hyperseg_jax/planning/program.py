"""Parses a compiled program (optimized HLO text) to find its collectives and the loops that contain them."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_OPERATION = re.compile(r"[\])}] ([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|true_computation|false_computation|called_computations|async_execution_thread)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OPERAND = re.compile(r"%([\w.\-]+)")
_SLICE = re.compile(r"slice_sizes=\{([\d,]*)\}")
_WINDOW = re.compile(r"update_window_dims=\{([\d,]*)\}")
_ALIAS = re.compile(r"\{(\d+)\}: \((\d+), \{\}")
_NOTHING = re.compile(r"(?!)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_LITERAL = re.compile(r"^\((-?\d+)\)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One HLO instruction.

    operation: such as "while". shape: of the result, such as "bf16[2,128]{1,0:T(8,128)}"; a tuple has several. operands: names
    of instructions. op_name: its name in the traced program, such as "jit(step)/matching/while". calls: names of the
    computations that it runs. channel: channel id of a collective; an asynchronous collective appears several times with the
    same channel. cycles: the estimate of the TPU compiler for one execution; None if there is none. value: of an integer
    constant, or the number of a parameter. window: sizes of the slices of a gather, or dimensions of the rows of a scatter.
    aliases: (index of a result, number of the operand that is the same buffer). target: what a custom call calls.
    """

    name: str
    operation: str
    shape: str = ""
    operands: tuple[str, ...] = ()
    op_name: str = ""
    calls: tuple[str, ...] = ()
    channel: str = ""
    cycles: int | None = None
    value: int | None = None
    window: tuple[int, ...] = ()
    aliases: tuple[tuple[int, int], ...] = ()
    target: str = ""
    is_root: bool = False

    @property
    def collective(self) -> str:
        """The kind of collective; "" for other instructions, and for the -done half of an asynchronous collective."""
        kind = self.operation.removesuffix("-start")
        return kind if kind in COLLECTIVES else ""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program. computations: {name: instructions}. entry: the name of the computation that runs first."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    def collectives(self) -> dict[str, int]:
        """Returns {kind: number} of the collective instructions. One inside a loop counts once, however often it runs."""
        instructions = (i for body in self.computations.values() for i in body if i.collective)
        return dict(collections.Counter(kind for kind, _ in {(i.collective, i.channel or i.name) for i in instructions}))

    def loops(self, scope: str) -> list[Instruction]:
        """Returns the while loops that were traced under jax.named_scope(scope)."""
        instructions = (i for body in self.computations.values() for i in body)
        return [i for i in instructions if i.operation == "while" and scope in re.split(r"[/()]+", i.op_name)]

    def collectives_in_loops(self, scope: str) -> list[str]:
        """Returns the names of the collectives in the loops of `loops(scope)`, in conditions or bodies at any depth. They make
        all chips wait for each other in every iteration."""
        names: dict[str, None] = {}
        todo, seen = [name for loop in self.loops(scope) for name in loop.calls], set[str]()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for instruction in self.computations.get(name, ()):
                todo += instruction.calls
                if instruction.collective:
                    names[instruction.name] = None
        return list(names)


def parse_program(text: str) -> Program:
    """Parses the text of jax.stages.Compiled.as_text(). Raises ValueError if it has no computations or an instruction cannot be
    parsed."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    name, entry, inside = "", "", list[Instruction]()
    for line in text.splitlines():
        if not line.startswith((" ", "}")):
            head = _HEAD.match(line)
            if head:
                name, inside = head[1], []
                entry = name if line.startswith("ENTRY") else entry
        elif line.rstrip() == "}" and name:  # attributes of kernels have other lines with braces
            computations[name] = tuple(inside)
            name = ""
        elif name and (named := _NAME.match(line)):
            inside.append(_parse_instruction(named[1], line[named.end() :], "ROOT " in named[0]))
    if not computations:
        raise ValueError("no computation found; is this optimized HLO?")
    return Program(computations, entry)


def _parse_instruction(name: str, rest: str, is_root: bool) -> Instruction:
    """Parses one instruction. rest: the text after "name = "."""
    operation = _OPERATION.search(rest)
    if operation is None:
        raise ValueError(f"no HLO operation found in %{name} = {rest[:200]}")
    arguments = rest[operation.end() - 1 :]
    called = [part.strip().lstrip("%") for names in _CALLED.findall(rest) for part in names.strip("{}").split(",")]
    op_name, channel, cycles, literal, target = (
        pattern.search(arguments) for pattern in (_OP_NAME, _CHANNEL, _CYCLES, _LITERAL, _TARGET)
    )
    window = {"gather": _SLICE, "scatter": _WINDOW}.get(operation[1], _NOTHING).search(arguments)
    return Instruction(
        name,
        operation[1],
        shape=rest[: operation.start() + 1],
        operands=tuple(_OPERAND.findall(arguments[: _closing_parenthesis(arguments)])),
        op_name=op_name[1] if op_name else "",
        calls=tuple(called),
        channel=channel[1] if channel else "",
        cycles=int(cycles[1]) if cycles else None,
        value=int(literal[1]) if literal and operation[1] in ("constant", "parameter") else None,
        window=tuple(int(size) for size in window[1].split(",") if size) if window else (),
        aliases=tuple((int(result), int(operand)) for result, operand in _ALIAS.findall(arguments)),
        target=target[1] if target else "",
        is_root=is_root,
    )


def _closing_parenthesis(text: str) -> int:
    """Returns the index of the parenthesis that closes the first one of `text`."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    return len(text)
