"""The evaluation engine: how validation, benchmarks and predictors run a model.

`Engine.select` and `Engine.generate` run one batch on the devices. `run_protocols` runs the examples of a task in global
batches, on any number of hosts, with images decoded ahead by a Grain stream.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Int32

from hyperseg_jax.data.pipeline import Unreadable, read_ahead
from hyperseg_jax.data.processor import Batch, Processor, Shape, common_shape
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import record_errors
from hyperseg_jax.datasets.frame_sampling import ReferenceFrames
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.array_limit import NUMBER, limit_arrays
from hyperseg_jax.evaluation.features import FeatureCache
from hyperseg_jax.evaluation.protocols import EvalProtocol, PredictionFn
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.parallel import hosts
from hyperseg_jax.parallel.feed import SINGLE_PROCESS, Feed, Rows
from hyperseg_jax.results.answers import Answer, Answers, Thresholds
from hyperseg_jax.results.mask_resize import canvas_size, check_canvas, geometry_array, make_mask_resize
from hyperseg_jax.structs import Example, Prediction, Prompt
from hyperseg_jax.systems.system import Predict, System
from hyperseg_jax.untrusted import limits

NEW_TOKENS = 64
"""Default maximum length of a generated text, in tokens."""
TEXT = "text"
"""The answer kind of generated text."""
REGIONS = "regions"
"""The answer kind of steps that ask for masks before the texts, see EvalProtocol.mask_steps."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A batch of queries as NumPy arrays.

    processor: the processor that built the batch. geometries: placement of the images in the model's input
    (mask_resize.geometry_array). canvas: size that holds all images. rows: rows of the global batch, None in a single process.
    cache_features: whether the parts of the batch are encoded separately and cached for later requests.
    """

    processor: Processor
    batch: Batch
    geometries: Int32[np.ndarray, "B 2 3"]
    canvas: tuple[int, int]
    rows: Rows | None = None
    cache_features: bool = True


@dataclasses.dataclass(frozen=True)
class Engine:
    """A model with its jitted functions.

    predict, write: functions of (params, batch, features, ...) of the system; None if it predicts no masks or writes no text.
    answers: the selection of predictions from outputs, by kind. feed: transfer of batches to the mesh. interactive,
    reference_frames: see System.
    feature_cache: features of batch parts that were encoded separately.
    """

    predict: Predict | None
    write: Callable[..., Any] | None
    answers: Answers
    params: Any
    feed: Feed = SINGLE_PROCESS
    interactive: bool = False
    reference_frames: ReferenceFrames | None = None
    feature_cache: FeatureCache = dataclasses.field(default_factory=lambda: FeatureCache({}))

    @classmethod
    def from_system(
        cls, system: System[Any], config: ml_collections.ConfigDict, params: Any, batch_sharding: Any = None
    ) -> Engine:
        """Builds the engine of a system. batch_sharding: sharding of batches and outputs on a mesh."""
        module, jit_options = system.build(config), {} if batch_sharding is None else {"out_shardings": batch_sharding}
        write = None
        if system.write is not None:
            fixed = ("max_new_tokens", "eos_id", "vocab_size")
            write = limit_arrays(jax.jit(system.write(module, config).greedy, static_argnames=fixed, **jit_options))
        predict = None if system.predict is None else limit_arrays(jax.jit(system.predict(module, config), **jit_options))
        feature_cache = FeatureCache(system.encode(module, config))
        references = system.reference_frames(config)
        feed = Feed(batch_sharding)
        return cls(predict, write, system.answers, params, feed, system.interactive, references, feature_cache)

    def select(self, request: Request, options: AnswerOptions, memory: Any = None) -> tuple[dict[str, np.ndarray], Any]:
        """Runs the model and selects the predictions on the devices.

        Returns (selected outputs, memory). The outputs are this process's rows, [B, T, K, ...], on the host. memory: what the
        model needs of this frame for the next one, on the device; pass it with the next batch of the same rows.
        """
        answer = self.answers.find(options.kind)
        if self.predict is None:
            raise UserError("this system predicts no masks; request text instead")
        select = _jit_selection(answer, self.feed, request.canvas)
        batch, features = self._encode(request, memory is not None)
        outputs, memory = self.predict(self.params, batch, features, memory)
        geometries = self.feed.put(request.geometries, request.rows)
        selected = select(options.thresholds.segment_thresholds(), (outputs, geometries))
        return {name: self.feed.local_rows(value) for name, value in selected.items()}, memory

    def generate(self, request: Request, *, max_new_tokens: int = NEW_TOKENS) -> np.ndarray:
        """Returns the texts that the model generates for this process's rows, str [B, 1, K, N], each up to the end token.
        Raises UserError if the system writes no text."""
        if self.write is None:
            raise UserError("this system writes no text; request masks instead")
        tokenizer = request.processor.tokenizer
        eos, size = tokenizer.eos_id, tokenizer.vocab_size
        batch, features = self._encode(request)
        ids = self.feed.local_rows(
            self.write(self.params, batch, features, max_new_tokens=max_new_tokens, eos_id=eos, vocab_size=size)
        )
        texts = np.empty(ids.shape[:3], object)
        for index in np.ndindex(texts.shape):
            texts[index] = tokenizer.decode(ids[index][np.cumsum(ids[index] == eos) == 0].tolist()).strip()
        return texts[:, None]

    def _encode(self, request: Request, memory: bool = False) -> tuple[Any, dict[str, Any]]:
        """Encodes the parts of a batch that are independent of the rest. Returns (the other arrays of the batch, features of
        the parts), on the devices."""
        put = lambda arrays: self.feed.put(arrays, request.rows)
        if not request.cache_features:
            return put(request.batch), {}
        parts = request.processor.parts(request.batch)
        features = self.feature_cache.features(self.params, parts, put, memory=memory)
        encoded = {id(array) for name in features for array in jax.tree.leaves(parts[name])}
        rest = {
            name: value
            for name, value in request.batch.items()
            if not (leaves := jax.tree.leaves(value)) or not encoded.issuperset(map(id, leaves))
        }
        return put(rest), features


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
    """How predictions are selected. kind: a kind of results.answers.Answers, or "text" for generated text."""

    kind: str
    thresholds: Thresholds


@functools.lru_cache(maxsize=64)
def _jit_selection(answer: Answer, feed: Feed, size: tuple[int, int]) -> Callable[..., Any]:
    """Returns the jitted function f(thresholds, (outputs [B, T, K, ...], geometries [B, 2, 3])) -> selected outputs [B, T, K,
    ...]. These include "finite", whether the mask logits are finite."""

    def select_rows(rows: tuple[Any, jax.Array], thresholds: jax.Array) -> Any:
        outputs, geometries = rows
        batch, frames, prompts = jax.tree.leaves(outputs)[0].shape[:3]

        def select_one(row: tuple[Any, jax.Array]) -> Any:
            outputs, geometry = row
            masks = outputs["mask_logits"]
            selected = answer.select(
                outputs, make_mask_resize(geometry, masks.shape[-2:], size, answer.last_filter), thresholds
            )
            return {**selected, "finite": jnp.isfinite(masks).all()}

        flat = jax.tree.map(lambda leaf: leaf.reshape(batch * frames * prompts, *leaf.shape[3:]), outputs)
        selected = jax.lax.map(select_one, (flat, jnp.repeat(geometries, frames * prompts, axis=0)))
        return jax.tree.map(lambda leaf: leaf.reshape(batch, frames, prompts, *leaf.shape[1:]), selected)

    select_shards = feed.map_shards(select_rows)
    return limit_arrays(jax.jit(lambda thresholds, rows: select_shards(rows, thresholds)))


def make_prediction_fn(engine: Engine, options: AnswerOptions, geometry: Geometry) -> PredictionFn:
    """Returns f(prompt, selected outputs of one frame [1, 1, ...]) -> Prediction. geometry: placement of the example's frames
    in the model's input."""

    masks = REGIONS if options.kind == TEXT else options.kind

    def predict(prompt: Prompt, selected: Any) -> Prediction:
        arrays = {name: value[0, 0] for name, value in selected.items()}
        if "texts" in arrays:
            count = max(1, len(prompt.regions))
            return Prediction(np.zeros((0, *geometry.original), bool), texts=tuple(arrays["texts"][:count]))
        return engine.answers.find(masks).predict(arrays, prompt, geometry, options.thresholds)

    return predict


def run_protocols(
    engine: Engine,
    task: Task,
    examples: Sequence[Example],
    protocol: Callable[[Example], EvalProtocol],
    *,
    count: int,
    start: int = 0,
    batch_size: int = 12,
    options: AnswerOptions,
    on_unreadable: Callable[[int, str], None],
    workers: int = 0,
) -> Iterator[tuple[int, Iterator[tuple[int, EvalProtocol]]]]:
    """Runs the evaluation protocols of examples start..count - 1 in global batches. Yields, after each batch, (number of
    examples done on all hosts, iterator of (index, finished protocol) of the examples that this host scores). Consume the
    iterator before the next batch.

    protocol: creates the protocol of an example. options: how predictions are selected. on_unreadable(index, reason): called
    for each example of this host that cannot be read or queried; an exception that it raises ends the run. workers: number of
    processes that decode images, 0 for threads.

    Every batch has `batch_size` rows, rounded up for the mesh. All examples of a batch take as many steps and prompts as the
    largest one, so that all hosts run the same programs; missing examples are padded with the queries of another example.
    """
    size = engine.feed.divisible_size(batch_size)
    rows = engine.feed.rows(size)
    filler_protocol: Any = functools.lru_cache(maxsize=1)(
        lambda processor: _first_readable_protocol(task.name, processor, examples, protocol)
    )
    indices = [first + row for first in range(start, count, size) for row in rows.indices if first + row < count]
    with contextlib.closing(read_ahead(examples, indices, workers=workers)) as stream:
        for first in range(start, count, size):
            batch = _ExampleBatch(engine, task, rows, first, on_unreadable, filler_protocol)
            for n, row in enumerate(rows.indices):
                if first + row < count:
                    batch.add(n, next(stream), protocol)
            batch.agree_on_shapes()
            _run_batch(engine, batch, options)
            engine.feature_cache.clear()
            yield min(first + size, count), batch.scored_protocols()
            batch.protocols.clear()  # frees the frames and masks of the batch before the next one is decoded


class _ExampleBatch:
    """This host's rows of one global batch.

    protocols: protocols by row, of the examples that can be read and queried; other rows are padded with the queries of another
    row. first: index of the first example. filler_protocol: f(processor) -> a protocol for padding if no row has one.
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        rows: Rows,
        first: int,
        on_unreadable: Callable[[int, str], None],
        filler_protocol: Callable[[Processor], EvalProtocol],
    ) -> None:
        self._task, self.rows, self.first = task, rows, first
        self._shares_frames = engine.reference_frames is not None
        self._on_unreadable, self._filler_protocol = on_unreadable, filler_protocol
        self.protocols: dict[int, EvalProtocol] = {}
        self.steps = self.prompts = 1
        self.uses_memory = self.same_image = False
        self.mask_steps = 0
        self.canvas = 0, 0
        self.processor = task.processor

    def add(self, n: int, read: Example | Unreadable, protocol: Callable[[Example], EvalProtocol]) -> None:
        """Adds the protocol of row n. If the example could not be read or has no protocol, on_unreadable is called instead."""
        reason = read.reason if isinstance(read, Unreadable) else ""
        if not isinstance(read, Unreadable):
            try:
                self.protocols[n] = protocol(read)
            except BaseException as error:
                reason = record_errors.error_message(error)
        if reason:
            self._drop(n, reason)

    def agree_on_shapes(self) -> None:
        """Sets the length bucket, steps, prompts and canvas of the batch to the maximum over all hosts."""
        shapes = {n: self._bucket_of_row(n) for n in list(self.protocols)}
        protocols = self.protocols.values()
        counts = [max((getattr(protocol, name) for protocol in protocols), default=1) for name in ("steps", "prompts")]
        sizes = {self.rows.indices[n]: protocol.example.frames.shape[1:3] for n, protocol in self.protocols.items()}
        local = [*counts, list(sizes.items()), common_shape(filter(None, shapes.values()))]
        all_hosts = hosts.exchange(f"steps of {self._task.name} from {self.first}", json.dumps(local))
        *maxima, sizes_of_hosts, shapes_of_hosts = zip(*map(json.loads, all_hosts), strict=True)
        self.steps, self.prompts = map(max, maxima)
        self.canvas = self._common_canvas(dict(itertools.chain(*sizes_of_hosts)))
        self.processor = self.processor.for_bucket(common_shape(shapes_of_hosts))
        # A host without examples must run the same program as the others.
        if self.steps > 1:
            any_protocol = next(iter(protocols), None) or self._filler_protocol(self.processor)
            self.uses_memory, self.same_image = any_protocol.uses_memory, any_protocol.same_image
            self.mask_steps = any_protocol.mask_steps

    def _common_canvas(self, sizes: Mapping[int, Sequence[int]]) -> tuple[int, int]:
        """Returns the canvas for images of these (height, width) by row of the global batch. Drops those that would need a
        larger canvas with the others than limits.pixels, the largest images first."""
        height = width = 0
        for row in sorted(sizes, key=lambda row: (math.prod(sizes[row]), row)):
            larger = max(height, sizes[row][0]), max(width, sizes[row][1])
            try:
                check_canvas(*larger, "the canvas of its batch")
            except UserError as error:
                if row in self.rows.indices:
                    self._drop(self.rows.indices.index(row), str(error))
            else:
                height, width = larger
        return canvas_size(height, width)

    def _bucket_of_row(self, n: int) -> Shape | None:
        """Returns the bucket that holds all queries of row n. If it cannot be queried, drops the row and returns None, or if a
        batch of its queries exceeds limits.frame_pixels at the size of the model."""
        protocol = self.protocols[n]
        example, rows = protocol.example, len(self.rows.indices)
        try:
            height, width = example.frames.shape[1:3]
            check_canvas(height, width, example.name)
            frames = protocol.bucket_of_longest_query(0, lambda query: len(query.frames))
            pixels = rows * frames * math.prod(self.processor.geometry(height, width).padded)
            limits.check_limit("frame_pixels", pixels, example.name, f"pixels in {rows} queries of {frames} frames")
            shape = common_shape(protocol.bucket_of_longest_query(k, self.processor.bucket) for k in range(protocol.prompts))
            element = jax.tree.leaves(self.processor.for_bucket(shape).spec(1))
            numbers = sum(leaf.size * leaf.dtype.itemsize for leaf in element) // NUMBER
            limits.check_limit("array", numbers, example.name, f"numbers of {NUMBER} bytes in a query")
            return shape
        except BaseException as error:
            self._drop(n, record_errors.error_message(error))
            return None

    def request(self, step: int, prompt: int) -> Request:
        """Returns the queries of all rows at one step, for one prompt. Features are cached if prompts or steps share them: all
        steps with the same image, or consecutive ones with reference frames."""
        queries, failed = {}, {}
        for n, protocol in self.protocols.items():
            try:
                k = min(prompt, protocol.prompts - 1)
                queries[n] = protocol.prepare_query(min(step, protocol.steps - 1), k, self._prepare)
            except BaseException as error:
                failed[n] = record_errors.error_message(error)
        for n, reason in failed.items():
            self._drop(n, reason)
        filler = next(iter(queries.values()), None)
        if filler is None:
            filler = self._filler_protocol(self.processor).prepare_query(0, 0, self._prepare)
        rows = [queries.get(n, filler) for n in range(len(self.rows.indices))]
        arrays, geometries = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        shared_by_steps = self.same_image or self._shares_frames or not self.uses_memory
        cache_features = self.prompts > 1 or (self.steps > 1 and shared_by_steps)
        return Request(self.processor, arrays, geometries, self.canvas, self.rows, cache_features)

    def _prepare(self, example: Example) -> tuple[Batch, np.ndarray]:
        return self.processor(example, train=False), geometry_array(self.processor.geometry(*example.frames.shape[1:3]))

    def _drop(self, n: int, reason: str) -> None:
        """Removes row n from the batch; calls on_unreadable if this host scores it."""
        self.protocols.pop(n, None)
        if self.rows.scored[n]:
            self._on_unreadable(self.first + self.rows.indices[n], reason)

    def add_outputs(self, step: int, prompt: int, outputs: dict[str, Any]) -> None:
        """Passes the outputs of each row to its protocol, also for rows that another host scores if later queries depend on
        them."""
        for n, protocol in self.protocols.items():
            if (self.rows.scored[n] or protocol.adaptive) and step < protocol.steps and prompt < protocol.prompts:
                protocol.add_outputs(prompt, {name: value[n] for name, value in outputs.items()})

    def scored_protocols(self) -> Iterator[tuple[int, EvalProtocol]]:
        """Yields (index, protocol) of the rows that this host scores. Each protocol is freed before the next one is yielded."""
        for n in list(self.protocols):
            protocol = self.protocols.pop(n)
            if self.rows.scored[n]:
                yield self.first + self.rows.indices[n], protocol


def _run_batch(engine: Engine, batch: _ExampleBatch, options: AnswerOptions) -> None:
    """Runs all steps and prompts of a batch. The memory of the model for each prompt is passed to its next step, so the
    devices hold one frame of each row."""
    memory: dict[int, Any] = {}
    for step in range(batch.steps):
        for prompt in range(batch.prompts):
            request = batch.request(step, prompt)
            outputs: dict[str, Any]
            if options.kind == TEXT and step >= batch.mask_steps:
                outputs = {"texts": engine.generate(request)}
            else:
                masks = dataclasses.replace(options, kind=REGIONS) if options.kind == TEXT else options
                outputs, memory[prompt] = engine.select(request, masks, memory.get(prompt) if batch.uses_memory else None)
            batch.add_outputs(step, prompt, outputs)


def _first_readable_protocol(
    name: str, processor: Processor, examples: Sequence[Example], protocol: Callable[[Example], EvalProtocol]
) -> EvalProtocol:
    """Returns the protocol of the first example that can be read and queried. Raises UserError if there is none."""
    reason = "it is empty"
    for k in range(len(examples)):
        try:
            first = protocol(examples[k])
            first.prepare_query(0, 0, functools.partial(processor, train=False))
            return first
        except BaseException as error:
            failure = record_errors.error_message(error)  # raises again what is not an error of a record
            reason = failure if k == 0 else reason
    raise UserError(f"{name}: none of its {len(examples)} validation records can be read; the first: {reason}")
