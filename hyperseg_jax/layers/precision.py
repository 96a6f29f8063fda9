"""The precision policy, written once and handed to every module."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hyperseg_jax.structs import DeviceArray


@dataclasses.dataclass(frozen=True)
class Precision:
    """Types of parameters, of compute, and of what leaves the model; products of float32 matrices.

    matmul: "highest" asks for full float32 products (TPU and GPU default to less); "default" leaves it to the backend. It has
    no effect on bfloat16 operands. Some islands stay float32 in any policy: sampling coordinates, softmax, norms, matching
    costs, losses, and the mask logits at the attention-mask decision.
    """

    params: str = "float32"
    compute: str = "float32"
    output: str = "float32"
    matmul: str = "highest"

    def __post_init__(self) -> None:
        for field in ("params", "compute", "output"):
            if getattr(self, field) not in ("float32", "bfloat16", "float16"):
                raise ValueError(f"precision.{field} = {getattr(self, field)!r}: use float32, bfloat16 or float16")
        if self.matmul not in ("highest", "high", "default"):
            raise ValueError(f"precision.matmul = {self.matmul!r}: use highest, high or default")

    def cast(self, *arrays: Any) -> Any:
        """The arrays in the compute type (one array in, one array out)."""
        cast = tuple(None if a is None else jnp.asarray(a, self.compute) for a in arrays)
        return cast[0] if len(cast) == 1 else cast

    def product(self, x: Float[DeviceArray, "*B C"], kernel: Float[DeviceArray, "C D"]) -> Float[jax.Array, "*B D"]:
        """x @ kernel in the compute type."""
        x, kernel = self.cast(x, kernel)
        return jnp.matmul(x, kernel, precision=self.matmul)

    def einsum(self, expression: str, *operands: Float[DeviceArray, " ..."]) -> Float[jax.Array, " ..."]:
        """jnp.einsum in the compute type."""
        return jnp.einsum(expression, *(self.cast(o) for o in operands), precision=self.matmul)
