"""The language model of a system as a folder of transformers: its parts for export, and the source checkpoints for import."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

from hyperseg_jax.errors import UserError
from hyperseg_jax.llms import gpt2, llama
from hyperseg_jax.llms.gpt2 import GPT2
from hyperseg_jax.llms.llama import Llama
from hyperseg_jax.tables import Part, Rule, SourceCheckpoint, Table
from hyperseg_jax.untrusted.printing import escaped_value

Find = Callable[[Any], Any]
"""Returns the language model of a config, a GPT2 or Llama."""
KINDS: Mapping[str, tuple[type, types.ModuleType]] = {"gpt2": (GPT2, gpt2), "llama": (Llama, llama)}
COMPARED = (
    *("hidden_size", "mlp_size", "num_layers", "num_heads", "num_kv_heads", "num_positions"),
    *("rotary_theta", "epsilon", "tied"),
)
"""Fields of a language model that its weights must agree with."""


def from_hub(content: Mapping[str, Any], **fields: Any) -> GPT2 | Llama:
    """Returns the model of a config.json. fields: others, such as precision. Raises UserError that names an invalid or
    unsupported field."""
    kind = content.get("model_type")
    if type(kind) is not str or kind not in KINDS:
        raise UserError(f"model_type = {escaped_value(kind)} is not supported, only {' or '.join(KINDS)}; use another model")
    model: GPT2 | Llama = KINDS[kind][1].from_hub(content, **fields)
    return model


def weight_table(model: GPT2 | Llama, *, with_head: bool = False) -> Table:
    """Returns the weight table for the class of transformers. with_head: see head.tied_table."""
    return gpt2.table(model, with_head=with_head) if isinstance(model, GPT2) else llama.table(model, with_head=with_head)


def make_parts(find: Find, path: str = "llm/") -> dict[str, Part]:
    """Returns the parts "gpt2" and "llama" of a system, for its System.parts. path: prefix of the parameters of the language
    model."""

    def checked(name: str, config: Any) -> Any:
        model, (kind, _) = find(config), KINDS[name]
        if not isinstance(model, kind):
            other = next(other for other, (kind, _) in KINDS.items() if isinstance(model, kind))
            raise UserError(f"{name}: the language model of this config is {other}; export that part")
        return model

    def make(name: str, module: Any) -> Part:
        table = lambda config: module.table(checked(name, config)).with_prefix(path)
        return Part((path,), table, lambda config: module.hub_settings(checked(name, config)), reads_text=True)

    return {name: make(name, module) for name, (_, module) in KINDS.items()}


def source_checkpoints(
    find: Find, field: str = "model.llm", prefix: str = "language_model.", initialized: tuple[Rule, ...] = ()
) -> tuple[SourceCheckpoint, SourceCheckpoint]:
    """Returns the checkpoints of GPT-2 and LLaMA for System.source_checkpoints.

    field: the block of the config. prefix: of their names in the weight table of the system. initialized: names of the table
    that they lack.
    """
    check = functools.partial(check_settings, find, field)
    is_gpt2 = SourceCheckpoint(
        "GPT-2",
        mark=r"(transformer\.)?wpe\.weight",
        file="the folder of openai-community/gpt2-large",
        renames=(
            (r"(?:transformer\.)?((?:wte|wpe|h|ln_f)\..*)", rf"{prefix}transformer.\1"),
            (r"lm_head\.weight", f"{prefix}lm_head.weight"),
        ),
        ignored=(Rule(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias", "the causal mask is computed"),),
        initialized=initialized,
        check_settings=check,
    )
    is_llama = SourceCheckpoint(
        "LLaMA",
        mark=r"model\.layers\.0\.mlp\.gate_proj\.weight",
        file="the folder of openlm-research/open_llama_3b_v2",
        renames=((r"(model\..*|lm_head\.weight)", rf"{prefix}\1"),),
        ignored=(Rule(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", "the rotary frequencies are computed"),),
        initialized=initialized,
        check_settings=check,
    )
    return is_gpt2, is_llama


def check_settings(find: Find, field: str, content: Mapping[str, Any], config: Any) -> None:
    """Raises UserError if a config.json is that of another model than the language model of a config."""
    model, published = find(config), from_hub(content)
    if type(model) is not type(published):
        raise UserError(f"is of {type(published).__name__}, but {field} is {type(model).__name__}; set it in the config")
    for name in (each.name for each in dataclasses.fields(published) if each.name in COMPARED):
        ours, theirs = (getattr(each, {"num_kv_heads": "kv_heads"}.get(name, name)) for each in (model, published))
        if ours != theirs:
            raise UserError(f"is of a model with {name} = {theirs}, but {field}.{name} = {ours}; set it to {theirs}")
