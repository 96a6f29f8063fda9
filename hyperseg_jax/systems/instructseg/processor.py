"""Converts an Example to the fixed-shape arrays of one InstructSeg batch element (host side, NumPy)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

import jax
import ml_collections
import numpy as np

from hyperseg_jax.data.processor import Batch, Shape
from hyperseg_jax.data.targets import check_count
from hyperseg_jax.datasets.record_errors import naming_example
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry, fit_to_square, resize_and_pad, stretch_to_square
from hyperseg_jax.structs import IGNORED, Example, Layout, Prompt, Source
from hyperseg_jax.systems.instructseg.inputs import slot_name
from hyperseg_jax.systems.instructseg.prompts import normalize_prompt, tokenize_prompt
from hyperseg_jax.systems.pixels import GREY
from hyperseg_jax.systems.psalm.markers import PromptTokens, TokenCounts, expand_to_runs
from hyperseg_jax.systems.psalm.sizes import SizedProcessor, check_text_only
from hyperseg_jax.text.layout import choose_bucket, expand_runs, expanded_length, pack_layouts, packed_length
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted import limits

SUPERVISED = ("reasoning", "chat")
"""Tasks whose text answers are trained."""
SEPARATE = (Source.RESAMPLED,)
"""Positions that prompts about one image cannot share, because the perceiver reads their expressions."""
EXPLAINED = 0.5
"""Probability that training asks for the explanation of a reasoning answer, if there is one."""
EXPRESSION_STEP = 16
"""In prediction, expressions are padded to a multiple of this."""


@dataclasses.dataclass(frozen=True)
class InstructSegProcessor(SizedProcessor):
    """Processes the examples of one task to static array sizes; smaller examples are padded and masked.

    An example of several frames is a queried frame followed by its reference frames; an image, and a video of one frame, is its
    own reference.

    image_size: side of the padded square for the mask branch. clip_size: side of the stretched square for the language
    branch. image_tokens, tokens_per_reference, queries: positions that the model inserts into the token stream.
    references: reference frames per element; 0 for images. prompts, length, targets: sizes per element. expression: maximum
    number of tokens of an expression. planes: number of segment maps, 1 if targets of a prompt never overlap; 0 means one per
    target. masks: 0 for a task of text only; its batches then have no pixels for the mask branch, which is neither compiled
    nor run. answers: 0 for a task whose text answers are not trained; the text loss is then not compiled. template: prompt
    template. buckets: allowed lengths in prediction and evaluation.
    """

    COUNTS = ("references", "prompts", "length", "expression", "targets", "masks", "answers")

    tokenizer: Tokenizer
    image_size: int
    clip_size: int
    image_tokens: int
    tokens_per_reference: int
    queries: int
    references: int = 0
    prompts: int = 1
    length: int = 96
    expression: int = EXPRESSION_STEP
    targets: int = 1
    planes: int = 0
    masks: int = 1
    answers: int = 1
    template: str = "v0"
    buckets: tuple[int, ...] = ()

    @property
    def frames(self) -> int:
        """Frames per element: the queried one and its reference frames."""
        return 1 + self.references

    def __call__(self, example: Example, *, train: bool, rng: np.random.Generator | None = None, fill: float = 1.0) -> Batch:
        """Returns the arrays of one element.

        images uint8 [1, S, S, 3], the queried frame; clip_images: uint8 [1, s, s, 3] for each of the 1 + references slots;
        key_slot int32 [], reference_slots int32 [max(references, 1)]: the slots of the queried frame and of its reference
        frames; filled int32 [2] (height, width of the unpadded part); layout: int32 or bool [L] each, K prompts in one
        sequence; expression int32, expression_valid bool [K, E]: token ids of the expressions; segments, planes, valid: see
        TargetArrays, [K, ...]; uses_expression bool [K]; frame_valid bool [1]; bad bool [], False; answered bool [], whether a
        text is supervised, unless answers = 0.

        rng: decides which explanations are trained.

        Frames of a video have slots by their position (modulo the number of slots), so that the slots of consecutive queries
        differ in one frame.
        """
        height, width = example.frames.shape[1:3]
        geometry = fit_to_square(height, width, self.image_size, fill)
        prompts, frames = example.prompts[: self.prompts], example.frames[: self.frames]
        if rng is not None:
            prompts = tuple(_drop_explanation(prompt, rng) for prompt in prompts)
        with naming_example(example):
            tokens = self._tokenize(prompts, train)
            layout = self._pack(prompts, tokens, len(frames))
            rows = [self._make_prompt_arrays(*each, geometry, train) for each in zip(prompts, tokens, strict=True)]
        padding = {name: np.zeros_like(value) for name, value in rows[0].items()}
        rows += [padding] * (self.prompts - len(rows))
        slots = self._slots(example.frame_numbers[: len(frames)] or range(len(frames)))
        clips = np.zeros((1 + self.references, 1, self.clip_size, self.clip_size, 3), np.uint8)
        for slot, frame in zip(slots, frames, strict=True):
            clips[slot, 0] = stretch_to_square(frame, self.clip_size)
        reference_slots = np.zeros(max(self.references, 1), np.int32)
        reference_slots[: len(frames) - 1] = slots[1:]
        if len(frames) == 1:
            reference_slots[:] = slots[0]
        element = {
            "images": resize_and_pad(frames[0], geometry, GREY)[None] if self.masks else np.zeros((1, 0, 0, 3), np.uint8),
            "clip_images": {slot_name(slot): clip for slot, clip in enumerate(clips)},
            "key_slot": np.asarray(slots[0], np.int32),
            "reference_slots": reference_slots,
            "filled": np.asarray(geometry.filled, np.int32),
            "layout": vars(layout),
            **{name: np.stack([row[name] for row in rows]) for name in rows[0]},
            "frame_valid": np.ones(1, bool),
            "bad": np.asarray(False),
        }
        return element | ({"answered": np.asarray((layout.labels != IGNORED).any())} if self.answers else {})

    def bucket(self, example: Example) -> Shape:
        """Returns sizes that fit an example in prediction and evaluation, which have no targets.

        If the configured sizes are too small, the length is one of `buckets`, and the expression a multiple of 16 tokens.
        """
        prompts = example.prompts[: self.prompts]
        with naming_example(example):
            layouts = self._make_layouts(self._tokenize(prompts, train=False), len(example.frames))
            length = packed_length(layouts, separate=SEPARATE)
            limits.check_limit("tokens", length, "its prompt", "positions")
        longest = max(int((layout.source == Source.EXPRESSION).sum()) for layout in layouts)
        return {
            "references": len(example.frames) - 1,
            "length": self.length if length <= self.length else choose_bucket(length, self.buckets),
            "expression": max(self.expression, -(-longest // EXPRESSION_STEP) * EXPRESSION_STEP),
            "targets": 0,
            "masks": int(any(prompt.task != "chat" for prompt in prompts)),
            "answers": 0,
        }

    def spec(self, batch_size: int) -> Batch:
        square, small = (self.mask_side,) * 2, (self.clip_size,) * 2
        array = lambda dtype, *shape: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        kinds = {field.name: bool if field.name == "mask" else np.int32 for field in dataclasses.fields(Layout)}
        spec = {
            "images": array(np.uint8, 1, *square, 3),
            "clip_images": {slot_name(slot): array(np.uint8, 1, *small, 3) for slot in range(1 + self.references)},
            "key_slot": array(np.int32),
            "reference_slots": array(np.int32, max(self.references, 1)),
            "filled": array(np.int32, 2),
            "layout": {name: array(kind, self.length) for name, kind in kinds.items()},
            "expression": array(np.int32, self.prompts, self.expression),
            "expression_valid": array(bool, self.prompts, self.expression),
            "segments": array(self.target_arrays.map_type, self.prompts, *self.target_arrays.map_shape),
            "planes": array(np.int32, self.prompts, self.targets),
            "valid": array(bool, self.prompts, self.targets),
            "uses_expression": array(bool, self.prompts),
            "frame_valid": array(bool, 1),
            "bad": array(bool),
        }
        return spec | ({"answered": array(bool)} if self.answers else {})

    def parts(self, batch: Batch) -> Mapping[str, Batch]:
        """Returns the queried frame for the mask branch, and each slot for the language branch."""
        slots = {name: {"clip_image": clip} for name, clip in batch["clip_images"].items()}
        has_masks = (batch["layout"]["source"] == Source.QUERY).any()
        return {**slots, **({"image": {"images": batch["images"]}} if has_masks else {})}

    def _slots(self, numbers: Sequence[int]) -> list[int]:
        """Returns the slot of each frame. numbers: positions of the frames in their video."""
        count = 1 + self.references
        slots = [number % count for number in numbers]
        by_slot = dict(zip(slots, numbers, strict=True))
        distinct = all(by_slot[slot] == number for slot, number in zip(slots, numbers, strict=True))
        return slots if distinct else list(range(len(numbers)))

    def _tokenize(self, prompts: Sequence[Prompt], train: bool) -> list[PromptTokens]:
        """Returns the tokens of each prompt, with labels where its text is supervised."""
        rows = []
        for prompt in prompts:
            tokens = tokenize_prompt(normalize_prompt(prompt), self.tokenizer, template=self.template, train=train)
            if not train or prompt.task not in SUPERVISED:
                tokens = dataclasses.replace(tokens, labels=(IGNORED,) * len(tokens.ids))
            rows.append(tokens)
        return rows

    def _pack(self, prompts: Sequence[Prompt], tokens: Sequence[PromptTokens], frames: int) -> Layout:
        """Returns the layout of all prompts. frames: number of frames of the example."""
        layout = pack_layouts(self._make_layouts(tokens, frames), self.length, separate=SEPARATE)
        if not self.masks and (layout.source == Source.QUERY).any():
            raise UserError(f"the task has masks = 0, but its prompts of task {prompts[0].task!r} need masks; remove the field")
        if not self.answers and (layout.labels != IGNORED).any():
            raise UserError(
                f"the task has answers = 0, but its prompts of task {prompts[0].task!r} train text; remove the field"
            )
        return layout

    def _make_layouts(self, tokens: Sequence[PromptTokens], frames: int) -> list[Layout]:
        """Returns the layout of each prompt, without padding and not yet packed."""
        counts = TokenCounts(self.image_tokens, max(frames - 1, 1) * self.tokens_per_reference, self.queries)
        streams = [expand_to_runs(each, counts) for each in tokens]
        return [expand_runs(stream, expanded_length(stream)) for stream in streams]

    def _make_prompt_arrays(
        self, prompt: Prompt, tokens: PromptTokens, geometry: Geometry, train: bool
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of one prompt."""
        check_count("expression", len(tokens.expression), self.expression, "tokens of an expression")
        expression = np.zeros(self.expression, np.int32)
        expression[: len(tokens.expression)] = tokens.expression
        targets, vanished = self.target_arrays.make(prompt, geometry, train)
        return {
            "expression": expression,
            "expression_valid": np.arange(self.expression) < len(tokens.expression),
            **{name: targets[name] for name in ("segments", "planes", "valid")},
            "uses_expression": np.asarray(prompt.task != "chat" and not vanished),
        }


def _drop_explanation(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """Returns the prompt, without its explanation with probability 1 - EXPLAINED."""
    if prompt.task != "reasoning" or not prompt.answer.strip() or rng.random() < EXPLAINED:
        return prompt
    return dataclasses.replace(prompt, answer="")


def make_processor(
    config: ml_collections.ConfigDict, tokenizer: Tokenizer | None, sizes: Mapping[str, int]
) -> InstructSegProcessor:
    """Returns the processor of a task.

    sizes: array sizes that differ from one image and one expression; empty in prediction. tokenizer: may be None if only
    shapes are needed.
    """
    m, references = config.model, config.data.reference_frames
    if sizes.get("references", 0) not in (0, references):
        raise UserError(f"references = {sizes['references']}, but data.reference_frames = {references}; give this number, or 0")
    sizes = check_text_only(sizes, "references", 0)
    return InstructSegProcessor(
        cast(Tokenizer, tokenizer),
        config.data.image_size,
        m.clip_encoder.image_size,
        (m.clip_encoder.image_size // m.clip_encoder.patch_size) ** 2,
        m.object_perceiver.num_queries,
        m.num_queries,
        template=config.data.template,
        buckets=tuple(config.data.buckets),
        **(sizes or {"length": 0}),  # in prediction, the smallest bucket
    )
