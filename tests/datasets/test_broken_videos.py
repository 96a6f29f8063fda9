"""Broken files of videos, and layouts without their files."""

import pathlib
import re
import shutil

import numpy as np
import pytest
from damage import change, cut, found, report
from PIL import Image

from hyperseg_jax.datasets import layouts
from hyperseg_jax.datasets.check import check
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.untrusted import limits


def another_size(path):
    Image.new(Image.open(path).mode, (190, 192)).save(path)


def edited(edit):
    return lambda path: change(path, edit)


def first_annotation(**fields):
    return edited(lambda content: content["annotations"][0].update(fields))


def first_video(edit):
    return edited(lambda content: edit(next(iter(content["videos"].values()))))


META = "ref_youtube_vos/meta_expressions/train/meta_expressions.json"
VIDEO = {  # benchmark, file below the root, what is done to it -> the kind and a part of the message
    "a frame of DAVIS": ("davis2016", "davis2016/JPEGImages/480p/train-0/00002.jpg", cut, "unreadable image", "00002.jpg: "),
    "the first frame": ("davis2017", "davis2017/JPEGImages/480p/train-0/00000.jpg", cut, "unreadable image", "00000.jpg: "),
    "no first frame": (
        "ref_davis",
        "davis2017/JPEGImages/480p/train-0/00000.jpg",
        pathlib.Path.unlink,
        "missing file",
        "00000.jpg: no such image",
    ),
    "a frame in another size": (
        "davis2017",
        "davis2017/JPEGImages/480p/train-0/00001.jpg",
        another_size,
        "wrong size",
        "00001.jpg: is 190x192 pixels",
    ),
    "a mask that is gone": (
        "davis2017_unsupervised",
        "davis2017/Annotations_unsupervised/480p/train-0/00001.png",
        pathlib.Path.unlink,
        "missing file",
        "00001.png: no such mask",
    ),
    "a mask cut short": (
        "ref_davis",
        "davis2017/Annotations_unsupervised/480p/train-0/00001.png",
        cut,
        "unreadable image",
        "00001.png: cannot be read as a mask",
    ),
    "a mask in another size": (
        "ref_youtube_vos",
        "ref_youtube_vos/train/Annotations/train-0/00001.png",
        another_size,
        "wrong size",
        "00001.png: is 190x192 pixels, its frame 192x192",
    ),
    "a line of words": (
        "ref_davis",
        "davis2017/davis_text_annotations/Davis17_annot1.txt",
        lambda path: path.write_text(path.read_text() + "train-0 the dog\n"),
        "bad record",
        "should be: video",
    ),
    "a video unspoken of": (
        "ref_davis",
        "davis2017/ImageSets/2017/train.txt",
        lambda path: path.write_text("train-0\nother\n"),
        "bad record",
        "no sentence about other",
    ),
    "a list that is gone": (
        "davis2016",
        "davis2016/ImageSets/480p/train.txt",
        pathlib.Path.unlink,
        "missing file",
        "no such list of videos",
    ),
    "an unknown object": (
        "ref_youtube_vos",
        META,
        first_video(lambda v: v["expressions"]["0"].update(obj_id="9")),
        "bad mask",
        "has object 9",
    ),
    "an object of words": (
        "ref_youtube_vos",
        META,
        first_video(lambda v: v["expressions"]["0"].update(obj_id="cat")),
        "bad record",
        "obj_id 'cat' is no number",
    ),
    "a frame not there": ("ref_youtube_vos", META, first_video(lambda v: v["frames"].append("x")), "missing file", "x.png: no"),
    "a category of none": (
        "youtube_vis_2019",
        "youtube_vis_2019/train.json",
        first_annotation(category_id=99),
        "bad record",
        "annotations#0: category_id 99",
    ),
    "a video of none": (
        "youtube_vis_2021",
        "youtube_vis_2021/train/instances.json",
        first_annotation(video_id=99),
        "bad record",
        "annotations#0: video_id 99",
    ),
    "a track too short": (
        "youtube_vis_2021",
        "youtube_vis_2021/train/instances.json",
        first_annotation(segmentations=[None]),
        "bad mask",
        "has 1 segmentations",
    ),
    "a mask of YouTube": (
        "youtube_vis_2019",
        "youtube_vis_2019/train.json",
        first_annotation(segmentations=[run_lengths.encode(np.ones((5, 5), bool))] + [None] * 5),
        "wrong size",
        "frame 0: the mask is 5x5 pixels",
    ),
    "a size of words": (
        "youtube_vis_2019",
        "youtube_vis_2019/train.json",
        edited(lambda c: c["videos"][0].update(height="9")),
        "bad record",
        "field 'height' is '9'",
    ),
    "a track of ReVOS": (
        "revos",
        "revos/mask_dict.json",
        edited(lambda c: c.update({key: [None] for key in c})),
        "bad mask",
        "has 1 frames, its video 6",
    ),
    "no expression": (
        "revos",
        "revos/meta_expressions_train_.json",
        first_video(lambda v: v["expressions"]["0"].pop("exp")),
        "bad record",
        "field 'exp' is missing",
    ),
    "a frame of ReVOS": ("revos", "revos/JPEGImages/train-0/00003.jpg", pathlib.Path.unlink, "missing file", "00003.jpg: no"),
}


@pytest.mark.parametrize("case", VIDEO)
def test_clips(own, case):
    name, file, damage, kind, message = VIDEO[case]
    root = own(file.split("/")[0])
    assert report(root, name, "train").faults == 0
    damage(root / file)
    problems = found(report(root, name, "train"))
    assert {pair[0] for pair in problems} == {kind} and len(problems) <= 3, problems
    assert any(message in pair[1] for pair in problems), problems
    with pytest.raises(UserError, match=re.escape(message)):
        reader = layouts.find(name).open(root, "train")
        for k in range(len(reader)):
            reader[k]


def test_a_check_of_clips_goes_on_and_names_all(own):
    root = own("davis2017")
    home = root / "davis2017"
    cut(home / "JPEGImages" / "480p" / "train-0" / "00000.jpg")
    (home / "JPEGImages" / "480p" / "train-0" / "00003.jpg").unlink()
    another_size(home / "Annotations" / "480p" / "train-0" / "00001.png")
    cut(home / "Annotations" / "480p" / "train-0" / "00002.png")
    result = report(root, "davis2017", "train")
    assert [kind for kind, _ in found(result)] == ["missing file", *["unreadable image"] * 2, "wrong size"]
    assert result.examples == 1 and result.masks > 1
    for path in (home / "JPEGImages" / "480p" / "train-0").iterdir():
        path.unlink()
    assert any("has no .jpg frames" in message for _, message in found(report(root, "davis2017", "train")))


def test_every_layout_names_an_image_that_is_gone(own, samples):
    """Every benchmark whose images lie in files of their own."""
    for name, layout in layouts.LAYOUTS.items():
        split = layout.splits[0]
        home = samples / "yours" / name if (samples / "yours" / name).exists() else samples
        fine = check(lambda layout=layout, home=home, split=split: layout.open(home, split), lambda **_: None, threads=2)
        assert fine.faults == 0 and fine.examples > 0, name
        if not fine.collected.sizes:  # MMBench: in the table
            continue
        root = own(*sorted({path.relative_to(samples).parts[0] for path in fine.collected.sizes}))
        for entry in samples.iterdir():
            if not (root / entry.name).exists():
                (root / entry.name).symlink_to(entry)
        lost = root / sorted(fine.collected.sizes)[0].relative_to(samples)
        lost.unlink()
        home = root / home.relative_to(samples)
        with limits.applied(outside=True):  # the links
            broken = check(lambda layout=layout, home=home, split=split: layout.open(home, split), lambda **_: None, threads=2)
        assert any(lost.name in message for message in broken.collected.problems), name
        for entry in root.iterdir():
            entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)


def test_nothing_there_at_all(tmp_path):
    for name, layout in layouts.LAYOUTS.items():
        with pytest.raises(UserError, match=str(tmp_path)):
            layout.open(tmp_path, layout.splits[0])
        assert report(tmp_path, name).faults == 1
