"""Self-attention over long sequences, by the kernel of the device where there is one."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from hyperseg_jax import axes
from hyperseg_jax.layers.remat import SAVED
from hyperseg_jax.ops.attention import attend
from hyperseg_jax.ops.fused_attention import cudnn_attend, fits_cudnn, splash_attend
from hyperseg_jax.structs import DeviceArray

MIN_LENGTH, MIN_HEAD_DIM = 512, 64
"""Below these sizes, the scores are small or the kernels are inefficient."""
_use_kernels = contextvars.ContextVar("use_kernels", default=True)


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Traces without kernels during the body, for counting FLOPs."""
    token = _use_kernels.set(False)
    try:
        yield
    finally:
        _use_kernels.reset(token)


def fused_attend(
    query: Float[DeviceArray, "B L heads D"],
    key: Float[DeviceArray, "B L heads D"],
    value: Float[DeviceArray, "B L heads D"],
    *,
    mask: Bool[DeviceArray, "B 1 L L"],
    precision: str,
) -> Float[jax.Array, "B L heads D"]:
    """Returns attend(query, key, value), without writing the scores to memory if the device has a kernel for 16-bit arrays.

    mask: True = may attend. precision: of `attend`.
    """
    fits = query.shape[1] >= MIN_LENGTH and query.shape[-1] >= MIN_HEAD_DIM and query.dtype in (jnp.bfloat16, jnp.float16)
    platform = axes.platform() if fits and _use_kernels.get() else ""
    if platform == "tpu" and query.dtype == jnp.bfloat16:
        return _on_shards(functools.partial(splash_attend, residual_name=SAVED), query, key, value, mask)
    if platform in ("gpu", "cuda") and fits_cudnn(query.shape[-1]):
        try:
            return _on_shards(cudnn_attend, query, key, value, mask)
        except (RuntimeError, NotImplementedError):  # JAX finds no cuDNN, or one without support for these devices
            pass
    return attend(query, key, value, mask=mask, precision=precision)


def _on_shards(kernel: Callable[..., jax.Array], *inputs: jax.Array) -> jax.Array:
    """Runs a kernel on each device, for its rows and heads."""
    heads = ("batch", None, "act_heads", None)
    result: jax.Array = axes.map_shards(kernel, heads, heads, heads, ("batch", None, None, None), out=heads)(*inputs)
    return result
