"""Linear layers with optional low-rank adapters."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import FusedQKV, Identity, Row, Table, Transpose


@dataclasses.dataclass(frozen=True)
class LoRA:
    """A low-rank adapter: kernel + (alpha / rank) * a @ b (Hu et al. 2021). dropout acts on the adapter's input."""

    rank: int
    alpha: float
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class Linear(nn.Module):
    """x @ kernel + bias (torch.nn.Linear, kernel transposed), with an optional LoRA branch.

    names: logical axes of the kernel. The adapter's parameters are lora_a [C, rank] and lora_b [rank, features]; lora_b is
    initialized to zero, so a new adapter does not change the output.
    """

    features: int
    names: tuple[str, str] = ("embed", "mlp")
    use_bias: bool = True
    precision: Precision = Precision()
    lora: LoRA | None = None
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "*B C"], deterministic: bool = True) -> Float[jax.Array, "*B {self.features}"]:
        width, dtype = x.shape[-1], self.precision.params
        kernel = self.param("kernel", axes.named(self.kernel_init, *self.names), (width, self.features), dtype)
        y = self.precision.product(x, kernel)
        if self.use_bias:
            bias = self.param("bias", axes.named(self.bias_init, "norm"), (self.features,), dtype)
            y = y + self.precision.cast(bias)
        if self.lora is not None:
            a_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PEFT's kaiming_uniform(a=sqrt(5))
            a = self.param("lora_a", axes.named(a_init, self.names[0], "lora"), (width, self.lora.rank), dtype)
            b = self.param(
                "lora_b", axes.named(nn.initializers.zeros, "lora", self.names[1]), (self.lora.rank, self.features), dtype
            )
            dropped = nn.Dropout(self.lora.dropout)(x, deterministic=deterministic)
            y = y + self.lora.scale * self.precision.product(self.precision.product(dropped, a), b)
        return y


def linear_table(path: str, name: str, use_bias: bool = True) -> Table:
    """Returns the weight table of a Linear."""
    rows = [Row(f"{path}/kernel", f"{name}.weight", Transpose())]
    if use_bias:
        rows.append(Row(f"{path}/bias", f"{name}.bias", Identity()))
    return Table(rows)


def fused_qkv_table(path: str, weight: str, bias: str | None) -> Table:
    """Returns the weight table of query, key and value Linears that PyTorch stores as one fused [3C, C] matrix."""
    parts = ("query", "key", "value")
    rows = [Row(tuple(f"{path}/{part}/kernel" for part in parts), weight, FusedQKV(transpose=True))]
    if bias is not None:
        rows.append(Row(tuple(f"{path}/{part}/bias" for part in parts), bias, FusedQKV(transpose=False)))
    return Table(rows)
