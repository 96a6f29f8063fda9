"""How much arithmetic a step asks for, and which part of a device's peak that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from jax.extend import core

from hyperseg_jax.systems.system import System
from hyperseg_jax.training import param_groups

# bfloat16 FLOP/s of one device, as its maker states it: cloud.google.com/tpu/docs (a v4 or v5p device is a whole chip)
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def of_function(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOP of the matrix products and convolutions in one call, the bodies of scans as often as they turn.

    Loops without a known number of turns count once. What is computed again for the backward pass (remat) counts; give a
    function without it for the arithmetic that the model asks for.
    """
    return _of_jaxpr(jax.jit(function).trace(*arguments).jaxpr.jaxpr)


class Arithmetic:
    """FLOP of the steps of this process that a model asks for; none are counted where the devices' peak is not known."""

    def __init__(self, config: ml_collections.ConfigDict, system: System[Any]) -> None:
        plain = config.copy_and_resolve_references().unlock()
        for block in plain.model.values():
            if isinstance(block, ml_collections.ConfigDict) and "remat" in block:
                block.remat = "none"  # what is computed twice counts once
        self._loss = system.full_loss(system.build(plain), plain)
        self._known = jax.devices()[0].device_kind in PEAKS
        self._of_task: dict[str, float] = {}
        self.total = 0.0

    def learn(self, task: str, state: Any, batch: Any) -> None:
        """Counts the arithmetic of a step with such a batch; nothing is computed."""
        if self._known:

            def of_trainable(trainable: Any) -> Any:
                return self._loss(param_groups.merge(trainable, state.frozen), batch, state.key)

            self._of_task[task] = of_function(jax.value_and_grad(of_trainable, has_aux=True), state.trainable)

    def count(self, task: str) -> None:
        """A step of the task was done."""
        self.total += self._of_task.get(task, 0.0)


def utilization(flops: float, seconds: float, devices: list[Any]) -> float | None:
    """Model FLOP utilization: arithmetic a second as a part of the devices' peak; None where the peak is not known."""
    peak = PEAKS.get(devices[0].device_kind)
    return None if peak is None else flops / seconds / (peak * len(devices))


def _of_jaxpr(jaxpr: Any) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        contracted, _ = equation.params["dimension_numbers"]
        length = math.prod(equation.invars[0].aval.shape[k] for k in contracted[0])
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * length
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / features
    turns = equation.params["length"] if name == "scan" else 1
    inner = [part for value in equation.params.values() for part in _jaxprs(value)]
    if name == "cond":
        return max(map(_of_jaxpr, inner), default=0.0)
    return turns * sum(map(_of_jaxpr, inner))


def _jaxprs(value: Any) -> list[Any]:
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    if isinstance(value, (tuple, list)):
        return [jaxpr for part in value for jaxpr in _jaxprs(part)]
    return []
