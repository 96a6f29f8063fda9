"""Decodes untrusted video files, with an allowlist of containers and codecs; no other file is opened.

FFmpeg also accepts playlists, session descriptions and image name patterns as videos, which open other files and URLs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.bad_file import BadFile

CONTAINERS = ("mov", "matroska", "webm", "avi", "mpegts", "mpeg", "asf", "flv", "ogg")
"""Supported containers by FFmpeg's names: "mov" includes mp4, m4v and 3gp; asf includes wmv; mpeg includes mpg and vob."""
CODECS = (
    *("h264", "hevc", "av1", "libdav1d", "libaom-av1", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg1video", "mpeg2video"),
    *("mpeg4", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "h263", "flv", "mjpeg", "theora", "wmv1", "wmv2", "wmv3", "vc1"),
    *("prores", "dnxhd", "ffv1", "huffyuv", "ffvhuff", "rawvideo", "png"),
)
"""Supported codecs by the names of FFmpeg's decoders. Audio is not decoded."""
AGAIN = "download or write it again"


def open_container(file: BinaryIO) -> Any:
    """Opens a video file as a PyAV container. Raises BadFile if it is not one of CONTAINERS; PyAV errors if it is damaged."""
    import av

    allowed = {
        "format_whitelist": ",".join(CONTAINERS),
        "codec_whitelist": ",".join(CODECS),
        "protocol_whitelist": "none",
        "enable_drefs": "0",
        "use_absolute_path": "0",
    }
    most = {**_max_pixels_option(), "codec_whitelist": ",".join(CODECS)}
    try:
        return av.open(_Readable(file), "r", options=most, container_options=allowed, io_open=_refuse_reference)
    except av.ArgumentError as error:  # FFmpeg's error for containers that are not in the allowlist
        raise BadFile(f"is not a supported video container ({', '.join(CONTAINERS)})", "convert it") from error


class _Readable:
    """A file object for PyAV whose invalid seeks return a negative number to FFmpeg. An exception would be printed by PyAV."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.read, self.tell = file, file.read, file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1


def _refuse_reference(url: str, flags: int, options: object) -> NoReturn:
    """Raises BadFile; FFmpeg calls it when a video refers to another file or URL."""
    raise BadFile(f"refers to another file or URL ({url})", "convert it with the tools that wrote it")


def decode_frames(container: Any) -> Iterator[Any]:
    """Yields the decoded frames of the first video stream (PyAV frames). Raises BadFile if there is none, if its codec is not
    in CODECS, if it exceeds limits.pixels per frame, limits.frames, or limits.seconds for one frame, or if FFmpeg skipped
    damaged parts of an MPEG-TS or an AVI."""
    streams = container.streams.video
    if not streams or streams[0].codec_context is None:
        raise BadFile("has no video stream that can be decoded", "convert it, or give a folder of frames")
    stream = streams[0]
    if stream.codec_context.codec.name not in CODECS:
        raise BadFile(f"uses the codec {stream.codec_context.codec.name}, which is not supported", "convert it to H.264")
    _check_pixels(stream.codec_context)
    stream.codec_context.options = _max_pixels_option()
    current, count, packets, began = limits.current(), 0, 0, time.monotonic()
    for packet in container.demux(stream):
        packets += packet.size > 0
        for frame in packet.decode():
            _check_pixels(frame)
            if count >= current.frames:
                raise BadFile(f"has more than {current.frames} frames", "if that is intended, raise limits.frames")
            yield frame
            count, began = count + 1, time.monotonic()
        if packet.is_corrupt:  # a part of it is missing; not all decoders mark its frame
            raise BadFile(f"is damaged {f'after frame {count - 1}' if count else 'at its start'}", AGAIN)
        if time.monotonic() - began > current.seconds:
            raise BadFile(
                f"takes more than {current.seconds:g} seconds to decode frame {count}",
                "if that is intended, raise limits.seconds",
            )
    listed = sum(entry.size > 0 for entry in stream.index_entries) if container.format.name == "avi" else 0
    if packets < listed:
        raise BadFile(f"is damaged: only {packets} of the {listed} frames in its index are found", AGAIN)


def _max_pixels_option() -> dict[str, str]:
    """Returns the decoder option that bounds the memory of a frame. The bound is looser than limits.pixels, because decoders
    also count the padding that they add; `_check_pixels` checks the exact size."""
    return {"max_pixels": str(2 * limits.current().pixels + 2**20)}


def _check_pixels(frame: Any) -> None:
    """Raises BadFile if a frame has more than limits.pixels pixels."""
    limit = limits.current().pixels
    if (frame.width or 0) * (frame.height or 0) > limit:
        reason = f"has frames of {frame.width}x{frame.height} pixels, and the limit is {limit}"
        raise BadFile(reason, "if that is intended, raise limits.pixels")
