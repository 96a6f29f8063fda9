"""Projects image features to the width of the language model (LLaVA's mlp2x_gelu)."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.mlp import ACTIVATIONS
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Table


class Projector(nn.Module):
    """Linear, exact GELU, Linear. Parts: up, down."""

    llm_size: int
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, features: Float[DeviceArray, "B N C"]) -> Float[jax.Array, "B N {self.llm_size}"]:
        hidden = Linear(self.llm_size, ("embed", "mlp"), precision=self.precision, name="up")(features)
        tokens = Linear(self.llm_size, ("mlp", "embed"), precision=self.precision, name="down")(ACTIVATIONS["gelu"](hidden))
        return axes.constrain(tokens, "batch", "tokens", "act_embed")


def table(projector: Projector) -> Table:
    """Returns the weight table for mm_projector ("0.weight", "0.bias", "2.weight", "2.bias")."""
    return linear_table("up", "0") + linear_table("down", "2")
