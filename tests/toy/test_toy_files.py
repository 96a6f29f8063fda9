"""Files of the toy world round-trip through its readers."""

import hashlib
import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
from process_run import exit_at_once
from sample_inputs import draw_regions, region_kinds

from hyperseg_jax import toy
from hyperseg_jax.errors import UserError
from hyperseg_jax.toy import text_controls, toy_images, writer
from hyperseg_jax.toy.vocabulary import BACKGROUNDS, COLORS, SHAPES, SIZE

SMALL = {"train": 3, "val": 8, "compositional": 1, "clips": 2, "seed": 3}
OPTIONS = {
    "referring": {"group_by_image": True},
    "panoptic": {"max_classes": 8},
    "video": {"frames": 3},
    "instances": {"frames": 3, "max_classes": 8},
    "region": {"max_regions": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy.write_world(tmp_path_factory.mktemp("toy") / "world", **SMALL, log=lambda line: None)


def read_tree(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_files(folder, tmp_path):
    repeated = toy.write_world(tmp_path / "again", **SMALL, workers=1, log=lambda line: None)
    assert read_tree(repeated) == read_tree(folder)
    same_seed, other_seed = (toy_images.generate_image(toy.World(seed=seed, val=2), "val", 0) for seed in (SMALL["seed"], 4))
    assert not np.array_equal(same_seed.pixels, other_seed.pixels)


def test_longer_splits_extend_shorter_ones():
    short, long = toy.World(val=2), toy.World(val=50, train=1)
    assert np.array_equal(toy_images.generate_image(short, "val", 1).pixels, toy_images.generate_image(long, "val", 1).pixels)


def test_existing_worlds_are_reported(folder):
    messages, original = [], read_tree(folder)
    assert toy.write_world(folder, **SMALL, log=messages.append) == folder
    assert len(messages) == 1 and "already" in messages[0]
    assert read_tree(folder) == original


def test_other_parameters_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="other parameters"):
        toy.write_world(folder, **{**SMALL, "val": 4})
    (tmp_path / "mine.txt").write_text("not a toy world")
    with pytest.raises(UserError, match="no toy world here"):
        toy.write_world(tmp_path, **SMALL)
    assert (tmp_path / "mine.txt").read_text() == "not a toy world"
    for wrong in ({"level": "harder"}, {"kinds": "new"}, {"val": -1}, {"expressions": 0}):
        with pytest.raises(UserError):
            toy.write_world(tmp_path / "x", **wrong)


def test_failures_leave_no_partial_files(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_draw_and_save_reasoning", fail)
    with pytest.raises(KeyboardInterrupt):
        toy.write_world(tmp_path / "world", **SMALL)
    assert not list(tmp_path.iterdir())


def test_referring_and_panoptic_round_trip(folder):
    world = toy.read_world(folder)
    referring = toy.open_reader(folder, "referring", "val")
    grouped = toy.open_reader(folder, "referring", "val", group_by_image=True, prompts_per_example=4)
    panoptic = toy.open_reader(folder, "panoptic", "val")
    assert len(referring) == 8 * 6 and len(grouped) == 16 and len(panoptic) == 8
    assert [len(grouped[k].prompts) for k in range(4)] == [3, 3, 3, 3]
    for index in range(8):
        sample = toy_images.generate_image(world, "val", index)
        scene_masks = sample.scene.masks
        for k, expression in enumerate(sample.expressions):
            prompt = referring[6 * index + k].prompts[0]
            assert prompt.text == f"{expression.text}." and prompt.group == expression.group
            assert len(prompt.masks) == (1 if expression.targets else 0)
            if expression.targets:
                assert np.array_equal(prompt.masks[0, 0], scene_masks[list(expression.targets)].any(0))
        example = panoptic[index]
        assert np.abs(example.frames[0].astype(int) - sample.pixels).mean() < 6  # JPEG
        (prompt,) = example.prompts
        names = [prompt.classes[label] for label in prompt.labels]
        assert names == [*(thing.name for thing in sample.scene.things), sample.scene.background]
        assert np.array_equal(prompt.masks[:-1, 0], scene_masks) and np.array_equal(prompt.masks[-1, 0], ~scene_masks.any(0))
        assert [prompt.things[label] for label in prompt.labels] == [True] * len(scene_masks) + [False]
        assert prompt.ignore is None
    texts = [prompt.text for k in range(16) for prompt in grouped[k].prompts]
    assert texts == [referring[k].prompts[0].text for k in range(48)]


def test_exams_of_files_equal_those_of_the_generator(folder):
    world = toy.read_world(folder)
    result = list(text_controls.read_objects_and_targets(folder, "val"))
    assert len(result) == 8
    for index, (objects, targets) in enumerate(result):
        sample = toy_images.generate_image(world, "val", index)
        assert np.array_equal(objects, sample.scene.masks)
        for target, expression in zip(targets, sample.expressions, strict=True):
            assert np.array_equal(target, sample.scene.masks[list(expression.targets)].any(0))


def test_reasoning_region_chat_and_video_round_trip(folder):
    world = toy.read_world(folder)
    scene, _, question = toy_images.generate_reasoning_image(world, "val", 1)
    (prompt,) = toy.open_reader(folder, "reasoning", "val")[1].prompts
    assert (prompt.text, prompt.answer, prompt.group) == (question.text, question.answer, question.group)
    assert np.array_equal(prompt.masks[0, 0], scene.masks[list(question.targets)].any(0))

    sample = toy_images.generate_image(world, "val", 2)
    for kind in ("point", "scribble", "box", "mask"):
        (prompt,) = toy.open_reader(folder, "region", "val", kinds=(kind,))[2].prompts
        assert np.array_equal(prompt.masks[:, 0], sample.scene.masks)
        assert set(region_kinds(prompt)) == {kind} and prompt.labels == tuple(range(len(prompt.regions)))
        for region, mask in zip(draw_regions(prompt), sample.scene.masks, strict=True):
            assert (region & mask).any()
    chat = toy.open_reader(folder, "chat", "val")[2]
    assert [(prompt.text, prompt.answer) for prompt in chat.prompts] == sample.conversation

    video = toy.open_reader(folder, "video", "val")
    scene, frames, written = toy_images.generate_video(world, "val", 0)
    for k, expression in enumerate(written):
        example = video[k]
        assert example.frames.shape == frames.shape and example.prompts[0].text == expression.text
        if expression.targets:
            assert np.array_equal(example.prompts[0].masks[0], scene.masks[list(expression.targets)].any(0))
        else:
            assert example.prompts[0].masks.shape == (0, *frames.shape[:3])


COLOURS, BACKGROUND_WORDS = "|".join(COLORS), "|".join(BACKGROUNDS)
PLACE = "at the (top|bottom)( (left|right))?|on the (left|right)|in the middle"
CAPTION = re.compile(f"an? (small|large) ({COLOURS}) ({'|'.join(SHAPES)})( ({PLACE}|on ({BACKGROUND_WORDS})))?")


@pytest.mark.parametrize("split", ["train", "val", "compositional"])
def test_captions_are_true(folder, split):
    world, reader = toy.read_world(folder), toy.open_reader(folder, "caption", split)
    names = toy.open_reader(folder, "category", split)
    assert len(reader) == len(names) == world.image_count(split)
    placed = []
    for index in range(len(reader)):
        sample = toy_images.generate_image(world, split, index)
        (prompt,), (weak,) = reader[index].prompts, names[index].prompts
        assert np.array_equal(reader[index].frames, names[index].frames)
        assert len(prompt.captions) == len(prompt.regions) == len(sample.scene.things)
        assert weak.captions == tuple((thing.name,) for thing in sample.scene.things)
        for thing, mask, region, other, (text,) in zip(
            sample.scene.things, sample.scene.masks, prompt.regions, weak.regions, prompt.captions, strict=True
        ):
            assert region.boxes.tolist() == other.boxes.tolist()
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert region.boxes.tolist() == [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]
            assert CAPTION.fullmatch(text).groups()[:3] == (thing.size, thing.color, thing.shape)
            words = text.split()
            third = SIZE / 3
            assert ("left" not in words or thing.x < third) and ("right" not in words or thing.x > 2 * third)
            assert ("top" not in words or thing.y < third) and ("bottom" not in words or thing.y > 2 * third)
            assert not set(words) & set(BACKGROUNDS) or sample.scene.background in words
            placed.append("the" in words)
    assert len(placed) < 10 or 0.2 < np.mean(placed) < 0.8


def test_captions_of_an_earlier_version(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "old", ignore=shutil.ignore_patterns("visual_genome"))
    assert len(toy.open_reader(tmp_path / "old", "category", "val")) == 8
    with pytest.raises(UserError, match="old: was written by an earlier version, without captions; delete it and write it"):
        toy.open_reader(tmp_path / "old", "caption", "val")
    with pytest.raises(UserError, match=r"task='words' is unknown; choose one of referring, .*, caption, category"):
        toy.open_reader(folder, "words", "val")


def test_images_are_copied_where_files_have_one_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("not supported")))
    assert read_tree(toy.write_world(tmp_path / "again", **SMALL, log=lambda line: None)) == read_tree(folder)


@pytest.mark.parametrize("task", ["referring", "reasoning", "panoptic", "region", "video", "instances", "chat", "caption"])
def test_readers_are_deterministic_and_picklable(folder, task):
    reader = toy.open_reader(folder, task, "train", **OPTIONS.get(task, {}))
    copy = pickle.loads(pickle.dumps(reader))
    assert len(copy) == len(reader) > 0
    for index in (0, len(reader) - 1, 0):
        one, two = reader[index], copy[index]
        assert one.name == two.name and np.array_equal(one.frames, two.frames)
        assert one.frames.dtype == np.uint8 and one.frames.ndim == 4
        for a, b in zip(one.prompts, two.prompts, strict=True):
            assert a.task == ("panoptic" if task == "instances" else task) and (a.text, a.classes, a.labels) == (
                b.text,
                b.classes,
                b.labels,
            )
            size = one.frames.shape[1:3]
            assert region_kinds(a) == region_kinds(b) and np.array_equal(draw_regions(a, size), draw_regions(b, size))
            assert a.captions == b.captions
            if task not in ("chat", "caption"):
                assert a.masks.dtype == bool and np.array_equal(a.masks, b.masks)
                assert a.masks.shape[1:] == one.frames.shape[:3]


def test_class_lists_contain_the_shown_classes_and_differ_by_seed(folder):
    one = toy.open_reader(folder, "panoptic", "train", max_classes=8)
    prompts = [one[k].prompts[0] for k in range(3)]
    assert all(len(set(prompt.classes)) == 8 for prompt in prompts)
    assert all(prompt.ignore is None for prompt in prompts)
    other_seed = toy.open_reader(folder, "panoptic", "train", max_classes=8, seed=1)
    assert other_seed[0].prompts[0].classes != prompts[0].classes
    two = toy.open_reader(folder, "panoptic", "train", max_classes=8, prompts_per_example=2)[0].prompts
    assert two[0].classes != two[1].classes
    one_class = toy.open_reader(folder, "panoptic", "train", max_classes=1)[0].prompts[0]
    assert one_class.ignore is not None and not (one_class.ignore & one_class.masks.any(0)).any()


def test_json_files_have_the_published_formats(folder):
    """pycocotools reads the instances, and every field that the published code reads exists."""
    from pycocotools.coco import COCO

    coco = COCO(str(folder / "coco" / "annotations" / "instances_val.json"))
    note = coco.loadAnns(coco.getAnnIds(imgIds=[0]))[0]
    x, y, width, height = note["bbox"]
    rows, columns = np.nonzero(coco.annToMask(note))
    assert [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] == [x, y, width, height]
    assert note["area"] == len(rows)
    record = json.loads((folder / "refcoco" / "refcoco_val.json").read_text())[1]
    assert record["new_img_id"] == 1 and {"image_info", "instruction", "anns"} <= set(record)
    meta = json.loads((folder / "revos" / "meta_expressions_valid_.json").read_text())["videos"]
    tracks = json.loads((folder / "revos" / "mask_dict.json").read_text())
    for video in meta.values():
        for expression in video["expressions"].values():
            assert expression["type_id"] in (0, 1, 2) and (expression["type_id"] == 2) == (not expression["anno_id"])
            assert all(len(tracks[str(number)]) == len(video["frames"]) for number in expression["anno_id"])


def test_missing_split_is_named(folder):
    with pytest.raises(UserError, match="no split 'compositional' for video"):
        toy.open_reader(folder, "video", "compositional")
    with pytest.raises(UserError, match="hyperseg data toy"):
        toy.open_reader(folder / "coco", "chat", "val")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"seed": 1, "seed": 2}', '{"other": 1}', "[" * 10**5, '{"seed": NaN}'])
def test_invalid_parameter_files(tmp_path, content):
    (tmp_path / "toy.json").write_text(content)
    with pytest.raises(UserError, match=r"toy\.json: not a toy world's parameters"):
        toy.read_world(tmp_path)


def test_oversized_parameter_files(tmp_path):
    path = tmp_path / "toy.json"
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"toy\.json: not a toy world's parameters \(is not a regular file"):
        toy.read_world(tmp_path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"toy\.json: not a toy world's parameters \(has 1099511627776 bytes, and the limit is"):
        toy.read_world(tmp_path)


def test_parameter_files_that_are_links_are_not_opened(folder, tmp_path):
    (tmp_path / "away.json").write_bytes((folder / "toy.json").read_bytes())
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "toy.json").symlink_to(tmp_path / "away.json")
    with pytest.raises(UserError, match=r"toy\.json is a link that leaves"):
        toy.read_world(tmp_path / "world")


def test_a_killed_worker_ends_the_command(tmp_path):
    with pytest.raises(UserError, match="a worker process was killed"), writer._Runner(toy_images.World(), tmp_path, 1) as run:
        list(run(exit_at_once, [0]))
