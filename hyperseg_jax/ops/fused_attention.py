"""Attention by kernels that keep the scores in fast memory: JAX's splash attention on TPUs, cuDNN's on GPUs.

Both equal ops.attention.attend up to rounding, except for queries without any key, as in padding rows of a batch: these attend
to their own position, because a kernel divides by the sum of the weights.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jaxtyping import Bool, Float

from hyperseg_jax.structs import DeviceArray

LANES = 128
BLOCKS = (512, 384, 256)
"""Numbers of positions that the TPU kernel processes at a time, in order of preference."""
TABLE_BYTES = 1 << 19
"""Memory for the tables of a kernel call, half of the scalar memory of a TPU."""


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
    batch, length, heads, _ = query.shape
    padded = -(-length // LANES) * LANES
    while (block := next((size for size in BLOCKS if padded % size == 0), 0)) == 0:
        padded += LANES
    extra = padded - length
    mask = _add_own_position(jnp.pad(mask, ((0, 0), (0, 0), (0, extra), (0, extra))))[:, 0]
    pad = lambda x: jnp.pad(rearrange(x, "b l heads d -> b heads l d"), ((0, 0), (0, 0), (0, extra), (0, 0)))
    attend_rows = functools.partial(_splash_attend_rows, block=block, residual_name=residual_name, interpret=interpret)
    inputs = pad(query * query.shape[-1] ** -0.5), pad(key), pad(value), mask
    rows = max(TABLE_BYTES // (heads * _table_bytes(padded // block)), 1)
    groups = [attend_rows(*(x[start : start + rows] for x in inputs)) for start in range(0, batch, rows)]
    return rearrange(jnp.concatenate(groups)[:, :, :length], "b heads l d -> b l heads d")


def _splash_attend_rows(
    query: Float[DeviceArray, "B heads L D"],
    key: Float[DeviceArray, "B heads L D"],
    value: Float[DeviceArray, "B heads L D"],
    mask: Bool[DeviceArray, "B L L"],
    *,
    block: int,
    residual_name: str | None,
    interpret: bool,
) -> Float[jax.Array, "B heads L D"]:
    """Attends by one call of the kernel for all rows and heads. jax.vmap would call it in a loop over rows instead."""
    kernel = splash.make_splash_mha(
        mask,
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=residual_name,
        interpret=interpret,
    )
    batch, heads = query.shape[:2]
    for name in ("fwd_mask_info", "dq_mask_info", "dkv_mask_info"):
        setattr(kernel, name, _repeat_tables(getattr(kernel, name), heads))
    fold = lambda x: rearrange(x, "b heads l d -> (b heads) l d")
    return rearrange(kernel(fold(query), fold(key), fold(value)), "(b heads) l d -> b heads l d", b=batch)


def _table_bytes(blocks: int) -> int:
    """Returns the bytes of a head's three tables, of 1, 1 and 2 bytes for each block, with padding."""
    return 4 * (-(-blocks // 4) * 4) * LANES


def _repeat_tables(info: MaskInfo, heads: int) -> MaskInfo:
    """Returns the tables of a mask for each row as those of all heads of all rows; the blocks of the masks are shared."""
    repeat = lambda table: jnp.repeat(table, heads, axis=0)
    # The constructor of the kernel turns is_dynamic_mask into an array, which fails as a condition under jit.
    return info._replace(
        data_next=repeat(info.data_next),
        mask_next=repeat(info.mask_next),
        block_mask=repeat(info.block_mask),
        is_dynamic_mask=None,
    )


def cudnn_attend(
    query: Float[DeviceArray, "B L heads D"],
    key: Float[DeviceArray, "B L heads D"],
    value: Float[DeviceArray, "B L heads D"],
    mask: Bool[DeviceArray, "B 1 L L"],
) -> Float[jax.Array, "B L heads D"]:
    """Attends by cuDNN's kernel, for arrays of 16 bits and sizes for which `fits_cudnn` is True. mask: True = may attend."""
    length = query.shape[1]
    extra = length % 2  # the backward pass needs an even length; inside jax.checkpoint, JAX checks this after the call
    mask = _add_own_position(jnp.pad(mask, ((0, 0), (0, 0), (0, extra), (0, extra))))
    query, key, value = (jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0))) for x in (query, key, value))
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")[:, :length]


def fits_cudnn(head_dim: int) -> bool:
    """Returns whether cuDNN's kernel supports this head size on all GPUs that have the kernel."""
    return head_dim <= 128 and head_dim % 8 == 0


def _add_own_position(mask: Bool[DeviceArray, "B 1 L L"]) -> Bool[jax.Array, "B 1 L L"]:
    """Lets queries without any key attend to their own position."""
    return mask | (~mask.any(-1, keepdims=True) & jnp.eye(mask.shape[-1], dtype=bool))
