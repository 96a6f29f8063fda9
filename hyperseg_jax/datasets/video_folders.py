"""Videos stored as folders with one JPEG per frame, and masks as folders with one png of object ids per frame."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.labels import read_label_image, read_mask_image
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import budget, limits

VOID = 255
"""The pixel value that metrics ignore."""
MODES = ("P", "L", "1")
"""Pillow modes of masks: palette and grey values up to 255."""


def object_number(text: str) -> int | None:
    """Parses an object number of an annotation file, from 1 to VOID - 1; None if the text is not one."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 3 else 0
    return number if 0 < number < VOID else None


class VideoFolders:
    """Lazy access to <frames>/<video>/<name>.jpg and <masks>/<video>/<name>.png."""

    def __init__(self, frames: str | os.PathLike, masks: str | os.PathLike | None = None):
        """masks: None if the masks are not public."""
        self.root = files.existing_folder(frames)
        self._masks = None if masks is None else files.existing_folder(masks)

    def videos(self) -> list[str]:
        """Returns the names of all videos, sorted."""
        return sorted(path.name for path in self.root.iterdir() if path.is_dir())

    def frame_names(self, video: str) -> list[str]:
        """Returns the sorted frame names of a video without ".jpg", including masks without a frame. Raises UserError if it has
        no frames."""
        frames = {path.stem for path in files.existing_folder(self.frame_folder(video)).glob("*.jpg")}
        if not frames:
            raise Problem("missing file", f"{self.root / video}: has no .jpg frames; unpack them there")
        masks = set() if self._masks is None else {path.stem for path in self._mask_folder(video).glob("*.png")}
        return sorted(frames | masks)

    def frame_folder(self, video: str) -> pathlib.Path:
        return files.join_inside(self.root, video, str(self.root))

    def _mask_folder(self, video: str) -> pathlib.Path:
        assert self._masks is not None
        return files.join_inside(self._masks, video, str(self._masks))

    def open(self, video: str, names: Sequence[str]) -> Video:
        """Opens one video for the duration of one example. names: its frame names in order."""
        limits.check_limit("frames", len(names), f"{self.root}: video {video}", "frames")
        if not names:
            raise UserError(f"{self.root}: video {video}: the annotations list no frames of it; correct or remove the video")
        return Video(self.frame_folder(video), None if self._masks is None else self._mask_folder(video), names)


class Video:
    """One video: frames and masks by index, each mask read at most once."""

    def __init__(self, frames: pathlib.Path, masks: pathlib.Path | None, names: Sequence[str]):
        self._frames, self._masks, self._names = frames, masks, names
        self._read: dict[int, np.ndarray] = {}
        self.lacks_masks = False
        """Whether a mask could not be read. A check continues with an empty mask in its place."""
        self.size = self._first_size()

    def _frame_path(self, name: str) -> pathlib.Path:
        return files.join_inside(self._frames, f"{name}.jpg", str(self._frames))

    def _first_size(self) -> tuple[int, int]:
        """Returns (height, width) of the first frame; during a check, of the first readable frame."""
        for name in self._names:
            try:
                return files.read_image_size(self._frame_path(name))
            except Problem as problem:
                report_problem(problem.kind, str(problem))
        raise Problem("missing file", f"{self._frames}: has no readable frame; unpack the frames there")

    def __len__(self) -> int:
        return len(self._names)

    @property
    def first_mask_only(self) -> bool:
        """Whether only the first frame has a mask, as in test sets."""
        return len(self) > 1 and self._masks is not None and [p.stem for p in self._masks.glob("*.png")] == [self._names[0]]

    def read_frames(self, times: Iterable[int]) -> np.ndarray:
        """Returns frames as uint8 [T, H, W, 3]. Raises UserError if a frame is missing, damaged or differs in size from the
        first."""
        return np.stack([files.read_image(self._frame_path(self._names[t]), self.size) for t in times])

    def frame_names(self, times: Iterable[int]) -> tuple[str, ...]:
        """Returns the names of these frames."""
        return tuple(self._names[t] for t in times)

    def read_object_ids(self, t: int) -> np.ndarray:
        """Returns the object id of each pixel of frame t, uint8 [H, W]; 0 is background.

        Raises UserError if the png is missing, damaged or differs in size from the first frame.
        """
        return self._read_once(t, lambda path: read_label_image(path, self.size, what="mask", whose="frame", modes=MODES))

    def read_mask(self, t: int) -> np.ndarray:
        """Returns the mask of the only object in frame t, uint8 [H, W] of 0 and 1, from a black and white png. Raises UserError
        like `read_object_ids`; a video is read by one of the two."""
        return self._read_once(t, lambda path: read_mask_image(path, self.size, whose="frame"))

    def _read_once(self, t: int, read: Callable[[pathlib.Path], np.ndarray | None]) -> np.ndarray:
        """Returns what `read` returns for the png of frame t, as uint8 [H, W]; zeros for None."""
        if self._masks is None:
            raise UserError(f"{self._frames}: opened without masks; give the folder of the annotations")
        if t not in self._read:
            path = files.join_inside(self._masks, f"{self._names[t]}.png", str(self._masks))
            budget.charge_masks(1, self.size, str(path))
            numbers = read(path)
            self.lacks_masks |= numbers is None
            self._read[t] = np.zeros(self.size, np.uint8) if numbers is None else numbers.astype(np.uint8)
        return self._read[t]

    def read_object_mask(self, number: int, times: Iterable[int], where: str) -> np.ndarray:
        """Returns the mask of one object, bool [T, H, W]. Raises UserError if no frame of the full video shows it."""
        mask = np.stack([self.read_object_ids(int(t)) == number for t in times])
        visible = mask.any() or any((self.read_object_ids(t) == number).any() for t in range(len(self)))
        if not visible and not self.lacks_masks:
            message = f"{where}: no mask in {self._masks} has object {number}; correct its number, or use files of one release"
            report_problem("bad mask", message)
        return mask
