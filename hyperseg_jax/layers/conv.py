"""Convolutions, channels last."""

from __future__ import annotations

import flax.linen as nn
import jax
from einops import rearrange
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import ConvKernel, Identity, Row, Table


class Conv(nn.Module):
    """torch.nn.Conv2d with symmetric padding."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    precision: Precision = Precision()
    kernel_init: nn.initializers.Initializer = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B h w {self.features}"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        names = ("conv_height", "conv_width", "conv_in", "conv_out")
        kernel = self.param("kernel", axes.named(self.kernel_init, *names), shape, self.precision.params)
        x, kernel = self.precision.cast(x, kernel)
        if self.kernel_size == self.stride and not self.padding:
            y = self._convolve_patches(x, kernel)
        elif self.kernel_size == 1 and self.stride == 1:
            y = self.precision.product(x, kernel[0, 0])
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                (self.stride,) * 2,
                [(self.padding,) * 2] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=self.precision.matmul,
            )
        if self.use_bias:
            bias = self.param("bias", axes.named(nn.initializers.zeros, "norm"), (self.features,), self.precision.params)
            y = y + self.precision.cast(bias)
        return y

    def _convolve_patches(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Computes the convolution of non-overlapping patches as one matrix product, which is faster than a strided convolution
        on every backend."""
        p, (_, h, w, _) = self.stride, x.shape
        x = rearrange(x[:, : h // p * p, : w // p * p], "b (h y) (w x) c -> b h w (y x c)", y=p, x=p)
        return self.precision.product(x, rearrange(kernel, "y x c features -> (y x c) features"))


def conv_table(path: str, name: str, use_bias: bool = True) -> Table:
    """Returns the weight table of a Conv."""
    rows = [Row(f"{path}/kernel", f"{name}.weight", ConvKernel())]
    if use_bias:
        rows.append(Row(f"{path}/bias", f"{name}.bias", Identity()))
    return Table(rows)
