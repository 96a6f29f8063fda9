"""DAVIS: JPEGImages/480p/<video>/<frame>.jpg, Annotations/480p/<video>/<frame>.png, ImageSets/<year>/<split>.txt.

The png values of 2017 are object ids, 255 is void. Those of 2016 show the single object of a video in white, or in any
colour of a palette but black. The
unsupervised task of 2017 has separate masks in Annotations_unsupervised.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import note_problem, report_problem
from hyperseg_jax.datasets.frame_sampling import Sampling
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.video_folders import VOID, Video, VideoFolders
from hyperseg_jax.datasets.video_reader import VideoReader
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.untrusted import budget

TASKS = {"semi-supervised": "Annotations", "unsupervised": "Annotations_unsupervised"}
"""The tasks of DAVIS 2017 and their mask folders."""
CLASS = "object"
"""The only class of the unsupervised task."""
MIN_FRAMES = 3
"""Minimum number of frames of a video of the semi-supervised task: the first and last one are not scored."""


class Davis2017(VideoReader):
    """Random access to the videos of one split, in the order of its list.

    semi-supervised: the masks of the first frame are regions of kind "mask", and each object is to be tracked.
    unsupervised: the class list ("object",) with the mask of every object, without regions. The objects of a full video are
    those of its first frame, as in the official evaluation tool.
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
        """split: a list in ImageSets; None reads all videos. annotations: the mask folder in root, by default that of the task.
        frames, sampling, reach: see frame_sampling.Sampling; a clip of the semi-supervised task starts at a frame that shows an
        object. seed: clips are sampled from the seed and the index.
        """
        if task not in TASKS:
            raise UserError(f"task={task!r} is unknown; choose one of {', '.join(TASKS)}")
        root_folder = files.existing_folder(root)
        masks = files.subpath(root_folder, self._mask_folder_name(annotations, task), resolution)
        self._folders = VideoFolders(files.subpath(root_folder, "JPEGImages", resolution), masks)
        self._items = self._folders.videos() if split is None else self._read_split(root_folder, split)
        self._semi_supervised = task == "semi-supervised"
        self._sampling = Sampling(frames, sampling, reach)
        self._seed = seed

    def _mask_folder_name(self, annotations: str | None, task: str) -> str:
        """Returns the name of the mask folder in the root: `annotations` if given, else that of the task."""
        return annotations or TASKS[task]

    def _read_split(self, root: pathlib.Path, split: str) -> list[str]:
        """Reads the names of the videos of a split."""
        return read_split(files.subpath(root, "ImageSets", "2017", f"{split}.txt"))

    def _read_object_ids(self, video: Video, t: int) -> np.ndarray:
        """Returns uint8 [H, W]: the object id of each pixel, or VOID."""
        return video.read_object_ids(t)

    @guard_record
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """Returns a video, or a clip sampled with rng."""
        name = self._items[index]
        video = self._folders.open(name, self._folders.frame_names(name))
        if self._semi_supervised and video.first_mask_only:
            return self._build_test_set_example(name, video)
        times = self._sample_frame_indices(video, rng)
        frames, frame_names = video.read_frames(times), video.frame_names(times)
        object_ids = np.stack([self._read_object_ids(video, int(t)) for t in times])
        first_frame_only = self._semi_supervised or self._sampling.frames is None
        objects = _visible_object_ids(object_ids[0] if first_frame_only else object_ids)
        if self._semi_supervised and not objects and not video.lacks_masks:
            message = f"{self._folders.root / name}: its masks show no object in frame {times[0]}; remove the video"
            report_problem("bad mask", message)
        if self._semi_supervised and self._sampling.frames is None and len(times) < MIN_FRAMES:
            message = f"{self._folders.root / name}: has {len(times)} frames, and the scores need {MIN_FRAMES}; add the others"
            note_problem("bad record", message)
        budget.charge_masks(len(objects) * len(times), video.size, name)
        masks = object_ids == np.array(objects, np.uint8)[:, None, None, None]
        void, count = object_ids == VOID, len(objects)
        ignore = void if void.any() else None
        if not self._semi_supervised:
            prompt = Prompt(
                task="panoptic", classes=(CLASS,), things=(True,), masks=masks, labels=(0,) * count, ignore=ignore, key=name
            )
            return Example(name, frames, (prompt,), frame_names)
        regions = tuple(map(Region.from_mask, masks[:, 0]))
        prompt = Prompt(task="region", masks=masks, labels=tuple(range(count)), regions=regions, ignore=ignore, key=name)
        return Example(name, frames, (prompt,), frame_names)

    def first_object_ids(self, name: str) -> list[int]:
        """Returns the ids of the objects of the first frame of a video, ascending: those of its regions, in their order."""
        return _visible_object_ids(self._read_object_ids(self._folders.open(name, self._folders.frame_names(name)), 0))

    def _sample_frame_indices(self, video: Video, rng: np.random.Generator) -> np.ndarray:
        """Samples frame indices. A clip of the semi-supervised task starts at a frame that shows an object, or else at frame
        0."""
        if not self._semi_supervised or self._sampling.frames is None:
            return self._sampling.sample_frame_indices(len(video), rng)
        shows = lambda t: bool(_visible_object_ids(self._read_object_ids(video, t)))
        times = self._sampling.sample_frame_indices_showing(len(video), rng, shows, key=0)
        return times if shows(int(times[0])) else np.minimum(np.arange(self._sampling.frames), len(video) - 1)

    def _build_test_set_example(self, name: str, video: Video) -> Example:
        """Returns all frames with the regions of the first frame; the masks of test sets are not public."""
        first = self._read_object_ids(video, 0)
        budget.charge_masks(len(_visible_object_ids(first)), video.size, name)
        regions = first == np.array(_visible_object_ids(first), np.uint8)[:, None, None]
        prompt = Prompt(task="region", regions=tuple(map(Region.from_mask, regions)), key=name)
        every = range(len(video))
        return Example(name, video.read_frames(every), (prompt,), video.frame_names(every))


class Davis2016(Davis2017):
    """Like Davis2017 for DAVIS 2016: one object per video, masks in Annotations for both tasks, no void pixels.

    Reads the split lists of both releases: video names (ImageSets/2016, in the archives of 2017), or an image and its mask per
    line (ImageSets/480p).
    """

    def _mask_folder_name(self, annotations: str | None, task: str) -> str:
        return annotations or "Annotations"

    def _read_split(self, root: pathlib.Path, split: str) -> list[str]:
        lists = [files.subpath(root, "ImageSets", folder, f"{split}.txt") for folder in ("2016", "480p", "1080p")]
        return read_split(next((path for path in lists if path.exists()), lists[0]))

    def _read_object_ids(self, video: Video, t: int) -> np.ndarray:
        return video.read_mask(t)


def read_split(path: pathlib.Path) -> list[str]:
    """Reads the names of the videos in a split list. A line is the name of a video, or an image and its mask:
    /JPEGImages/480p/<video>/00000.jpg ..."""
    lines = files.read_lines(path, "list of videos")
    first = (line.split()[0] for line in lines if line.strip())
    videos = list(dict.fromkeys(pathlib.PurePosixPath(word).parent.name if "/" in word else word for word in first))
    if not videos:
        raise UserError(f"{path}: lists no video; download it again")
    return videos


def _visible_object_ids(object_ids: np.ndarray) -> list[int]:
    """Returns the ids of the objects with at least one pixel."""
    return [int(number) for number in np.unique(object_ids) if number not in (0, VOID)]
