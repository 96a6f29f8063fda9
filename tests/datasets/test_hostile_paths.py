"""No reader follows a name or a link out of the folder of its data."""

import shutil

import pytest
from damage import change, edited, found, inside, report

from hyperseg_jax.datasets import CocoInstances, layouts
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits

ROOTS = {"folder": "yours/folder", "labelme": "yours/labelme", "coco_json": "yours/coco_json"}


@pytest.fixture(scope="module")
def linked(samples, tmp_path_factory):
    """The samples, each image of which is a link to a copy elsewhere."""
    home = tmp_path_factory.mktemp("linked")
    shutil.copytree(samples, home / "data")
    for path in [*(home / "data").rglob("*.jpg"), *(home / "data").rglob("*.png")]:
        away = home / "elsewhere" / path.relative_to(home / "data")
        away.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, away)
        path.symlink_to(away)
    return home / "data"


@pytest.mark.parametrize("name", sorted({*layouts.LAYOUTS} - {"mmbench"}))  # its images are in its table
def test_links_that_leave_are_told(linked, name):
    root = linked / ROOTS.get(name, ".")
    told = report(root, name)
    assert not told.collected.sizes and any("--limits outside=True" in message for message in told.collected.problems)
    with pytest.raises(UserError):
        layouts.find_layout(name).open(root, layouts.find_layout(name).splits[-1])[0]
    with limits.applied(outside=True):
        assert not report(root, name).problem_count


@pytest.fixture(scope="module")
def elsewhere(samples, tmp_path_factory):
    """The samples, each folder of a fixed name in which is a link to one elsewhere."""
    home = tmp_path_factory.mktemp("folders")
    shutil.copytree(samples, home / "data")
    for top in (home / "data").iterdir():
        for number, path in enumerate(sorted(top.glob("*/*" if top.name in ("VOCdevkit", "yours") else "*"))):
            if path.is_dir():
                shutil.move(path, home / f"{top.name}{number}")
                path.symlink_to(home / f"{top.name}{number}")
    return home / "data"


@pytest.mark.parametrize("name", sorted({*layouts.LAYOUTS} - {"mmbench", "labelme"}))  # these have no folders
def test_folders_that_leave_are_told(elsewhere, name):
    root, layout = elsewhere / ROOTS.get(name, "."), layouts.find_layout(name)
    with pytest.raises(UserError, match=r"is a link that leaves .*; copy the file there, or, .* --limits outside=True"):
        layout.open(root, layout.splits[-1])[0]
    with limits.applied(outside=True):
        layout.open(root, layout.splits[-1])[0]


def test_folders_that_are_given_may_be_links(own, tmp_path):
    root = own("coco", "VOCdevkit")
    (tmp_path / "given").symlink_to(root)
    (tmp_path / "pictures").symlink_to(root / "coco" / "val2017")
    assert len(layouts.open_benchmark("pascal_voc20", "val", tmp_path / "given")[0].frames)
    reader = CocoInstances(root / "coco/annotations/instances_val2017.json", tmp_path / "pictures")
    assert len(reader[0].frames)


NAMED = {  # benchmark: file, and how the name of an image in it is set
    "coco_instances": ("coco/annotations/instances_val2017.json", lambda name: inside("images", 0, file_name=name)),
    "coco_panoptic": ("coco/annotations/panoptic_val2017.json", lambda name: inside("images", 0, file_name=name)),
    "interactive": ("interactive/coco_interactive_val.json", lambda name: inside(0, "image_info", file_name=name)),
    "refcoco_json": ("refcoco/refcoco_testB.json", lambda name: inside(0, "image_info", file_name=name)),
    "llava": ("llava/llava_v1_5_mix665k.json", lambda name: edited(image=name)),
    "gqa": ("gqa/testdev_balanced_questions.json", lambda name: inside("00000000", imageId=name.removesuffix(".jpg"))),
    "scienceqa": ("scienceqa/problems.json", lambda name: inside("test0", split=name)),
    "youtube_vis_2019": ("youtube_vis_2019/valid.json", lambda name: inside("videos", 0, file_names=[name])),
    "labelme": ("0000.json", lambda name: edited(imagePath=name)),
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("place", ["../{}", "../../../../{}", "{absolute}"])
def test_names_that_leave_are_told(own, tmp_path, name, place):
    file, edit = NAMED[name]
    root = own(*{"coco", file.split("/")[0]}) if name in layouts.LAYOUTS and name not in ROOTS else own("yours")
    root = root / ROOTS.get(name, ".")
    (tmp_path / "secret.jpg").write_bytes(next(root.rglob("*.jpg")).read_bytes())
    edit(place.format("secret.jpg", absolute=tmp_path / "secret.jpg"))(root / file)
    problems = [message for _, message in found(report(root, name)) if "--limits outside=True" in message]
    assert len(problems) >= 1 and all("secret" in message and " leaves " in message for message in problems)


def test_names_of_other_kinds_are_told(own):
    root = own("coco")
    for value in (5, None, [], {"a": 1}, "a\0b", "\ud800.jpg", "x" * 300, ""):
        change(root / "coco/annotations/instances_val2017.json", lambda c, v=value: c["images"][0].update(file_name=v))
        ((kind, message),) = found(report(root, "coco_instances"))
        assert kind == "bad record" and "is not a file name; correct it" in message and message.isprintable()
