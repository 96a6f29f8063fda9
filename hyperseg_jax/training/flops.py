"""FLOPs of a train step, and model FLOP utilization (MFU)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from hyperseg_jax.jaxprs import inner_jaxprs
from hyperseg_jax.layers.fused_attention import plain_attention
from hyperseg_jax.systems.system import System
from hyperseg_jax.training import param_groups

# Peak bfloat16 FLOP/s of one device, from vendor documentation: cloud.google.com/tpu/docs (a v4 or v5p device is a whole chip,
# a TPU7x device is half of one)
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def count_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Returns the FLOPs of the matrix products and convolutions in one call. The body of a scan counts once per iteration.

    Loops without a known number of iterations count once. Recomputation for the backward pass (remat) counts; pass a function
    without remat to get model FLOPs.
    """
    return _count_jaxpr(jax.jit(function).trace(*arguments).jaxpr.jaxpr)


class FlopCounter:
    """Counts the model FLOPs of the steps of this process. Counts nothing if the peak of the devices is unknown."""

    def __init__(self, config: ml_collections.ConfigDict, system: System[Any]) -> None:
        no_remat = config.copy_and_resolve_references().unlock()
        for block in no_remat.model.values():
            if isinstance(block, ml_collections.ConfigDict) and "remat" in block:
                block.remat = "none"  # MFU excludes recomputation
        self._loss = system.full_loss(system.build(no_remat), no_remat)
        self._known = jax.devices()[0].device_kind in PEAKS
        self._flops_by_task: dict[str, float] = {}
        self.total = 0.0

    def trace_task(self, task: str, state: Any, batch: Any) -> None:
        """Traces a step of the task with such a batch, and stores its FLOPs. Nothing is computed."""
        if self._known:

            def loss_fn(trainable: Any) -> Any:
                return self._loss(param_groups.merge_params(trainable, state.frozen), batch, state.key)

            with plain_attention():  # the FLOPs of kernels are unknown
                self._flops_by_task[task] = count_flops(jax.value_and_grad(loss_fn, has_aux=True), state.trainable)

    def add_step(self, task: str) -> None:
        """Adds the FLOPs of one finished step of the task."""
        self.total += self._flops_by_task.get(task, 0.0)


def utilization(flops: float, seconds: float, devices: list[Any]) -> float | None:
    """Returns the model FLOP utilization: FLOP/s divided by the peak of all devices, or None if the peak is unknown."""
    peak = PEAKS.get(devices[0].device_kind)
    return None if peak is None else flops / seconds / (peak * len(devices))


def _count_jaxpr(jaxpr: Any) -> float:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        contracted, _ = equation.params["dimension_numbers"]
        length = math.prod(equation.invars[0].aval.shape[k] for k in contracted[0])
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * length
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / features
    iterations = equation.params["length"] if name == "scan" else 1
    inner = inner_jaxprs(equation)
    if name == "cond":
        return max(map(_count_jaxpr, inner), default=0.0)
    return iterations * sum(map(_count_jaxpr, inner))
