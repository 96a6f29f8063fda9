"""The one way in which validation, benchmarks and predictors ask a model.

`Engine.ask` and `Engine.written` call the device once; `predictions` goes through the examples of a task in global batches, on
any number of hosts, with images decoded ahead by a Grain stream.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
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
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.features import FeatureCache
from hyperseg_jax.evaluation.protocols import EvalProtocol, PredictionFn
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.parallel import hosts
from hyperseg_jax.parallel.feed import SINGLE_PROCESS, Feed, Rows
from hyperseg_jax.results.answers import Answer, Answers, Thresholds
from hyperseg_jax.results.mask_resize import canvas, geometry_array, mask_resize
from hyperseg_jax.structs import Example, Prediction, Prompt
from hyperseg_jax.systems.system import Predict, System

NEW_TOKENS = 64
"""Of a written answer."""
TEXT = "text"
"""The kind of an answer that is written."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A batch of NumPy arrays, to be answered.

    processor: what made it. geometries: how the images lie in the model's input
    (mask_resize.geometry_array). canvas: the size that holds the images. rows: of the global batch, None in a run of one
    process. apart: whether the parts of the batch are encoded on their own and cached for the next request."""

    processor: Processor
    batch: Batch
    geometries: Int32[np.ndarray, "B 2 3"]
    canvas: tuple[int, int]
    rows: Rows | None = None
    cache_features: bool = True


@dataclasses.dataclass(frozen=True)
class Engine:
    """A model that answers.

    predict, write: the system's jitted functions of (params, batch, features, ...); None where the system gives no masks or
    writes no text. answers: how it answers. interactive: see System. encoded: what was encoded apart. feed: how batches lie
    on the mesh."""

    predict: Predict | None
    write: Callable[..., Any] | None
    answers: Answers
    params: Any
    feed: Feed = SINGLE_PROCESS
    interactive: bool = False
    feature_cache: FeatureCache = dataclasses.field(default_factory=lambda: FeatureCache({}))

    @classmethod
    def from_system(
        cls, system: System[Any], config: ml_collections.ConfigDict, params: Any, batch_sharding: Any = None
    ) -> Engine:
        """The functions of a system's config, jitted. batch_sharding: of batches and outputs on a mesh."""
        module, placed = system.build(config), {} if batch_sharding is None else {"out_shardings": batch_sharding}
        write = None
        if system.write is not None:
            fixed = ("max_new_tokens", "eos_id", "vocab_size")
            write = jax.jit(system.write(module, config).greedy, static_argnames=fixed, **placed)
        predict = None if system.predict is None else jax.jit(system.predict(module, config), **placed)
        encoded = FeatureCache(system.encode(module, config))
        return cls(predict, write, system.answers, params, Feed(batch_sharding), system.interactive, encoded)

    def select(self, request: Request, options: AnswerOptions, memory: Any = None) -> tuple[dict[str, np.ndarray], Any]:
        """(what is selected, memory). What is selected: this process's rows, [B, T, K, ...] on the host. memory: what the next
        frame needs of this one, on the device; give it back with the next batch of the same rows."""
        answer = self.answers.find(options.kind)
        if self.predict is None:
            raise UserError("this system gives no masks; ask it for text")
        select = _selector(answer, self.feed, request.canvas)
        batch, features = self._encoded(request, memory is not None)
        outputs, memory = self.predict(self.params, batch, features, memory)
        found = select((outputs, self.feed.put(request.geometries, request.rows)), options.thresholds.of_segments())
        return {name: self.feed.local_rows(value) for name, value in found.items()}, memory

    def generate(self, request: Request, *, max_new_tokens: int = NEW_TOKENS) -> np.ndarray:
        """The texts that the model writes for this process's rows, str [B, 1, K, N], each up to the end token. UserError where
        the system writes no text."""
        if self.write is None:
            raise UserError("this system writes no text; ask it to segment")
        tokenizer = request.processor.tokenizer
        eos, size = tokenizer.eos_id, tokenizer.vocab_size
        batch, features = self._encoded(request)
        ids = self.feed.local_rows(
            self.write(self.params, batch, features, max_new_tokens=max_new_tokens, eos_id=eos, vocab_size=size)
        )
        texts = np.empty(ids.shape[:3], object)
        for place in np.ndindex(texts.shape):
            texts[place] = tokenizer.decode(ids[place][np.cumsum(ids[place] == eos) == 0].tolist()).strip()
        return texts[:, None]

    def _encoded(self, request: Request, memory: bool = False) -> tuple[Any, dict[str, Any]]:
        """(what `predict` has to read of the batch, the features of its parts), on the devices."""
        put = lambda arrays: self.feed.put(arrays, request.rows)
        if not request.cache_features:
            return put(request.batch), {}
        parts = request.processor.parts(request.batch)
        features = self.feature_cache.features(self.params, parts, put, memory=memory)
        known = [array for name in features for array in parts[name].values()]
        return put({name: value for name, value in request.batch.items() if not any(value is one for one in known)}), features


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
    """How an answer is asked for. kind: of results.answers.Answers, or "text", which is written."""

    kind: str
    thresholds: Thresholds


@functools.lru_cache(maxsize=64)
def _selector(answer: Answer, feed: Feed, size: tuple[int, int]) -> Callable[..., Any]:
    """The jitted f((outputs [B, T, K, ...], geometries [B, 2, 3]), thresholds) -> what the answer selects, [B, T, K, ...], and
    "finite", whether the mask logits are numbers."""

    def of_rows(given: tuple[Any, jax.Array], thresholds: jax.Array) -> Any:
        outputs, geometries = given
        batch, frames, prompts = jax.tree.leaves(outputs)[0].shape[:3]

        def one(given: tuple[Any, jax.Array]) -> Any:
            outputs, geometry = given
            masks = outputs["mask_logits"]
            found = answer.select(outputs, mask_resize(geometry, masks.shape[-2:], size), thresholds)
            return {**found, "finite": jnp.isfinite(masks).all()}

        flat = jax.tree.map(lambda leaf: leaf.reshape(batch * frames * prompts, *leaf.shape[3:]), outputs)
        found = jax.lax.map(one, (flat, jnp.repeat(geometries, frames * prompts, axis=0)))
        return jax.tree.map(lambda leaf: leaf.reshape(batch, frames, prompts, *leaf.shape[1:]), found)

    return jax.jit(feed.shard_map(of_rows))


def prediction_fn(engine: Engine, options: AnswerOptions, geometry: Geometry) -> PredictionFn:
    """f(prompt, what is selected of it on one frame, [1, 1, ...]) -> Prediction. geometry: how the example's frames lie in the
    model's input."""

    def find(prompt: Prompt, found: Any) -> Prediction:
        arrays = {name: value[0, 0] for name, value in found.items()}
        if options.kind == TEXT:
            asked = max(1, len(prompt.regions))
            return Prediction(np.zeros((0, *geometry.original), bool), texts=tuple(arrays["texts"][:asked]))
        return engine.answers.find(options.kind).predict(arrays, prompt, geometry, options.thresholds)

    return find


def predictions(
    engine: Engine,
    task: Task,
    examples: Sequence[Example],
    protocol: Callable[[Example], EvalProtocol],
    *,
    count: int,
    start: int = 0,
    batch_size: int = 12,
    options: AnswerOptions,
    unread: Callable[[int, str], None],
    workers: int = 0,
) -> Iterator[tuple[int, Iterator[tuple[int, EvalProtocol]]]]:
    """Goes through examples start..count in global batches. Yields (number of examples done on all hosts, (index, finished
    protocol) of those that this host scores); consume them before the next batch.

    protocol: how an example is asked. options: how it is answered. unread: called with the index and the reason of each example
    of this host that cannot be read or asked; what it raises ends the run. workers: processes that decode images, 0 for
    threads.

    A batch has `batch_size` rows, rounded up for the mesh, whatever is left. Examples wait for the one with the most steps and
    prompts, so that all hosts call the device alike; another example is asked in the place of one that is missing.
    """
    size = engine.feed.size(batch_size)
    rows = engine.feed.rows(size)
    spare: Any = functools.lru_cache(maxsize=1)(lambda processor: _first_protocol(task.name, processor, examples, protocol))
    wanted = [first + row for first in range(start, count, size) for row in rows.indices if first + row < count]
    with contextlib.closing(read_ahead(examples, wanted, workers=workers)) as stream:
        for first in range(start, count, size):
            batch = _Batch(task, rows, first, unread, spare)
            for n, row in enumerate(rows.indices):
                if first + row < count:
                    batch.add(n, next(stream), protocol)
            batch.agree()
            _answer(engine, batch, options)
            engine.feature_cache.clear()
            yield min(first + size, count), batch.answered()
            batch.protocols.clear()  # frames and masks of a batch are gone before the next one is decoded


class _Batch:
    """This host's rows of one global batch. protocols: by row, those of the examples that can be read and asked; the other rows
    are filled with what another row asks. first: the number of its first example. spare: f(processor) -> a protocol that can be
    asked with it, for where there is no other."""

    def __init__(
        self, task: Task, rows: Rows, first: int, unread: Callable[[int, str], None], spare: Callable[[Processor], EvalProtocol]
    ) -> None:
        self._task, self.rows, self.first, self._unread, self._spare = task, rows, first, unread, spare
        self.protocols: dict[int, EvalProtocol] = {}
        self.steps = self.prompts = 1
        self.uses_memory = self.same_image = False
        self.canvas = 0, 0
        self.processor = task.processor

    def add(self, n: int, read: Example | Unreadable, protocol: Callable[[Example], EvalProtocol]) -> None:
        reason = read.reason if isinstance(read, Unreadable) else ""
        if not isinstance(read, Unreadable):
            try:
                self.protocols[n] = protocol(read)
            except BaseException as error:
                reason = record_errors.reason(error)
        if reason:
            self._lose(n, reason)

    def agree(self) -> None:
        """All hosts take the bucket that holds what any of them asks, and the most steps and prompts."""
        shapes = {n: self._shape(n) for n in list(self.protocols)}
        protocols = self.protocols.values()
        own = [max((getattr(protocol, name) for protocol in protocols), default=1) for name in ("steps", "prompts")]
        held = [canvas(*protocol.example.frames.shape[1:3]) for protocol in protocols] or [(0, 0)]
        mine = [*own, *np.max(held, axis=0).tolist(), common_shape(filter(None, shapes.values()))]
        told = hosts.exchange(f"steps of {self._task.name} from {self.first}", json.dumps(mine))
        *counts, agreed = zip(*map(json.loads, told), strict=True)
        self.steps, self.prompts, *sides = map(max, counts)
        self.canvas = sides[0], sides[1]
        self.processor = self.processor.for_bucket(common_shape(agreed))
        # A host without an example of its own has to run the same program as the others.
        if self.steps > 1:
            any_protocol = next(iter(protocols), None) or self._spare(self.processor)
            self.uses_memory, self.same_image = any_protocol.uses_memory, any_protocol.same_image

    def _shape(self, n: int) -> Shape | None:
        """The bucket that holds all that a row asks; None where it cannot be asked, which loses it."""
        protocol = self.protocols[n]
        try:
            return common_shape(protocol.measure(k, self.processor.bucket) for k in range(protocol.prompts))
        except BaseException as error:
            self._lose(n, record_errors.reason(error))
            return None

    def request(self, step: int, prompt: int) -> Request:
        """What is asked at one step about one prompt of each row. Features are kept where prompts or steps share them."""
        asked, lost = {}, {}
        for n, protocol in self.protocols.items():
            try:
                k = min(prompt, protocol.prompts - 1)
                asked[n] = protocol.query(min(step, protocol.steps - 1), k, self._prepare)
            except BaseException as error:
                lost[n] = record_errors.reason(error)
        for n, reason in lost.items():
            self._lose(n, reason)
        filler = next(iter(asked.values()), None)
        if filler is None:
            filler = self._spare(self.processor).query(0, 0, self._prepare)
        rows = [asked.get(n, filler) for n in range(len(self.rows.indices))]
        arrays, geometries = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        cache_features = self.prompts > 1 or (self.steps > 1 and (self.same_image or not self.uses_memory))
        return Request(self.processor, arrays, geometries, self.canvas, self.rows, cache_features)

    def _prepare(self, example: Example) -> tuple[Batch, np.ndarray]:
        return self.processor(example, train=False), geometry_array(self.processor.geometry(*example.frames.shape[1:3]))

    def _lose(self, n: int, reason: str) -> None:
        self.protocols.pop(n, None)
        if self.rows.scored[n]:
            self._unread(self.first + self.rows.indices[n], reason)

    def add_outputs(self, step: int, prompt: int, outputs: dict[str, Any]) -> None:
        """Gives each row's outputs to its protocol; also those of rows that another host scores where the next step depends on
        them."""
        for n, protocol in self.protocols.items():
            if (self.rows.scored[n] or protocol.adaptive) and step < protocol.steps and prompt < protocol.prompts:
                protocol.add_outputs(prompt, {name: value[n] for name, value in outputs.items()})

    def answered(self) -> Iterator[tuple[int, EvalProtocol]]:
        """(index, protocol) of the rows that this host scores. Each is let go once the next one is asked for."""
        for n in list(self.protocols):
            protocol = self.protocols.pop(n)
            if self.rows.scored[n]:
                yield self.first + self.rows.indices[n], protocol


def _answer(engine: Engine, batch: _Batch, options: AnswerOptions) -> None:
    """Asks every row about every step and prompt. What the model saw of a prompt at one step feeds its next step, so the device
    holds one frame of each row."""
    memory: dict[int, Any] = {}
    for step in range(batch.steps):
        for prompt in range(batch.prompts):
            request = batch.request(step, prompt)
            found: dict[str, Any]
            if options.kind == TEXT:
                found = {"texts": engine.generate(request)}
            else:
                found, memory[prompt] = engine.select(request, options, memory.get(prompt) if batch.uses_memory else None)
            batch.add_outputs(step, prompt, found)


def _first_protocol(
    name: str, processor: Processor, examples: Sequence[Example], protocol: Callable[[Example], EvalProtocol]
) -> EvalProtocol:
    """The protocol of the first example that can be read and asked with this processor. UserError where there is none."""
    reason = "it is empty"
    for k in range(len(examples)):
        try:
            made = protocol(examples[k])
            made.query(0, 0, functools.partial(processor, train=False))
            return made
        except BaseException as error:
            told = record_errors.reason(error)
            reason = told if k == 0 else reason
    raise UserError(f"{name}: none of its {len(examples)} validation records can be read; the first: {reason}")
