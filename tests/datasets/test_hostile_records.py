"""Records with excessive masks, frames or time are limited, also in worker processes."""

import json
import multiprocessing
import os
import time

import fuzz
import numpy as np
import pytest
from damage import edit_json, run_check, sorted_problems

from hyperseg_jax.data.pipeline import Unreadable, read_ahead
from hyperseg_jax.datasets import CocoInstances, Folder, layouts, record_errors
from hyperseg_jax.datasets.builds import index as indices
from hyperseg_jax.datasets.builds.build import Plan, build_split
from hyperseg_jax.datasets.built import Built, open_checked
from hyperseg_jax.datasets.check_errors import Problem, ProblemCollector, collecting_problems
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.untrusted import limits

INSTANCES = "coco/annotations/instances_val2017.json"


def open_reader(root):
    return CocoInstances(root / INSTANCES, root / "coco" / "val2017")


def test_records_with_too_many_masks(copy_samples):
    root, mask = copy_samples("coco"), run_lengths.encode(np.ones((192, 192), bool))
    edit_json(
        root / INSTANCES,
        lambda c: c.update(
            annotations=[{"id": k, "image_id": 0, "category_id": 1, "segmentation": mask} for k in range(60_000)]
        ),
    )
    began = time.monotonic()
    with limits.temporary_limits(masks=300):
        with pytest.raises(UserError, match=r"annotations#300 .*has 301 masks, and the limit is 300; .*limits\.masks"):
            open_reader(root)[0]
        problems = sorted_problems(run_check(root, "coco_instances"))
        assert len(problems) == 1 and "limits.masks" in problems[0][1] and run_check(root, "coco_instances").examples == 1
    with (
        limits.temporary_limits(mask_pixels=192 * 192 * 9),
        pytest.raises(UserError, match=r"annotations#9 .*limits\.mask_pixels"),
    ):
        open_reader(root)[0]
    assert time.monotonic() - began < 30


def test_short_tracks_of_long_videos_are_not_padded(copy_samples):
    """ReVOS: a thousand empty tracks with expressions about a hundred thousand frames."""
    root, numbers = copy_samples("revos"), [10**6 + k for k in range(1000)]
    edit_json(root / "revos/mask_dict.json", lambda c: c.update({str(number): [] for number in numbers}))

    def lengthen(content):
        video = next(iter(content["videos"].values()))
        video["frames"] = [f"{k:06d}" for k in range(100_000)]
        video["expressions"] = {"0": {"exp": "it", "anno_id": numbers}}

    edit_json(root / "revos/meta_expressions_valid_.json", lengthen)
    reader = layouts.find_layout("revos").open(root, "valid", frames=2, sampling="jump")
    messages = ProblemCollector()
    with collecting_problems(messages):
        fuzz.check_call(lambda: reader[0], memory=2**28)
    assert messages.counts["bad mask"] >= 1000


def test_objects_without_masks_count_as_masks(copy_samples):
    """YouTube-VIS: an empty mask needs as much memory as any other."""
    root = copy_samples("youtube_vis_2019")
    edit_json(
        root / "youtube_vis_2019/train.json",
        lambda c: [note.update(segmentations=[None] * len(note["segmentations"])) for note in c["annotations"]],
    )
    with limits.temporary_limits(masks=3), pytest.raises(UserError, match=r"limits\.masks"):
        layouts.find_layout("youtube_vis_2019").open(root, "train")[0]


def test_time_is_limited(copy_samples):
    root = copy_samples("coco")
    with limits.temporary_limits(seconds=1e-9), pytest.raises(UserError, match=r"seconds of reading time.*limits\.seconds"):
        open_reader(root)[0]


def test_frames_of_a_record_are_limited(copy_samples):
    root = copy_samples("davis2017")
    with limits.temporary_limits(frame_pixels=192 * 192 * 2), pytest.raises(UserError, match=r"limits\.frame_pixels"):
        layouts.find_layout("davis2017").open(root, "val")[0]
    with limits.temporary_limits(frames=2), pytest.raises(UserError, match=r"limits\.frames"):
        layouts.find_layout("davis2017").open(root, "val")[0]


def test_indices_with_too_many_records(copy_samples, tmp_path):
    root = copy_samples("coco")
    build_split(open_reader(root), tmp_path / "out" / "val", Plan({"name": "a", "split": "val"}))
    path = tmp_path / "out" / "val" / indices.INDEX
    content = json.loads(path.read_text())
    for edit, messages in (
        ({"records": 10**12}, r"limits\.records"),
        ({"records": 10**400}, r"limits\.records|is damaged"),
        ({"file": "../val/x.array_record"}, "is damaged"),
        ({"file": "/etc/passwd"}, "is damaged"),
        ({"sha256": "../" * 21 + "a"}, "is damaged"),
        ({"bytes": -1}, "is damaged"),
        ({"records": 2**20, "bytes": 9000}, "cannot have 1048576 records in 9000 bytes"),
    ):
        shard = content["shards"][0] | edit
        path.write_text(json.dumps(content | {"shards": [shard], "records": shard["records"]}))
        with pytest.raises(UserError, match=messages):
            Built(tmp_path / "out", "val")
    for edit, messages in (
        ({"shards": 5}, "it has 5 in the field 'shards'"),
        ({"shards": [{}]}, "shards#0 has no field 'file'"),
        ({"shards": [content["shards"][0] | {"bad": [5]}]}, "a bad record is 5"),
        ({"facts": {"classes": 3}}, "facts has 3 in the field 'classes'"),
    ):
        path.write_text(json.dumps(content | edit))
        with pytest.raises(Problem, match=rf"index.json: is damaged \({messages}.*\); remove it and build again") as caught:
            Built(tmp_path / "out", "val")
        assert caught.value.kind == "bad record"
    with (
        limits.temporary_limits(records=1),
        pytest.raises(UserError, match=r"has 2 records, and the limit is 1; .*limits\.records"),
    ):
        build_split(open_reader(root), tmp_path / "other", Plan({"name": "a", "split": "val"}))
    with limits.temporary_limits(records=1):
        assert "limits.records" in sorted_problems(run_check(root, "coco_instances"))[0][1]


@pytest.mark.parametrize("place", ["", indices.INDEX, "shard"])
def test_builds_replaced_by_links_and_pipes(copy_samples, tmp_path, place):
    folder = tmp_path / "out" / "val"
    index = build_split(open_reader(copy_samples("coco")), folder, Plan({"name": "a", "split": "val"}))
    path = folder / (index.shards[0].file if place == "shard" else place)
    path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / "away")
    with pytest.raises(UserError, match=r"is a link that leaves .*--limits outside=True"):
        open_checked(tmp_path / "out", "val")[0]
    with limits.temporary_limits(outside=True):
        assert open_checked(tmp_path / "out", "val")[0].frames.size
    if not place:
        return
    path.unlink()
    os.mkfifo(path)
    if place == "shard":  # of a pipe, the size is 0
        content = json.loads((folder / indices.INDEX).read_text())
        content["shards"][0]["bytes"] = 0
        (folder / indices.INDEX).write_text(json.dumps(content))
    for read in (open_checked, lambda *where: Built(*where)[0]):
        with pytest.raises(UserError, match="is not a regular file"):
            read(tmp_path / "out", "val")


def test_limits_reach_worker_processes(copy_samples, monkeypatch):
    from hyperseg_jax.data import pipeline

    monkeypatch.setattr(pipeline, "MIN_RECORDS_FOR_WORKERS", 1)
    folder = copy_samples("yours") / "yours" / "folder"
    with limits.temporary_limits(pixels=100):
        read = list(read_ahead(Folder(folder), [0, 1], workers=1))
    assert all(isinstance(one, Unreadable) and "limits.pixels" in one.reason for one in read)
    assert not multiprocessing.active_children()


def test_builds_pass_limits_to_workers(copy_samples, tmp_path):
    root = copy_samples("coco")
    with limits.temporary_limits(pixels=100), pytest.raises(UserError, match=r"limits\.pixels"):
        build_split(open_reader(root), tmp_path / "out", Plan({"name": "a", "split": "val"}), workers=1)


class RaisingReader:
    """A reader that raises the given errors."""

    def __init__(self, *errors):
        self._errors = errors

    def __len__(self):
        return len(self._errors)

    @guard_record
    def __getitem__(self, index):
        raise self._errors[index]


class PanicException(BaseException):
    """The exception of Rust libraries."""


def test_exceptions_of_records_are_converted():
    panic = PanicException("called `unwrap()` on a `None` value")
    reader = RaisingReader(
        KeyError("a"), MemoryError(), RecursionError("deep"), panic, UserError("x\x1b[2J; y"), KeyboardInterrupt()
    )
    messages = []
    for k in range(5):
        with pytest.raises(Problem) as caught:
            reader[k]
        messages.append(str(caught.value))
    assert messages[0] == "RaisingReader[0]: is in an unexpected format (KeyError: 'a'); correct or remove it"
    assert messages[1].startswith("RaisingReader[1]: needs more memory than is available")
    assert (
        "(RecursionError: deep)" in messages[2]
        and "PanicException: called `unwrap()`" in messages[3]
        and messages[4] == "x\\x1b[2J; y"
    )
    with pytest.raises(KeyboardInterrupt):
        reader[5]


class ReturningReader(RaisingReader):
    """A reader that returns the given examples."""

    @guard_record
    def __getitem__(self, index):
        return self._errors[index]


@pytest.mark.parametrize("regions", [np.ones((1, 4, 4), bool), [Region.from_point(1, 1)], (np.ones((4, 4), bool),), None])
def test_regions_of_wrong_type_are_named(regions):
    """As returned by earlier readers; drawing them would fail far from the reader."""
    example = Example("it", np.zeros((1, 4, 4, 3), np.uint8), (Prompt("region", regions=regions),))
    with pytest.raises(
        Problem, match=r"it: field 'regions' of a prompt is a .*, expected a tuple of Region; correct the reader"
    ):
        ReturningReader(example)[0]


def test_every_reader_converts_exceptions():
    from hyperseg_jax.data.sources import READERS

    bare = []
    for name, reader in READERS.items():
        if isinstance(reader, type):
            methods = [getattr(reader, one) for one in ("sample", "__getitem__") if hasattr(reader, one)]
            if not any(method.__code__ is guard_record(len).__code__ for method in methods):
                bare.append(name)
    assert not bare


def test_colliding_ids_are_refused(copy_samples):
    """Python's hash of an integer is its remainder modulo 2**61 - 1: a dict of such ids needs quadratic time."""
    root, ids = copy_samples("coco"), [k * (2**61 - 1) for k in range(1, 30_000)]
    image = {"file_name": "000000000000.jpg", "height": 192, "width": 192}
    edit_json(root / INSTANCES, lambda c: c.update(images=[image | {"id": number} for number in ids]))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"images#0: field 'id' is 2305843009213693951, expected an integer or string id"):
        open_reader(root)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("anns"), "'anns' is missing"),
        (TypeError("'<' not supported between instances of 'str' and 'int'"), "a value has the wrong type or size"),
        (AttributeError("'list' object has no attribute 'get'"), "a value has the wrong type or size"),
        (IndexError("list index out of range"), "a value has the wrong type or size"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "a text is not valid Unicode"),
        (PermissionError(13, "Permission denied", "x"), "a file cannot be read: Permission denied"),
        (RecursionError("maximum recursion depth exceeded"), "it is nested too deep"),
        (MemoryError(), "it needs more memory than is available"),
    ],
)
def test_errors_on_opening_a_reader_are_converted(error, words):
    with pytest.raises(Problem) as excinfo, record_errors.opening_reader("the reader"):
        raise error
    start = f"the reader cannot be opened with these files and options ({words}"
    assert str(excinfo.value).startswith(start) and type(error).__name__ not in str(excinfo.value)


def test_a_build_of_images_has_one_frame_per_record(copy_samples, tmp_path):
    reader = layouts.find_layout("davis2017").open(copy_samples("davis2017"), "val")
    build_split(reader, tmp_path / "out" / "val", Plan({"name": "a", "split": "val"}))
    edit_json(tmp_path / "out" / "val" / indices.INDEX, lambda content: content.update(clips=False))
    with pytest.raises(UserError, match=r"array_record#0: has \d+ frames in a build of images; build this shard again"):
        Built(tmp_path / "out", "val")[0]
    with pytest.raises(UserError, match=r"has \d+ frames; give its reader a method sample"):
        build_split([reader[0]], tmp_path / "list" / "val", Plan({"name": "a", "split": "val"}))
