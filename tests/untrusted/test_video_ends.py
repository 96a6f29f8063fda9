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
from hyperseg_jax.untrusted.video_ends import MP4, count_missing_bytes

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
    "dash": ("a.mp4", "libx264", EVEN, {"movflags": "dash"}),
    "dash with one index": ("a.mp4", "libx264", EVEN, {"movflags": "dash+global_sidx"}),
    "mpg": ("a.mpg", "mpeg2video", EVEN, {}),
}
BETWEEN = (b"moof", b"sidx")
"""Boxes at the start of a fragment; a cut before one cannot be detected."""


def write_video(path, codec, times, options):
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height = stream.width = 32
        stream.codec_context.gop_size = 3 if codec == "libx264" else 12
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
        if (file.endswith(".ts") and cut % packet < 5) or data[cut + 4 : cut + 8] in BETWEEN:
            cut += 5
        path.write_bytes(data[:cut])
        read_until_error(path)


@pytest.mark.parametrize("name", [name for name, (file, *_) in FORMATS.items() if not file.endswith(".ts")])
def test_files_without_their_last_bytes_lose_no_frame_silently(tmp_path, name):
    file, codec, times, options = FORMATS[name]
    path = tmp_path / file
    data = write_video(path, codec, times, options)
    for cut in (1, 4, 8, 16, 32, 64, 100, 200, 400, 800, 1600):
        if data[len(data) - cut + 4 : len(data) - cut + 8] not in BETWEEN:
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


@pytest.mark.parametrize("name", ["dash", "dash with one index"])
def test_a_cut_in_or_after_an_index_is_told(tmp_path, name):
    file, codec, times, options = FORMATS[name]
    path = tmp_path / file
    data = write_video(path, codec, times, options)
    at = data.rindex(b"sidx") - 4
    assert at > len(data) / 2 or name != "dash"
    for cut in (*((at + 1, at + 4) if name == "dash" else ()), at + 10, at + 16, at + 40, at + 52):
        path.write_bytes(data[:cut])
        assert read_until_error(path) is not None
        assert 0 < count_missing_bytes(io.BytesIO(data[:cut]), MP4) <= len(data) - cut
    length = int.from_bytes(data[at : at + 4], "big") + 8
    data = data[:at] + b"\0\0\0\1sidx" + length.to_bytes(8, "big") + data[at + 8 :]  # a box with a 64-bit length
    assert count_missing_bytes(io.BytesIO(data), MP4) == 0
    assert count_missing_bytes(io.BytesIO(data[: at + length]), MP4) > 500


@pytest.mark.parametrize("size", [32, 200, 480])
@pytest.mark.parametrize("kind", ["mpeg", "vob", "dvd", "svcd"])
@pytest.mark.parametrize("sound", [False, True])
def test_a_cut_in_a_packet_of_a_program_stream_is_told(tmp_path, size, kind, sound):
    path, random = tmp_path / "a.mpg", np.random.default_rng(0)
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.height = stream.width = size
        audio = container.add_stream("mp2", rate=48000) if sound else None
        for k in range(COUNT):
            pixels = random.integers(0, 255, (size, size, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            if audio:
                samples = random.integers(-9999, 9999, (1, 2 * 1920)).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
                frame.sample_rate, frame.pts = 48000, 1920 * k
                container.mux(audio.encode(frame))
        container.mux(stream.encode())
        if audio:
            container.mux(audio.encode())
    data = path.read_bytes()
    for more in (b"", b"\0", b"\0\0\1", b"\0" * 5000, b"\0\0\1\xb9"):  # padding, or the mark of an end
        assert count_missing_bytes(io.BytesIO(data + more), "mpeg") == 0
    told = [0 < count_missing_bytes(io.BytesIO(data[:cut]), "mpeg") <= 70_000 for cut in range(1000, len(data), 997)]
    assert sum(told) >= len(told) - 3  # the others are between two packets
    assert read_until_error(path) is None


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


@pytest.mark.parametrize(
    "container", ["avi", "matroska,webm", "mpegts", "ogg", "mov,mp4,m4a,3gp,3g2,mj2", "flv", "asf", "mpeg"]
)
@pytest.mark.parametrize(
    "data", [b"", b"\0" * 5000, b"\xff" * 5000, b"OggS" * 900, b"RIFF\4\0\0\0" * 900, b"\x47" * 5000, b"\x1a\x45\xdf\xa3"]
)
def test_no_content_is_an_error(container, data):
    assert count_missing_bytes(io.BytesIO(data), container) >= 0
