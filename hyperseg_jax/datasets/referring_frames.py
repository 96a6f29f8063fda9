"""Frames of a few videos as images, with sentences about the one object of each video: a folder with JPEGImages and
Annotations as of DAVIS, and expressions.json, {video: {"expressions": [sentence, ...]}}.

Every second frame can be kept for testing. So that sentences count, some examples are two videos side by side: what a sentence
means is in one half only.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.video_folders import VideoFolders
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted import budget

PARTS = {"even": slice(0, None, 2), "odd": slice(1, None, 2), "all": slice(None)}


class ReferringFrames:
    """Random access to the frames of all videos, video by video; a prompt for each sentence about what is seen.

    Frames stand alone and beside one of another video in turn; `sample` draws which. A prompt's key is its video, its group
    "alone" or "beside".
    """

    def __init__(
        self, folder: str | os.PathLike, part: str = "all", *, resolution: str = "240p", beside: bool = True, seed: int = 0
    ):
        """part: "even", "odd" or "all" frames of each video. beside: whether there are pairs. seed: of who is beside whom."""
        if part not in PARTS:
            raise UserError(f"part={part!r} is unknown; choose one of {', '.join(PARTS)}")
        root = pathlib.Path(folder)
        self._file = files.Json(files.inside(root, "expressions.json", str(root)), dict)
        self._folders = VideoFolders(*(files.subpath(root, name, resolution) for name in ("JPEGImages", "Annotations")))
        self.videos = tuple(sorted(self._file.content))
        self._frames = {video: self._folders.names(video)[PARTS[part]] for video in self.videos}
        self._items = [(video, name) for video in self.videos for name in self._frames[video]]
        self._beside, self._seed = beside and len(self.videos) > 1, seed

    def __len__(self) -> int:
        return len(self._items)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        """Frames alone and in pairs, in turn."""
        return self._example(index, bool(index % 2), np.random.default_rng([self._seed, index]))

    @guard_record
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """The same frame, alone or beside one drawn with rng."""
        return self._example(index, bool(rng.random() < 0.5), rng)

    def _example(self, index: int, beside: bool, rng: np.random.Generator) -> Example:
        video, name = self._items[index]
        image, mask = self._read(video, name)
        if not (beside and self._beside):
            prompts = self._prompts(video, mask, "alone")
            return Example(f"{video}/{name}", image[None], prompts)
        other = str(rng.choice([one for one in self.videos if one != video]))
        partner = str(rng.choice(self._frames[other]))
        second, its_mask = self._read(other, partner)
        if second.shape[0] != image.shape[0]:
            where = self._folders.root
            raise UserError(f"{where}: {video} and {other} differ in height; give frames of one height, or beside=False")
        sides = [(video, image, mask), (other, second, its_mask)]
        if rng.random() < 0.5:
            sides.reverse()
        nothing = [np.zeros_like(one) for _, _, one in sides]
        prompts = ()
        for side, (spoken_of, _, own) in enumerate(sides):
            whole = np.concatenate([own if k == side else nothing[k] for k in (0, 1)], axis=1)
            prompts += self._prompts(spoken_of, whole, "beside")
        both = np.concatenate([one for _, one, _ in sides], axis=1)
        return Example(f"{video}/{name} beside {other}/{partner}", both[None], prompts)

    def _read(self, video: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        opened = self._folders.open(video, [name])
        return opened.images([0])[0], opened.objects(0) > 0

    def _prompts(self, video: str, mask: np.ndarray, how: str) -> tuple[Prompt, ...]:
        sentences = files.text_list(self._file.content[video], "expressions", f"{self._file.path} {video}")
        budget.charge(len(sentences), mask.shape, f"{self._file.path} {video}")
        return tuple(Prompt(task="referring", text=text, masks=mask[None, None], group=how, key=video) for text in sentences)
