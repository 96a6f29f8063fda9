"""Truncated videos raise an error; complete ones of any container are read to their end."""

import io
import os
import threading

import av
import numpy as np
import pytest

from hyperseg_jax.data.video_files import read_frames
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.video_ends import count_missing_bytes

COUNT = 12
FRAMES = np.random.default_rng(0).normal(128, 40, (COUNT, 32, 32, 3)).clip(0, 255).astype(np.uint8)
EVEN, UNEVEN = range(COUNT), [3 * t + 20 * (t > 5) for t in range(COUNT)]
FORMATS = {  # name of the file, codec, times, options of the writer
    "avi": ("a.avi", "mpeg4", EVEN, {}),
    "avi of images": ("a.avi", "mjpeg", EVEN, {}),
    "avi of uneven times": ("a.avi", "mpeg4", UNEVEN, {}),
    "avi in the small": ("a.avi", "libx264", EVEN, {}),
    "ts": ("a.ts", "mpeg2video", EVEN, {}),
    "ts of uneven times": ("a.ts", "libx264", UNEVEN, {}),
    "m2ts": ("a.ts", "mpeg2video", EVEN, {"mpegts_m2ts_mode": "1"}),
    "mkv": ("a.mkv", "mpeg4", EVEN, {}),
    "mkv of uneven times": ("a.mkv", "libx264", UNEVEN, {}),
    "live mkv": ("a.mkv", "mpeg4", EVEN, {"live": "1"}),
    "mkv of many clusters": ("a.mkv", "mpeg4", EVEN, {"live": "1", "cluster_time_limit": "100"}),
    "webm": ("a.webm", "libvpx", EVEN, {}),
    "ogv": ("a.ogv", "libvpx", EVEN, {}),
    "mp4": ("a.mp4", "mpeg4", EVEN, {"movflags": "faststart"}),
    "mp4 in fragments": ("a.mp4", "mpeg4", EVEN, {"movflags": "frag_every_frame+empty_moov+default_base_moof"}),
}


def write_video(path, codec, times, options):
    if codec not in av.codecs_available:
        pytest.skip(f"no {codec} here")
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for t, pixels in zip(times, FRAMES, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = t
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def read_until_error(path):
    """Returns the number of frames before the error, or None if all frames were read."""
    count = 0
    try:
        for _ in read_frames(path):
            count += 1
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error) and "again" in str(error)
        return count
    assert count == COUNT
    return None


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_files_are_reported(tmp_path, name):
    file, codec, times, options = FORMATS[name]
    path = tmp_path / file
    data = write_video(path, codec, times, options)
    assert read_until_error(path) is None
    with av.open(str(path)) as container, path.open("rb") as opened:
        assert count_missing_bytes(opened, container.format.name) == 0
    packet = 192 if name == "m2ts" else 188
    for share in np.linspace(0.25, 0.97, 25):
        cut = int(len(data) * share)
        # a cut between two packets or fragments cannot be detected
        if (file.endswith(".ts") and cut % packet < 5) or data[cut + 4 : cut + 8] == b"moof":
            cut += 5
        path.write_bytes(data[:cut])
        read_until_error(path)


def test_the_message_names_the_missing_part(tmp_path):
    path = tmp_path / "a.mkv"
    data = write_video(path, "mpeg4", EVEN, {})
    path.write_bytes(data[: len(data) - 400])
    with pytest.raises(
        UserError, match=r"a\.mkv: is cut after frame \d+: 400 bytes are missing at its end; download or write it"
    ):
        list(read_frames(path))


def test_streamed_avi_without_length(tmp_path):
    path = tmp_path / "a.avi"
    data = write_video(path, "mpeg4", EVEN, {})
    at = data.index(b"movi") - 4
    for length in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        assert count_missing_bytes(io.BytesIO(data[:at] + length + data[at + 4 :]), "avi") == 0


def test_pipes_are_read_to_the_end(tmp_path):
    data = write_video(tmp_path / "a.ts", "mpeg2video", EVEN, {})
    out, into = os.pipe()

    def write_pipe():
        with os.fdopen(into, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=write_pipe)
    thread.start()
    with os.fdopen(out, "rb") as file:
        assert len(list(read_frames(file))) == COUNT
    thread.join()


@pytest.mark.parametrize("container", ["avi", "matroska,webm", "mpegts", "ogg", "mov,mp4,m4a,3gp,3g2,mj2", "flv"])
@pytest.mark.parametrize(
    "data", [b"", b"\0" * 5000, b"\xff" * 5000, b"OggS" * 900, b"RIFF\4\0\0\0" * 900, b"\x47" * 5000, b"\x1a\x45\xdf\xa3"]
)
def test_no_content_is_an_error(container, data):
    assert count_missing_bytes(io.BytesIO(data), container) >= 0
