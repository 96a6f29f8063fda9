"""Records that ask for much: masks, frames, records and time within limits, here and in worker processes."""

import json
import multiprocessing
import os
import time

import fuzz
import numpy as np
import pytest
from damage import change, found, report

from hyperseg_jax.data.pipeline import Unreadable, read_ahead
from hyperseg_jax.datasets import CocoInstances, Folder, layouts, record_errors
from hyperseg_jax.datasets.builds import index as indices
from hyperseg_jax.datasets.builds.build import Plan, build
from hyperseg_jax.datasets.built import Built, open_checked
from hyperseg_jax.datasets.check_errors import Problem, ProblemCollector, collecting_problems
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.untrusted import limits

INSTANCES = "coco/annotations/instances_val2017.json"


def opened(root):
    return CocoInstances(root / INSTANCES, root / "coco" / "val2017")


def test_a_record_of_masks_without_end(own):
    root, mask = own("coco"), run_lengths.encode(np.ones((192, 192), bool))
    change(
        root / INSTANCES,
        lambda c: c.update(
            annotations=[{"id": k, "image_id": 0, "category_id": 1, "segmentation": mask} for k in range(60_000)]
        ),
    )
    began = time.monotonic()
    with limits.applied(masks=300):
        with pytest.raises(UserError, match=r"annotations#300 .*has 301 masks, and the limit is 300; .*limits\.masks"):
            opened(root)[0]
        problems = found(report(root, "coco_instances"))
        assert len(problems) == 1 and "limits.masks" in problems[0][1] and report(root, "coco_instances").examples == 1
    with limits.applied(mask_pixels=192 * 192 * 9), pytest.raises(UserError, match=r"annotations#9 .*limits\.mask_pixels"):
        opened(root)[0]
    assert time.monotonic() - began < 30


def test_short_tracks_of_a_long_video_are_not_filled_up(own):
    """Of ReVOS: a thousand empty tracks, each named by a sentence about a hundred thousand frames."""
    root, numbers = own("revos"), [10**6 + k for k in range(1000)]
    change(root / "revos/mask_dict.json", lambda c: c.update({str(number): [] for number in numbers}))

    def lengthen(content):
        video = next(iter(content["videos"].values()))
        video["frames"] *= 100_000 // len(video["frames"])
        video["expressions"] = {"0": {"exp": "it", "anno_id": numbers}}

    change(root / "revos/meta_expressions_valid_.json", lengthen)
    reader = layouts.find_layout("revos").open(root, "valid", frames=2, sampling="jump")
    told = ProblemCollector()
    with collecting_problems(told):
        fuzz.kept_promise(lambda: reader[0], memory=2**28)
    assert told.counts["bad mask"] >= 1000


def test_objects_without_masks_count_as_masks(own):
    """Of YouTube-VIS: an empty mask takes as much memory as any other."""
    root = own("youtube_vis_2019")
    change(
        root / "youtube_vis_2019/train.json",
        lambda c: [note.update(segmentations=[None] * len(note["segmentations"])) for note in c["annotations"]],
    )
    with limits.applied(masks=3), pytest.raises(UserError, match=r"limits\.masks"):
        layouts.find_layout("youtube_vis_2019").open(root, "train")[0]


def test_time_is_limited(own):
    root = own("coco")
    with limits.applied(seconds=1e-9), pytest.raises(UserError, match=r"seconds of reading time.*limits\.seconds"):
        opened(root)[0]


def test_frames_of_a_record_are_limited(own):
    root = own("davis2017")
    with limits.applied(frame_pixels=192 * 192 * 2), pytest.raises(UserError, match=r"limits\.frame_pixels"):
        layouts.find_layout("davis2017").open(root, "val")[0]
    with limits.applied(frames=2), pytest.raises(UserError, match=r"limits\.frames"):
        layouts.find_layout("davis2017").open(root, "val")[0]


def test_an_index_that_promises_records_without_end(own, tmp_path):
    root = own("coco")
    build(opened(root), tmp_path / "out" / "val", Plan({"name": "a", "split": "val"}))
    path = tmp_path / "out" / "val" / indices.INDEX
    content = json.loads(path.read_text())
    for edit, told in (
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
        with pytest.raises(UserError, match=told):
            Built(tmp_path / "out", "val")
    for edit, told in (
        ({"shards": 5}, "it has 5 in the field 'shards'"),
        ({"shards": [{}]}, "shards#0 has no field 'file'"),
        ({"shards": [content["shards"][0] | {"bad": [5]}]}, "a bad record is 5"),
        ({"facts": {"classes": 3}}, "facts has 3 in the field 'classes'"),
    ):
        path.write_text(json.dumps(content | edit))
        with pytest.raises(Problem, match=rf"index.json: is damaged \({told}.*\); remove it and build again") as caught:
            Built(tmp_path / "out", "val")
        assert caught.value.kind == "bad record"
    with limits.applied(records=1), pytest.raises(UserError, match=r"has 2 records, and the limit is 1; .*limits\.records"):
        build(opened(root), tmp_path / "other", Plan({"name": "a", "split": "val"}))
    with limits.applied(records=1):
        assert "limits.records" in found(report(root, "coco_instances"))[0][1]


@pytest.mark.parametrize("place", ["", indices.INDEX, "shard"])
def test_links_and_pipes_in_the_place_of_a_build(own, tmp_path, place):
    folder = tmp_path / "out" / "val"
    index = build(opened(own("coco")), folder, Plan({"name": "a", "split": "val"}))
    path = folder / (index.shards[0].file if place == "shard" else place)
    path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / "away")
    with pytest.raises(UserError, match=r"is a link that leaves .*--limits outside=True"):
        open_checked(tmp_path / "out", "val")[0]
    with limits.applied(outside=True):
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


def test_limits_reach_worker_processes(own, monkeypatch):
    from hyperseg_jax.data import pipeline

    monkeypatch.setattr(pipeline, "MIN_RECORDS_FOR_WORKERS", 1)
    home = own("yours") / "yours" / "folder"
    with limits.applied(pixels=100):
        read = list(read_ahead(Folder(home), [0, 1], workers=1))
    assert all(isinstance(one, Unreadable) and "limits.pixels" in one.reason for one in read)
    assert not multiprocessing.active_children()


def test_builds_tell_their_workers_the_limits(own, tmp_path):
    root = own("coco")
    with limits.applied(pixels=100), pytest.raises(UserError, match=r"limits\.pixels"):
        build(opened(root), tmp_path / "out", Plan({"name": "a", "split": "val"}), workers=1)


class Raising:
    """A reader that raises what it is given."""

    def __init__(self, *errors):
        self._errors = errors

    def __len__(self):
        return len(self._errors)

    @guard_record
    def __getitem__(self, index):
        raise self._errors[index]


class PanicException(BaseException):
    """As libraries in Rust raise it."""


def test_the_boundary_of_a_record():
    panic = PanicException("called `unwrap()` on a `None` value")
    reader = Raising(KeyError("a"), MemoryError(), RecursionError("deep"), panic, UserError("x\x1b[2J; y"), KeyboardInterrupt())
    told = []
    for k in range(5):
        with pytest.raises(Problem) as caught:
            reader[k]
        told.append(str(caught.value))
    assert told[0] == "Raising[0]: is in an unexpected format (KeyError: 'a'); correct or remove it"
    assert told[1].startswith("Raising[1]: needs more memory than is available")
    assert "(RecursionError: deep)" in told[2] and "PanicException: called `unwrap()`" in told[3] and told[4] == "x\\x1b[2J; y"
    with pytest.raises(KeyboardInterrupt):
        reader[5]


class Giving(Raising):
    """A reader that gives what it is given."""

    @guard_record
    def __getitem__(self, index):
        return self._errors[index]


@pytest.mark.parametrize("regions", [np.ones((1, 4, 4), bool), [Region.from_point(1, 1)], (np.ones((4, 4), bool),), None])
def test_regions_of_another_kind_are_named(regions):
    """As readers gave them once: whoever draws them would fail far from the reader."""
    example = Example("it", np.zeros((1, 4, 4, 3), np.uint8), (Prompt("region", regions=regions),))
    with pytest.raises(
        Problem, match=r"it: field 'regions' of a prompt is a .*, expected a tuple of Region; correct the reader"
    ):
        Giving(example)[0]


def test_every_reader_has_the_boundary():
    from hyperseg_jax.data.sources import READERS

    bare = []
    for name, reader in READERS.items():
        if isinstance(reader, type):
            methods = [getattr(reader, one) for one in ("sample", "__getitem__") if hasattr(reader, one)]
            if not any(method.__code__ is guard_record(len).__code__ for method in methods):
                bare.append(name)
    assert not bare


def test_numbers_that_collide_in_a_dict_are_refused(own):
    """Python's hash of whole numbers is their rest by 2**61 - 1: a dict of such ids takes quadratic time."""
    root, ids = own("coco"), [k * (2**61 - 1) for k in range(1, 30_000)]
    image = {"file_name": "000000000000.jpg", "height": 192, "width": 192}
    change(root / INSTANCES, lambda c: c.update(images=[image | {"id": number} for number in ids]))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"images#0: field 'id' is 2305843009213693951, expected an integer or string id"):
        opened(root)
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
def test_what_keeps_a_reader_from_opening_is_told_in_our_words(error, words):
    with pytest.raises(Problem) as told, record_errors.opening("the reader"):
        raise error
    start = f"the reader cannot be opened with these files and options ({words}"
    assert str(told.value).startswith(start) and type(error).__name__ not in str(told.value)
