"""Compiles the train step of a config ahead of time to find its memory per chip and its collectives."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

from hyperseg_jax.data import sources
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement
from hyperseg_jax.planning import program
from hyperseg_jax.planning.cost import Cost, sum_costs
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training import checks, param_groups
from hyperseg_jax.training.initial_state import trace_initial_state
from hyperseg_jax.training.state import make_step


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of one chip in bytes.

    arguments: train state and batch. outputs: the new train state. aliased: part of the outputs that reuses buffers of the
    arguments. temporaries: all other buffers. peak: maximum use according to the compiler.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    peak: int

    @property
    def needed(self) -> int:
        """An upper bound of the memory that the step needs: the larger of `peak` and the sum of all buffers."""
        return max(self.peak, self.arguments + self.temporaries + self.outputs - self.aliased)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The result of compiling the train step of one task.

    preset, mesh: name of the preset, and {mesh axis: size}. examples: number of examples per chip in a batch. seconds: CPU time
    of the compiler. memory: None if the step does not fit into memory; `problem` is then the compiler's error. collectives:
    {kind: count}. matching_loops: number of loops of the bipartite matching. loop_collectives: names of collectives inside
    these loops, where all chips would wait for each other in every iteration. cost: the compiler's estimates.
    """

    task: str
    preset: str
    mesh: Mapping[str, int]
    examples: float
    seconds: float
    memory: Memory | None = None
    problem: str = ""
    collectives: Mapping[str, int] = dataclasses.field(default_factory=dict)
    matching_loops: int = 0
    loop_collectives: Sequence[str] = ()
    cost: Cost = dataclasses.field(default_factory=Cost)


def compile_step(config: ml_collections.ConfigDict, task: str, devices: Sequence[Any]) -> Plan:
    """Compiles the train step of a task of the config, or of its mixed batches, for devices that need not exist
    (topologies.slice_devices).

    Raises UserError if there is no such task, or if the batch cannot be split over the mesh.
    """
    system = systems.get(config.system)
    if task not in (known := sources.program_names(config)):
        raise UserError(f"--task {task}: the config has no such task; use one of {', '.join(known)}")
    model = system.build(config)
    placed = placement.make(
        config.train.preset, config.train.mesh, devices=devices, adapters=systems.lora_block(config) is not None
    )
    checks.check_batch_size(config, placed)
    rules = param_groups.groups_from_config(config.optimizer.param_groups)
    rate = param_groups.schedule_from_config(config)
    initial = trace_initial_state(config, system, model, rules, rate, placed)
    batch = sources.make_processor(config, system, None, task).spec(config.train.batch_size)
    batch = placement.add_shardings(batch, placed.batch)
    step = make_step(system, model, config, initial.tx)
    fields: dict[str, Any] = {
        "task": task,
        "preset": placed.preset,
        "mesh": dict(placed.mesh.shape),
        "examples": config.train.batch_size / placed.mesh.size,
    }
    with placement.use(placed):
        lowered = jax.jit(step, donate_argnums=0).lower(initial.abstract, batch)
        began = time.process_time()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Plan(**fields, seconds=time.process_time() - began, problem=str(error).splitlines()[0])
    stats: Any = compiled.memory_analysis()
    memory = Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.peak_memory_in_bytes,
    )
    hlo = program.parse_program(compiled.as_text() or "")
    return Plan(
        **fields,
        seconds=time.process_time() - began,
        memory=memory,
        collectives=hlo.collectives(),
        matching_loops=len(hlo.loops("matching")),
        loop_collectives=hlo.collectives_in_loops("matching"),
        cost=sum_costs(hlo),
    )
