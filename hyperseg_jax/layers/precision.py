"""The mixed-precision policy that is passed to every module."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hyperseg_jax.structs import DeviceArray


@dataclasses.dataclass(frozen=True)
class Precision:
    """Dtypes of parameters, compute and model outputs, and the precision of float32 matrix products.

    matmul: "highest" requests full float32 products (TPU and GPU use less by default); "default" uses that of the backend. It
    has no effect on bfloat16 operands. Always float32: sampling coordinates, softmax, norms, matching costs, losses, and the
    mask logits that are thresholded to attention masks.
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
        """Casts arrays to the compute dtype; returns a single array for a single argument."""
        cast = tuple(None if a is None else jnp.asarray(a, self.compute) for a in arrays)
        return cast[0] if len(cast) == 1 else cast

    def product(self, x: Float[DeviceArray, "*B C"], kernel: Float[DeviceArray, "C D"]) -> Float[jax.Array, "*B D"]:
        """Returns x @ kernel in the compute dtype."""
        x, kernel = self.cast(x, kernel)
        return jnp.matmul(x, kernel, precision=self.matmul)

    def einsum(self, expression: str, *operands: Float[DeviceArray, " ..."]) -> Float[jax.Array, " ..."]:
        """Returns jnp.einsum in the compute dtype."""
        return jnp.einsum(expression, *(self.cast(o) for o in operands), precision=self.matmul)
