"""Sentences about numbered objects of videos in folders: what Ref-DAVIS and Ref-YouTube-VOS have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.clip_reader import ClipReader
from hyperseg_jax.datasets.clip_sampling import Sampling
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.video_folders import VOID, Video, VideoFolders
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.text.expressions import join_sentences
from hyperseg_jax.untrusted import budget

SENTENCES = ("each", "joined")


@dataclasses.dataclass(frozen=True)
class Expression:
    """Sentences about one object. key: unique within the video. number: of the object; None where the server knows it."""

    key: str
    sentences: tuple[str, ...]
    number: int | None
    group: str = ""


class ReferringVideos(ClipReader):
    """Random access to the expressions of videos, in the order given."""

    def __init__(
        self,
        folders: VideoFolders,
        spoken: Mapping[str, Sequence[Expression]],
        where: str,
        *,
        names: Mapping[str, Sequence[str]] | None = None,
        sentences: str = "each",
        sampling: Sampling,
        per_example: int | None = None,
        together: bool = False,
        seed: int = 0,
    ):
        """where: the file of the sentences, for messages. names: the frames of each video; None takes all that its folder has.
        sentences: one of SENTENCES; "joined": all about one object are one prompt. per_example: an example carries up to this
        many prompts of one video; None gives each its own. together: an example carries one prompt about each object, all of
        one group, and knows of the other objects of its first frame. sampling: with jumps, the key frame shows what is spoken
        of.
        """
        if sentences not in SENTENCES:
            raise UserError(f"sentences={sentences!r} is unknown; choose one of {', '.join(SENTENCES)}")
        if per_example is not None and per_example < 1:
            raise UserError(f"prompts_per_example={per_example} is too few; give at least 1")
        self._folders, self._names, self._where = folders, names, where
        self._sampling, self._seed = sampling, seed
        self._together = together
        self._items = []
        for video, said in spoken.items():
            asked = _joined(said) if sentences == "joined" else list(said)
            groups = _by_group(asked) if together else files.chunks(asked, per_example or 1)
            self._items += [(video, group) for group in groups]

    @guard_record
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """The expressions of an example and their video, or a clip of it drawn with rng."""
        name, said = self._items[index]
        video = self._folders.open(name, self._folders.names(name) if self._names is None else self._names[name])
        times = self._frame_indices(video, said, rng)
        prompts = tuple(self._prompt(name, video, expression, times) for expression in said)
        if self._together:
            prompts = (_with_the_rest(prompts[0], video, said, times), *prompts[1:])
        return Example(f"{name}/{said[0].key}", video.images(times), prompts, video.names(times))

    def _frame_indices(self, video: Video, said: Sequence[Expression], rng: np.random.Generator) -> np.ndarray:
        numbers = [expression.number for expression in said if expression.number is not None]
        if self._sampling.rule == "jump" and numbers:
            return self._sampling.frame_indices_showing(
                len(video), rng, lambda t: bool(np.isin(video.objects(t), numbers).any())
            )
        return self._sampling.frame_indices(len(video), rng)

    def _prompt(self, name: str, video: Video, expression: Expression, times: np.ndarray) -> Prompt:
        text, number = join_sentences(expression.sentences), expression.number
        budget.charge(len(times), video.size, name)
        masks = None if number is None else video.object(number, times, f"{self._where} {name} {expression.key}")[None]
        return Prompt(task="video", text=text, masks=masks, group=expression.group, key=f"{name}/{expression.key}")


def _by_group(said: Sequence[Expression]) -> list[list[Expression]]:
    """Those of each group, the first about each object."""
    groups: dict[str, dict[int | None, Expression]] = {}
    for expression in said:
        groups.setdefault(expression.group, {}).setdefault(expression.number, expression)
    return [list(objects.values()) for objects in groups.values()]


def _with_the_rest(prompt: Prompt, video: Video, said: Sequence[Expression], times: np.ndarray) -> Prompt:
    """The prompt with what its clip has besides: objects of the first frame that no expression is about, and void."""
    owner = np.stack([video.objects(int(t)) for t in times])
    numbers = set(np.unique(owner[0]).tolist()) - {0, VOID} - {one.number for one in said}
    budget.charge(len(numbers) * len(times), video.size, prompt.key)
    others, void = owner == np.array(sorted(numbers), np.uint8)[:, None, None, None], owner == VOID
    return dataclasses.replace(prompt, others=others, ignore=void if void.any() else None)


def _joined(said: Sequence[Expression]) -> list[Expression]:
    """One expression an object, at the place of its first."""
    by_object: dict[int | None, list[Expression]] = {}
    for expression in said:
        by_object.setdefault(expression.number, []).append(expression)
    if None in by_object:
        raise UserError("sentences='joined' needs the objects that they name, which a test set keeps; take sentences='each'")
    return [
        dataclasses.replace(group[0], sentences=tuple(s for one in group for s in one.sentences), group="")
        for group in by_object.values()
    ]
