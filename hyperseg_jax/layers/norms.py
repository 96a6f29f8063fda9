"""Normalization layers; statistics are always float32."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from hyperseg_jax import axes
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Identity, Row, Table


def _affine_params(module: nn.Module, channels: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Creates the scale and bias parameters of a norm with this dtype, and returns them as float32."""
    scale = module.param("scale", axes.named(nn.initializers.ones, "norm"), (channels,), dtype)
    bias = module.param("bias", axes.named(nn.initializers.zeros, "norm"), (channels,), dtype)
    return jnp.asarray(scale, jnp.float32), jnp.asarray(bias, jnp.float32)


class LayerNorm(nn.Module):
    """torch.nn.LayerNorm over the last axis; the output has the compute dtype."""

    epsilon: float = 1e-5
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "*B C"]) -> Float[jax.Array, "*B C"]:
        scale, bias = _affine_params(self, x.shape[-1], self.precision.params)
        x = jnp.asarray(x, jnp.float32)
        centered = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centered).mean(-1, keepdims=True)
        return self.precision.cast(centered * jax.lax.rsqrt(variance + self.epsilon) * scale + bias)


class RMSNorm(nn.Module):
    """Root mean square normalization over the last axis, without bias (transformers' LlamaRMSNorm); the output has the compute
    dtype."""

    epsilon: float = 1e-6
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "*B C"]) -> Float[jax.Array, "*B C"]:
        scale = self.param("scale", axes.named(nn.initializers.ones, "norm"), (x.shape[-1],), self.precision.params)
        x = jnp.asarray(x, jnp.float32)
        normalized = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return self.precision.cast(normalized * jnp.asarray(scale, jnp.float32))


class GroupNorm(nn.Module):
    """torch.nn.GroupNorm, channels last; the output has the compute dtype."""

    groups: int = 32
    epsilon: float = 1e-5
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        b, h, w, c = x.shape
        if c % self.groups:
            raise ValueError(f"GroupNorm: {c} channels are not divisible by {self.groups} groups")
        scale, bias = _affine_params(self, c, self.precision.params)
        grouped = jnp.asarray(x, jnp.float32).reshape(b, h * w, self.groups, c // self.groups)
        centered = grouped - grouped.mean((1, 3), keepdims=True)
        variance = jnp.square(centered).mean((1, 3), keepdims=True)
        normalized = (centered * jax.lax.rsqrt(variance + self.epsilon)).reshape(b, h, w, c)
        return self.precision.cast(normalized * scale + bias)


class FrozenBatchNorm(nn.Module):
    """torch.nn.BatchNorm2d in evaluation, channels last: its statistics are the parameters mean and variance, which no gradient
    reaches; neither does one reach scale and bias. The output has the compute dtype."""

    epsilon: float = 1e-5
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "*B C"]) -> Float[jax.Array, "*B C"]:
        channels, dtype = x.shape[-1], self.precision.params
        scale, bias = _affine_params(self, channels, dtype)
        mean = self.param("mean", axes.named(nn.initializers.zeros, "norm"), (channels,), dtype)
        variance = self.param("variance", axes.named(nn.initializers.ones, "norm"), (channels,), dtype)
        mean, variance = jnp.asarray(mean, jnp.float32), jnp.asarray(variance, jnp.float32)
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        factor, shift = jax.lax.stop_gradient((factor, bias - mean * factor))
        return self.precision.cast(jnp.asarray(x, jnp.float32) * factor + shift)


def batch_norm_table(path: str, name: str) -> Table:
    """Returns the weight table of a FrozenBatchNorm."""
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}
    return Table(Row(f"{path}/{ours}", f"{name}.{theirs}", Identity()) for ours, theirs in names.items())


def norm_table(path: str, name: str, use_bias: bool = True) -> Table:
    """Returns the weight table of a LayerNorm or GroupNorm, or without bias, of an RMSNorm."""
    parts = (("scale", "weight"), ("bias", "bias"))[: 1 + use_bias]
    return Table(Row(f"{path}/{ours}", f"{name}.{theirs}", Identity()) for ours, theirs in parts)
