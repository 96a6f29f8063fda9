"""The protocol of a system, and the registry. train, evaluate and export know only this."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from hyperseg_jax.data.processor import Batch, Encoding, Processor
from hyperseg_jax.errors import UserError
from hyperseg_jax.llms.generate import Writer
from hyperseg_jax.results.answers import Answers
from hyperseg_jax.tables import Adapters, Part, Published, Rule
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted.printing import first_line, shown

_known: dict[str, str | System] = {"hyperseg": "hyperseg_jax.systems.hyperseg"}
"""By name: a system, or the module whose SYSTEM it is."""


Counts = Any
"""A pytree of float32 arrays: the divisors of the losses of a batch."""

Loss = Callable[[Any, Batch, jax.Array, Counts], tuple[jax.Array, dict[str, jax.Array]]]
"""(parameters, batch, key, counts) -> (total, metrics), float32 scalars."""


Predict = Callable[[Any, Batch, Mapping[str, Any], Any], tuple[dict[str, jax.Array], Any]]
"""(parameters, batch, features, memory) -> (outputs [B, T, K, ...] of elements, frames and prompts, memory)."""


@dataclasses.dataclass(frozen=True)
class System:
    """A published system as a value.

    build(config) -> nn.Module.
    tokenizer(config, where=None) -> the Tokenizer in a file or folder, by default the config's, which fits the model.
    processor(config, tokenizer, task) -> the data.processor.Processor of a task, whose sizes are given; {} in prediction.
    tokenizer: None where only shapes are asked for.
    init(model, config, key) -> parameters boxed with their axis names. Their shapes depend on config.model alone.
    counts(model, config) -> f(batch) -> Counts. Those of several batches add up to those of one batch that holds all of them.
    loss(model, config) -> the Loss: sums over the batch, divided by the counts. With the counts of a larger batch, the totals
    and metrics of its parts add up to its own.
    encode(model, config) -> by part of a batch (Processor.parts), in order, how it is encoded.
    predict(model, config) -> the Predict; outputs are [B, T, K, ...] of frames and prompts. None where a system has no masks.
    features: of the parts that were encoded apart; {} for none, and then it encodes all itself. memory: what the next frame
    needs of this one; None before the first, and where a system has none.
    answers: how outputs about one prompt on one frame become Predictions.
    weight_table(config) -> Table of the published names.
    published: the kinds of public checkpoints that its weights come from.
    extras: names of the table that the authors' code does not know, and why they exist.
    hf_config(config) -> the config.json that the authors' code wants beside an export.
    parts: by name, those that a class of transformers can hold; no_parts: those that none can, and why.
    adapters(config) -> the names of its low-rank adapters in PEFT; None where it has none.
    shorten(batch, length) -> the batch with its sequences cut to that length, or None where they are no longer, as in a system
    without sequences. Like `needed`, it is called while jit traces.
    needed(batch) -> int32 scalar: the length that holds each sequence of the batch.
    write(model, config) -> the llms.generate.Writer of texts, where the system writes them.
    """

    name: str
    build: Callable[..., Any]
    init: Callable[..., Any]
    tokenizer: Callable[..., Tokenizer]
    processor: Callable[..., Processor]
    counts: Callable[[Any, Any], Callable[[Batch], Counts]]
    loss: Callable[[Any, Any], Loss]
    answers: Answers
    weight_table: Callable[..., Any]
    published: tuple[Published, ...]
    extras: tuple[Rule, ...]
    hf_config: Callable[..., dict[str, Any]]
    parts: Mapping[str, Part] = dataclasses.field(default_factory=dict)
    no_parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    adapters: Callable[[Any], Adapters] | None = None
    predict: Callable[[Any, Any], Predict] | None = None
    shorten: Callable[[Batch, int], Batch | None] = lambda batch, length: None
    needed: Callable[[Batch], jax.Array | int] = lambda batch: 0
    encode: Callable[[Any, Any], Mapping[str, Encoding]] = lambda model, config: {}
    write: Callable[[Any, Any], Writer] | None = None

    def whole_loss(self, model: Any, config: Any) -> Callable[[Any, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]:
        """f(params, batch, key) -> (total, metrics): the loss with the batch's own counts."""
        counts, loss = self.counts(model, config), self.loss(model, config)
        return lambda params, batch, key: loss(params, batch, key, counts(batch))

    def init_plain(self, model: Any, config: Any, key: Any) -> Any:
        """init without the axis names: nested arrays."""
        return nn.unbox(self.init(model, config, key))

    def boxed_shapes(self, config: Any) -> Any:
        """The parameters that `init` makes as jax.ShapeDtypeStruct, boxed with their axis names; traced once for each model."""
        key = self.init, config.model.to_json()
        if key not in _traced:
            _traced[key] = jax.eval_shape(lambda: self.init(self.build(config), config, jax.random.key(0)))
        return _traced[key]

    def part(self, name: str) -> Part:
        """UserError where no class of transformers can hold the part."""
        if name in self.parts:
            return self.parts[name]
        why = self.no_parts.get(name, f"no part of {self.name} that transformers has a class for")
        raise UserError(f"{name}: {why}; export one of {', '.join(self.parts) or 'no part'}, or the whole system")

    def shapes(self, config: Any) -> Any:
        """The parameters that `init` makes as nested jax.ShapeDtypeStruct."""
        return nn.unbox(self.boxed_shapes(config))


def lora(config: Any) -> Any:
    """The block of a config's low-rank adapters, config.model.lora; None where it has none."""
    block = config.model.get("lora")
    return block if block is not None and block.rank else None


_traced: dict[tuple[Callable[..., Any], str], Any] = {}


def register(system: System) -> None:
    """Makes a system known under its name. ValueError where another one has it."""
    if _known.setdefault(system.name, system) is not system:
        raise ValueError(f"a system {system.name!r} is known already")


@functools.cache
def get(name: str) -> System:
    """The system of that name. What its functions cannot make of a config is a UserError that names the block."""
    if name not in _known:
        raise UserError(f"system = {name!r} is not known; use one of {', '.join(_known)}")
    held = _known[name]
    system: System = importlib.import_module(held).SYSTEM if isinstance(held, str) else held
    blocks = {"build": "model", "init": "model", "weight_table": "model", "counts": "loss", "loss": "loss", "processor": "data"}
    told: dict[str, Any] = {
        field: _with_user_errors(getattr(system, field), f"{block}: describes no {name}") for field, block in blocks.items()
    }
    return dataclasses.replace(system, **told)


def _with_user_errors(make: Callable[..., Any], what: str) -> Callable[..., Any]:
    """`make`, which raises UserError alone. It depends on the config, whose sizes modules, Flax and JAX refuse in many ways."""

    @functools.wraps(make)
    def made(*given: Any) -> Any:
        try:
            return make(*given)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{what} of this version ({shown(first_line(error))}); correct this block of the config") from error

    return made
