"""The interface of a system, and the registry. Training, evaluation and export depend only on this interface."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import flax.linen as nn
import jax
from jaxtyping import Float, Float32, PRNGKeyArray, Shaped
from ml_collections import ConfigDict

from hyperseg_jax.data.processor import Batch, Encoding, Processor
from hyperseg_jax.datasets.frame_sampling import ReferenceFrames
from hyperseg_jax.errors import UserError
from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.llms.generate import Writer
from hyperseg_jax.results.answers import Answers
from hyperseg_jax.structs import Prompt
from hyperseg_jax.tables import Adapters, Part, PublishedField, Rule, SourceCheckpoint, Table, flatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted.printing import escaped, first_line

Model = TypeVar("Model", bound=nn.Module)

_registered: dict[str, str | System[Any]] = {
    name: f"hyperseg_jax.systems.{name}" for name in ("hyperseg", "instructseg", "seem", "sam", "sca", "ifseg")
}
"""Registered systems by name: a System, or the module that defines it as SYSTEM."""


Params = Any
"""Nested dictionaries of arrays."""
Counts = Any
"""A pytree of float32 arrays: the divisors of the losses of a batch."""
Memory = Any
"""A pytree of arrays [B, ...] that is passed to the next frame, or to the next interactive round about the same image.

None before the first frame or round, and if a system has no memory. The next call may have room for more regions; earlier
regions keep their indices."""
Metrics = dict[str, Float32[jax.Array, ""]]
"""Scalars by name. NAME/mean and NAME/mean_square are logged as mean and spread (systems/moments.py), and drawn if NAME is
gates/PATH (training/plots.py)."""
Loss = Callable[[Params, Batch, PRNGKeyArray, Counts], tuple[Float32[jax.Array, ""], Metrics]]
"""(parameters, batch, key, counts) -> (total, metrics)."""
Predict = Callable[[Params, Batch, Mapping[str, Any], Memory], tuple[dict[str, Shaped[jax.Array, "*_"]], Memory]]
"""(parameters, batch, features, memory) -> (outputs, memory).

outputs: [B, T, K, ...] over examples, frames and prompts; among them, "written" is the tokens of names, see
System.split_names. features: those of parts that were encoded separately
(System.encode); parts without features are encoded here."""


Propose = Callable[
    [Params, Mapping[str, Any], Float32[jax.Array, "N 2"]], tuple[Float[jax.Array, "N C h w"], Float[jax.Array, "N C"]]
]
"""(parameters, features of one image, points (x, y) in pixels of the model's input) -> (mask logits of the candidates for what
is at each point, the IoU that is expected of them)."""


class MakeTokenizer(Protocol):
    """Loads a tokenizer: (config, path) -> the tokenizer in a file or folder; that of the config by default.

    Raises UserError if the model has no embeddings for some of its ids.
    """

    def __call__(self, config: ConfigDict, path: str | os.PathLike[str] | None = None, /) -> Tokenizer: ...


class Adapt(Protocol):
    """Returns the config that trains a model to segment some classes, by the published recipe.

    config, tokenizer: of the model. classes: their names, with the synonyms of class_prompts.SYNONYM. train: labelled images,
    as a reader and its fields; without, the training needs no image. val: labelled images of the validation. Raises UserError
    if the model cannot read so many names.
    """

    def __call__(
        self,
        config: ConfigDict,
        tokenizer: Tokenizer | None,
        classes: Sequence[str],
        /,
        *,
        train: Mapping[str, Any] | None = None,
        val: Mapping[str, Any] | None = None,
    ) -> ConfigDict: ...


@dataclasses.dataclass(frozen=True)
class System(Generic[Model]):
    """A published system. All of its functions use the same Linen model.

    build(config) -> the model of config.model.
    init(model, config, key) -> parameters boxed with their axis names. Their shapes depend on config.model and
    data.image_size alone.
    tokenizer: loads a tokenizer, see MakeTokenizer; None if the system reads and writes no text.
    processor(config, tokenizer, task) -> the Processor of a task. task: its array sizes, {} in prediction. tokenizer: may be
    None if only shapes are needed.
    counts(model, config) -> f(batch) -> Counts. Counts of several batches sum to the counts of the concatenated batch.
    loss(model, config) -> the Loss: sums over the batch, divided by the counts. With the counts of a larger batch, the losses
    and metrics of its parts sum to those of the whole batch. None, like counts, if the system has no training.
    answers: converts the outputs of one prompt on one frame to Predictions.
    weight_table(config) -> Table from the parameters to the published names.
    source_checkpoints: the kinds of public checkpoints that its weights are imported from; its own is the first.
    extra_names: names of the table that the authors' code does not have, with the reason.
    published_fields: fields of config.model that change the results but no weight, with the values of the authors' code.
    prediction_fields: fields of config.model, or blocks of them, that choose what is predicted from the same weights.
    untrained: names of the table that no loss trains and no prediction uses, with the reason. They are kept so that an export
    has all names of the authors' code.
    hf_config(config) -> the config.json that the authors' code requires in an exported folder.
    parts: by name, the parts that a class of transformers implements; unsupported_parts: those that none implements, and why.
    adapters(config) -> the PEFT names of its low-rank adapters; None if it has none.
    reference_frames(config) -> the ReferenceFrames of a queried frame of a video; None if it needs none. With them, videos are
    queried one frame at a time, and a query has a frame followed by its reference frames.
    encode(model, config) -> the Encoding of each part of a batch (Processor.parts), in order.
    predict(model, config) -> the Predict; None if the system predicts no masks.
    propose(model, config) -> the Propose, by which everything in an image is found; None without one.
    split_names(config) -> f(text) -> the names in a text that the model writes before it segments ("written" of Predict); None
    if it writes none.
    give(config) -> f(prompt) -> the prompt of an evaluation with what the model is told about its targets, for upper bounds;
    nothing by default.
    write(model, config) -> the Writer of text; None if the system generates no text.
    decoding(config) -> how it generates texts by default.
    adapt: returns the config that trains a model for some class names, also without images (see Adapt); None without one.
    interactive: whether it accepts negative points and carries a memory between rounds about one image.
    composes: whether a prompt with regions may also have a text, and classes that name what is marked.
    relates_phrases: whether the answer to a phrase depends on the other phrases about its image in the same query.
    shorten(batch, length) -> the batch with its sequences cut to length; None if they are not longer, or the system has no
    sequences. Like `needed_length`, it is called while jit traces.
    needed_length(batch) -> int32 scalar: the length of the longest sequence of the batch without padding.
    """

    name: str
    build: Callable[[ConfigDict], Model]
    init: Callable[[Model, ConfigDict, jax.Array], Params]
    processor: Callable[[ConfigDict, Tokenizer | None, Mapping[str, int]], Processor]
    answers: Answers
    weight_table: Callable[[ConfigDict], Table]
    source_checkpoints: tuple[SourceCheckpoint, ...]
    extra_names: tuple[Rule, ...]
    hf_config: Callable[[ConfigDict], dict[str, Any]]
    tokenizer: MakeTokenizer | None = None
    counts: Callable[[Model, ConfigDict], Callable[[Batch], Counts]] | None = None
    loss: Callable[[Model, ConfigDict], Loss] | None = None
    published_fields: tuple[PublishedField, ...] = ()
    prediction_fields: tuple[str, ...] = ()
    untrained: tuple[Rule, ...] = ()
    parts: Mapping[str, Part] = dataclasses.field(default_factory=dict)
    unsupported_parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    adapters: Callable[[ConfigDict], Adapters] | None = None
    reference_frames: Callable[[ConfigDict], ReferenceFrames | None] = lambda config: None
    encode: Callable[[Model, ConfigDict], Mapping[str, Encoding]] = lambda model, config: {}
    predict: Callable[[Model, ConfigDict], Predict] | None = None
    propose: Callable[[Model, ConfigDict], Propose] | None = None
    split_names: Callable[[ConfigDict], Callable[[str], tuple[str, ...]] | None] = lambda config: None
    give: Callable[[ConfigDict], Callable[[Prompt], Prompt]] = lambda config: lambda prompt: prompt
    write: Callable[[Model, ConfigDict], Writer] | None = None
    decoding: Callable[[ConfigDict], Decoding] = lambda config: Decoding()
    adapt: Adapt | None = None
    interactive: bool = False
    composes: bool = False
    relates_phrases: bool = False
    shorten: Callable[[Batch, int], Batch | None] = lambda batch, length: None
    needed_length: Callable[[Batch], jax.Array | int] = lambda batch: 0

    def load_tokenizer(self, config: ConfigDict, path: str | os.PathLike[str] | None = None) -> Tokenizer | None:
        """Loads a tokenizer, see MakeTokenizer; None if the system has no text."""
        return None if self.tokenizer is None else self.tokenizer(config, path)

    def check_training(self) -> None:
        """Raises UserError if the system has no training."""
        if self.counts is None or self.loss is None:
            raise UserError(f"system = {self.name!r} has no training; use its released weights, or a config of another system")

    def training_functions(self, model: Model, config: ConfigDict) -> tuple[Callable[[Batch], Counts], Loss]:
        """Returns the functions of `counts` and `loss`. Raises UserError if the system has no training."""
        self.check_training()
        assert self.counts is not None and self.loss is not None
        return self.counts(model, config), self.loss(model, config)

    def full_loss(self, model: Model, config: ConfigDict) -> Callable[[Params, Batch, jax.Array], tuple[jax.Array, Metrics]]:
        """Returns f(params, batch, key) -> (total, metrics), the loss with the counts of the batch itself."""
        counts, loss = self.training_functions(model, config)
        return lambda params, batch, key: loss(params, batch, key, counts(batch))

    def init_plain(self, model: Model, config: ConfigDict, key: jax.Array) -> Params:
        """Initializes parameters without axis names: nested arrays."""
        return nn.unbox(self.init(model, config, key))

    def boxed_shapes(self, config: ConfigDict) -> Any:
        """Returns jax.ShapeDtypeStructs of the parameters, boxed with axis names; traced once for each model
        block and image size."""
        key = self.init, config.model.to_json(), str(config.get("data", {}).get("image_size"))
        if key not in _shape_cache:
            _shape_cache[key] = jax.eval_shape(lambda: self.init(self.build(config), config, jax.random.key(0)))
        return _shape_cache[key]

    def published_values(self, config: ConfigDict) -> dict[str, Any]:
        """Returns {field: value} of the published fields. A field that the config does not have has the first published
        value."""
        fields = flatten({"model": config.model.to_dict()})
        return {row.field: fields.get(row.field.replace(".", "/"), row.values[0]) for row in self.published_fields}

    def recorded_values(self, config: ConfigDict) -> dict[str, Any]:
        """Returns {field: value} of the published fields, and of the details of those with another value than the authors'."""
        fields, values = flatten({"model": config.model.to_dict()}), self.published_values(config)
        details = [detail for row in self.published_fields if values[row.field] not in row.values for detail in row.details]
        return values | {field: fields.get(field.replace(".", "/"), default) for field, default in details}

    def departures(self, config: ConfigDict) -> dict[str, tuple[Any, str]]:
        """Returns {field: (value, what the authors' code does instead)} of the published fields with another value than
        theirs."""
        values = self.published_values(config)
        rows = [row for row in self.published_fields if values[row.field] not in row.values]
        return {row.field: (values[row.field], row.meaning) for row in rows}

    def part(self, name: str) -> Part:
        """Returns a part by name. Raises UserError if no class of transformers implements it."""
        if name in self.parts:
            return self.parts[name]
        reason = self.unsupported_parts.get(name, f"no part of {self.name} that transformers has a class for")
        raise UserError(f"{name}: {reason}; export one of {', '.join(self.parts) or 'no part'}, or the full system")

    def shapes(self, config: ConfigDict) -> Any:
        """Returns the parameters as nested jax.ShapeDtypeStructs."""
        return nn.unbox(self.boxed_shapes(config))


def lora_block(config: ConfigDict) -> Any:
    """Returns config.model.lora, the settings of the low-rank adapters; None if LoRA is disabled."""
    block = config.model.get("lora")
    return block if block is not None and block.rank else None


_shape_cache: dict[tuple[Callable[..., Any], str, str], Any] = {}


GROUP = "hyperseg_jax.systems"
"""Entry-point group in which installed packages register systems by name."""


def register(system: System[Any]) -> None:
    """Registers a system under its name. Raises ValueError if another system has this name."""
    if _registered.setdefault(system.name, system) is not system:
        raise ValueError(f"a system named {system.name!r} is already registered")


def registered_names() -> tuple[str, ...]:
    """Returns the names of the systems of this package and of those that were registered."""
    return tuple(_registered)


@functools.cache
def get(name: str) -> System[Any]:
    """Returns a system by name. Its functions raise UserError that names the invalid block of the config."""
    for point in importlib.metadata.entry_points(group=GROUP, name=name) if name not in _registered else ():
        register(point.load())
    if name not in _registered:
        raise UserError(
            f"system = {escaped(str(name))!r} is not known; use one of {', '.join(_registered)}, "
            "or install the package that provides it"
        )
    registered = _registered[name]
    system: System[Any] = importlib.import_module(registered).SYSTEM if isinstance(registered, str) else registered
    blocks = {
        "build": "model",
        "init": "model",
        "weight_table": "model",
        "tokenizer": "model",
        "counts": "loss",
        "loss": "loss",
        "processor": "data",
        "adapt": "data",
    }
    wrapped: dict[str, Any] = {
        field: _with_user_errors(getattr(system, field), f"{block}: invalid for system {name}")
        for field, block in blocks.items()
        if getattr(system, field) is not None
    }
    return dataclasses.replace(system, **wrapped)


Result = TypeVar("Result")
Args = ParamSpec("Args")


def _with_user_errors(function: Callable[Args, Result], message: str) -> Callable[Args, Result]:
    """Wraps a function of the config, so that it raises UserError for bad values. Modules, Flax and JAX reject bad sizes with
    many types of exceptions. message: the start of the message."""

    @functools.wraps(function)
    def wrapper(*args: Args.args, **kwargs: Args.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{message} ({escaped(first_line(error))}); correct this block of the config") from error

    return wrapper
