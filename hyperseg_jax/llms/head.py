"""The language head: hidden states -> logits over the vocabulary."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.token_tables import GatheredTable, multiply_table
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Copies, Row, Table, Transpose


class LanguageHead(nn.Module):
    """Maps hidden states to logits over the vocabulary, without bias, in the output dtype."""

    vocab_size: int = 51200
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, hidden: Float[DeviceArray, "*B D"]) -> Float[jax.Array, "*B {self.vocab_size}"]:
        init = axes.named(nn.initializers.normal(0.02), "embed", "vocab")
        kernel = self.param("kernel", init, (hidden.shape[-1], self.vocab_size), self.precision.params)
        return head_logits(hidden, GatheredTable(kernel, self.precision.cast(kernel)), self.precision)


def head_logits(hidden: Float[DeviceArray, "*B D"], kernel: GatheredTable, precision: Precision) -> Float[jax.Array, "*B V"]:
    """Returns the logits of a LanguageHead with this kernel [D, V]."""
    return multiply_table(hidden, kernel, precision).astype(precision.output)


def head_table() -> Table:
    """Returns the weight table of LanguageHead ("lm_head.weight")."""
    return Table([Row("kernel", "lm_head.weight", Transpose())])


def tied_table(name: str, with_head: bool) -> Table:
    """Returns the weight table of a token table, named `name` in PyTorch, that is also the kernel of the head.

    with_head: whether the checkpoint also has the head, as a copy of the table; it may be missing in an import.
    """
    names = (name, "lm_head.weight") if with_head else (name,)
    return Table([Row("tokens/embedding", names, Copies(names))])
