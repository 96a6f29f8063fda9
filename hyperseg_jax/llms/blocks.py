"""The parts of a layer of a causal language model: self-attention with a cache, and the feed-forward block."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float, Int

from hyperseg_jax.layers.fused_attention import fused_attend
from hyperseg_jax.layers.linear import Linear, LoRA
from hyperseg_jax.layers.mlp import ACTIVATIONS
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.rotary import CosSin, rotate
from hyperseg_jax.llms.cache import write_slots
from hyperseg_jax.ops.attention import attend
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Row, Table, Transpose

LayerSlots = Float[jax.Array, "B S heads head_dim"]
"""Keys or values of one layer."""


@dataclasses.dataclass(frozen=True)
class Linears:
    """How the linears of a layer are built. lora: a low-rank adapter inside the linears named in lora_targets."""

    precision: Precision
    use_bias: bool = True
    lora: LoRA | None = None
    lora_targets: tuple[str, ...] = ()

    def make(self, name: str, features: int, axis_names: tuple[str, str]) -> Linear:
        """Returns a linear of the module that is being built."""
        lora = self.lora if name in self.lora_targets else None
        return Linear(features, axis_names, self.use_bias, self.precision, lora, name=name)


class CausalAttention(nn.Module):
    """Self-attention. Returns the output, and keys and values.

    kv_heads: heads of keys and values, each shared by a group of query heads; None means num_heads. dropout: of the attention
    weights. cos_sin: rotary angles of queries and keys, if they are rotated. past: cached keys and values of the layer, and the
    slot for those of x; mask then covers the slots. Parts: query, key, value, out.
    """

    num_heads: int
    linears: Linears
    deterministic: bool
    kv_heads: int | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[DeviceArray, "B L D"],
        cos_sin: CosSin | None,
        mask: Bool[DeviceArray, "B 1 L S"],
        past: tuple[LayerSlots, LayerSlots, Int[DeviceArray, ""]] | None = None,
    ) -> tuple[Float[jax.Array, "B L D"], tuple[LayerSlots, LayerSlots]]:
        width, kv_heads = x.shape[-1], self.kv_heads or self.num_heads
        group = self.num_heads // kv_heads
        heads = {"query": self.num_heads, "key": kv_heads, "value": kv_heads}

        def project(name: str) -> Float[jax.Array, "B L heads head_dim"]:
            features = width // self.num_heads * heads[name]
            y = self.linears.make(name, features, ("embed", "heads"))(x, self.deterministic)
            return rearrange(y, "b l (heads d) -> b l heads d", heads=heads[name])

        q, k, v = map(project, heads)
        if cos_sin is not None:
            q, k = rotate(q, cos_sin), rotate(k, cos_sin)
        precision = self.linears.precision.matmul
        if past is not None:
            keys, values, slot = past
            k, v = write_slots(keys, k, slot), write_slots(values, v, slot)
            q = rearrange(q, "b l (heads group) d -> b (l group) heads d", group=group)
            attended = attend(q, k, v, mask=jnp.repeat(mask, group, axis=2), precision=precision)
            attended = rearrange(attended, "b (l group) heads d -> b l (heads group d)", group=group)
        else:
            key_of_each, value_of_each = (jnp.repeat(y, group, axis=2) for y in (k, v))
            if self.dropout and not self.deterministic:
                drop = nn.Dropout(self.dropout, deterministic=False)
                attended = attend(q, key_of_each, value_of_each, mask=mask, drop=drop, precision=precision)
            else:
                attended = fused_attend(q, key_of_each, value_of_each, mask=mask, precision=precision)
            attended = rearrange(attended, "b l heads d -> b l (heads d)")
        return self.linears.make("out", width, ("heads", "embed"))(attended, self.deterministic), (k, v)


class FeedForward(nn.Module):
    """Linear, activation, Linear. gated: the activation is of a third Linear, "gate", and multiplies the first (SwiGLU)."""

    mlp_size: int
    activation: str
    linears: Linears
    deterministic: bool
    gated: bool = False

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B L D"]) -> Float[jax.Array, "B L D"]:
        hidden, activate = (
            self.linears.make("up", self.mlp_size, ("embed", "mlp"))(x, self.deterministic),
            ACTIVATIONS[self.activation],
        )
        if self.gated:
            hidden = hidden * activate(self.linears.make("gate", self.mlp_size, ("embed", "mlp"))(x, self.deterministic))
        else:
            hidden = activate(hidden)
        return self.linears.make("down", x.shape[-1], ("mlp", "embed"))(hidden, self.deterministic)


def collected(collect: str, hidden: Float[jax.Array, "B L D"], keys_values: tuple[LayerSlots, LayerSlots]) -> Any:
    """Returns the additional output of a layer: "nothing", its "hidden" states, or its "keys_values"."""
    return {"nothing": None, "hidden": hidden, "keys_values": keys_values}[collect]


def check_targets(targets: Collection[str], linears: Collection[str]) -> None:
    """Raises ValueError if some of the targets of LoRA are no linears of a layer."""
    if unknown := sorted(set(targets) - set(linears)):
        raise ValueError(f"lora_targets {unknown}: use some of {', '.join(linears)}")


def adapter_table(linears: Mapping[str, tuple[str, str]], targets: Collection[str], num_layers: int) -> Table:
    """Returns the weight table of the adapters for PEFT's names ("layers.0.self_attn.q_proj.lora_A.weight", ...).

    linears: linear -> (its submodule of a layer, its PyTorch name).
    """
    layer = Table(
        Row(f"{part}/{ours}/lora_{side.lower()}", f"layers.{{i}}.{name}.lora_{side}.weight", Transpose())
        for ours, (part, name) in linears.items()
        if ours in targets
        for side in ("A", "B")
    )
    return layer.stacked(num_layers).with_prefix("layers/")
