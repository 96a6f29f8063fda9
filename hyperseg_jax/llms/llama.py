"""LLaMA, the language model of SCA's larger models (LlamaForCausalLM of transformers 4.36.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from hyperseg_jax import axes
from hyperseg_jax.layers.linear import LoRA, linear_table
from hyperseg_jax.layers.norms import RMSNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.rotary import CosSin, rotary_angles
from hyperseg_jax.llms.blocks import CausalAttention, FeedForward, LayerSlots, Linears, adapter_table, check_targets, collected
from hyperseg_jax.llms.causal import CausalLM
from hyperseg_jax.llms.head import LanguageHead, head_table, tied_table
from hyperseg_jax.llms.settings import Settings
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Identity, Row, Table

VOCABULARY, START, END = 32000, 1, 2  # number of tokens, <s> and </s> of LLaMA
CONTEXT = 2048  # open_llama's max_position_embeddings; the weights do not depend on it
# linear -> (its submodule of a layer, its PyTorch name)
LINEARS = {
    "query": ("attention", "self_attn.q_proj"),
    "key": ("attention", "self_attn.k_proj"),
    "value": ("attention", "self_attn.v_proj"),
    "out": ("attention", "self_attn.o_proj"),
    "gate": ("mlp", "mlp.gate_proj"),
    "up": ("mlp", "mlp.up_proj"),
    "down": ("mlp", "mlp.down_proj"),
}


class LlamaLayer(nn.Module):
    """The pre-norm block without biases: attention, then SwiGLU, each with a residual. collect: see llms.blocks.collected."""

    num_heads: int
    num_kv_heads: int
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
        linears = Linears(self.precision, use_bias=False, lora=self.lora, lora_targets=self.lora_targets)
        past: Any = None if slot is None else (keys, values, slot)
        attention = CausalAttention(self.num_heads, linears, self.deterministic, self.num_kv_heads, name="attention")
        attended, keys_values = attention(RMSNorm(self.epsilon, self.precision, name="norm1")(x), cos_sin, mask, past)
        x = x + attended
        mlp = FeedForward(self.mlp_size, "silu", linears, self.deterministic, gated=True, name="mlp")
        x = x + mlp(RMSNorm(self.epsilon, self.precision, name="norm2")(x))
        x = axes.constrain(x, "batch", "length", "act_embed")
        return x, collected(self.collect, x, keys_values)


class Llama(CausalLM):
    """LLaMA, see CausalLM. Defaults: open_llama_3b.

    num_kv_heads: heads of keys and values, each shared by a group of query heads; None means num_heads. tied: whether the token
    table is also the kernel of the language head. lora: a low-rank adapter inside the linears named in lora_targets (of query,
    key, value, out, gate, up, down). Further part: head, unless it is tied.
    """

    vocab_size: int = 32000
    hidden_size: int = 3200
    mlp_size: int = 8640
    num_layers: int = 26
    num_heads: int = 32
    num_kv_heads: int | None = None
    rotary_theta: float = 10000.0
    epsilon: float = 1e-6
    tied: bool = False
    lora: LoRA | None = None
    lora_targets: tuple[str, ...] = ("query", "value")

    def setup(self) -> None:
        super().setup()
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}")
        check_targets(self.lora_targets, LINEARS)
        if not self.tied:
            self.head = LanguageHead(self.vocab_size, self.precision)
        self.norm = RMSNorm(self.epsilon, self.precision)

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    def _use_tables(self) -> None:
        super()._use_tables()
        self.logits(jnp.zeros((1, self.hidden_size)))

    def _begin(
        self, embeddings: Float[DeviceArray, "B L D"], positions: Int[DeviceArray, "B L"], deterministic: bool
    ) -> tuple[Float[jax.Array, "B L D"], CosSin | None]:
        return embeddings, rotary_angles(positions, self.hidden_size // self.num_heads, self.rotary_theta)

    def _layer(self) -> tuple[type[nn.Module], dict[str, Any]]:
        names = ("num_heads", "mlp_size", "epsilon", "lora", "lora_targets", "precision")
        return LlamaLayer, {"num_kv_heads": self.kv_heads, **{name: getattr(self, name) for name in names}}

    def logits(self, hidden: Float[DeviceArray, "*B D"]) -> Float[jax.Array, "*B {self.vocab_size}"]:
        """Returns the logits of the next token."""
        return self.tokens.logits(hidden) if self.tied else self.head(hidden)


def table(model: Llama, *, with_head: bool = False) -> Table:
    """Returns the weight table for LlamaForCausalLM ("model.embed_tokens.weight", ...). Adapters are in lora_table.

    with_head: of a model with a tied head, see gpt2.table.
    """
    layer = norm_table("norm1", "input_layernorm", use_bias=False)
    layer += norm_table("norm2", "post_attention_layernorm", use_bias=False)
    for ours, (part, name) in LINEARS.items():
        layer += linear_table(f"{part}/{ours}", name, use_bias=False)
    rows = layer.with_prefix(name="model.layers.{i}.").stacked(model.num_layers).with_prefix("layers/")
    rows += norm_table("norm", "model.norm", use_bias=False)
    if model.tied:
        return rows + tied_table("model.embed_tokens.weight", with_head)
    return rows + Table([Row("tokens/embedding", "model.embed_tokens.weight", Identity())]) + head_table().with_prefix("head/")


def lora_table(model: Llama) -> Table:
    """Returns the weight table of the adapters, see blocks.adapter_table."""
    return adapter_table(LINEARS, model.lora_targets if model.lora is not None else (), model.num_layers)


def from_hub(content: Mapping[str, Any], **fields: Any) -> Llama:
    """Returns the model of a config.json of LlamaForCausalLM. fields: others, such as precision. Raises UserError that names an
    invalid or unsupported field."""
    settings = Settings(content)
    settings.check("hidden_act", "silu")
    settings.check("attention_bias", False)
    settings.check("mlp_bias", False)
    rotary = settings.block("rope_parameters")  # since transformers 5; before, rope_theta and rope_scaling
    rotary.check("rope_type", "default")
    for name in ("rope_type", "type"):
        settings.block("rope_scaling").check(name, "default")
    width, heads = settings.size("hidden_size", 4096), settings.size("num_attention_heads", 32)
    settings.check("head_dim", width // heads)
    return Llama(
        settings.size("vocab_size", 32000),
        width,
        settings.size("intermediate_size", 11008),
        settings.size("num_hidden_layers", 32),
        heads,
        settings.size("num_key_value_heads", heads),
        rotary_theta=rotary.number("rope_theta", settings.number("rope_theta", 10000.0)),
        epsilon=settings.number("rms_norm_eps", 1e-6),
        **{"tied": settings.flag("tie_word_embeddings", False), **fields},
    )


def hub_settings(model: Llama) -> dict[str, Any]:
    """Returns the config.json of LlamaForCausalLM, see from_hub."""
    has_ids = model.vocab_size >= VOCABULARY
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.mlp_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": model.epsilon,
        "rope_theta": model.rotary_theta,
        "max_position_embeddings": CONTEXT,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": model.tied,
        "bos_token_id": START if has_ids else None,
        "eos_token_id": END if has_ids else None,
    }
