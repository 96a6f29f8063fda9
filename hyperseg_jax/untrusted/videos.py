"""Video files that are not trusted: containers and codecs by name, and nothing but the file itself is opened.

FFmpeg also takes playlists, session descriptions and images with a pattern in their name for videos; those open other files
and addresses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.bad_file import BadFile

CONTAINERS = ("mov", "matroska", "webm", "avi", "mpegts", "mpeg", "asf", "flv", "ogg")
"""By FFmpeg's names: "mov" is also mp4, m4v and 3gp; asf is wmv; mpeg is mpg and vob."""
CODECS = (
    *("h264", "hevc", "av1", "libdav1d", "libaom-av1", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg1video", "mpeg2video"),
    *("mpeg4", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "h263", "flv", "mjpeg", "theora", "wmv1", "wmv2", "wmv3", "vc1"),
    *("prores", "dnxhd", "ffv1", "huffyuv", "ffvhuff", "rawvideo", "png"),
)
"""By the names of FFmpeg's decoders. Sound is not decoded."""
AGAIN = "download or write it again"


def open_container(file: BinaryIO) -> Any:
    """The container in a file (of PyAV). BadFile where it is none of CONTAINERS; errors of PyAV where it is damaged."""
    import av

    allowed = {
        "format_whitelist": ",".join(CONTAINERS),
        "codec_whitelist": ",".join(CODECS),
        "protocol_whitelist": "none",
        "enable_drefs": "0",
        "use_absolute_path": "0",
    }
    most = {"max_pixels": str(limits.in_force().pixels), "codec_whitelist": ",".join(CODECS)}
    try:
        return av.open(_Readable(file), "r", options=most, container_options=allowed, io_open=_refuse)
    except av.ArgumentError as error:  # what FFmpeg says of a container that is not among the allowed
        raise BadFile(f"is none of the video containers that are read here ({', '.join(CONTAINERS)})", "convert it") from error


class _Readable:
    """A file for PyAV. A place that no file has is told to FFmpeg by a negative number; PyAV would print an exception."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.read, self.tell = file, file.read, file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1


def _refuse(url: str, flags: int, options: object) -> NoReturn:
    raise BadFile(f"asks for another file or address ({url})", "convert it with the tools that wrote it")


def frames(container: Any) -> Iterator[Any]:
    """The decoded frames of the first video stream (of PyAV). BadFile where there is none, where its codec is none of CODECS,
    and beyond limits.pixels of a frame, limits.frames, or limits.seconds for one frame."""
    streams = container.streams.video
    if not streams or streams[0].codec_context is None:
        raise BadFile("has no video that can be decoded", "convert it, or give a folder of frames")
    stream = streams[0]
    if stream.codec_context.codec.name not in CODECS:
        raise BadFile(f"is coded as {stream.codec_context.codec.name}, which is not read here", "convert it to H.264")
    _check_pixels(stream.codec_context)
    most, count, began = limits.in_force(), 0, time.monotonic()
    for packet in container.demux(stream):
        for frame in packet.decode():
            _check_pixels(frame)
            if count >= most.frames:
                raise BadFile(f"has more than {most.frames} frames", "if that is right, raise limits.frames")
            yield frame
            count, began = count + 1, time.monotonic()
        if time.monotonic() - began > most.seconds:
            raise BadFile(f"gives no frame {count} in {most.seconds:g} seconds", "if that is right, raise limits.seconds")


def _check_pixels(one: Any) -> None:
    most = limits.in_force().pixels
    if (one.width or 0) * (one.height or 0) > most:
        why = f"has frames of {one.width}x{one.height} pixels, and the limit is {most}"
        raise BadFile(why, "if that is right, raise limits.pixels")
