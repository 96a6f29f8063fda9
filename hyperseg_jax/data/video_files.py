"""Reads frames of video files, image folders and streams one at a time. Videos are decoded by PyAV (the `video` extra)."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from hyperseg_jax.datasets import files, record_errors
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import paths, videos
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.video_ends import count_missing_bytes

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def is_video(path: pathlib.Path) -> bool:
    """Returns whether read_frames reads the path as a video: a folder, or a file with a video suffix."""
    return path.is_dir() or path.suffix.lower() in VIDEOS


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the image files of a folder, sorted by name: the frames of a video."""
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES)
    if not images:
        raise UserError(f"{folder}: no images here; give a folder of JPEG or PNG frames")
    return images


def read_frames(source: str | os.PathLike[str] | BinaryIO) -> Iterator[np.ndarray]:
    """Yields the frames of a video in order as uint8 [H, W, 3], with its rotation applied. Only one frame (and the buffer of
    the decoder) is in memory at a time.

    source: a video file, a folder of images, or a binary stream (an open file, a pipe, a socket's file).
    Raises UserError for a missing file, a file that is not a video, or a damaged frame, when that frame is read.
    """
    if not isinstance(source, str | os.PathLike):
        yield from _decode_video(source, getattr(source, "name", "the stream"))
        return
    path = pathlib.Path(source)
    if path.is_dir():
        for image in image_files(path):
            yield files.read_image(files.join_inside(path, image.name, str(path)))
        return
    try:
        file = paths.open_file(path)
    except BadFile as error:
        raise UserError(f"{path}: {error.why}; give a video file or a folder of its frames") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); check the path of the video") from error
    with file:
        yield from _decode_video(file, path)


def _decode_video(file: BinaryIO, name: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Decodes a file object. FFmpeg only reads through the file object, so a file name is never interpreted as a URL."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"{name}: a video file needs PyAV; pip install 'hyperseg-jax[video]', or give its frames") from error
    count, seconds = 0, 0.0
    try:
        with videos.open_container(file) as container:
            for frame in videos.decode_frames(container):
                if frame.is_corrupt:
                    raise BadFile(f"frame {count} is damaged", videos.AGAIN)
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
                count, seconds = count + 1, frame.time or 0.0
            stream = container.streams.video[0]
            declared = _declared_seconds(stream.metadata.get("DURATION", ""))
            if declared > seconds + 1:
                raise BadFile(f"ends after {seconds:.1f} of its {declared:.1f} seconds", videos.AGAIN)
            if not count:
                raise BadFile("holds no frames", videos.AGAIN)
            if missing := count_missing_bytes(file, container.format.name, stream.index_entries):
                raise BadFile(f"is cut after frame {count - 1}: {missing} bytes are missing at its end", videos.AGAIN)
    except BadFile as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:  # a damaged file can make PyAV raise any exception
        why = error.strerror if isinstance(error, av.FFmpegError) else record_errors.describe_error(error)
        if isinstance(error, MemoryError):  # FFmpeg's error for sizes that it refuses, too
            why = "it asks for more memory than there is, or than a video needs"
        at = f"after frame {count - 1}" if count else "as a video"
        raise UserError(f"{name}: cannot be read {at} ({why}); {videos.AGAIN}") from error


def _declared_seconds(text: str) -> float:
    """Returns the duration that Matroska declares for a stream ("00:01:02.500000000") in seconds, else 0. A truncated Matroska
    file ends without a decoder error, so its duration is compared."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text)
    return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3]) if match else 0.0
