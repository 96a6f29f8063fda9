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

from hyperseg_jax.errors import UserError
from hyperseg_jax.planning.program import Instruction, Program
from hyperseg_jax.untrusted.printing import escaped

CLOCKS = {"v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}
"""Cycles per second at which the estimate of a large matrix product is the published peak; v6e is uncertain, and that of tpu7x
is not published."""

CYCLES_PER_GATHERED_ROW, CYCLES_PER_SCATTERED_ROW = 1.7, 10.8
"""Of rows up to 128 lanes from a table in the chip's memory, counted in the compiler's static schedules for v5e."""

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
_MOVES_NOTHING = {"AllocateBuffer", "ConcatBitcast"}
"""Custom calls that only name memory."""
_KERNEL = "tpu_custom_call"
"""The target of custom calls of Pallas kernels."""
_CONTROL = {"while", "conditional", "call"}
_MATRIX = {"convolution", "dot"}
_PARTS = {"dynamic-slice", "gather", "slice"}
"""Operations that read only a part of their first operand, as large as their result."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Estimates for one execution of a program on one chip.

    cycles: of all instructions that have an estimate. matmul_cycles: of those with a matrix product. bytes: read and written by
    all instructions, in HBM with padding to tiles; arrays that are kept in the chip's memory are not counted. gathered_rows,
    scattered_rows: rows (slices) of all gathers and scatters. sorts, kernels: number of executed sorts and
    Pallas kernels.
    """

    cycles: float = 0.0
    matmul_cycles: float = 0.0
    bytes: float = 0.0
    gathered_rows: float = 0.0
    scattered_rows: float = 0.0
    sorts: float = 0.0
    kernels: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def scaled(self, runs: float) -> Cost:
        """Returns the cost of this number of executions."""
        return Cost(*(runs * value for value in dataclasses.astuple(self)))


def clock(generation: str) -> float:
    """Returns the cycles per second of a TPU generation. Raises UserError if they are unknown."""
    if generation not in CLOCKS:
        raise UserError(f"--topology {escaped(generation)}: its clock is unknown; use one of {', '.join(CLOCKS)}")
    return CLOCKS[generation]


def sum_costs(program: Program) -> Cost:
    """Sums the estimates of a compiled program. A loop whose number of iterations depends on the data counts once, and of the
    branches of a conditional only the one with the most cycles."""
    return _sum_costs(program, program.entry)


def _sum_costs(program: Program, name: str) -> Cost:
    """Sums the estimates of a computation and of those that it runs as loops, branches and calls."""
    body = {i.name: i for i in program.computations[name]}
    total = Cost()
    for instruction in body.values():
        if instruction.operation in _CONTROL:
            called = [_sum_costs(program, other) for other in instruction.calls]
            if instruction.operation == "conditional":
                total += max(called, key=lambda cost: (cost.cycles, cost.bytes))
            else:
                runs = iterations(program, instruction) if instruction.operation == "while" else 1
                total += sum(called, Cost()).scaled(runs)
        elif instruction.operation not in _FREE | _MOVES and instruction.target not in _MOVES_NOTHING:
            total += _cost(program, instruction, body)
    return total


def _cost(program: Program, instruction: Instruction, body: Mapping[str, Instruction]) -> Cost:
    """Returns the cost of one execution of an instruction. body: all instructions of its computation by name."""
    every = [(instruction, body), *_inside(program, instruction)]
    operations = collections.Counter(i.operation for i, _ in every)
    cycles = float(instruction.cycles or 0)
    return Cost(
        cycles,
        cycles if _MATRIX & operations.keys() else 0.0,
        _moved_bytes(program, instruction, body),
        sum(_elements(i.shape) / math.prod(i.window) for i, _ in every if i.operation == "gather"),
        sum(_scattered_rows(i, around) for i, around in every if i.operation == "scatter"),
        operations["sort"],
        instruction.target == _KERNEL,
    )


def _scattered_rows(scatter: Instruction, body: Mapping[str, Instruction]) -> float:
    updates = _sizes(body[scatter.operands[-1]].shape)
    return float(math.prod(size for dim, size in enumerate(updates) if dim not in scatter.window))


def _elements(shape: str) -> float:
    return float(math.prod(_sizes(shape)))


def _sizes(shape: str) -> list[int]:
    """Returns the sizes of the first array of a shape."""
    return [int(size) for size in _ARRAY.findall(shape)[0][1].split(",") if size]


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


def _inside(program: Program, instruction: Instruction) -> Iterable[tuple[Instruction, Mapping[str, Instruction]]]:
    """Yields the instructions of a fusion, at any depth, each with all instructions of its computation by name."""
    for name in instruction.calls:
        body = {i.name: i for i in program.computations.get(name, ())}
        for i in body.values():
            yield i, body
            yield from _inside(program, i)


def _moved_bytes(program: Program, instruction: Instruction, body: Mapping[str, Instruction]) -> float:
    """Returns the bytes that an instruction reads and writes. A fusion that only slices or gathers from an operand reads that
    part of it, and one that updates a part of an array in place writes only that part. A buffer that is only passed on, as by
    the steps of an asynchronous collective, counts nothing."""
    results, read = _array_sizes(instruction.shape), 0.0
    passed = {n: result for result, n in instruction.aliases if not _updates(program, instruction, n)}
    written = sum(results) - sum(results[result] for result in {result for result, n in instruction.aliases if n in passed})
    for number, name in enumerate(instruction.operands):
        if number in passed:
            continue
        whole = array_bytes(body[name].shape) if name in body else 0.0
        if instruction.operation == "dynamic-update-slice" and number == 0:
            part = array_bytes(body[instruction.operands[1]].shape)
        else:
            part = min(whole, _part_bytes(program, instruction, number, whole))
        if part < whole and _updates(program, instruction, number):
            written = max(written - whole + part, part)
        read += part
    return read + written


def _part_bytes(program: Program, instruction: Instruction, number: int, whole: float) -> float:
    """Returns the bytes that an instruction reads of its operand with this number."""
    if instruction.operation in _PARTS and number == 0:
        return sum(_array_sizes(instruction.shape, every_memory=True))
    if instruction.operation != "fusion":
        return whole
    body = program.computations[instruction.calls[0]]
    return sum(_user_bytes(program, body, i.name, whole) for i in body if i.operation == "parameter" and i.value == number)


def _user_bytes(program: Program, body: Sequence[Instruction], name: str, whole: float) -> float:
    """Returns the bytes that the users of a value inside a fusion read of it."""
    total, shapes = 0.0, {i.name: i.shape for i in body}
    for user in (i for i in body if name in i.operands):
        if user.operation == "bitcast":
            total += _user_bytes(program, body, user.name, whole)
        elif user.operation == "dynamic-update-slice" and user.operands[0] == name:
            total += array_bytes(shapes[user.operands[1]])
        else:
            total += _part_bytes(program, user, user.operands.index(name), whole)
    return total


def _updates(program: Program, instruction: Instruction, number: int) -> bool:
    """Returns whether a fusion updates a part of its operand with this number in place."""
    if instruction.operation != "fusion":
        return instruction.operation == "dynamic-update-slice" and number == 0
    body = program.computations[instruction.calls[0]]
    names = {i.name for i in body if i.operation == "parameter" and i.value == number}
    for i in body:
        names |= {i.name} if i.operation == "bitcast" and i.operands[0] in names else set()
    return any(i.operation == "dynamic-update-slice" and i.operands[0] in names for i in body)


def array_bytes(shape: str) -> float:
    """Returns the bytes of the arrays of a shape, with padding to tiles, without those in other memories than HBM."""
    return sum(_array_sizes(shape))


def _array_sizes(shape: str, every_memory: bool = False) -> list[float]:
    """Returns the bytes of each array of a shape; 0 for arrays in other memories than HBM, unless every_memory is True."""
    result = []
    for kind, sizes, order, layout in _ARRAY.findall(shape):
        if "S(" in layout and not every_memory:
            result.append(0.0)
            continue
        bits = 8 if kind == "pred" else int(kind.lstrip(string.ascii_letters)[:2])
        dims = [int(size) for size in sizes.split(",") if size]
        if (tile := _TILE.search(layout)) and order:
            for dim, side in zip(map(int, order.split(",")), reversed(tile[1].split(",")), strict=False):
                dims[dim] = -(-dims[dim] // int(side)) * int(side)
        result.append(math.prod(dims) * bits / 8)
    return result
