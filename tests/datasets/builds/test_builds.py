"""Builds of the toy samples: contents, resuming, and refusals."""

import contextlib
import json
import os
import pathlib
import pickle
import resource
import signal
import subprocess
import sys
import time

import fsspec
import numpy as np
import pytest
from command import run_command
from PIL import Image

from hyperseg_jax import toy
from hyperseg_jax.datasets import CocoPanoptic, Davis2017, RefDavis, RefYouTubeVos, YouTubeVis, layouts
from hyperseg_jax.datasets.builds import build as building
from hyperseg_jax.datasets.builds.build import Plan, build_split
from hyperseg_jax.datasets.built import Built
from hyperseg_jax.errors import UserError
from hyperseg_jax.toy.samples import write_samples

YOURS = ("folder", "labelme", "coco_json")


@pytest.fixture(scope="session")
def samples(shared):
    return shared("build-samples", lambda folder: write_samples(folder, count=2))


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    return toy.write_video_layouts(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def refs(samples):
    """A reader of eight records, and the plan of its build in four shards."""
    return layouts.find_layout("refcoco").open(samples, "train"), Plan({"name": "refcoco", "split": "train"}, shard_size=2)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A store in memory, and an empty cache."""
    monkeypatch.setenv("HYPERSEG_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    yield "memory://bucket/refs"
    store.rm("/bucket", recursive=True)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}


# contents of a build


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_builds_equal_their_source(samples, tmp_path, name, assert_equal):
    layout = layouts.LAYOUTS[name]
    reader = layout.open(samples / "yours" / name if name in YOURS else samples, layout.splits[0])
    build_split(reader, tmp_path / "b" / "s", Plan({"name": name, "split": "s"}, shard_size=3))
    built = pickle.loads(pickle.dumps(Built(tmp_path / "b", "s")))
    assert len(built) == len(reader)
    for k in range(len(reader)):
        assert_equal(built[k], reader[k])
    for fact in ("classes", "things", "category_ids"):
        assert getattr(built, fact, None) == getattr(reader, fact, None)


def video_readers(folder, **options):
    spoken, videos = folder / "ref_youtube_vos", folder / "youtube_vis_2021" / "train"
    davis, texts = folder / "davis2017", folder / "davis2017" / "davis_text_annotations"
    return {
        "davis2017": Davis2017(davis, "train", **options),
        "unsupervised": Davis2017(davis, "train", task="unsupervised", **options),
        "ref_davis": RefDavis(davis, texts, "train", sentences="joined", **options),
        "ref_youtube_vos": RefYouTubeVos(
            spoken / "meta_expressions" / "train" / "meta_expressions.json",
            spoken / "train" / "JPEGImages",
            spoken / "train" / "Annotations",
            **options,
        ),
        "youtube_vis": YouTubeVis(videos / "instances.json", videos / "JPEGImages", **options),
    }


@pytest.mark.parametrize("name", ("davis2017", "unsupervised", "ref_davis", "ref_youtube_vos", "youtube_vis"))
def test_clips_are_complete_or_sampled_like_their_source(clips, tmp_path, name, monkeypatch, assert_equal):
    source = video_readers(clips)[name]
    build_split(source, tmp_path / "b" / "s", Plan({"name": name, "split": "s"}))
    for k in range(len(source)):
        assert_equal(Built(tmp_path / "b", "s")[k], source[k])
    decoded = []
    from hyperseg_jax.datasets.builds.records import Record

    image = Record._decode_frame
    monkeypatch.setattr(Record, "_decode_frame", lambda self, t: decoded.append(t) or image(self, t))
    for rule in ("stride", "around", "jump"):
        sampled, built = (
            f(frames=3, sampling=rule)
            for f in (lambda **o: video_readers(clips, **o)[name], lambda **o: Built(tmp_path / "b", "s", **o))
        )
        for seed in range(6):
            decoded.clear()
            inputs = built.sample(seed % len(source), np.random.default_rng(seed))
            assert len(decoded) == 3  # no other frame is decoded
            assert_equal(inputs, sampled.sample(seed % len(source), np.random.default_rng(seed)))


def test_class_lists_are_sampled_like_their_source(samples, tmp_path, assert_equal):
    layout = layouts.find_layout("coco_panoptic")
    build_split(layout.open(samples, "val2017"), tmp_path / "b" / "s", Plan({"name": "coco_panoptic", "split": "s"}))
    options = {"max_classes": 4, "prompts_per_example": 3, "seed": 5}
    source, built = layout.open(samples, "val2017", **options), Built(tmp_path / "b", "s", **options)
    for k in range(2):
        assert len(built[k].prompts) == 3 and len(built[k].prompts[0].classes) == 4
        assert_equal(built[k], source[k])
    with pytest.raises(UserError, match="frames=2 applies to videos"):
        Built(tmp_path / "b", "s", frames=2)


def test_jpeg_files_are_kept_and_large_ones_shrunk(samples, tmp_path):
    reader = layouts.find_layout("coco_instances").open(samples, "val2017")
    originals = [path.read_bytes() for path in sorted((samples / "coco" / "val2017").iterdir())]
    build_split(reader, tmp_path / "b" / "s", Plan({"name": "x", "split": "s"}))
    assert [Built(tmp_path / "b", "s")._read_record(k)[0]._images[0] for k in range(2)] == originals
    build_split(reader, tmp_path / "b" / "small", Plan({"name": "x", "split": "small"}, long_edge=64))
    built = Built(tmp_path / "b", "small")
    (data,) = built._read_record(0)[0]._images
    assert data.startswith(b"\xff\xd8\xff") and built[0].frames.shape == (1, 64, 64, 3)
    full = np.asarray(Image.fromarray(reader[0].frames[0]).resize((64, 64), Image.Resampling.BILINEAR), int)
    assert np.abs(built[0].frames[0] - full).mean() < 3 and built[0].prompts[0].masks.shape[-2:] == (64, 64)


# building


def test_workers_give_the_same_bytes(refs, tmp_path):
    build_split(refs[0], tmp_path / "a", refs[1])
    build_split(refs[0], tmp_path / "b", refs[1], workers=2)
    assert content(tmp_path / "a") == content(tmp_path / "b") and len(content(tmp_path / "a")) == 10


def test_only_missing_shards_are_rebuilt(refs, tmp_path, monkeypatch):
    build_split(refs[0], tmp_path / "a", refs[1])
    before = content(tmp_path / "a")
    (tmp_path / "a" / "00001-of-00004.array_record").unlink()
    shard = tmp_path / "a" / "00002-of-00004.array_record"
    shard.write_bytes(shard.read_bytes()[:-1])
    (tmp_path / "a" / "00003-of-00004.array_record.json").write_text("{")
    written, write = [], building._write_shard
    monkeypatch.setattr(building, "_write_shard", lambda job, *rest: written.append(job.path.name[:5]) or write(job, *rest))
    build_split(refs[0], tmp_path / "a", refs[1])
    assert sorted(written) == ["00001", "00002", "00003"] and content(tmp_path / "a") == before
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")  # of the right size
    build_split(refs[0], tmp_path / "a", refs[1])
    assert len(written) == 3
    build_split(refs[0], tmp_path / "a", refs[1], verify=True)
    assert written[3:] == ["00002"] and content(tmp_path / "a") == before


def test_killed_builds_resume(samples, tmp_path):
    """kill -9 at any time leaves only complete shards and no worker."""
    out, script = tmp_path / "out", tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from hyperseg_jax.datasets.builds.build import Plan, build_split\n"
        "from hyperseg_jax.datasets import layouts\n"
        "class Slow:\n"
        "    def __init__(self, reader): self.reader = reader\n"
        "    def __len__(self): return len(self.reader)\n"
        "    def __getitem__(self, k): time.sleep(0.4 * (k > 3)); return self.reader[k]\n"
        "if __name__ == '__main__':\n"
        f"    reader = layouts.find_layout('refcoco').open({str(samples)!r}, 'train')\n"
        "    build_split(Slow(reader), sys.argv[1], Plan({'name': 'refcoco', 'split': 'train'}, shard_size=1), workers=2)\n"
    )
    root = pathlib.Path(building.__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen([sys.executable, script, out], env=environment, start_new_session=True)
    while not list(out.glob("*.array_record.json")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.name.removesuffix(".json") for path in out.glob("*.array_record.json")}
    assert 0 < len(finished) < 8 and not (out / "index.json").exists()
    with pytest.raises(UserError, match=r"the build is not finished"):
        Built(tmp_path, "out")
    kept = {name: (out / name).stat().st_mtime_ns for name in finished}
    ended = time.monotonic() + 20
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, 0)  # is a process of the group alive?
            assert time.monotonic() < ended, "a worker outlived the build"
            time.sleep(0.1)
    reader = layouts.find_layout("refcoco").open(samples, "train")
    plan = Plan({"name": "refcoco", "split": "train"}, shard_size=1)
    build_split(reader, out, plan)
    build_split(reader, tmp_path / "whole", plan)
    assert content(out) == content(tmp_path / "whole")
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == kept


def test_other_settings_are_named(refs, tmp_path):
    build_split(refs[0], tmp_path / "a", refs[1])
    before = content(tmp_path / "a")
    with pytest.raises(UserError, match=r"a: contains a build with other settings \(long_edge None saved, 64 given\)"):
        build_split(refs[0], tmp_path / "a", Plan(refs[1].source, shard_size=2, long_edge=64))
    assert content(tmp_path / "a") == before
    (tmp_path / "a" / "build.json").write_text('{"x\\nerror: made up": 1}')
    with pytest.raises(UserError) as raised:
        build_split(refs[0], tmp_path / "a", refs[1])
    assert "\n" not in str(raised.value) and r"x\nerror: made up" in str(raised.value)


def test_concurrent_builds_are_refused(refs, tmp_path):
    with (
        building.process_lock(tmp_path / "a" / ".staging" / "lock", wait=False),
        pytest.raises(UserError, match="another process on this machine"),
    ):
        build_split(refs[0], tmp_path / "a", refs[1])


def test_bad_records_abort_a_build_or_are_skipped(samples, tmp_path, assert_equal):
    layout = layouts.find_layout("folder")
    reader = layout.open(samples / "yours" / "folder", "all")

    class Broken:
        def __len__(self):
            return len(reader)

        def __getitem__(self, k):
            if k == 1:
                raise UserError("mask.png: no such mask")
            if k == 4:
                raise KeyError("text")
            if k == 5:
                raise OSError(5, "Input/output error")
            return reader[k]

    messages = {"name": "folder", "split": "all"}
    with pytest.raises(UserError, match="bad records so far") as raised:
        build_split(Broken(), tmp_path / "a", Plan(messages))
    assert "record 1: mask.png: no such mask" in str(raised.value) and "record 4: is in an unexpected format" in str(
        raised.value
    )
    assert not list((tmp_path / "a").glob("*.array_record"))
    bad = [1, 4, 5]
    with pytest.raises(UserError, match="--skip-bad"):
        build_split(Broken(), tmp_path / "b" / "s", Plan(messages, shard_size=3))
    index = build_split(Broken(), tmp_path / "b" / "s", Plan(messages, skip_bad=True, shard_size=3))  # as the message advises
    assert [number for number, _ in index.bad] == bad and index.records == len(reader) - len(bad)
    with pytest.raises(UserError, match=r"record 1: mask\.png"):  # and what was left out is not forgotten
        build_split(Broken(), tmp_path / "b" / "s", Plan(messages, shard_size=3))
    built, kept = Built(tmp_path / "b", "s"), [k for k in range(len(reader)) if k not in bad]
    for k, number in enumerate(kept):
        assert_equal(built[k], reader[number])


def test_full_disks_are_one_line_without_loss(refs, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(UserError, match=r"00000-of-00004\S* cannot be written .* run the same command again"):
            build_split(refs[0], tmp_path / "a", refs[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list((tmp_path / "a").glob("*.array_record*"))
    build_split(refs[0], tmp_path / "a", refs[1])
    assert len(Built(tmp_path, "a")) == len(refs[0])


# store errors and damaged shards


def test_a_store_in_memory(refs, bucket, tmp_path, assert_equal):
    build_split(refs[0], f"{bucket}/train", refs[1], workers=1)
    build_split(refs[0], tmp_path / "local", refs[1])
    store = fsspec.filesystem("memory")
    assert {path.rsplit("/", 1)[-1]: store.cat_file(path) for path in store.ls("/bucket/refs/train", detail=False)} == content(
        tmp_path / "local"
    )
    built = Built(bucket, "train")
    for k in range(len(refs[0])):
        assert_equal(built[k], refs[0][k])
    assert len(list((tmp_path / "cache" / "builds").glob("*.array_record"))) == 4
    with pytest.raises(UserError, match=r"contains no build \(no index.json\); available splits: train"):
        Built(bucket, "val")
    name = "/bucket/refs/train/00003-of-00004.array_record"
    store.pipe_file(name, store.cat_file(name)[:-1] + b"x")
    for path in (tmp_path / "cache" / "builds").iterdir():
        path.unlink()
    fresh = Built(bucket, "train")
    assert_equal(fresh[0], refs[0][0])
    with pytest.raises(UserError, match=r"00003-of-00004.array_record: wrong checksum"):
        fresh[7]
    store.rm_file(name)
    with pytest.raises(UserError, match=r"00003-of-00004.array_record: no such shard"):
        fresh[7]


def test_store_errors_are_one_line_and_shards_are_kept(refs, bucket, tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    put, failed = type(store).put_file, []

    def broken(self, file, name, **options):
        if "00002-of" in name and not failed:
            failed.append(name)
            raise OSError("the connection was reset")
        return put(self, file, name, **options)

    monkeypatch.setattr(type(store), "put_file", broken)
    with pytest.raises(UserError, match=r"00002-of-00004.array_record: cannot be written .*the connection was reset"):
        build_split(refs[0], f"{bucket}/train", refs[1])
    written, write = [], building._write_shard
    monkeypatch.setattr(building, "_write_shard", lambda job, *rest: written.append(job.path.name[:5]) or write(job, *rest))
    build_split(refs[0], f"{bucket}/train", refs[1])
    assert "00002" not in written and not list((tmp_path / "cache" / "staging").rglob("*.array_record"))
    assert len(Built(bucket, "train")) == len(refs[0])


def test_incomplete_shards(refs, tmp_path, capsys):
    build_split(refs[0], tmp_path / "train", refs[1])
    assert run_command(capsys, "data", "check", "built", "--root", tmp_path)[0] == 0
    shard = tmp_path / "train" / "00001-of-00004.array_record"
    full = shard.read_bytes()
    shard.write_bytes(full[:-1])
    with pytest.raises(UserError, match=r"00001-of-00004.array_record: has .* bytes, its index says"):
        Built(tmp_path, "train")[2]
    middle = len(full) // 2
    shard.write_bytes(full[:middle] + bytes([full[middle] ^ 1]) + full[middle + 1 :])
    code, out, _ = run_command(capsys, "data", "check", "built", "--root", tmp_path)
    assert code == 1 and "00001-of-00004.array_record: wrong checksum" in out
    shard.unlink()
    with pytest.raises(UserError, match=r"00001-of-00004.array_record: no such shard"):
        Built(tmp_path, "train")[2]
    index = tmp_path / "train" / "index.json"
    messages = json.loads(index.read_text())
    messages["shards"][0]["file"] = "../../elsewhere"
    index.write_text(json.dumps(messages))
    with pytest.raises(UserError, match=r"index.json: is damaged"):
        Built(tmp_path, "train")


# the command


def test_the_command(samples, tmp_path, capsys):
    command = ("data", "build", "refcoco", "--root", samples, "--out", tmp_path / "b", "--workers", 1)
    code, _, err = run_command(capsys, *command, "--split", "testA", "--option", "sentences=joined", "--long-edge", 100)
    assert code == 0 and f"{tmp_path}/b/testA: " in err
    joined = layouts.find_layout("refcoco").open(samples, "testA", sentences="joined")
    built = Built(tmp_path / "b", "testA")
    assert [built[k].prompts[0].text for k in range(len(built))] == [e.prompts[0].text for e in joined]
    for arguments, message in (
        (("--option", "max_classes=3"), "set max_classes when the build is read"),
        (("--option", "sentences=random"), "--option sentences=random: a build would keep one draw forever; use the reader"),
        (("--option", "colour=3"), "--option: the reader of refcoco has no field 'colour'; its fields are split, sentences"),
        (("--split", "none"), "--split none: refcoco has no such split; use one of train"),
        (("--long-edge", 0), "--long-edge 0: give at least 1"),
        (("--workers", 0), "--workers 0: give at least 1"),
    ):
        code, _, err = run_command(capsys, *command, *arguments)
        assert code == 2 and message in err
    code, _, err = run_command(capsys, "data", "check", "built", "--root", tmp_path)
    assert code == 2 and "contains no build" in err


def test_configs_read_builds(samples, tmp_path, micro):
    from rich.console import Console

    from hyperseg_jax.data import sources
    from hyperseg_jax.systems import system as systems

    build_split(
        layouts.find_layout("refcoco").open(samples, "train"),
        tmp_path / "refs" / "train",
        Plan({"name": "r", "split": "train"}),
    )
    config = micro().copy_and_resolve_references()
    with config.unlocked():
        config.data.root = str(tmp_path)
        config.data.tasks.referring.reader = "built"
        for part in ("train", "val"):
            config.data.tasks.referring[part] = {"folder": "{root}/refs", "split": "train"}
    task = sources.build_tasks(config, systems.get("hyperseg"), console=Console(quiet=True))["referring"]
    arrays = task.prepare(task.train.sample(0, np.random.default_rng(0)), np.random.default_rng(0))
    assert arrays["segments"].any() and arrays["valid"].any()


def test_pickled_readers_are_small(samples, tmp_path):
    source = layouts.find_layout("coco_panoptic").open(samples, "val2017")
    assert isinstance(source, CocoPanoptic)
    build_split(source, tmp_path / "s", Plan({"name": "x", "split": "s"}))
    built = Built(tmp_path, "s")
    before = len(pickle.dumps(built))
    built[0]
    assert len(pickle.dumps(built)) == before < 20_000
