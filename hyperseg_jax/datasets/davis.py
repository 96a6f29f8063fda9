"""DAVIS: JPEGImages/480p/<video>/<frame>.jpg, Annotations/480p/<video>/<frame>.png, ImageSets/<year>/<split>.txt.

The pngs of 2017 number the objects, 255 is void; those of 2016 show the one object of a video, where any value but 0 is it. The
unsupervised task of 2017 has masks of its own, in Annotations_unsupervised.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import complain
from hyperseg_jax.datasets.clip_reader import ClipReader
from hyperseg_jax.datasets.clip_sampling import Sampling
from hyperseg_jax.datasets.record_errors import one_record
from hyperseg_jax.datasets.video_folders import VOID, Video, VideoFolders
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.untrusted import budget

TASKS = {"semi-supervised": "Annotations", "unsupervised": "Annotations_unsupervised"}
"""The tasks of 2017, and where each has its masks."""
CLASS = "object"
"""The class list of the unsupervised task: every object, whatever it is."""


class Davis2017(ClipReader):
    """Random access to the videos of one split, in its order.

    semi-supervised: the objects of the first frame are drawn as regions of kind "mask", and each is to be followed.
    unsupervised: the class list ("object",) and the mask of every object; nothing is drawn. The objects of a whole video are
    those of its first frame, as the official tool counts them.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str | None = "val",
        *,
        task: str = "semi-supervised",
        annotations: str | None = None,
        resolution: str = "480p",
        frames: int | None = None,
        sampling: str = "stride",
        reach: int | None = None,
        seed: int = 0,
    ):
        """split: a list of ImageSets; None takes every video there is. annotations: the folder of the masks in root, by default
        that of the task. frames, sampling, reach: see clip_sampling.Sampling; a clip of the semi-supervised task begins where
        an object is seen. seed: what clips are drawn from, with the index.
        """
        if task not in TASKS:
            raise UserError(f"task={task!r} is unknown; choose one of {', '.join(TASKS)}")
        home = files.existing_folder(root)
        masks = files.part(home, self._masks(annotations, task), resolution)
        self._folders = VideoFolders(files.part(home, "JPEGImages", resolution), masks)
        self._items = self._folders.videos() if split is None else self._split(home, split)
        self._given = task == "semi-supervised"
        self._sampling = Sampling(frames, sampling, reach)
        self._seed = seed

    def _masks(self, annotations: str | None, task: str) -> str:
        return annotations or TASKS[task]

    def _split(self, home: pathlib.Path, split: str) -> list[str]:
        return read_split(files.part(home, "ImageSets", "2017", f"{split}.txt"))

    def _owner(self, video: Video, t: int) -> np.ndarray:
        """uint8 [H, W]: the object of each pixel, or VOID."""
        return video.objects(t)

    @one_record
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """A video, or a clip of it drawn with rng."""
        name = self._items[index]
        video = self._folders.open(name, self._folders.names(name))
        if self._given and video.first_mask_only:
            return self._of_test_set(name, video)
        times = self._times(video, rng)
        frames, shown = video.images(times), video.names(times)
        owner = np.stack([self._owner(video, int(t)) for t in times])
        numbers = _numbers(owner[0] if self._given or self._sampling.frames is None else owner)
        if self._given and not numbers and not video.lacks_masks:
            message = f"{self._folders.root / name}: its masks show no object in frame {times[0]}; leave the video out"
            complain("bad mask", message)
        budget.charge(len(numbers) * len(times), video.size, name)
        masks = owner == np.array(numbers, np.uint8)[:, None, None, None]
        void, count = owner == VOID, len(numbers)
        ignore = void if void.any() else None
        if not self._given:
            prompt = Prompt(
                task="panoptic", classes=(CLASS,), things=(True,), masks=masks, labels=(0,) * count, ignore=ignore, key=name
            )
            return Example(name, frames, (prompt,), shown)
        drawn = tuple(map(Region.from_mask, masks[:, 0]))
        prompt = Prompt(task="region", masks=masks, labels=tuple(range(count)), regions=drawn, ignore=ignore, key=name)
        return Example(name, frames, (prompt,), shown)

    def _times(self, video: Video, rng: np.random.Generator) -> np.ndarray:
        if not self._given or self._sampling.frames is None:
            return self._sampling.times(len(video), rng)
        shows = lambda t: bool(_numbers(self._owner(video, t)))
        times = self._sampling.times_that_show(len(video), rng, shows, key=0)
        return times if shows(int(times[0])) else np.minimum(np.arange(self._sampling.frames), len(video) - 1)

    def _of_test_set(self, name: str, video: Video) -> Example:
        """All frames and what is drawn in the first; the server has the masks."""
        first = self._owner(video, 0)
        budget.charge(len(_numbers(first)), video.size, name)
        regions = first == np.array(_numbers(first), np.uint8)[:, None, None]
        prompt = Prompt(task="region", regions=tuple(map(Region.from_mask, regions)), key=name)
        every = range(len(video))
        return Example(name, video.images(every), (prompt,), video.names(every))


class Davis2016(Davis2017):
    """The same for 2016: one object a video, masks in Annotations for both tasks, nothing void.

    Lists of either release: names (ImageSets/2016, in the archives of 2017), or an image and its mask a line (ImageSets/480p).
    """

    def _masks(self, annotations: str | None, task: str) -> str:
        return annotations or "Annotations"

    def _split(self, home: pathlib.Path, split: str) -> list[str]:
        lists = [files.part(home, "ImageSets", folder, f"{split}.txt") for folder in ("2016", "480p", "1080p")]
        return read_split(next((path for path in lists if path.exists()), lists[0]))

    def _owner(self, video: Video, t: int) -> np.ndarray:
        return (video.objects(t) > 0).astype(np.uint8)


def read_split(path: pathlib.Path) -> list[str]:
    """The videos of a list, one a line, or one of its images and masks a line: /JPEGImages/480p/<video>/00000.jpg ..."""
    lines = files.read_lines(path, "list of videos")
    first = (line.split()[0] for line in lines if line.strip())
    videos = list(dict.fromkeys(pathlib.PurePosixPath(word).parent.name if "/" in word else word for word in first))
    if not videos:
        raise UserError(f"{path}: lists no video; download it again")
    return videos


def _numbers(owner: np.ndarray) -> list[int]:
    """The objects that are seen."""
    return [int(number) for number in np.unique(owner) if number not in (0, VOID)]
