"""Video files: allowed containers, no other files are opened, and limits of frames and pixels."""

import pathlib
import re
import resource
import subprocess
import sys

import av
import fuzz
import hypothesis.strategies as st
import numpy as np
import pytest

from hyperseg_jax.data.video_files import read_frames
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits

SIZE = (48, 64)
RED = (220, 20, 20)
SESSION = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 45678 RTP/AVP 26\n"
LISTS = {  # what names other files or addresses, in the disguise of a video
    "ffconcat": "ffconcat version 1.0\nfile red.mp4\n",
    "ffconcat of itself": "ffconcat version 1.0\nfile list.mp4\nfile list.mp4\n",
    "a session": SESSION,
    "a secure session": SESSION.replace("RTP/AVP 26", "RTP/SAVP 26"),
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\nred.mp4\n#EXT-X-ENDLIST\n",
    "hls of an address": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\nhttp://127.0.0.1:9/red.ts\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT3S">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>red.mp4</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "smooth streaming": '<?xml version="1.0"?><SmoothStreamingMedia MajorVersion="2" Duration="0"></SmoothStreamingMedia>',
    "imf": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"/>',
    "an address": "rtsp://127.0.0.1:9/red",
    "a text": "\x1b[31mhello\n" * 60,
    "subtitles": "1\n00:00:00,000 --> 00:00:02,000\nhello\n",
    "a y4m of no list": "YUV4MPEG2 W4 H4 F25:1 Ip A1:1 C420\nFRAME\n" + "a" * 24,
}


def write_video(path, frames, codec="mpeg4"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def make_frames(count=5, size=SIZE, colour=RED):
    return [np.full((*size, 3), colour, np.uint8)] * count


def assert_refused(path):
    with pytest.raises(UserError) as excinfo:
        next(read_frames(path))
    assert str(path) in str(excinfo.value) and "\n" not in str(excinfo.value) and "\x1b" not in str(excinfo.value)
    return str(excinfo.value)


@pytest.mark.parametrize("name", LISTS)
def test_lists_and_descriptions_are_refused(tmp_path, monkeypatch, name):
    """The other file is red and would be visible; sockets and files are monitored within the process."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "red.mp4", make_frames())
    path = tmp_path / "list.mp4"
    path.write_text(LISTS[name])
    assert_refused(path)
    assert_refused(pathlib.Path("list.mp4"))


OPEN_SCRIPT = """
import os, sys, threading
from hyperseg_jax.data.video_files import read_frames
before = set(os.listdir("/proc/self/fd"))
sockets = lambda: sum(open(f"/proc/net/{kind}").read().count("\\n") for kind in ("udp", "udp6", "tcp"))
seen, done, bound = set(), threading.Event(), sockets()
def watch():
    while not done.is_set():
        for name in os.listdir("/proc/self/fd"):
            try:
                seen.add(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:
                pass
watcher = threading.Thread(target=watch)
watcher.start()
for path in sys.argv[1:]:
    try:
        list(read_frames(path))
        print("frames of", path)
    except ValueError:
        pass
done.set()
watcher.join()
print([name for name in seen if "red.mp4" in name or "socket" in name])
"""


def test_no_other_files_are_opened(tmp_path):
    write_video(tmp_path / "red.mp4", make_frames())
    paths = []
    for k, text in enumerate(LISTS.values()):
        paths.append(tmp_path / f"{k}.mp4")
        paths[-1].write_text(text)
    root = pathlib.Path(__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-c", OPEN_SCRIPT, *paths], capture_output=True, text=True, cwd=root, check=True, timeout=60
    )
    assert output.stdout.strip() == "[]"


def test_mp4_references_are_not_followed(tmp_path, monkeypatch):
    """Its data references name red.mp4; players with `enable_drefs` would open it."""
    monkeypatch.chdir(tmp_path)
    data = write_video(tmp_path / "red.mp4", make_frames()).read_bytes()
    at = data.index(b"url \0\0\0\1")
    alias = data[:at] + b"alis\0\0\0\0" + data[at + 8 :]
    (tmp_path / "alias.mp4").write_bytes(alias)
    try:
        assert all(frame.shape == (*SIZE, 3) for frame in read_frames("alias.mp4"))
    except UserError as error:
        assert "\n" not in str(error)


def test_image_patterns_in_names(tmp_path):
    from PIL import Image

    for k in range(3):
        Image.new("RGB", SIZE[::-1], RED).save(tmp_path / f"frame{k:03d}.png")
    path = tmp_path / "frame%03d.mp4"
    path.write_bytes(b"nothing")
    assert_refused(path)
    path.write_bytes((tmp_path / "frame000.png").read_bytes())
    assert "not a supported video container" in assert_refused(path)


def test_frames_and_pixels_are_limited(tmp_path):
    path = write_video(tmp_path / "a.mp4", make_frames(9))
    with limits.temporary_limits(frames=4), pytest.raises(UserError, match=r"a\.mp4: has more than 4 frames; .*limits\.frames"):
        list(read_frames(path))
    with limits.temporary_limits(pixels=48 * 64 - 1), pytest.raises(UserError, match=r"64x48 pixels|cannot be read"):
        list(read_frames(path))
    with limits.temporary_limits(pixels=48 * 64 - 1, seconds=1e-9), pytest.raises(UserError):
        list(read_frames(path))
    with limits.temporary_limits(pixels=48 * 64):
        assert len(list(read_frames(path))) == 9


def test_changing_frame_sizes(tmp_path):
    """Two concatenated streams; mpeg2 repeats its size."""
    small, large = (
        write_video(tmp_path / f"{k}.mpg", make_frames(9, size), "mpeg2video") for k, size in enumerate([SIZE, (96, 128)])
    )
    path = tmp_path / "both.mpg"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    assert {frame.shape[:2] for frame in read_frames(path)} == {SIZE, (96, 128)}
    with limits.temporary_limits(pixels=48 * 64), pytest.raises(UserError, match=r"128x96 pixels|cannot be read after frame"):
        list(read_frames(path))


def test_unsupported_codecs(tmp_path):
    path = write_video(tmp_path / "a.avi", make_frames(), "snow" if "snow" in av.codecs_available else "cinepak")
    with pytest.raises(UserError, match=r"uses the codec|cannot be read"):
        list(read_frames(path))


def test_sizes_above_the_limit_are_not_allocated(tmp_path):
    """The frame of the second stream would take 24 MB, and its decoder holds some of them."""
    path = tmp_path / "both.mpg"
    parts = [
        write_video(tmp_path / f"{k}.mpg", make_frames(3, size), "mpeg2video") for k, size in enumerate([SIZE, (4000, 4000)])
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    root = pathlib.Path(__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-c", GROWTH_SCRIPT, path], capture_output=True, text=True, cwd=root, check=True, timeout=60
    )
    grown, messages = output.stdout.splitlines()
    assert float(grown) < 12 and f"{path}: cannot be read after frame" in messages


GROWTH_SCRIPT = """
import resource, sys
from hyperseg_jax.data.video_files import read_frames
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with limits.temporary_limits(pixels=48 * 64):
    reading, told = read_frames(sys.argv[1]), "all is read"
    next(reading)
    before = peak()
    try:
        for _ in reading:
            pass
    except UserError as error:
        told = error
print(peak() - before)
print(told)
"""


def test_oversized_tables_are_one_line(tmp_path):
    """The frame times of an mp4; FFmpeg refuses the table with its out-of-memory error."""
    path = write_video(tmp_path / "a.mp4", make_frames())
    data = path.read_bytes()
    at = data.index(b"stts") + 8
    path.write_bytes(data[:at] + b"\x7f\xff\xff\xff" + data[at + 4 :])
    with fuzz.limit_resources(memory=2**28):
        assert "asks for more memory than there is, or than a video needs" in assert_refused(path)


def test_a_text_that_is_not_unicode_is_one_line(tmp_path):
    path = write_video(tmp_path / "a.flv", make_frames(), "flv")
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"La\xff\xfe"))
    assert "a.flv: cannot be read as a video (a text is not valid Unicode); download or write it again" in assert_refused(path)


def make_property(path):
    """Returns the property of damaged videos: frames or a one-line error, within 256 MB of resident memory."""
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    before = peak()

    def check_video(data):
        path.write_bytes(data)
        with limits.temporary_limits(pixels=100_000, frames=100, seconds=5.0):
            result = fuzz.check_call(lambda: list(read_frames(path)))
        assert peak() - before < 256
        assert isinstance(result, UserError) or all(frame.ndim == 3 and frame.dtype == np.uint8 for frame in result)

    return check_video


def damaged_videos(folder):
    """Returns strategies for damaged videos in several containers, and for lists."""
    sound = [write_video(folder / f"sound.{kind}", make_frames(9)).read_bytes() for kind in ("mp4", "mkv", "avi", "ts")]
    return st.one_of([fuzz.damaged_bytes(data) for data in [*sound, *(text.encode() for text in LISTS.values())]])


@pytest.mark.parametrize(
    ("name", "codec", "message"),
    [
        ("a.ts", "libx264", "is damaged after frame|at its start"),
        ("a.avi", "mpeg4", "only 8 of the 9 frames in its index are found"),
    ],
)
def test_a_damaged_part_that_is_skipped_is_told(tmp_path, name, codec, message):
    """FFmpeg goes on after the part without an error, and the frame that begins in it is lost."""
    noise = np.random.default_rng(0).integers(0, 255, (9, *SIZE, 3), np.uint8)
    path = write_video(tmp_path / name, list(noise), codec)
    assert len(list(read_frames(path))) == 9
    data = bytearray(path.read_bytes())
    if name == "a.ts":
        starts = [at + 1 for at in range(0, len(data), 188) if data[at + 1 : at + 3] == b"\x41\0"]
        data[starts[4] : starts[4] + 2] = b"\x1f\xff"  # of no stream
    else:
        starts = [at.start() for at in re.finditer(b"00dc", data[data.index(b"movi") :])]
        at = data.index(b"movi") + starts[4]
        data[at : at + 4] = b"xxxx"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        list(read_frames(path))


def test_seeks_beyond_the_file_print_nothing(tmp_path, capfd):
    """A huge size in the header makes FFmpeg seek beyond the file; PyAV would print an exception each time."""
    data = write_video(tmp_path / "sound.wmv", make_frames(), codec="wmv2").read_bytes()
    damaged = tmp_path / "damaged.wmv"
    damaged.write_bytes(data[:146] + b"\xff" * 7 + data[146:])
    assert len(list(read_frames(tmp_path / "sound.wmv"))) == 5
    assert_refused(damaged)
    assert capfd.readouterr() == ("", "")


def test_damaged_videos(tmp_path):
    fuzz.run_property(make_property(tmp_path / "a.mp4"), damaged_videos(tmp_path), examples=100)


@pytest.mark.slow
def test_damaged_videos_for_long(tmp_path, run_property_long):
    run_property_long(make_property(tmp_path / "a.mp4"), damaged_videos(tmp_path))
