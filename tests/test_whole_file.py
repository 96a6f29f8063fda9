"""Files that appear whole or not at all."""

import pytest

from hyperseg_jax.atomic import whole_file, write_text


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("before")
    return path


def test_the_old_file_stands_until_the_new_one_is_whole(path):
    with whole_file(path) as part:
        part.write_bytes(b"after")
        assert path.read_text() == "before" and part.name == path.name
    assert path.read_text() == "after" and list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_the_old_file(path):
    with pytest.raises(RuntimeError), whole_file(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before" and list(path.parent.iterdir()) == [path]


def test_a_deleted_part_leaves_the_old_file(path):
    with whole_file(path) as part:
        part.write_text("unwanted")
        part.unlink()
    assert path.read_text() == "before" and list(path.parent.iterdir()) == [path]


def test_text(path):
    write_text(path, "naïve")
    assert path.read_bytes() == "naïve".encode() and list(path.parent.iterdir()) == [path]
