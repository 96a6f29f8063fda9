"""Checkpoint names resolve to paths; only data files are copied."""

import pathlib

import fsspec
import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from hyperseg_jax.errors import UserError
from hyperseg_jax.weights.fetch import fetch_checkpoint, select_files


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def bucket():
    """A folder in fsspec's in-memory file system."""
    store = fsspec.filesystem("memory")
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "modeling.py", "optimizer/state.bin"):
        store.pipe(f"/bucket/hyperseg/{name}", name.encode())
    yield store
    store.rm("/bucket", recursive=True)


def test_local_paths_are_unchanged(tmp_path):
    assert fetch_checkpoint(str(tmp_path)) == tmp_path


def test_code_and_duplicate_weights_are_skipped():
    files = ["config.json", "modeling.py", "pytorch_model.bin", "model-1.safetensors", "model-2.safetensors", "sub/config.json"]
    assert select_files(files) == ["config.json", "model-1.safetensors", "model-2.safetensors"]
    assert select_files(["a.bin", "training_args.bin", "vocab.json"]) == ["vocab.json", "a.bin"]


def test_a_store_is_copied_once(bucket):
    folder = fetch_checkpoint("memory://bucket/hyperseg")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert fetch_checkpoint("memory://bucket/hyperseg") == folder
    bucket.pipe("/bucket/hyperseg/config.json", b"changed since")
    assert (fetch_checkpoint("memory://bucket/hyperseg") / "config.json").read_bytes() == b"changed since"


def test_one_file_of_a_store(bucket):
    assert fetch_checkpoint("memory://bucket/hyperseg/pytorch_model.bin").read_bytes() == b"pytorch_model.bin"


def test_a_store_without_weights(bucket):
    with pytest.raises(UserError, match=r"contains no weights|cannot be read"):
        fetch_checkpoint("memory://bucket/hyperseg/nothing")


def test_a_store_with_text_files_only(bucket):
    bucket.rm("/bucket/hyperseg/model.safetensors")
    bucket.rm("/bucket/hyperseg/pytorch_model.bin")
    with pytest.raises(UserError, match="contains no weights"):
        fetch_checkpoint("memory://bucket/hyperseg")


@pytest.mark.parametrize("name", ["odd-scheme://x/y", "nowhere.safetensors", "./nowhere", "../nowhere"])
def test_invalid_locations(name):
    with pytest.raises(UserError, match=name.split(":")[0]):
        fetch_checkpoint(name)


def test_a_hub_name(tmp_path, monkeypatch):
    requests = {}
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name, revision: ["config.json", "m.safetensors", "code.py"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: requests.update(options) or str(tmp_path))
    assert fetch_checkpoint("someone/HyperSeg-3B@v1.0") == pathlib.Path(tmp_path)
    assert requests == {"revision": "v1.0", "allow_patterns": ["config.json", "m.safetensors"]}


def test_an_unknown_hub_name(monkeypatch):
    class Response:
        headers, status_code, request = {}, 404, None

    def refuse(name, revision):
        raise RepositoryNotFoundError("404 Client Error", response=Response())

    monkeypatch.setattr(huggingface_hub, "list_repo_files", refuse)
    with pytest.raises(UserError, match=r"someone/nothing.*404"):
        fetch_checkpoint("someone/nothing")


def test_cached_snapshot_without_network(tmp_path, monkeypatch):
    def refuse(name, revision):
        raise ConnectionError("no route to host")

    def cached_snapshot(name, revision, local_files_only=False, **_):
        assert local_files_only
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "list_repo_files", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached_snapshot)
    with pytest.raises(UserError, match="no route to host"):
        fetch_checkpoint("someone/model")
    (tmp_path / "model.safetensors").touch()
    assert fetch_checkpoint("someone/model") == tmp_path
