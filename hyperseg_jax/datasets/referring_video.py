"""Base class of readers of expressions about annotated objects in videos (Ref-DAVIS, Ref-YouTube-VOS)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.frame_sampling import Sampling
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.video_folders import VOID, Video, VideoFolders
from hyperseg_jax.datasets.video_reader import VideoReader
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.text.expressions import join_sentences
from hyperseg_jax.untrusted import budget

SENTENCES = ("each", "joined")


@dataclasses.dataclass(frozen=True)
class Expression:
    """Sentences about one object. key: unique within the video. number: the object id; None for test sets without public
    annotations."""

    key: str
    sentences: tuple[str, ...]
    number: int | None
    group: str = ""


class ReferringVideos(VideoReader):
    """Random access to the expressions of videos, in the order of `expressions`."""

    def __init__(
        self,
        folders: VideoFolders,
        expressions: Mapping[str, Sequence[Expression]],
        where: str,
        *,
        names: Mapping[str, Sequence[str]] | None = None,
        sentences: str = "each",
        sampling: Sampling,
        per_example: int | None = None,
        together: bool = False,
        seed: int = 0,
        errors: Mapping[str, Sequence[UserError]] | None = None,
    ):
        """where: the file with the expressions, for messages. names: the frame names of each video; None uses all frames in its
        folder. sentences: one of SENTENCES; "joined" is one prompt per object. per_example: maximum number of prompts of one
        video per example; None means 1. together: an example has one prompt per object, all of the same group, and the
        remaining objects of its first frame. sampling: a key frame shows a target. errors: of damaged expressions of each
        video, which are raised when they are read.
        """
        if sentences not in SENTENCES:
            raise UserError(f"sentences={sentences!r} is unknown; choose one of {', '.join(SENTENCES)}")
        if per_example is not None and per_example < 1:
            raise UserError(f"prompts_per_example={per_example} is too few; give at least 1")
        self._folders, self._names, self._where = folders, names, where
        self._sampling, self._seed = sampling, seed
        self._together = together
        self._items: list[tuple[str, Sequence[Expression] | UserError]] = []
        for video, of_video in expressions.items():
            queries = _join_by_object(of_video) if sentences == "joined" else list(of_video)
            groups = group_expressions(queries) if together else files.split_evenly(queries, per_example or 1)
            self._items += [(video, group) for group in groups]
            self._items += [(video, error) for error in (errors or {}).get(video, ())]

    @guard_record
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """Returns the expressions of an example with their video, or a clip sampled with rng."""
        name, expressions = self._items[index]
        if isinstance(expressions, UserError):
            raise expressions.with_traceback(None)
        video = self._folders.open(name, self._folders.frame_names(name) if self._names is None else self._names[name])
        times = self._sample_frame_indices(video, expressions, rng)
        prompts = tuple(self._build_prompt(name, video, expression, times) for expression in expressions)
        if self._together:
            prompts = (_add_other_objects(prompts[0], video, expressions, times), *prompts[1:])
        return Example(f"{name}/{expressions[0].key}", video.read_frames(times), prompts, video.frame_names(times))

    def _sample_frame_indices(self, video: Video, expressions: Sequence[Expression], rng: np.random.Generator) -> np.ndarray:
        """Samples frame indices. A key frame shows one of the objects."""
        numbers = [expression.number for expression in expressions if expression.number is not None]
        if self._sampling.has_key_frame and numbers:
            return self._sampling.sample_frame_indices_showing(
                len(video), rng, lambda t: bool(np.isin(video.read_object_ids(t), numbers).any())
            )
        return self._sampling.sample_frame_indices(len(video), rng)

    def _build_prompt(self, name: str, video: Video, expression: Expression, times: np.ndarray) -> Prompt:
        text, number = join_sentences(expression.sentences), expression.number
        budget.charge_masks(len(times), video.size, name)
        masks = (
            None if number is None else video.read_object_mask(number, times, f"{self._where} {name} {expression.key}")[None]
        )
        return Prompt(task="video", text=text, masks=masks, group=expression.group, key=f"{name}/{expression.key}")


def group_expressions(expressions: Sequence[Expression]) -> list[list[Expression]]:
    """Groups expressions by their group; keeps the first expression about each object."""
    groups: dict[str, dict[int | None, Expression]] = {}
    for expression in expressions:
        groups.setdefault(expression.group, {}).setdefault(expression.number, expression)
    return [list(objects.values()) for objects in groups.values()]


def _add_other_objects(prompt: Prompt, video: Video, expressions: Sequence[Expression], times: np.ndarray) -> Prompt:
    """Adds the objects of the first frame without expression (`others`) and void pixels (`ignore`) to a prompt."""
    object_ids = np.stack([video.read_object_ids(int(t)) for t in times])
    numbers = set(np.unique(object_ids[0]).tolist()) - {0, VOID} - {expression.number for expression in expressions}
    budget.charge_masks(len(numbers) * len(times), video.size, prompt.key)
    others, void = object_ids == np.array(sorted(numbers), np.uint8)[:, None, None, None], object_ids == VOID
    return dataclasses.replace(prompt, others=others, ignore=void if void.any() else None)


def _join_by_object(expressions: Sequence[Expression]) -> list[Expression]:
    """Joins the expressions of each object, in the order of their first expression."""
    by_object: dict[int | None, list[Expression]] = {}
    for expression in expressions:
        by_object.setdefault(expression.number, []).append(expression)
    if None in by_object:
        raise UserError("sentences='joined' needs object ids, which test sets do not publish; use sentences='each'")
    return [
        dataclasses.replace(group[0], sentences=tuple(s for expression in group for s in expression.sentences), group="")
        for group in by_object.values()
    ]
