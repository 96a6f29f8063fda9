"""Truncated videos raise an error; complete ones of any container are read to their end."""

import io
import math
import struct

import av
import numpy as np
import pytest
from pipe_file import open_pipe

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
    "mp4 with its list at the end": ("a.mp4", "mpeg4", EVEN, {}),
    "mov of images": ("a.mov", "mjpeg", EVEN, {"movflags": "faststart"}),
    "flv": ("a.flv", "flv", EVEN, {}),
    "wmv": ("a.wmv", "wmv2", EVEN, {}),
    "mp4 in fragments": ("a.mp4", "mpeg4", EVEN, {"movflags": "frag_every_frame+empty_moov+default_base_moof"}),
}


def write_video(path, codec, times, options):
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
        assert str(path) in str(error) and "\n" not in str(error) and ("again" in str(error) or "no video stream" in str(error))
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
        assert count_missing_bytes(opened, container.format.name, container.streams.video[0].index_entries) == 0
    packet = 192 if name == "m2ts" else 188
    for share in np.linspace(0.25, 0.97, 25):
        cut = int(len(data) * share)
        # a cut between two packets or fragments cannot be detected
        if (file.endswith(".ts") and cut % packet < 5) or data[cut + 4 : cut + 8] == b"moof":
            cut += 5
        path.write_bytes(data[:cut])
        read_until_error(path)


@pytest.mark.parametrize("name", [name for name, (file, *_) in FORMATS.items() if not file.endswith(".ts")])
def test_files_without_their_last_bytes_lose_no_frame_silently(tmp_path, name):
    file, codec, times, options = FORMATS[name]
    path = tmp_path / file
    data = write_video(path, codec, times, options)
    for cut in (1, 4, 8, 16, 32, 64, 100, 200, 400, 800, 1600):
        if data[len(data) - cut + 4 : len(data) - cut + 8] != b"moof":  # a cut between fragments cannot be detected
            path.write_bytes(data[:-cut])
            read_until_error(path)  # an error, or all frames


@pytest.mark.parametrize("name", ["mp4", "mov of images", "flv", "wmv"])
def test_a_cut_at_the_end_of_a_frame_is_told(tmp_path, name):
    """Nothing is damaged there, and the decoder finds no error."""
    file, codec, times, options = FORMATS[name]
    path = tmp_path / file
    data = write_video(path, codec, times, options)
    with av.open(str(path)) as container:
        ends = {packet.pos + packet.size for packet in container.demux(video=0) if packet.size}
    for end in sorted(ends)[1:-1]:
        for cut in range(end, min(end + 24, max(ends))):
            path.write_bytes(data[:cut])
            assert read_until_error(path) is not None


def test_an_mp4_whose_last_box_has_no_size(tmp_path):
    path = tmp_path / "a.mov"
    data = write_video(path, *FORMATS["mov of images"][1:])
    at = data.index(b"mdat") - 4
    data = data[:at] + b"\0\0\0\0" + data[at + 4 :]
    path.write_bytes(data)
    assert read_until_error(path) is None
    path.write_bytes(data[: len(data) // 2])
    assert read_until_error(path) is not None


def test_an_flv_that_was_written_as_a_stream_does_not_say_its_length(tmp_path):
    data = write_video(tmp_path / "a.flv", *FORMATS["flv"][1:])
    at = data.index(b"\0\x08filesize\0") + 11
    for number in (0.0, -1.0, math.nan, math.inf, 1e300):
        assert count_missing_bytes(io.BytesIO(data[:at] + struct.pack(">d", number) + data[at + 8 :]), "flv") == 0
    shorter = data[:at] + struct.pack(">d", 0.0) + data[at + 8 : -100]
    assert 0 < count_missing_bytes(io.BytesIO(shorter), "flv") <= 100


def test_a_wmv_that_was_written_as_a_stream_does_not_say_its_length(tmp_path):
    data = write_video(tmp_path / "a.wmv", *FORMATS["wmv"][1:])
    at = data.index(bytes.fromhex("3626b2758e66cf11")) + 16
    assert count_missing_bytes(io.BytesIO(data[:-200]), "asf") > 0
    for length in (0, 50):
        shorter = data[:at] + length.to_bytes(8, "little") + data[at + 8 : -200]
        assert count_missing_bytes(io.BytesIO(shorter), "asf") == 0


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
    with open_pipe(data) as file:
        assert len(list(read_frames(file))) == COUNT


@pytest.mark.parametrize("container", ["avi", "matroska,webm", "mpegts", "ogg", "mov,mp4,m4a,3gp,3g2,mj2", "flv", "asf"])
@pytest.mark.parametrize(
    "data", [b"", b"\0" * 5000, b"\xff" * 5000, b"OggS" * 900, b"RIFF\4\0\0\0" * 900, b"\x47" * 5000, b"\x1a\x45\xdf\xa3"]
)
def test_no_content_is_an_error(container, data):
    assert count_missing_bytes(io.BytesIO(data), container) >= 0
