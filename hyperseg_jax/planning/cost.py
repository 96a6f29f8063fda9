"""Sums the compiler's estimates of a compiled TPU program: cycles, and bytes that are read and written.

Estimates of XLA as a whole (Compiled.cost_analysis) count the body of a loop once and kernels as negative times. Here, each
instruction counts as often as it runs. Nothing is measured: the estimates of elementwise instructions are above the time that
the memory bandwidth needs, and gathers, scatters, sorts and kernels have none.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence

from hyperseg_jax.planning.program import Instruction, Program

CLOCKS = {"v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}
"""Cycles per second at which the estimate of a large matrix product is the published peak; v6e is uncertain."""

_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z\d]*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "iota",
    "optimization-barrier",
}
"""Operations that move no data."""
_MOVES = {"copy-start", "slice-start", "copy-done", "slice-done", "async-start", "async-done", "async-update"}
"""Transfers between HBM and the chip's memory; what reads or writes the array counts its bytes."""
_CONTROL = {"while", "conditional", "call"}
_MATRIX = {"convolution", "dot"}
_PARTS = {"dynamic-slice", "gather", "slice"}
"""Operations that read only a part of their first operand, as large as their result."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Estimates for one execution of a program on one chip.

    cycles: of all instructions that have an estimate. matmul_cycles: of those with a matrix product. bytes: read and written by
    all instructions, in HBM with padding to tiles; large arrays that are kept in the chip's memory are not counted.
    without_estimate: {operation: number of executions} of instructions without an estimate that are not free.
    """

    cycles: float
    matmul_cycles: float
    bytes: float
    without_estimate: Mapping[str, float]


def sum_costs(program: Program) -> Cost:
    """Sums the estimates of a compiled program. A loop whose number of iterations depends on the data counts once."""
    cycles, matmul_cycles, moved, missing = 0.0, 0.0, 0.0, collections.Counter[str]()
    for instruction, body, runs in _executed(program, program.entry, 1.0):
        called = [i for name in instruction.calls for i in program.computations.get(name, ())]
        moved += runs * _moved_bytes(instruction, body, called)
        if instruction.cycles is None:
            operations = {instruction.operation, *(i.operation for i in called)}
            kinds = operations & {"gather", "scatter", "sort", "custom-call"} or {instruction.operation}
            for kind in kinds:
                missing[kind] += runs
            continue
        cycles += runs * instruction.cycles
        if _MATRIX & {instruction.operation, *(i.operation for i in called)}:
            matmul_cycles += runs * instruction.cycles
    return Cost(cycles, matmul_cycles, moved, {kind: missing[kind] for kind in ("gather", "scatter", "sort", "custom-call")})


def _executed(program: Program, name: str, runs: float) -> Iterable[tuple[Instruction, Mapping[str, Instruction], float]]:
    """Yields the instructions of a computation and of those that it runs as loops, branches and calls, each with the
    instructions of its computation by name and its number of executions."""
    body = {i.name: i for i in program.computations[name]}
    for instruction in body.values():
        if instruction.operation in _CONTROL:
            times = runs * (iterations(program, instruction) if instruction.operation == "while" else 1)
            for called in instruction.calls:
                yield from _executed(program, called, times)
        elif instruction.operation not in _FREE | _MOVES:
            yield instruction, body, runs


def iterations(program: Program, loop: Instruction) -> int:
    """Returns the number of iterations of a while loop that counts from 0 to a constant, as jax.lax.scan does; 1 for others."""
    conditions = [
        name
        for name in loop.calls
        if any(i.is_root and i.shape.strip().startswith("pred[]") for i in program.computations[name])
    ]
    limits, todo = list[int](), conditions
    while todo:
        for instruction in program.computations.get(todo.pop(), ()):
            todo = [*todo, *instruction.calls]
            if instruction.operation == "constant" and instruction.value is not None:
                limits.append(instruction.value)
    return max(limits[0], 1) if len(limits) == 1 else 1


def _moved_bytes(instruction: Instruction, body: Mapping[str, Instruction], called: Sequence[Instruction]) -> float:
    """Returns the bytes that an instruction reads and writes. A fusion that only slices or gathers from an operand reads that
    part of it, and one that updates a part of an array in place writes only that part."""
    total = array_bytes(instruction.shape)
    inside = {i.value: i.name for i in called if i.operation == "parameter"} if instruction.operation == "fusion" else {}
    shapes = {i.name: i.shape for i in called}
    for number, name in enumerate(instruction.operands):
        whole = array_bytes(body[name].shape) if name in body else 0.0
        users = _users(inside[number], called) if number in inside else [(instruction, number)]
        if users and all(user.operation in _PARTS and position == 0 for user, position in users):
            whole = min(whole, sum(array_bytes(user.shape) for user, _ in users))
        elif users and all(user.operation == "dynamic-update-slice" and position == 0 for user, position in users):
            part = sum(array_bytes(shapes[user.operands[1]]) for user, _ in users if user.operands[1] in shapes)
            total, whole = total - max(whole - part, 0.0), min(whole, part)
        total += whole
    return max(total, 0.0)


def _users(name: str, instructions: Sequence[Instruction]) -> list[tuple[Instruction, int]]:
    """Returns the instructions that read a value, each with the position of the operand. Bitcasts are followed."""
    users = list[tuple[Instruction, int]]()
    for instruction in instructions:
        if name in instruction.operands:
            if instruction.operation == "bitcast":
                users += _users(instruction.name, instructions)
            else:
                users.append((instruction, instruction.operands.index(name)))
    return users


def array_bytes(shape: str) -> float:
    """Returns the bytes of the arrays of a shape, with padding to tiles, without those in other memories than HBM."""
    total = 0.0
    for kind, sizes, order, layout in _ARRAY.findall(shape):
        if "S(" in layout:
            continue
        bits = 8 if kind == "pred" else int(kind.lstrip(string.ascii_letters)[:2])
        dims = [int(size) for size in sizes.split(",") if size]
        if (tile := _TILE.search(layout)) and order:
            for dim, side in zip(map(int, order.split(",")), reversed(tile[1].split(",")), strict=False):
                dims[dim] = -(-dims[dim] // int(side)) * int(side)
        total += math.prod(dims) * bits / 8
    return total
