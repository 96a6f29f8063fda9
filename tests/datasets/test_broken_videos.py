"""Broken video data sets, and layouts with missing files."""

import pathlib
import re
import shutil

import numpy as np
import pytest
from damage import edit_json, run_check, sorted_problems, truncate_file
from PIL import Image

from hyperseg_jax.datasets import layouts
from hyperseg_jax.datasets.check import check_reader
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.untrusted import limits


def write_other_size(path):
    Image.new(Image.open(path).mode, (190, 192)).save(path)


def make_edit(edit):
    return lambda path: edit_json(path, edit)


def edit_first_annotation(**fields):
    return make_edit(lambda content: content["annotations"][0].update(fields))


def edit_first_video(edit):
    return make_edit(lambda content: edit(next(iter(content["videos"].values()))))


META = "ref_youtube_vos/meta_expressions/train/meta_expressions.json"
VIDEO = {  # benchmark, file below the root, edit -> type and part of the message
    "a frame of DAVIS": (
        "davis2016",
        "davis2016/JPEGImages/480p/train-0/00002.jpg",
        truncate_file,
        "unreadable image",
        "00002.jpg: ",
    ),
    "the first frame": (
        "davis2017",
        "davis2017/JPEGImages/480p/train-0/00000.jpg",
        truncate_file,
        "unreadable image",
        "00000.jpg: ",
    ),
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
        write_other_size,
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
        truncate_file,
        "unreadable image",
        "00001.png: is a PNG without its end",
    ),
    "a mask in another size": (
        "ref_youtube_vos",
        "ref_youtube_vos/train/Annotations/train-0/00001.png",
        write_other_size,
        "wrong size",
        "00001.png: is 190x192 pixels, its frame 192x192",
    ),
    "a line of words": (
        "ref_davis",
        "davis2017/davis_text_annotations/Davis17_annot1.txt",
        lambda path: path.write_text(path.read_text() + "train-0 the dog\n"),
        "bad record",
        "expected: video",
    ),
    **{
        f"a line of object {number[:9]}": (
            "ref_davis",
            "davis2017/davis_text_annotations/Davis17_annot1.txt",
            lambda path, number=number: path.write_text(path.read_text() + f'train-0 {number} "a dog"\n'),
            "bad record",
            "expected: video, object number from 1 to 254",
        )
        for number in ("0", "255", "\u0661", "9" * 5000)
    },
    "a video unspoken of": (
        "ref_davis",
        "davis2017/ImageSets/2017/train.txt",
        lambda path: path.write_text("train-0\nother\n"),
        "bad record",
        "no expression for other",
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
        edit_first_video(lambda v: v["expressions"]["0"].update(obj_id="9")),
        "bad mask",
        "has object 9",
    ),
    "an object of words": (
        "ref_youtube_vos",
        META,
        edit_first_video(lambda v: v["expressions"]["0"].update(obj_id="cat")),
        "bad record",
        "obj_id 'cat' is not an object number",
    ),
    **{
        f"object {number[:9]}": (
            "ref_youtube_vos",
            META,
            edit_first_video(lambda v, number=number: v["expressions"]["0"].update(obj_id=number)),
            "bad record",
            "is not an object number from 1 to 254",
        )
        for number in ("0", "255", "1_0", "9" * 4000)
    },
    "a frame not there": (
        "ref_youtube_vos",
        META,
        edit_first_video(lambda v: v["frames"].append("x")),
        "missing file",
        "x.png: no",
    ),
    "a category of none": (
        "youtube_vis_2019",
        "youtube_vis_2019/train.json",
        edit_first_annotation(category_id=99),
        "bad record",
        "annotations#0: category_id 99",
    ),
    "a video of none": (
        "youtube_vis_2021",
        "youtube_vis_2021/train/instances.json",
        edit_first_annotation(video_id=99),
        "bad record",
        "annotations#0: video_id 99",
    ),
    "a track too short": (
        "youtube_vis_2021",
        "youtube_vis_2021/train/instances.json",
        edit_first_annotation(segmentations=[None]),
        "bad mask",
        "has 1 segmentations",
    ),
    "a mask of YouTube": (
        "youtube_vis_2019",
        "youtube_vis_2019/train.json",
        edit_first_annotation(segmentations=[run_lengths.encode(np.ones((5, 5), bool))] + [None] * 5),
        "wrong size",
        "frame 0: the mask is 5x5 pixels",
    ),
    "a size of words": (
        "youtube_vis_2019",
        "youtube_vis_2019/train.json",
        make_edit(lambda c: c["videos"][0].update(height="tall")),
        "bad record",
        "field 'height' is 'tall'",
    ),
    "a track of ReVOS": (
        "revos",
        "revos/mask_dict.json",
        make_edit(lambda c: c.update({key: [None] for key in c})),
        "bad mask",
        "has 1 frames, its video 6",
    ),
    "no expression": (
        "revos",
        "revos/meta_expressions_train_.json",
        edit_first_video(lambda v: v["expressions"]["0"].pop("exp")),
        "bad record",
        "field 'exp' is missing",
    ),
    "a frame of ReVOS": ("revos", "revos/JPEGImages/train-0/00003.jpg", pathlib.Path.unlink, "missing file", "00003.jpg: no"),
}


@pytest.mark.parametrize("case", VIDEO)
def test_broken_videos(copy_samples, case):
    name, file, damage, kind, message = VIDEO[case]
    root = copy_samples(file.split("/")[0])
    assert run_check(root, name, "train").problem_count == 0
    damage(root / file)
    problems = sorted_problems(run_check(root, name, "train"))
    assert {pair[0] for pair in problems} == {kind} and len(problems) <= 3, problems
    assert any(message in pair[1] for pair in problems), problems
    with pytest.raises(UserError, match=re.escape(message)):
        reader = layouts.find_layout(name).open(root, "train")
        for k in range(len(reader)):
            reader[k]


def test_checks_continue_and_report_all_problems(copy_samples):
    root = copy_samples("davis2017")
    folder = root / "davis2017"
    truncate_file(folder / "JPEGImages" / "480p" / "train-0" / "00000.jpg")
    (folder / "JPEGImages" / "480p" / "train-0" / "00003.jpg").unlink()
    write_other_size(folder / "Annotations" / "480p" / "train-0" / "00001.png")
    truncate_file(folder / "Annotations" / "480p" / "train-0" / "00002.png")
    result = run_check(root, "davis2017", "train")
    assert [kind for kind, _ in sorted_problems(result)] == ["missing file", *["unreadable image"] * 2, "wrong size"]
    assert result.examples == 1 and result.masks > 1
    for path in (folder / "JPEGImages" / "480p" / "train-0").iterdir():
        path.unlink()
    assert any("has no .jpg frames" in message for _, message in sorted_problems(run_check(root, "davis2017", "train")))


def test_every_layout_names_missing_images(copy_samples, samples):
    """For every benchmark with image files."""
    for name, layout in layouts.LAYOUTS.items():
        split = layout.splits[0]
        folder = samples / "yours" / name if (samples / "yours" / name).exists() else samples
        fine = check_reader(
            lambda layout=layout, folder=folder, split=split: layout.open(folder, split), lambda **_: None, threads=2
        )
        assert fine.problem_count == 0 and fine.examples > 0, name
        if not fine.collected.sizes:  # MMBench: in the table
            continue
        root = copy_samples(*sorted({path.relative_to(samples).parts[0] for path in fine.collected.sizes}))
        for entry in samples.iterdir():
            if not (root / entry.name).exists():
                (root / entry.name).symlink_to(entry)
        missing = root / sorted(fine.collected.sizes)[0].relative_to(samples)
        missing.unlink()
        folder = root / folder.relative_to(samples)
        with limits.temporary_limits(outside=True):  # for the links
            broken = check_reader(
                lambda layout=layout, folder=folder, split=split: layout.open(folder, split), lambda **_: None, threads=2
            )
        assert any(missing.name in message for message in broken.collected.problems), name
        for entry in root.iterdir():
            entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)


def test_empty_root(tmp_path):
    for name, layout in layouts.LAYOUTS.items():
        with pytest.raises(UserError, match=str(tmp_path)):
            layout.open(tmp_path, layout.splits[0])
        assert run_check(tmp_path, name).problem_count == 1
