"""Frames of video files, streams and folders: complete, upright, in bounded memory; damaged files are named."""

import io
import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image
from pipe_file import open_pipe

from hyperseg_jax.data.video_files import read_frames
from hyperseg_jax.errors import UserError

SIZE = (48, 64)
COUNT = 30


def make_frames(count=COUNT, size=SIZE):
    """Yields frames of a bar that grows to the right, and a stripe at the top."""
    for t in range(count):
        frame = np.full((*size, 3), 40, np.uint8)
        frame[:, : 2 * t] = 200
        frame[:8] = (250, 20, 20)
        yield frame


def write_video(path, frames=None, codec="mpeg4", **options):
    with av.open(str(path), "w", options=options) as container:
        stream = None
        for frame in make_frames() if frames is None else frames:
            if stream is None:
                stream = container.add_stream(codec, rate=10)
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def check_frames(frames):
    result = list(frames)
    assert len(result) == COUNT
    for frame, expected in zip(result, make_frames(), strict=True):
        assert frame.dtype == np.uint8 and frame.shape == expected.shape and frame.flags.c_contiguous
        assert np.abs(frame.astype(int) - expected).mean() < 8


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c: strange.avi"])
def test_files_streams_and_folders_give_the_same_frames(tmp_path, name):
    path = write_video(tmp_path / name)
    check_frames(read_frames(path))
    check_frames(read_frames(str(path)))
    check_frames(read_frames(io.BytesIO(path.read_bytes())))
    with path.open("rb") as file:
        check_frames(read_frames(file))
    folder = tmp_path / "frames"
    folder.mkdir()
    for t, frame in enumerate(make_frames()):
        Image.fromarray(frame).save(folder / f"{t:03d}.png")
    check_frames(read_frames(folder))


def test_pipes_without_seek(tmp_path):
    data = write_video(tmp_path / "a.mkv").read_bytes()
    with open_pipe(data) as file:
        check_frames(read_frames(file))


def test_rotated_videos(tmp_path):
    """The matrix in the mp4's track header specifies a rotation of 90 degrees to the right."""
    path = write_video(tmp_path / "a.mp4")
    data = path.read_bytes()
    fixed_point = lambda value: int(value * 65536).to_bytes(4, "big", signed=True)
    none, last = bytes(4), (1 << 30).to_bytes(4, "big")
    matrix = lambda a, b, c, d: (
        fixed_point(a) + fixed_point(b) + none + fixed_point(c) + fixed_point(d) + none + none + none + last
    )
    at = data.index(b"tkhd")
    offset = data.index(matrix(1, 0, 0, 1), at)
    path.write_bytes(data[:offset] + matrix(0, 1, -1, 0) + data[offset + 36 :])
    frame = next(read_frames(path))
    assert frame.shape == (64, 48, 3)
    assert frame[:, -6:, 0].min() > 200 and frame[:, -6:, 1].max() < 90  # the stripe at the top is on the right


def test_memory_is_constant(tmp_path):
    """250 frames of 320 x 240 are 58 MB; from the 50th on, the process that reads them one by one grows by less than 12 MB."""
    path = write_video(tmp_path / "long.mp4", make_frames(250, (240, 320)))
    code = """
import resource, sys
from hyperseg_jax.data.video_files import read_frames
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for count, frame in enumerate(read_frames(sys.argv[1]), 1):
    if count == 50:
        before = peak()
print(count, peak() - before)
"""
    root = pathlib.Path(__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=root, check=True)
    count, grown = output.stdout.split()
    assert int(count) == 250 and float(grown) < 12


def read_until_error(path):
    """Returns (number of frames before the error, error message)."""
    count = 0
    with pytest.raises(UserError) as caught:
        for _ in read_frames(path):
            count += 1
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return count, str(caught.value)


def test_broken_files_are_named(tmp_path):
    data = write_video(tmp_path / "whole.mp4", movflags="faststart").read_bytes()
    path = tmp_path / "broken.mp4"
    for content in (b"", b"hello", data[:200]):
        path.write_bytes(content)
        count, messages = read_until_error(path)
        assert count == 0 and ("cannot be read as a video" in messages or "has no video stream that can be decoded" in messages)
    path.write_bytes(data[: len(data) * 3 // 4])
    count, messages = read_until_error(path)
    assert 0 < count < COUNT and (f"after frame {count - 1}" in messages or f"frame {count} is damaged" in messages)
    noise = np.random.default_rng(0).bytes(400)
    path.write_bytes(data[: len(data) * 2 // 3] + noise + data[len(data) * 2 // 3 + 400 :])
    assert "frame" in read_until_error(path)[1]
    matroska = tmp_path / "cut.mkv"
    matroska.write_bytes(write_video(tmp_path / "whole.mkv").read_bytes()[:1400])
    count, messages = read_until_error(matroska)
    assert 0 < count < COUNT and "of its 3.0 seconds" in messages
    (tmp_path / "empty").mkdir()
    assert "no images here" in read_until_error(tmp_path / "empty")[1]
    assert "cannot be opened (No such file" in read_until_error(tmp_path / "none.mp4")[1]


def test_files_with_audio_only(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    assert "has no video stream that can be decoded" in read_until_error(path)[1]


def test_missing_pyav_names_the_extra(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'hyperseg-jax[video]'" in read_until_error(path)[1]
