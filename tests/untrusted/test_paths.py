"""Names in data stay below their folder; special files are refused."""

import os
import pathlib
import pickle

import pytest

from hyperseg_jax.untrusted import limits, paths
from hyperseg_jax.untrusted.bad_file import BadFile


@pytest.fixture
def data_folder(tmp_path):
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
def test_names_inside_the_folder(data_folder, name):
    assert paths.join_inside(data_folder, name) == data_folder / name


ESCAPING = ["../secret.jpg", "out.jpg", "up/secret.jpg", "/etc/passwd", "deep/../../secret.jpg", "../real2/a.jpg", ".."]


@pytest.mark.parametrize("name", ESCAPING)
def test_names_outside_the_folder(data_folder, name):
    with pytest.raises(BadFile, match=r"leaves .*--limits outside=True"):
        paths.join_inside(data_folder, name)
    with limits.temporary_limits(outside=True):
        assert paths.join_inside(data_folder, name) == data_folder / name


def test_folders_are_resolved_once(data_folder, monkeypatch):
    """Data sets have millions of names in one folder, a name that is a link is always resolved."""
    followed, real = [], os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path, **options: followed.append(path) or real(path, **options))
    for k in range(100):
        (data_folder / "deep" / f"{k}.jpg").write_bytes(b"x")
        assert paths.join_inside(data_folder, f"deep/{k}.jpg") == data_folder / "deep" / f"{k}.jpg"
    assert len(followed) <= 2
    (data_folder / "deep" / "out.jpg").symlink_to("../../secret.jpg")
    with pytest.raises(
        BadFile, match=r"deep/out\.jpg is a link that leaves .*; copy the file there, or.*--limits outside=True"
    ):
        paths.join_inside(data_folder, "deep/out.jpg")


@pytest.mark.parametrize("moved", [False, True])
def test_a_folder_replaced_by_a_link_is_not_followed(data_folder, tmp_path, moved):
    """Neither by a new name in it, nor by a path or a root that was checked before, also in another process."""
    root = paths.join_inside(data_folder, "deep")
    for name in ("a.jpg", "b.jpg"):
        (root / name).write_bytes(b"x")
        checked = paths.join_inside(root, name)
        assert paths.read_file(checked, 10) == b"x"
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "b.jpg").write_bytes(b"secret")
    os.rename(data_folder / "deep", tmp_path / "away" / "deep" if moved else data_folder / "old")
    (data_folder / "deep").symlink_to(tmp_path / "away" / "deep" if moved else tmp_path / "away")
    root, checked = pickle.loads(pickle.dumps((root, checked)))
    for read in (
        lambda: paths.join_inside(data_folder, "deep/b.jpg"),
        lambda: paths.join_inside(root, "b.jpg"),
        lambda: paths.read_file(checked, 10),
    ):
        with pytest.raises(BadFile, match=r"(deep|b\.jpg) is a link that leaves "):
            read()
    with limits.temporary_limits(outside=True):
        assert paths.read_file(checked, 10) == (b"x" if moved else b"secret")


def test_relative_folders_use_the_current_working_folder(data_folder, monkeypatch):
    (data_folder / "inner").mkdir()
    for folder in (data_folder.parent, data_folder / "deep"):
        (folder / "inner").mkdir()
        (folder / "inner" / "out.jpg").symlink_to(data_folder.parent / "secret.jpg")
        monkeypatch.chdir(folder)
        assert paths.join_inside("inner", "a.jpg") == pathlib.Path("inner/a.jpg")
        with pytest.raises(BadFile, match="is a link that leaves"):
            paths.join_inside("inner", "out.jpg")


def test_a_removed_working_folder(data_folder, monkeypatch):
    """It only matters for relative folders."""
    (data_folder.parent / "gone").mkdir()
    monkeypatch.chdir(data_folder.parent / "gone")
    (data_folder.parent / "gone").rmdir()
    assert paths.join_inside(data_folder, "a.jpg") == data_folder / "a.jpg"
    with pytest.raises(BadFile, match="is a link that leaves"):
        paths.join_inside(data_folder, "out.jpg")


@pytest.mark.parametrize("name", ["", " ", "a\0.jpg", "a" * 300, "a/" * 3000, "\ud800.jpg", None, 5, ["a"], {}, True])
@pytest.mark.parametrize("outside", [False, True])
def test_invalid_names(data_folder, name, outside):
    with limits.temporary_limits(outside=outside), pytest.raises(BadFile, match="is not a file name; correct it"):
        paths.join_inside(data_folder, name)


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
