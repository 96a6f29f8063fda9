"""Single frames of videos with sentences about the only object of each video: a folder with JPEGImages and Annotations like
DAVIS, and expressions.json, {video: {"expressions": [sentence, ...]}}.

Every second frame can be held out for testing. Some examples show frames of two videos side by side, where a sentence refers to
one half only, so that a model has to use the text.
"""

from __future__ import annotations

import os

import numpy as np

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.video_folders import VideoFolders
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted import budget

PARTS = {"even": slice(0, None, 2), "odd": slice(1, None, 2), "all": slice(None)}


def open_parts(folder: str | os.PathLike, part: str, resolution: str) -> tuple[files.Json, VideoFolders, dict[str, list[str]]]:
    """Opens a folder of this layout: its expressions, its videos, and the names of the frames of a part by video, sorted."""
    if part not in PARTS:
        raise UserError(f"part={part!r} is unknown; choose one of {', '.join(PARTS)}")
    root = files.as_path(folder)
    file = files.Json(files.join_inside(root, "expressions.json", str(root)), dict)
    folders = VideoFolders(*(files.subpath(root, name, resolution) for name in ("JPEGImages", "Annotations")))
    return file, folders, {video: folders.frame_names(video)[PARTS[part]] for video in sorted(file.content)}


def read_sentences(file: files.Json, video: str) -> list[str]:
    """Returns the sentences about the object of a video."""
    return fields.text_list_field(file.content[video], "expressions", f"{file.path} {video}")


class ReferringFrames:
    """Random access to the frames of all videos, video by video, with one prompt per sentence.

    Examples alternate between single frames and pairs with a frame of another video; `sample` chooses at random. The key of a
    prompt is its video, its group is "alone" or "beside".
    """

    def __init__(
        self, folder: str | os.PathLike, part: str = "all", *, resolution: str = "240p", beside: bool = True, seed: int = 0
    ):
        """part: "even", "odd" or "all" frames of each video. beside: whether to create pairs. seed: seed of the pairs."""
        self._file, self._folders, self._frames = open_parts(folder, part, resolution)
        self.videos = tuple(self._frames)
        self._items = [(video, name) for video in self.videos for name in self._frames[video]]
        self._beside, self._seed = beside and len(self.videos) > 1, seed

    def __len__(self) -> int:
        return len(self._items)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        """Returns a single frame for even indices and a pair for odd ones."""
        return self._build_example(index, bool(index % 2), np.random.default_rng([self._seed, index]))

    @guard_record
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """Returns the frame of example `index`, with equal probability alone or beside a random frame of another video."""
        return self._build_example(index, bool(rng.random() < 0.5), rng)

    def _build_example(self, index: int, beside: bool, rng: np.random.Generator) -> Example:
        """Returns a frame alone, or beside a random frame of another video."""
        video, name = self._items[index]
        image, mask = self._read_frame_and_mask(video, name)
        if not (beside and self._beside):
            prompts = self._build_prompts(video, mask, "alone")
            return Example(f"{video}/{name}", image[None], prompts)
        other = str(rng.choice([candidate for candidate in self.videos if candidate != video]))
        other_name = str(rng.choice(self._frames[other]))
        other_image, other_mask = self._read_frame_and_mask(other, other_name)
        if other_image.shape[0] != image.shape[0]:
            where = self._folders.root
            raise UserError(f"{where}: {video} and {other} differ in height; use frames of one height or set beside=False")
        sides = [(video, image, mask), (other, other_image, other_mask)]
        if rng.random() < 0.5:
            sides.reverse()
        empty = [np.zeros_like(side_mask) for _, _, side_mask in sides]
        prompts = ()
        for side, (side_video, _, side_mask) in enumerate(sides):
            full_mask = np.concatenate([side_mask if k == side else empty[k] for k in (0, 1)], axis=1)
            prompts += self._build_prompts(side_video, full_mask, "beside")
        pair = np.concatenate([side_image for _, side_image, _ in sides], axis=1)
        return Example(f"{video}/{name} beside {other}/{other_name}", pair[None], prompts)

    def _read_frame_and_mask(self, video: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        frame = self._folders.open(video, [name])
        return frame.read_frames([0])[0], frame.read_mask(0) > 0

    def _build_prompts(self, video: str, mask: np.ndarray, group: str) -> tuple[Prompt, ...]:
        sentences = read_sentences(self._file, video)
        budget.charge_masks(len(sentences), mask.shape, f"{self._file.path} {video}")
        return tuple(Prompt(task="referring", text=text, masks=mask[None, None], group=group, key=video) for text in sentences)
