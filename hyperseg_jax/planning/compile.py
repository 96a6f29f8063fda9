"""The train step of a config compiled ahead of time: the memory it takes of each chip, and what its chips say to each other."""

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
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training import checks, param_groups
from hyperseg_jax.training.initial_state import trace_initial_state
from hyperseg_jax.training.state import make_step


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip. arguments: state and batch; outputs: the new state, most of it in place of the old (aliased);
    temporaries: all else; peak: the most at one time, as the compiler counts it."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    peak: int

    @property
    def needed(self) -> int:
        """The larger of the two ways to count."""
        return max(self.peak, self.arguments + self.temporaries + self.outputs - self.aliased)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What compiling the step of one task gave.

    preset, mesh: how the step is spread. examples: of a batch on each chip. seconds: processor time of the compiler.
    memory: None where the step does not fit; problem then says what the compiler said. collectives: {kind: how many}.
    matching_loops: loops of the matching; waiting: the collectives inside them, which would make every turn wait for all chips.
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
    waiting: Sequence[str] = ()


def plan(config: ml_collections.ConfigDict, task: str, devices: Sequence[Any]) -> Plan:
    """Compiles the train step of one of the config's tasks, or of its mixed batches, for devices that need not exist
    (topologies.devices).

    UserError where there is no such task, or the batch cannot be split over the mesh.
    """
    system = systems.get(config.system)
    if task not in (known := sources.programs(config)):
        raise UserError(f"--task {task}: the config has {', '.join(known)}")
    model = system.build(config)
    placed = placement.make(config.train.preset, config.train.mesh, devices=devices, adapters=systems.lora(config) is not None)
    checks.check_split(config, placed)
    rules = param_groups.from_config(config.optimizer.param_groups)
    rate = param_groups.schedule(config.optimizer.learning_rate, config.optimizer.warmup_steps, config.train.steps)
    initial = trace_initial_state(config, system, model, rules, rate, placed)
    batch = sources.processor(config, system, None, task).spec(config.train.batch_size)
    batch = placement.abstract_arrays(batch, placed.batch)
    step = make_step(system, model, config, initial.tx)
    found: dict[str, Any] = {
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
            return Plan(**found, seconds=time.process_time() - began, problem=str(error).splitlines()[0])
    held: Any = compiled.memory_analysis()
    memory = Memory(
        held.argument_size_in_bytes,
        held.output_size_in_bytes,
        held.alias_size_in_bytes,
        held.temp_size_in_bytes,
        held.peak_memory_in_bytes,
    )
    read = program.read(compiled.as_text() or "")
    return Plan(
        **found,
        seconds=time.process_time() - began,
        memory=memory,
        collectives=read.collectives(),
        matching_loops=len(read.loops("matching")),
        waiting=read.waiting("matching"),
    )
