"""GPT-2, the language model of SCA's smaller models (GPT2LMHeadModel of transformers 4.36.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Bool, Float, Int

from hyperseg_jax import axes
from hyperseg_jax.errors import UserError
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.rotary import CosSin
from hyperseg_jax.layers.token_tables import Embedding
from hyperseg_jax.llms.blocks import CausalAttention, FeedForward, LayerSlots, Linears, collected
from hyperseg_jax.llms.cache import KeyValues
from hyperseg_jax.llms.causal import CausalLM, Hidden
from hyperseg_jax.llms.head import tied_table
from hyperseg_jax.llms.settings import Settings
from hyperseg_jax.structs import DeviceArray, TokenStream
from hyperseg_jax.tables import FusedColumns, Identity, Row, Table

END = 50256  # <|endoftext|> in GPT-2's vocabulary
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")


class GPT2Layer(nn.Module):
    """The pre-norm block: attention, then feed-forward, each with a residual. Dropout acts on the attention weights and on the
    outputs of both parts.

    collect: see llms.blocks.collected.
    """

    num_heads: int
    mlp_size: int
    epsilon: float
    dropout: float
    precision: Precision
    deterministic: bool
    collect: str

    @nn.compact
    def __call__(
        self,
        x: Float[DeviceArray, "B L D"],
        cos_sin: None,
        mask: Bool[DeviceArray, "B 1 L S"],
        keys: LayerSlots | None = None,
        values: LayerSlots | None = None,
        slot: Int[DeviceArray, ""] | None = None,
    ) -> tuple[Float[jax.Array, "B L D"], Any]:
        linears, drop = Linears(self.precision), nn.Dropout(self.dropout, deterministic=self.deterministic)
        past: Any = None if slot is None else (keys, values, slot)
        attention = CausalAttention(self.num_heads, linears, self.deterministic, dropout=self.dropout, name="attention")
        attended, keys_values = attention(LayerNorm(self.epsilon, self.precision, name="norm1")(x), None, mask, past)
        x = x + drop(attended)
        mlp = FeedForward(self.mlp_size, "gelu_tanh", linears, self.deterministic, name="mlp")
        x = x + drop(mlp(LayerNorm(self.epsilon, self.precision, name="norm2")(x)))
        x = axes.constrain(x, "batch", "length", "act_embed")
        return x, collected(self.collect, x, keys_values)


class GPT2(CausalLM):
    """GPT-2, see CausalLM. The token table is also the kernel of the language head.

    num_positions: rows of the table of learned positions. dropout: of the embeddings, attention weights and outputs of the
    parts of a layer, if __call__ is not deterministic. Further part: positions.
    """

    vocab_size: int = 50257
    hidden_size: int = 768
    mlp_size: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    num_positions: int = 1024
    epsilon: float = 1e-5
    dropout: float = 0.1

    def setup(self) -> None:
        super().setup()
        self.positions = Embedding(self.num_positions, self.hidden_size, self.precision)
        self.drop = nn.Dropout(self.dropout)
        self.norm = LayerNorm(self.epsilon, self.precision)

    def _begin(
        self, embeddings: Float[DeviceArray, "B L D"], positions: Int[DeviceArray, "B L"], deterministic: bool
    ) -> tuple[Float[jax.Array, "B L D"], CosSin | None]:
        self._check_length(positions.shape[1])
        return self.drop(embeddings + self.positions(positions), deterministic=deterministic), None

    def _layer(self) -> tuple[type[nn.Module], dict[str, Any]]:
        names = ("num_heads", "mlp_size", "epsilon", "dropout", "precision")
        return GPT2Layer, {name: getattr(self, name) for name in names}

    def prefill(self, stream: TokenStream, empty_slots: int = 0, prefix: KeyValues | None = None) -> tuple[Hidden, KeyValues]:
        self._check_length((0 if prefix is None else prefix.visible.shape[1]) + stream.mask.shape[1] + empty_slots)
        return super().prefill(stream, empty_slots, prefix)

    def _check_length(self, length: int) -> None:
        """Raises UserError if the sequence is longer than the table of positions, of which JAX would use the last row."""
        if length > self.num_positions:
            raise UserError(
                f"{length} positions of text, of which up to {self.num_positions} are possible for this model; shorten the "
                "texts, or generate fewer tokens"
            )

    def logits(self, hidden: Float[DeviceArray, "*B D"]) -> Float[jax.Array, "*B {self.vocab_size}"]:
        """Returns the logits of the next token."""
        return self.tokens.logits(hidden)


def table(model: GPT2, *, with_head: bool = False) -> Table:
    """Returns the weight table for GPT2LMHeadModel ("transformer.wte.weight", ...). with_head: whether the checkpoint also has
    the head, "lm_head.weight", a copy of the token table; it may be missing in the import."""
    layer = norm_table("norm1", "ln_1") + norm_table("norm2", "ln_2")
    for part, name in (("kernel", "weight"), ("bias", "bias")):
        fused = tuple(f"attention/{linear}/{part}" for linear in ("query", "key", "value"))
        layer += Table([Row(fused, f"attn.c_attn.{name}", FusedColumns())])
        pairs = {"attention/out": "attn.c_proj", "mlp/up": "mlp.c_fc", "mlp/down": "mlp.c_proj"}
        layer += Table(Row(f"{ours}/{part}", f"{theirs}.{name}", Identity()) for ours, theirs in pairs.items())
    rows = Table([Row("positions/embedding", "transformer.wpe.weight", Identity())])
    rows += layer.with_prefix(name="transformer.h.{i}.").stacked(model.num_layers).with_prefix("layers/")
    return rows + norm_table("norm", "transformer.ln_f") + tied_table("transformer.wte.weight", with_head)


def from_hub(content: Mapping[str, Any], **fields: Any) -> GPT2:
    """Returns the model of a config.json of GPT2LMHeadModel. fields: others, such as precision. Raises UserError that names an
    invalid or unsupported field."""
    settings = Settings(content)
    settings.check("activation_function", "gelu_new", "gelu_pytorch_tanh")
    settings.check("tie_word_embeddings", True)
    settings.check("scale_attn_weights", True)
    settings.check("scale_attn_by_inverse_layer_idx", False)
    settings.check("add_cross_attention", False)
    dropouts = {settings.number(name, 0.1) for name in DROPOUTS}
    if len(dropouts) > 1:
        raise UserError(f"{', '.join(DROPOUTS)} differ, but the model has one dropout; set them to one value")
    width = settings.size("n_embd", 768)
    return GPT2(
        settings.size("vocab_size", 50257),
        width,
        settings.size("n_inner", 4 * width),
        settings.size("n_layer", 12),
        settings.size("n_head", 12),
        settings.size("n_positions", 1024),
        epsilon=settings.number("layer_norm_epsilon", 1e-5),
        **{"dropout": dropouts.pop(), **fields},
    )


def hub_settings(model: GPT2) -> dict[str, Any]:
    """Returns the config.json of GPT2LMHeadModel, see from_hub."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocab_size,
        "n_embd": model.hidden_size,
        "n_inner": model.mlp_size,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_positions": model.num_positions,
        "layer_norm_epsilon": model.epsilon,
        "activation_function": "gelu_new",
        **dict.fromkeys(DROPOUTS, model.dropout),
        "tie_word_embeddings": True,
        **dict.fromkeys(("bos_token_id", "eos_token_id"), END if model.vocab_size > END else None),
    }
