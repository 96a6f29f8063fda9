"""A workdir in a bucket: readable files are written to a scratch folder, uploaded, and downloaded on resume."""

import contextlib
import json
import os
import time
from typing import ClassVar

import fsspec
import fuzz
import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from orbax.checkpoint import v1 as ocp
from rich.console import Console

from hyperseg_jax.errors import UserError
from hyperseg_jax.locks import files
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.training import loop
from hyperseg_jax.training.checkpoint import Checkpoints
from hyperseg_jax.training.observers import read_valid_lines
from hyperseg_jax.training.workdir import Workdir
from hyperseg_jax.untrusted import checkpoints as untrusted
from hyperseg_jax.untrusted import stores, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.checkpoint_arrays import check_arrays
from hyperseg_jax.weights import model_folder


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Maps gs://name/... to a local folder; as in a real bucket, files cannot be appended to."""
    root = tmp_path / "store"

    class Store(LocalFileSystem):
        protocol = ("gs", "gcs")

        @classmethod
        def _strip_protocol(cls, path):
            path = str(path).removeprefix("gs://")
            return path if path.startswith(str(root)) else f"{root}/{path}".rstrip("/")

        def _open(self, path, mode="rb", **options):
            assert "a" not in mode, "a bucket takes no appended lines"
            return super()._open(path, mode=mode, **options)

    store = Store(auto_mkdir=True)
    monkeypatch.setattr(type(backend.fsspec_backend), "_get_filesystem", lambda self, name: store)
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **_: (store, store._strip_protocol(url)))
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda name: Store)
    monkeypatch.setattr(files, "SETTLE", 0.0)
    return root


TOKENIZER = Tokenizer.toy()


def write_workdir(workdir):
    """Writes a workdir that contains a checkpoint."""
    (workdir / "checkpoints" / "5").mkdir(parents=True)


def test_changed_files_are_uploaded_and_downloaded_on_resume(bucket, micro):
    with Workdir("gs://name/run") as workdir:
        workdir.open(micro(), TOKENIZER)
        (workdir.local / "metrics.jsonl").write_text("one\n")
        (workdir.local / "tensorboard").mkdir()
        (workdir.local / "tensorboard" / "events").write_text("x")
        (workdir.local / "model").mkdir()
        (workdir.local / "model" / "model.safetensors").write_text("weights")
        (workdir.local / ".part").symlink_to("vanished")  # a temporary file, which was renamed while the folder was listed
        workdir.push()
        (bucket / "name" / "run" / "model" / "model.safetensors").write_text("is not written again")
        with (workdir.local / "metrics.jsonl").open("a") as file:
            file.write("two\n")
        workdir.push()
    assert not workdir.local.exists()
    stored = {str(path.relative_to(bucket / "name" / "run")): path.read_text() for path in bucket.rglob("*") if path.is_file()}
    assert json.loads(stored.pop("config.json"))["system"] == "hyperseg" and json.loads(stored.pop(".lock/00000001"))["free"]
    assert stored.pop("tokenizer.json") == TOKENIZER.to_json()
    assert stored == {
        "metrics.jsonl": "one\ntwo\n",
        "tensorboard/events": "x",
        "model/model.safetensors": "is not written again",
    }

    with Workdir("gs://name/run") as repeated:
        repeated.open(micro(), TOKENIZER)
        assert (repeated.local / "metrics.jsonl").read_text() == "one\ntwo\n"
        assert (repeated.local / "tensorboard" / "events").read_text() == "x"
        assert not (repeated.local / "model").exists()
    write_workdir(bucket / "name" / "run")
    with (
        Workdir("gs://name/run") as other,
        pytest.raises(UserError, match=r"gs://name/run: contains a run with another config"),
    ):
        other.check(micro(model__num_queries=5))


@pytest.fixture
def flat_bucket(monkeypatch):
    """The contents of gs://name by name: as in a real bucket, names are texts, and folders are their common starts."""

    class FlatStore(MemoryFileSystem):
        protocol = ("gs", "gcs")
        store: ClassVar[dict] = {}
        pseudo_dirs: ClassVar[list] = [""]

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(str(path).removeprefix("gs://"))

    store = FlatStore(skip_instance_cache=True)
    monkeypatch.setattr(type(backend.fsspec_backend), "_get_filesystem", lambda self, name: store)
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **_: (store, store._strip_protocol(url)))
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda name: FlatStore)
    monkeypatch.setattr(files, "SETTLE", 0.0)
    return lambda name, data: store.store.update({f"/name/{name}": MemoryFile(store, f"/name/{name}", data)})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tensorboard/../../{away}/events",
            "tensorboard contains a folder named '..'; remove it from the bucket, or give another",
        ),
        ("tensorboard/a/../../../{away}", "tensorboard/a contains a folder named '..'"),
        ("metrics.jsonl/../../{away}", "metrics.jsonl contains a folder named '..'"),
        ("tensorboard/" + "a/" * 20 + "events", "has more than 10000 files, or folders deeper than 8"),
        ("tensorboard/large", "tensorboard/large exceeds the limit of 1000 bytes"),
        ("config.json", "config.json: not readable .has 5000 bytes, and the limit is 1000"),
    ],
)
def test_names_and_sizes_in_a_bucket_are_not_trusted(flat_bucket, micro, tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(stores, "BYTES", 1000)
    monkeypatch.setattr(strict_json, "LARGEST", 1000)
    flat_bucket("run/checkpoints/5/x", b"")
    with Workdir("gs://name/run") as workdir:
        away = workdir.local.parent / f"away-{tmp_path.name}"
        flat_bucket(f"run/{name}".format(away=away.name), b"x" * 5000)
        with pytest.raises(UserError, match=message) as error:
            workdir.open(micro(), TOKENIZER)
        assert "gs://name/run" in str(error.value) and not away.exists()


def test_a_bucket_with_an_object_for_a_folder_is_fetched(flat_bucket, micro):
    flat_bucket("run/tensorboard/", b"")
    flat_bucket("run/tensorboard/events", b"x")
    with Workdir("gs://name/run") as workdir:
        workdir.open(micro(), TOKENIZER)
        assert (workdir.local / "tensorboard" / "events").read_text() == "x"
    flat_bucket("run/checkpoints/5/", b"")
    flat_bucket("run/checkpoints/5/data", b"x")
    untrusted.check_checkpoint(epath.Path("gs://name/run/checkpoints/5"))


def test_a_run_in_a_bucket_resumes(bucket, small_system, micro, monkeypatch):
    """Checkpoints are stored in the local folder of the bucket, since their library accesses gs:// directly."""

    def checkpoints(folder, **options):
        assert str(folder) == "gs://name/run/checkpoints"
        return Checkpoints(bucket / "name" / "run" / "checkpoints", **options)

    monkeypatch.setattr(loop, "Checkpoints", checkpoints)
    config, workdir = micro(train__steps=6, train__save_every=3, train__eval_every=6), bucket / "name" / "run"
    loop.train(config, "gs://name/run", console=Console(quiet=True), stop_at=4)
    assert [line["step"] for line in list(read_valid_lines(workdir / "metrics.jsonl"))] == [1, 2, 3, 4]
    assert str(loop.train(config, "gs://name/run", console=Console(quiet=True))) == "gs://name/run/model"
    lines = list(read_valid_lines(workdir / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 6] and lines[-1]["kind"] == "validation"
    assert len(list((workdir / "tensorboard").iterdir())) == 2 and (workdir / "predictions.png").stat().st_size > 1000
    assert model_folder.read_arrays(workdir / "model")["second/kernel"].shape == (256, 1024)


def test_checkpoints_in_a_bucket_are_validated_like_local_ones(bucket, monkeypatch):
    """TensorStore gets the local folder of the bucket, since it accesses gs:// directly."""
    base = lambda path: {"driver": "file", "path": str(bucket / str(path).removeprefix("gs://"))}
    monkeypatch.setattr("orbax.checkpoint._src.path.gcs_utils.get_kvstore_for_gcs", base)
    part = {"one": np.ones((2, 3), np.float32)}
    with ocp.training.Checkpointer(bucket / "name" / "checkpoints") as result:
        result.save_checkpointables(3, {"params": part, "run": {"format": 1, "text": "x"}})
    stored, workdir = bucket / "name" / "checkpoints" / "3", epath.Path("gs://name/checkpoints")
    expected = lambda *shape: {"params": {("one",): (shape, "float32")}}
    untrusted.check_checkpoint(workdir / "3")
    check_arrays(workdir / "3", expected(2, 3))
    with pytest.raises(BadFile, match=r"one has the shape \[2, 3\], expected \[3, 3\]"):
        check_arrays(workdir / "3", expected(3, 3))
    (stored / "run" / "_strings.json").write_text("{}")
    with pytest.raises(BadFile, match=r"_strings\.json lacks the string text"):
        check_arrays(workdir / "3", expected(2, 3))
    with (stored / "params" / "more").open("w") as file:
        file.truncate(untrusted.LARGEST + 1)
    for _ in range(2):
        with pytest.raises(
            UserError,
            match=r"gs://name/checkpoints: 3 is not a readable checkpoint.*params/more has \d+ bytes.*; remove it, or",
        ):
            Checkpoints(workdir)
    assert stored.is_dir()


def test_bucket_errors_are_one_line(bucket, micro, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(backend.fsspec_backend), "open", refuse)
    with Workdir("gs://name/run") as workdir, pytest.raises(UserError, match=r"gs://name/run: cannot be written .Permission"):
        workdir.open(micro(), TOKENIZER)


@pytest.mark.parametrize("bucketed", [False, True])
def test_a_second_run_in_a_workdir_is_refused_and_writes_nothing(request, tmp_path, micro, bucketed):
    folder = "gs://name/run" if request.getfixturevalue("bucket") and bucketed else str(tmp_path / "run")
    with Workdir(folder) as workdir:
        workdir.open(micro(), TOKENIZER)
        (workdir.local / "metrics.jsonl").write_text("one\n")
        workdir.push()
        with Workdir(folder) as second, pytest.raises(UserError, match=rf"{folder}: is in use by another run .process \d+ on "):
            second.open(micro(train__steps=7), TOKENIZER)
        workdir.check_lock()
        assert json.loads((workdir.path / "config.json").read_text())["train"]["steps"] != 7
    with Workdir(folder) as repeated:
        repeated.open(micro(), TOKENIZER)
        with pytest.raises(UserError, match="another run has taken over its lock"):
            workdir._lock._number = 1  # as if it had been suspended
            workdir.check_lock()


def test_a_run_that_lost_its_lock_ends_without_a_save(small_system, micro, tmp_path, monkeypatch):
    def raise_lost(self):
        raise UserError(f"{self.folder}: another run has taken over its lock")

    monkeypatch.setattr("hyperseg_jax.locks.lock.Lock.check_still_held", raise_lost)
    with pytest.raises(UserError, match="run: another run has taken over its lock"):
        loop.train(micro(train__steps=2), tmp_path / "run", console=Console(quiet=True))
    assert not (tmp_path / "run" / "model").exists() and not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "{", "[]", '{"train": null}', '{"train": [1]}', "pipe", "endless", "folder"]
)
def test_the_config_of_a_workdir_is_validated(micro, tmp_path, content):
    path = tmp_path / "run" / "config.json"
    write_workdir(path.parent)
    fuzz.write_content(path, content)
    with pytest.raises(UserError, match=r"run/config\.json: not readable|run: contains a run with another config") as error:
        Workdir(tmp_path / "run").check(micro())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["many", "twice", "[" * 100_000, "{", "[]", "pipe"])
def test_the_tokenizer_of_a_workdir_is_validated(micro, tmp_path, content):
    """With the limits for all small JSON files."""
    path = tmp_path / "run" / "tokenizer.json"
    write_workdir(path.parent)
    (path.parent / "config.json").write_text(micro().to_json())
    text = {"many": "[" + "[]," * 6_000_000 + "[]]", "twice": '{"added_tokens": 1, ' + TOKENIZER.to_json().lstrip()[1:]}
    fuzz.write_content(path, text.get(content, content))
    words = "run: was trained with another tokenizer" if content == "[]" else r"run/tokenizer\.json: not readable"
    began = time.process_time()
    with pytest.raises(UserError, match=words) as error:
        Workdir(tmp_path / "run").check(micro(), TOKENIZER)
    assert "\n" not in str(error.value) and time.process_time() < began + 2


def test_a_config_without_checkpoints_is_replaced(tmp_path, micro):
    """A run that failed before its first save leaves one; the corrected command may use the same workdir."""
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    for config in (micro(), micro(model__num_queries=5)):
        with Workdir(tmp_path) as workdir:
            workdir.check(config)
            workdir.open(config, TOKENIZER)
    assert json.loads((tmp_path / "config.json").read_text())["model"]["num_queries"] == 5


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.safetensors", "is a model folder, whose config.json a run would replace; give another --workdir"),
        ("pytorch_model.bin", "config.json: is not of a run, which would replace it; give another --workdir"),
    ],
)
def test_folders_of_others_are_not_overwritten(tmp_path, micro, file, message):
    (tmp_path / "config.json").write_text('{"model_type": "phi"}')
    (tmp_path / file).touch()
    with Workdir(tmp_path) as workdir:
        for enter in (workdir.check, workdir.open):
            with pytest.raises(UserError, match=message):
                enter(micro(), TOKENIZER)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "phi"}' and not (tmp_path / "tokenizer.json").exists()


def test_config_texts_are_escaped_and_truncated_in_messages(tmp_path, micro):
    with Workdir(tmp_path) as workdir:
        workdir.open(micro(), TOKENIZER)
    write_workdir(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"system": "x\nerror: run this\n" + "A" * 10**6, "a\nb": 1}))
    with Workdir(tmp_path) as workdir, pytest.raises(UserError, match=r"system: 'x\\nerror: run this") as error:
        workdir.check(micro())
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


def test_a_model_linked_outside_the_workdir_is_refused(tmp_path, micro):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "id").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(tmp_path / "other")
    with Workdir(tmp_path / "run") as workdir, pytest.raises(UserError, match=r"run: model is a link that leaves "):
        workdir.check(micro())


def test_a_finished_run_without_its_checkpoints_is_kept(tmp_path, micro):
    for config in (micro(), micro(model__num_queries=5)):
        with Workdir(tmp_path) as workdir, contextlib.ExitStack() as refused:
            if (tmp_path / "model").exists():
                refused.enter_context(pytest.raises(UserError, match=r"contains a run with another config .model\.num_queries"))
            workdir.open(config, TOKENIZER)
            (tmp_path / "model").mkdir()


def test_a_model_that_a_killed_run_was_replacing_is_kept(tmp_path, micro):
    """It is restored before the workdir is checked."""
    (tmp_path / "config.json").write_text(micro(model__num_queries=5).to_json())
    before = tmp_path / f".model.hyperseg-{'0' * 8}-aaaaaaaa" / "before"
    (before / "model").mkdir(parents=True)
    for path in (before / "model", before, before.parent):
        os.utime(path, (1e9, 1e9))
    with (
        Workdir(tmp_path) as workdir,
        pytest.raises(UserError, match=r"contains a run with another config .model\.num_queries"),
    ):
        workdir.open(micro(), TOKENIZER)
    assert (tmp_path / "model").is_dir()


def test_a_run_started_after_the_check_is_detected_with_the_lock(tmp_path, micro):
    workdir = tmp_path / "run"
    with Workdir(workdir) as late:
        late.check(micro(model__num_queries=5))
        with Workdir(workdir) as first:
            first.check(micro())
            first.open(micro(), TOKENIZER)
            write_workdir(workdir)
        with pytest.raises(UserError, match=r"run: contains a run with another config .model\.num_queries"):
            late.open(micro(model__num_queries=5), TOKENIZER)
    with Workdir(workdir) as repeated:
        repeated.open(micro(), TOKENIZER)
