"""Convolutions, channels last."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import ConvKernel, Identity, Row, Table, TransposedConvKernel


def pad_to_multiple(x: Float[DeviceArray, "B H W C"], multiple: int) -> Float[jax.Array, "B _ _ C"]:
    """Pads zeros to the right and bottom, so that H and W are multiples."""
    h, w = x.shape[1:3]
    return jnp.pad(x, ((0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0)))


CONV_AXES = ("conv_height", "conv_width", "conv_in", "conv_out")


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
        kernel = self.param("kernel", axes.named(self.kernel_init, *CONV_AXES), shape, self.precision.params)
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


class DepthwiseConv(nn.Module):
    """torch.nn.Conv2d with one filter per channel (groups = channels), stride 1 and the size of the input."""

    kernel_size: int
    use_bias: bool = True
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        width, size = x.shape[-1], self.kernel_size
        init = axes.named(nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"), *CONV_AXES)
        kernel = self.param("kernel", init, (size, size, 1, width), self.precision.params)
        x, kernel = self.precision.cast(x, kernel)
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            [(size // 2,) * 2] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=width,
            precision=self.precision.matmul,
        )
        if self.use_bias:
            bias = self.param("bias", axes.named(nn.initializers.zeros, "norm"), (width,), self.precision.params)
            y = y + self.precision.cast(bias)
        return y


class UpConv(nn.Module):
    """torch.nn.ConvTranspose2d whose stride is its kernel size: each cell becomes kernel_size x kernel_size cells."""

    features: int
    kernel_size: int = 2
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B _ _ {self.features}"]:
        size = self.kernel_size
        init = axes.named(nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"), *CONV_AXES)
        kernel = self.param("kernel", init, (size, size, x.shape[-1], self.features), self.precision.params)
        bias = self.param("bias", axes.named(nn.initializers.zeros, "norm"), (self.features,), self.precision.params)
        y = self.precision.product(x, rearrange(kernel, "y x c features -> c (y x features)"))
        return rearrange(y, "b h w (y x features) -> b (h y) (w x) features", y=size, x=size) + self.precision.cast(bias)


def conv_table(path: str, name: str, use_bias: bool = True) -> Table:
    """Returns the weight table of a Conv or DepthwiseConv."""
    rows = [Row(f"{path}/kernel", f"{name}.weight", ConvKernel())]
    if use_bias:
        rows.append(Row(f"{path}/bias", f"{name}.bias", Identity()))
    return Table(rows)


def up_conv_table(path: str, name: str) -> Table:
    """Returns the weight table of an UpConv."""
    kernel = Row(f"{path}/kernel", f"{name}.weight", TransposedConvKernel())
    return Table([kernel, Row(f"{path}/bias", f"{name}.bias", Identity())])
