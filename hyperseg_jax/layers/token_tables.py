"""Tables with a row or column for each token: the embeddings, and the kernel of a language head.

They are the largest parameters, and may be sharded. Training reads a copy in the compute dtype, gathered once for each
micro-batch, or once a step if XLA moves it out of the loop. Gradients are summed in float32 and belong to the stored table. A
few tokens, as in generation, are looked up in the sharded table.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from hyperseg_jax import axes
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray


@flax.struct.dataclass
class GatheredTable:
    """A table, and its copy in the compute dtype on every device. Only the copy is read; only the stored table has a
    gradient."""

    stored: Float[DeviceArray, "N M"]
    copy: Float[DeviceArray, "N M"]


def gather_table(stored: Float[DeviceArray, "N M"], precision: Precision) -> GatheredTable:
    """Gathers a table in the compute dtype."""
    return GatheredTable(stored, jax.lax.stop_gradient(axes.constrain(precision.cast(stored), None, None)))


def take_rows(table: GatheredTable, ids: Int[DeviceArray, "*B"]) -> Float[jax.Array, "*B M"]:
    """Returns rows of a table, in the compute dtype. An id beyond the table takes its last row."""
    return _take_rows(table.stored, table.copy, jnp.clip(ids, 0, table.copy.shape[0] - 1))


@jax.custom_vjp
def _take_rows(stored, copy, ids):
    return copy.at[ids].get(mode="promise_in_bounds")


def _take_rows_forward(stored, copy, ids):
    return _take_rows(stored, copy, ids), (stored, ids)


def _take_rows_backward(saved, gradient):
    stored, ids = saved
    zeros = jnp.zeros(stored.shape, jnp.float32)
    summed = zeros.at[ids].add(gradient.astype(jnp.float32), mode="promise_in_bounds")
    return summed.astype(stored.dtype), jnp.zeros(stored.shape, gradient.dtype), None


_take_rows.defvjp(_take_rows_forward, _take_rows_backward)


def multiply_table(x: Float[DeviceArray, "*B N"], table: GatheredTable, precision: Precision) -> Float[jax.Array, "*B M"]:
    """Returns x @ table in the compute dtype."""
    return _multiply(precision.matmul, precision.cast(x), table.stored, table.copy)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiply(matmul, x, stored, copy):
    return jnp.matmul(x, copy, precision=matmul)


def _multiply_forward(matmul, x, stored, copy):
    return _multiply(matmul, x, stored, copy), (x, stored, copy)


def _multiply_backward(matmul, saved, gradient):
    x, stored, copy = saved
    d_stored = jnp.einsum("...n,...m->nm", x, gradient, precision=matmul, preferred_element_type=jnp.float32)
    return jnp.matmul(gradient, copy.T, precision=matmul), d_stored.astype(stored.dtype), jnp.zeros_like(copy)


_multiply.defvjp(_multiply_forward, _multiply_backward)


class Embedding(nn.Module):
    """A token embedding table, which may also be the kernel of the language head."""

    rows: int
    features: int
    precision: Precision = Precision()
    std: float = 0.02

    def setup(self) -> None:
        init = axes.named(nn.initializers.normal(self.std), "vocab", "embed")
        self.embedding = self.param("embedding", init, (self.rows, self.features), self.precision.params)

    def __call__(self, ids: Int[DeviceArray, "*B"]) -> Float[jax.Array, "*B {self.features}"]:
        # A lookup in a sharded table sums what all devices found, so each row that is read travels twice.
        if axes.is_sharded("vocab") and 2 * ids.size >= self.rows:
            return take_rows(gather_table(self.embedding, self.precision), ids)
        return self.precision.cast(jnp.take(self.embedding, ids, axis=0, mode="clip"))

    def logits(self, hidden: Float[DeviceArray, "*B {self.features}"]) -> Float[jax.Array, "*B {self.rows}"]:
        """Returns the products of hidden states with all rows, in the output dtype."""
        table = GatheredTable(self.embedding.T, self.precision.cast(self.embedding).T)
        return multiply_table(hidden, table, self.precision).astype(self.precision.output)
