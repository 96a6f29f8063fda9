"""Frames out of video files and streams, one at a time, whatever their length. PyAV (the `video` extra) decodes."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import paths, videos
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import shown

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def is_video(path: pathlib.Path) -> bool:
    """Whether read_frames makes a clip of it: a folder, or a file that is called as videos are."""
    return path.is_dir() or path.suffix.lower() in VIDEOS


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images of a folder in name order: the frames of a clip."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES)
    if not found:
        raise UserError(f"{folder}: no images here; give a folder of JPEG or PNG frames")
    return found


def read_frames(source: str | os.PathLike[str] | BinaryIO) -> Iterator[np.ndarray]:
    """The frames of a video in order, uint8 [H, W, 3], turned upright; one in memory at a time, besides the decoder's few.

    source: a video file, a folder of images, or a binary stream (an open file, a pipe, a socket's file).
    UserError for what is missing, no video, or damaged: it names the frame, and comes when that one is asked for.
    """
    if not isinstance(source, str | os.PathLike):
        yield from _decode(source, getattr(source, "name", "the stream"))
        return
    path = pathlib.Path(source)
    if path.is_dir():
        for image in image_files(path):
            yield files.read_image(files.inside(path, image.name, str(path)))
        return
    try:
        file = paths.open_file(path)
    except BadFile as error:
        raise UserError(f"{path}: {error} of a video") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); check the path of the video") from error
    with file:
        yield from _decode(file, path)


def _decode(file: BinaryIO, name: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """FFmpeg reads through the file object only, so no name is taken for an address."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"{name}: a video file needs PyAV; pip install 'hyperseg-jax[video]', or give its frames") from error
    count, seconds = 0, 0.0
    try:
        with videos.open_container(file) as container:
            for frame in videos.frames(container):
                if frame.is_corrupt:
                    raise BadFile(f"frame {count} is damaged", videos.AGAIN)
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
                count, seconds = count + 1, frame.time or 0.0
            told = _told_seconds(container.streams.video[0].metadata.get("DURATION", ""))
            if told > seconds + 1:
                raise BadFile(f"ends after {seconds:.1f} of its {told:.1f} seconds", videos.AGAIN)
            if not count:
                raise BadFile("holds no frames", videos.AGAIN)
    except BadFile as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:  # PyAV's own, and whatever else a damaged file makes it raise
        why = error.strerror if isinstance(error, av.FFmpegError | OSError) else shown(f"{type(error).__name__}: {error}")
        at = f"after frame {count - 1}" if count else "as a video"
        raise UserError(f"{name}: cannot be read {at} ({why}); {videos.AGAIN}") from error


def _told_seconds(text: str) -> float:
    """What Matroska says of a stream's length, as 00:01:02.500000000; else 0. Such a file ends early without an error."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text)
    return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3]) if found else 0.0
