"""Reading a compiled program (optimised HLO as text): which collectives it has, and inside which loops."""

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
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations|async_execution_thread)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_CHANNEL = re.compile(r"channel_id=(\d+)")
_FROM = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """operation: such as "while". came_from: the names of the traced program, such as "jit(step)/matching/while". calls: the
    computations that it runs. channel: of a collective; the compiler writes one that runs beside other work several times,
    under the same channel."""

    name: str
    operation: str
    came_from: str
    calls: tuple[str, ...]
    channel: str = ""

    @property
    def collective(self) -> str:
        """The kind of collective, "" where it is none. The two halves of one are counted once, by the first."""
        kind = self.operation.removesuffix("-start")
        return kind if kind in COLLECTIVES else ""


@dataclasses.dataclass(frozen=True)
class Program:
    """{computation: its instructions}."""

    computations: Mapping[str, tuple[Instruction, ...]]

    def collectives(self) -> dict[str, int]:
        """How many of each kind; one inside a loop counts once."""
        every = (i for body in self.computations.values() for i in body if i.collective)
        return dict(collections.Counter(kind for kind, _ in {(i.collective, i.channel or i.name) for i in every}))

    def loops(self, scope: str) -> list[Instruction]:
        """The loops that were traced under jax.named_scope(scope)."""
        every = (i for body in self.computations.values() for i in body)
        return [i for i in every if i.operation == "while" and scope in re.split(r"[/()]+", i.came_from)]

    def waiting(self, scope: str) -> list[str]:
        """Names of the collectives that those loops run, in their conditions or bodies, however deep."""
        found: dict[str, None] = {}
        todo, seen = [name for loop in self.loops(scope) for name in loop.calls], set[str]()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for instruction in self.computations.get(name, ()):
                todo += instruction.calls
                if instruction.collective:
                    found[instruction.name] = None
        return list(found)


def read(text: str) -> Program:
    """The text of jax.stages.Compiled.as_text(). Raises ValueError where it holds an instruction that is not understood."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    name, inside = "", list[Instruction]()
    for line in text.splitlines():
        if not line.startswith((" ", "}")):
            head = _HEAD.match(line)
            if head:
                name, inside = head[1], []
        elif line.startswith("}") and name:
            computations[name] = tuple(inside)
            name = ""
        elif name and (named := _NAME.match(line)):
            inside.append(_instruction(named[1], line[named.end() :]))
    if not computations:
        raise ValueError("no computation found; is this optimised HLO?")
    return Program(computations)


def _instruction(name: str, rest: str) -> Instruction:
    operation = _OPERATION.search(rest)
    if operation is None:
        raise ValueError(f"no operation in %{name} = {rest[:200]}")
    called = [part.strip().lstrip("%") for found in _CALLED.findall(rest) for part in found.strip("{}").split(",")]
    came_from = _FROM.search(rest)
    channel = _CHANNEL.search(rest)
    return Instruction(name, operation[1], came_from[1] if came_from else "", tuple(called), channel[1] if channel else "")
