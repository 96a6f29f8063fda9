"""The protocol of a system, and the registry. train, evaluate and export know only this."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import flax.linen as nn
import jax
from jaxtyping import Float32, PRNGKeyArray, Shaped
from ml_collections import ConfigDict

from hyperseg_jax.data.processor import Batch, Encoding, Processor
from hyperseg_jax.errors import UserError
from hyperseg_jax.llms.generate import Writer
from hyperseg_jax.results.answers import Answers
from hyperseg_jax.tables import Adapters, Part, Published, Rule, Table
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted.printing import first_line, shown

Model = TypeVar("Model", bound=nn.Module)

_known: dict[str, str | System[Any]] = {"hyperseg": "hyperseg_jax.systems.hyperseg"}
"""By name: a system, or the module whose SYSTEM it is."""


Params = Any
"""Nested dictionaries of arrays."""
Counts = Any
"""A pytree of float32 arrays: the divisors of the losses of a batch."""
Memory = Any
"""A pytree of arrays [B, ...]: what the next frame needs of this one, or the next round about the same image; None before the
first, and where a system has none. The next call may have room for more regions; those of before keep their places."""
Metrics = dict[str, Float32[jax.Array, ""]]
"""By name."""
Loss = Callable[[Params, Batch, PRNGKeyArray, Counts], tuple[Float32[jax.Array, ""], Metrics]]
"""(parameters, batch, key, counts) -> (total, metrics)."""
Predict = Callable[[Params, Batch, Mapping[str, Any], Memory], tuple[dict[str, Shaped[jax.Array, "*_"]], Memory]]
"""(parameters, batch, features, memory) -> (outputs, memory).

outputs: [B, T, K, ...] of elements, frames and prompts. features: of the parts that were encoded apart; {} for none, and then
it encodes all itself."""


class MakeTokenizer(Protocol):
    """(config, where) -> the tokenizer in a file or folder, by default the config's. UserError where the model has no
    embeddings for some of its ids."""

    def __call__(self, config: ConfigDict, where: str | os.PathLike[str] | None = None, /) -> Tokenizer: ...


@dataclasses.dataclass(frozen=True)
class System(Generic[Model]):
    """A published system as a value. Its model is a Linen module, the same in all of its functions.

    build(config) -> the model of config.model.
    init(model, config, key) -> parameters boxed with their axis names. Their shapes depend on config.model alone.
    tokenizer(config, where) -> see MakeTokenizer.
    processor(config, tokenizer, task) -> the Processor of a task, whose sizes are given; {} in prediction. tokenizer: None
    where only shapes are asked for.
    counts(model, config) -> f(batch) -> Counts. Those of several batches add up to those of one batch that holds all of them.
    loss(model, config) -> the Loss: sums over the batch, divided by the counts. With the counts of a larger batch, the totals
    and metrics of its parts add up to its own.
    answers: how outputs about one prompt on one frame become Predictions.
    weight_table(config) -> Table of the published names.
    published: the kinds of public checkpoints that its weights come from.
    extras: names of the table that the authors' code does not know, and why they exist.
    hf_config(config) -> the config.json that the authors' code wants beside an export.
    parts: by name, those that a class of transformers can hold; no_parts: those that none can, and why.
    adapters(config) -> the names of its low-rank adapters in PEFT; None where it has none.
    encode(model, config) -> by part of a batch (Processor.parts), in order, how it is encoded.
    predict(model, config) -> the Predict; None where a system has no masks.
    write(model, config) -> the Writer of its texts; None where a system writes none.
    interactive: whether it takes points beside the object as well as on it, and a memory from round to round about one image.
    shorten(batch, length) -> the batch with its sequences cut to that length, or None where they are no longer, as in a system
    without sequences. Like `needed`, it is called while jit traces.
    needed(batch) -> int32 scalar: the length that holds each sequence of the batch.
    """

    name: str
    build: Callable[[ConfigDict], Model]
    init: Callable[[Model, ConfigDict, jax.Array], Params]
    tokenizer: MakeTokenizer
    processor: Callable[[ConfigDict, Tokenizer | None, Mapping[str, int]], Processor]
    counts: Callable[[Model, ConfigDict], Callable[[Batch], Counts]]
    loss: Callable[[Model, ConfigDict], Loss]
    answers: Answers
    weight_table: Callable[[ConfigDict], Table]
    published: tuple[Published, ...]
    extras: tuple[Rule, ...]
    hf_config: Callable[[ConfigDict], dict[str, Any]]
    parts: Mapping[str, Part] = dataclasses.field(default_factory=dict)
    no_parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    adapters: Callable[[ConfigDict], Adapters] | None = None
    encode: Callable[[Model, ConfigDict], Mapping[str, Encoding]] = lambda model, config: {}
    predict: Callable[[Model, ConfigDict], Predict] | None = None
    write: Callable[[Model, ConfigDict], Writer] | None = None
    interactive: bool = False
    shorten: Callable[[Batch, int], Batch | None] = lambda batch, length: None
    needed: Callable[[Batch], jax.Array | int] = lambda batch: 0

    def whole_loss(self, model: Model, config: ConfigDict) -> Callable[[Params, Batch, jax.Array], tuple[jax.Array, Metrics]]:
        """f(params, batch, key) -> (total, metrics): the loss with the batch's own counts."""
        counts, loss = self.counts(model, config), self.loss(model, config)
        return lambda params, batch, key: loss(params, batch, key, counts(batch))

    def init_plain(self, model: Model, config: ConfigDict, key: jax.Array) -> Params:
        """init without the axis names: nested arrays."""
        return nn.unbox(self.init(model, config, key))

    def boxed_shapes(self, config: ConfigDict) -> Any:
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

    def shapes(self, config: ConfigDict) -> Any:
        """The parameters that `init` makes as nested jax.ShapeDtypeStruct."""
        return nn.unbox(self.boxed_shapes(config))


def lora(config: ConfigDict) -> Any:
    """The block of a config's low-rank adapters, config.model.lora; None where it has none."""
    block = config.model.get("lora")
    return block if block is not None and block.rank else None


_traced: dict[tuple[Callable[..., Any], str], Any] = {}


GROUP = "hyperseg_jax.systems"
"""The entry points by which installed packages make their systems known, under their names."""


def register(system: System[Any]) -> None:
    """Makes a system known under its name. ValueError where another one has it."""
    if _known.setdefault(system.name, system) is not system:
        raise ValueError(f"a system {system.name!r} is known already")


@functools.cache
def get(name: str) -> System[Any]:
    """The system of that name. What its functions cannot make of a config is a UserError that names the block."""
    for point in importlib.metadata.entry_points(group=GROUP, name=name) if name not in _known else ():
        register(point.load())
    if name not in _known:
        raise UserError(
            f"system = {shown(str(name))!r} is not known; use one of {', '.join(_known)}, or install the package that has it"
        )
    held = _known[name]
    system: System[Any] = importlib.import_module(held).SYSTEM if isinstance(held, str) else held
    blocks = {
        "build": "model",
        "init": "model",
        "weight_table": "model",
        "tokenizer": "model",
        "counts": "loss",
        "loss": "loss",
        "processor": "data",
    }
    told: dict[str, Any] = {
        field: _with_user_errors(getattr(system, field), f"{block}: describes no {name}") for field, block in blocks.items()
    }
    return dataclasses.replace(system, **told)


Made = TypeVar("Made")
Given = ParamSpec("Given")


def _with_user_errors(make: Callable[Given, Made], what: str) -> Callable[Given, Made]:
    """`make`, which raises UserError alone. It depends on the config, whose sizes modules, Flax and JAX refuse in many ways."""

    @functools.wraps(make)
    def made(*given: Given.args, **named: Given.kwargs) -> Made:
        try:
            return make(*given, **named)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{what} of this version ({shown(first_line(error))}); correct this block of the config") from error

    return made
