"""No reader follows a name or a link out of its data folder."""

import shutil

import pytest
from damage import edit_first, edit_json, edit_nested, run_check, sorted_problems

from hyperseg_jax.datasets import CocoInstances, layouts
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits

TABLES = {"ifseg_table", "mmbench"}
"""Their images are in their table."""
ROOTS = {"folder": "yours/folder", "labelme": "yours/labelme", "coco_json": "yours/coco_json"}


@pytest.fixture(scope="module")
def linked_images(samples, tmp_path_factory):
    """Samples with every image replaced by a link to a copy elsewhere."""
    folder = tmp_path_factory.mktemp("linked")
    shutil.copytree(samples, folder / "data")
    for path in [*(folder / "data").rglob("*.jpg"), *(folder / "data").rglob("*.png")]:
        away = folder / "elsewhere" / path.relative_to(folder / "data")
        away.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, away)
        path.symlink_to(away)
    return folder / "data"


@pytest.mark.parametrize("name", sorted({*layouts.LAYOUTS} - TABLES))
def test_linked_images_are_reported(linked_images, name):
    root = linked_images / ROOTS.get(name, ".")
    messages = run_check(root, name)
    assert not messages.collected.sizes and any("--limits outside=True" in message for message in messages.collected.problems)
    with pytest.raises(UserError):
        layouts.find_layout(name).open(root, layouts.find_layout(name).splits[-1])[0]
    with limits.temporary_limits(outside=True):
        assert not run_check(root, name).problem_count


@pytest.fixture(scope="module")
def linked_folders(samples, tmp_path_factory):
    """Samples with every fixed folder replaced by a link to one elsewhere."""
    folder = tmp_path_factory.mktemp("folders")
    shutil.copytree(samples, folder / "data")
    for top in (folder / "data").iterdir():
        for number, path in enumerate(sorted(top.glob("*/*" if top.name in ("VOCdevkit", "yours") else "*"))):
            if path.is_dir():
                shutil.move(path, folder / f"{top.name}{number}")
                path.symlink_to(folder / f"{top.name}{number}")
    return folder / "data"


@pytest.mark.parametrize("name", sorted({*layouts.LAYOUTS} - {*TABLES, "labelme"}))  # it has no folders
def test_linked_folders_are_reported(linked_folders, name):
    root, layout = linked_folders / ROOTS.get(name, "."), layouts.find_layout(name)
    with pytest.raises(UserError, match=r"is a link that leaves .*; copy the file there, or, .* --limits outside=True"):
        layout.open(root, layout.splits[-1])[0]
    with limits.temporary_limits(outside=True):
        layout.open(root, layout.splits[-1])[0]


@pytest.fixture(scope="module")
def readers_of_replaced_folders(samples, tmp_path_factory):
    """{benchmark: reader}: readers that have read a record before folders with images were replaced by links to other ones."""
    folder = tmp_path_factory.mktemp("replaced")
    shutil.copytree(samples, folder / "data")
    readers = {}
    for name in {*layouts.LAYOUTS} - TABLES:
        layout = layouts.find_layout(name)
        readers[name] = layout.open(folder / "data" / ROOTS.get(name, "."), layout.splits[-1])
        assert len(readers[name][0].frames)
    for parent in {path.parent for path in (folder / "data").rglob("*") if path.suffix in (".jpg", ".png")}:
        if parent.parent != folder / "data" / "yours":
            away = folder / "away" / parent.relative_to(folder / "data")
            away.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(parent, away)
            parent.symlink_to(away)
    return readers


@pytest.mark.parametrize("name", sorted({*layouts.LAYOUTS} - {*TABLES, "labelme"}))  # it has no folders
def test_folders_replaced_by_links_are_reported(readers_of_replaced_folders, name):
    with pytest.raises(UserError, match=r"is a link that leaves .*; copy the file there, or, .* --limits outside=True"):
        readers_of_replaced_folders[name][0]
    with limits.temporary_limits(outside=True):
        readers_of_replaced_folders[name][0]


def test_given_folders_may_be_links(copy_samples, tmp_path):
    root = copy_samples("coco", "VOCdevkit")
    (tmp_path / "given").symlink_to(root)
    (tmp_path / "pictures").symlink_to(root / "coco" / "val2017")
    assert len(layouts.open_benchmark("pascal_voc20", "val", tmp_path / "given")[0].frames)
    reader = CocoInstances(root / "coco/annotations/instances_val2017.json", tmp_path / "pictures")
    assert len(reader[0].frames)


NAMED = {  # benchmark: file, and how the name of an image in it is set
    "coco_instances": ("coco/annotations/instances_val2017.json", lambda name: edit_nested("images", 0, file_name=name)),
    "coco_panoptic": ("coco/annotations/panoptic_val2017.json", lambda name: edit_nested("images", 0, file_name=name)),
    "interactive": ("interactive/coco_interactive_val.json", lambda name: edit_nested(0, "image_info", file_name=name)),
    "refcoco_json": ("refcoco/refcoco_testB.json", lambda name: edit_nested(0, "image_info", file_name=name)),
    "llava": ("llava/llava_v1_5_mix665k.json", lambda name: edit_first(image=name)),
    "gqa": ("gqa/testdev_balanced_questions.json", lambda name: edit_nested("00000000", imageId=name.removesuffix(".jpg"))),
    "scienceqa": ("scienceqa/problems.json", lambda name: edit_nested("test0", split=name)),
    "youtube_vis_2019": ("youtube_vis_2019/valid.json", lambda name: edit_nested("videos", 0, file_names=[name])),
    "labelme": ("0000.json", lambda name: edit_first(imagePath=name)),
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("place", ["../{}", "../../../../{}", "{absolute}"])
def test_escaping_names_are_reported(copy_samples, tmp_path, name, place):
    file, edit = NAMED[name]
    root = (
        copy_samples(*{"coco", file.split("/")[0]}) if name in layouts.LAYOUTS and name not in ROOTS else copy_samples("yours")
    )
    root = root / ROOTS.get(name, ".")
    (tmp_path / "secret.jpg").write_bytes(next(root.rglob("*.jpg")).read_bytes())
    edit(place.format("secret.jpg", absolute=tmp_path / "secret.jpg"))(root / file)
    problems = [message for _, message in sorted_problems(run_check(root, name)) if "--limits outside=True" in message]
    assert len(problems) >= 1 and all("secret" in message and " leaves " in message for message in problems)


def test_names_of_wrong_type_are_reported(copy_samples):
    root = copy_samples("coco")
    for value in (5, None, [], {"a": 1}, "a\0b", "\ud800.jpg", "x" * 300, ""):
        edit_json(root / "coco/annotations/instances_val2017.json", lambda c, v=value: c["images"][0].update(file_name=v))
        ((kind, message),) = sorted_problems(run_check(root, "coco_instances"))
        assert kind == "bad record" and "is not a file name; correct it" in message and message.isprintable()
