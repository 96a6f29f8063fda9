"""Names in data stay below their folder; what is not a regular file is told."""

import os
import pathlib

import pytest

from hyperseg_jax.untrusted import limits, paths
from hyperseg_jax.untrusted.bad_file import BadFile


@pytest.fixture
def home(tmp_path):
    """A folder with an image inside, a link that leaves it, and a link to the folder itself."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    for name in ("real/a.jpg", "secret.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "home").symlink_to("real")
    (tmp_path / "real" / "out.jpg").symlink_to("../secret.jpg")
    (tmp_path / "real" / "up").symlink_to("..")
    (tmp_path / "real" / "in.jpg").symlink_to("a.jpg")
    (tmp_path / "real" / "loop").symlink_to("loop")
    return tmp_path / "home"


@pytest.mark.parametrize("name", ["a.jpg", "in.jpg", "deep/../a.jpg", "none.jpg", "deep/none.jpg", "..a.jpg", "caf\u00e9.jpg"])
def test_names_that_stay(home, name):
    assert paths.join_inside(home, name) == home / name


LEAVING = ["../secret.jpg", "out.jpg", "up/secret.jpg", "/etc/passwd", "deep/../../secret.jpg", "../real2/a.jpg", ".."]


@pytest.mark.parametrize("name", LEAVING)
def test_names_that_leave(home, name):
    with pytest.raises(BadFile, match=r"leaves .*--limits outside=True"):
        paths.join_inside(home, name)
    with limits.applied(outside=True):
        assert paths.join_inside(home, name) == home / name


def test_a_folder_is_followed_once(home, monkeypatch):
    """Data sets have millions of names in one folder; a name that is itself a link is followed all the same."""
    followed, real = [], os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path, **options: followed.append(path) or real(path, **options))
    for k in range(100):
        (home / "deep" / f"{k}.jpg").write_bytes(b"x")
        assert paths.join_inside(home, f"deep/{k}.jpg") == home / "deep" / f"{k}.jpg"
    assert len(followed) <= 2
    (home / "deep" / "out.jpg").symlink_to("../../secret.jpg")
    with pytest.raises(
        BadFile, match=r"deep/out\.jpg is a link that leaves .*; copy the file there, or.*--limits outside=True"
    ):
        paths.join_inside(home, "deep/out.jpg")


def test_relative_folders_are_those_of_now(home, monkeypatch):
    (home / "inner").mkdir()
    for folder in (home.parent, home / "deep"):
        (folder / "inner").mkdir()
        (folder / "inner" / "out.jpg").symlink_to(home.parent / "secret.jpg")
        monkeypatch.chdir(folder)
        assert paths.join_inside("inner", "a.jpg") == pathlib.Path("inner/a.jpg")
        with pytest.raises(BadFile, match="is a link that leaves"):
            paths.join_inside("inner", "out.jpg")


def test_a_working_folder_that_is_gone(home, monkeypatch):
    """It matters to relative folders alone."""
    (home.parent / "gone").mkdir()
    monkeypatch.chdir(home.parent / "gone")
    (home.parent / "gone").rmdir()
    assert paths.join_inside(home, "a.jpg") == home / "a.jpg"
    with pytest.raises(BadFile, match="is a link that leaves"):
        paths.join_inside(home, "out.jpg")


@pytest.mark.parametrize("name", ["", " ", "a\0.jpg", "a" * 300, "a/" * 3000, "\ud800.jpg", None, 5, ["a"], {}, True])
@pytest.mark.parametrize("outside", [False, True])
def test_what_is_no_name(home, name, outside):
    with limits.applied(outside=outside), pytest.raises(BadFile, match="is not a file name; correct it"):
        paths.join_inside(home, name)


def test_pipes_devices_and_sizes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(BadFile, match="is not a regular file"):
            paths.open_file(tmp_path / name)
    (tmp_path / "a").write_bytes(bytes(9))
    assert paths.read_file(tmp_path / "a", 9, "json_bytes") == bytes(9)
    with pytest.raises(BadFile, match=r"has 9 bytes, and the limit is 8; .*limits\.json_bytes"):
        paths.read_file(tmp_path / "a", 8, "json_bytes")
    with pytest.raises(BadFile, match=r"more than 8 bytes|no regular file"):
        paths.read_file(pathlib.Path("/proc/self/status"), 8, "json_bytes")
