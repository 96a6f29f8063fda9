"""Attention by kernels that keep the scores in fast memory: JAX's splash attention on TPUs, cuDNN's on GPUs.

Both equal ops.attention.attend up to rounding, except for queries without any key, as in padding rows of a batch: these attend
to their own position, because a kernel divides by the sum of the weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jaxtyping import Bool, Float

from hyperseg_jax.structs import DeviceArray

LANES = 128
BLOCKS = (512, 384, 256)
"""Numbers of positions that the TPU kernel processes at a time, in order of preference."""


def splash_attend(
    query: Float[DeviceArray, "B L heads D"],
    key: Float[DeviceArray, "B L heads D"],
    value: Float[DeviceArray, "B L heads D"],
    mask: Bool[DeviceArray, "B 1 L L"],
    *,
    residual_name: str | None = None,
    interpret: bool = False,
) -> Float[jax.Array, "B L heads D"]:
    """Attends by the TPU kernel. Blocks of the mask without any True are skipped.

    mask: True = may attend. residual_name: the name of the saved residuals of the backward pass for jax.checkpoint. interpret:
    runs the kernel on any device, slowly.
    """
    length = query.shape[1]
    padded = -(-length // LANES) * LANES
    while (block := next((size for size in BLOCKS if padded % size == 0), 0)) == 0:
        padded += LANES
    extra = padded - length
    mask = _add_own_position(jnp.pad(mask, ((0, 0), (0, 0), (0, extra), (0, extra))))
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )

    def attend_row(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
        kernel = splash.make_splash_mha(
            mask,
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=residual_name,
            interpret=interpret,
        )
        # The constructor turns this flag into an array, which fails as a condition under jit.
        kernel.fwd_mask_info = kernel.fwd_mask_info._replace(is_dynamic_mask=None)
        attended: jax.Array = kernel(query, key, value)
        return attended

    heads_first = lambda x: jnp.pad(rearrange(x, "b l heads d -> b heads l d"), ((0, 0), (0, 0), (0, extra), (0, 0)))
    scaled = query * query.shape[-1] ** -0.5
    attended = jax.vmap(attend_row)(heads_first(scaled), heads_first(key), heads_first(value), mask)
    return rearrange(attended[:, :, :length], "b heads l d -> b l heads d")


def cudnn_attend(
    query: Float[DeviceArray, "B L heads D"],
    key: Float[DeviceArray, "B L heads D"],
    value: Float[DeviceArray, "B L heads D"],
    mask: Bool[DeviceArray, "B 1 L L"],
) -> Float[jax.Array, "B L heads D"]:
    """Attends by cuDNN's kernel, for arrays of 16 bits. mask: True = may attend."""
    return jax.nn.dot_product_attention(query, key, value, mask=_add_own_position(mask), implementation="cudnn")


def _add_own_position(mask: Bool[DeviceArray, "B 1 L L"]) -> Bool[jax.Array, "B 1 L L"]:
    """Lets queries without any key attend to their own position."""
    return mask | (~mask.any(-1, keepdims=True) & jnp.eye(mask.shape[-1], dtype=bool))
