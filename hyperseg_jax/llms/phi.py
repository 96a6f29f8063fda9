"""Phi, the causal language model of HyperSeg (PhiModel of transformers 4.38.2)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Bool, Float, Int

from hyperseg_jax import axes
from hyperseg_jax.layers.linear import LoRA, linear_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.rotary import CosSin, rotary_angles
from hyperseg_jax.llms.blocks import CausalAttention, FeedForward, LayerSlots, Linears, adapter_table, check_targets, collected
from hyperseg_jax.llms.causal import CausalLM
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Identity, Row, Table

# linear -> (its submodule of a layer, its PyTorch name)
LINEARS = {
    "query": ("attention", "self_attn.q_proj"),
    "key": ("attention", "self_attn.k_proj"),
    "value": ("attention", "self_attn.v_proj"),
    "out": ("attention", "self_attn.dense"),
    "up": ("mlp", "mlp.fc1"),
    "down": ("mlp", "mlp.fc2"),
}


class PhiLayer(nn.Module):
    """The parallel block: x + attention(norm(x)) + mlp(norm(x)).

    collect: additional output: "nothing", the output "hidden" states, or the "keys_values".
    """

    num_heads: int
    mlp_size: int
    epsilon: float
    lora: LoRA | None
    lora_targets: tuple[str, ...]
    precision: Precision
    deterministic: bool
    collect: str

    @nn.compact
    def __call__(
        self,
        x: Float[DeviceArray, "B L D"],
        cos_sin: CosSin,
        mask: Bool[DeviceArray, "B 1 L S"],
        keys: LayerSlots | None = None,
        values: LayerSlots | None = None,
        slot: Int[DeviceArray, ""] | None = None,
    ) -> tuple[Float[jax.Array, "B L D"], Any]:
        linears = Linears(self.precision, lora=self.lora, lora_targets=self.lora_targets)
        normed = LayerNorm(self.epsilon, self.precision, name="norm")(x)
        past: Any = None if slot is None else (keys, values, slot)
        attention = CausalAttention(self.num_heads, linears, self.deterministic, name="attention")
        attended, keys_values = attention(normed, cos_sin, mask, past)
        x = x + attended
        x = x + FeedForward(self.mlp_size, "gelu_tanh", linears, self.deterministic, name="mlp")(normed)
        x = axes.constrain(x, "batch", "length", "act_embed")
        return x, collected(self.collect, x, keys_values)


class Phi(CausalLM):
    """Phi, see CausalLM.

    rotary_fraction: share of each head that is rotated, rounded down. The language head is a LanguageHead, which may have more
    tokens. lora: a low-rank adapter inside the linears named in lora_targets (of query, key, value, out, up, down).
    """

    vocab_size: int = 51200
    hidden_size: int = 2560
    mlp_size: int = 10240
    num_layers: int = 32
    num_heads: int = 32
    rotary_fraction: float = 0.4
    rotary_theta: float = 10000.0
    epsilon: float = 1e-5
    lora: LoRA | None = None
    lora_targets: tuple[str, ...] = ("query", "value")

    def setup(self) -> None:
        super().setup()
        check_targets(self.lora_targets, LINEARS)
        self.norm = LayerNorm(self.epsilon, self.precision)

    def _begin(
        self, embeddings: Float[DeviceArray, "B L D"], positions: Int[DeviceArray, "B L"], deterministic: bool
    ) -> tuple[Float[jax.Array, "B L D"], CosSin | None]:
        dims = int(self.rotary_fraction * (self.hidden_size // self.num_heads))
        return embeddings, rotary_angles(positions, dims, self.rotary_theta)

    def _layer(self) -> tuple[type[nn.Module], dict[str, Any]]:
        names = ("num_heads", "mlp_size", "epsilon", "lora", "lora_targets", "precision")
        return PhiLayer, {name: getattr(self, name) for name in names}


def table(phi: Phi) -> Table:
    """Returns the weight table for PhiModel ("embed_tokens.weight", ...). Adapters are in lora_table."""
    layer = norm_table("norm", "layers.{i}.input_layernorm")
    for ours, (part, name) in LINEARS.items():
        layer += linear_table(f"{part}/{ours}", f"layers.{{i}}.{name}")
    tokens = Table([Row("tokens/embedding", "embed_tokens.weight", Identity())])
    return tokens + layer.stacked(phi.num_layers).with_prefix("layers/") + norm_table("norm", "final_layernorm")


def lora_table(phi: Phi) -> Table:
    """Returns the weight table of the adapters, see blocks.adapter_table."""
    return adapter_table(LINEARS, phi.lora_targets if phi.lora is not None else (), phi.num_layers)
