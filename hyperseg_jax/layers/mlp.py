"""Feed-forward blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import Float

from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Table

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # CLIP's
    "silu": jax.nn.silu,
}


class FeedForward(nn.Module):
    """Linear, activation, Linear back to the input width. Parts: up, down."""

    hidden: int
    activation: str
    use_bias: bool = True
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "*B C"]) -> Float[jax.Array, "*B C"]:
        make = functools.partial(Linear, use_bias=self.use_bias, precision=self.precision)
        hidden = ACTIVATIONS[self.activation](make(self.hidden, ("embed", "mlp"), name="up")(x))
        return make(x.shape[-1], ("mlp", "embed"), name="down")(hidden)


def feed_forward_table(path: str, up: str, down: str, use_bias: bool = True) -> Table:
    """Returns the weight table of a FeedForward; up and down are the PyTorch names of its two linears."""
    return linear_table(f"{path}/up", up, use_bias) + linear_table(f"{path}/down", down, use_bias)


class MLP(nn.Module):
    """Linears with ReLU between them (Mask2Former's MLP). Parts: layers_i."""

    features: tuple[int, ...]
    precision: Precision = Precision()
    last_kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "*B C"]) -> Float[jax.Array, "*B {self.features[-1]}"]:
        last = len(self.features) - 1
        for i, width in enumerate(self.features):
            init = self.last_kernel_init if i == last else nn.initializers.xavier_uniform()
            x = Linear(width, ("embed", "mlp"), precision=self.precision, kernel_init=init, name=f"layers_{i}")(x)
            x = x if i == last else jax.nn.relu(x)
        return x


def mlp_table(path: str, name: str, depth: int) -> Table:
    """Returns the weight table of an MLP of `depth` linears, named `name`.layers.i in PyTorch."""
    return Table.join(linear_table(f"{path}/layers_{i}", f"{name}.layers.{i}") for i in range(depth))
