"""Broken user data: captions.jsonl, masks and LabelMe folders."""

import base64
import io
import json
import os
import pathlib

import numpy as np
import pytest
from damage import edit_first_line, edit_json, edit_nested, run_check, sorted_problems, truncate_file, write_small_mask
from PIL import Image

from hyperseg_jax.datasets import Folder, MmBench, layouts
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits

BROKEN_FOLDERS = {
    "no captions": (lambda home: (home / "captions.jsonl").unlink(), "missing file", "captions.jsonl: no such file"),
    "an empty text": (
        lambda home: edit_first_line(text=" ")(home / "captions.jsonl"),
        "bad record",
        "line 1: field 'text' is empty",
    ),
    "no mask named": (
        lambda home: (home / "captions.jsonl").write_text('{"image": "images/0000.jpg", "text": "x"}\n'),
        "bad record",
        "line 1: field 'mask' is missing",
    ),
    "a missing mask": (
        lambda home: [path.unlink() for path in sorted((home / "masks").iterdir())],
        "missing file",
        "no such mask",
    ),
    "an empty mask": (
        lambda home: [Image.fromarray(np.zeros((192, 192), np.uint8)).save(path) for path in (home / "masks").iterdir()],
        "bad mask",
        "has no white pixel",
    ),
    "a small mask": (
        lambda home: [write_small_mask(path) for path in (home / "masks").iterdir()],
        "wrong size",
        "is 6x5 pixels",
    ),
    "a missing image": (lambda home: (home / "images" / "0000.jpg").unlink(), "missing file", "0000.jpg: no such image"),
}


@pytest.mark.parametrize("case", BROKEN_FOLDERS)
def test_broken_user_folders(copy_samples, case):
    spoil, kind, message = BROKEN_FOLDERS[case]
    home = copy_samples("yours") / "yours" / "folder"
    spoil(home)
    assert any(pair[0] == kind and message in pair[1] for pair in sorted_problems(run_check(home, "folder")))


@pytest.mark.parametrize("damage", [truncate_file, write_small_mask, pathlib.Path.unlink])
def test_unreadable_masks_are_reported_once(copy_samples, damage):
    """For user folders, class labels (where 0 is no class), VOC objects, segments and video objects."""
    home = copy_samples("yours", "cityscapes", "VOCdevkit", "coco", "davis2017")
    mask = sorted((home / "yours" / "folder" / "masks").iterdir())[0]
    video = home / "davis2017" / "Annotations_unsupervised" / "480p" / "train-0"
    labels = home / "coco" / "annotations" / "panoptic_val2017" / "000000000000.png"
    objects = home / "VOCdevkit" / "VOC2012" / "SegmentationObject" / "2012_000000.png"
    for name, root, paths in (
        ("folder", home / "yours" / "folder", [mask]),
        ("pascal_voc_objects", home, [objects]),
        ("coco_panoptic", home, [labels]),
        ("ref_davis", home, sorted(video.iterdir())),
    ):
        for path in paths:
            damage(path)
        result = run_check(root, name, "train" if name == "ref_davis" else None)
        assert sorted(message.split(":")[0] for _, message in sorted_problems(result)) == sorted(map(str, paths)), name


def test_malformed_lines_do_not_hide_others(copy_samples):
    home = copy_samples("yours") / "yours" / "folder"
    path = home / "captions.jsonl"
    sound = path.read_text().splitlines()
    path.write_text("\n".join([sound[0], "", '{"image": oops}', "[1]", '{"text": "no image"}', *sound[1:]]))
    result = run_check(home, "folder")
    assert result.examples == len(sound) and sorted(message for _, message in sorted_problems(result)) == [
        f"{path} line 3: is not valid JSON (Expecting value at column 11); download or write it again",
        f"{path} line 4: is not a json object; write one {{...}} per line",
        f"{path} line 5: field 'image' is missing; check that the file has this format",
    ]
    grouped = layouts.open_benchmark("folder", "all", home, prompts_per_example=len(sound))
    assert len(grouped) == 3 + len({json.loads(line)["image"] for line in sound})
    assert sum(len(grouped[k].prompts) for k in range(len(grouped)) if k not in (1, 2, 3)) == len(sound)


def test_splits_are_short_names(copy_samples):
    """They are printed, so they can neither add lines nor be of any number."""
    home = copy_samples("yours") / "yours" / "folder"
    path = home / "captions.jsonl"
    sound = path.read_text().splitlines()
    row = json.loads(sound[0])
    path.write_text(
        "\n".join([*sound, json.dumps(row | {"split": "val\n  forged: a line"}), json.dumps(row | {"split": "x" * 300})])
    )
    messages = sorted(message for _, message in sorted_problems(run_check(home, "folder")))
    assert len(messages) == 2 and all("is no short printable text; change it" in message for message in messages)
    assert f"{path} line {len(sound) + 1}: split 'val\\n forged: a line'" in messages[0]
    path.write_text("\n".join(json.dumps(row | {"split": f"s{k}"}) for k in range(101)))
    with pytest.raises(UserError, match=r"captions\.jsonl: has 101 splits, and at most 100 are supported"):
        Folder(home)


def test_malformed_lines_are_reported_in_every_split(copy_samples):
    """Its split is unknown, so it is reported for every split, and does not create a split."""
    home = copy_samples("yours") / "yours" / "folder"
    first, second, *_ = (json.loads(line) for line in (home / "captions.jsonl").read_text().splitlines())
    lines = [json.dumps(first | {"split": "train"}), "{", json.dumps(second | {"split": "val"})]
    (home / "captions.jsonl").write_text("\n".join(lines))
    for split, good in (("train", first), ("val", second)):
        reader = Folder(home, split=split)
        assert len(reader) == 2
        examples, messages = [], []
        for k in range(2):
            try:
                examples.append(reader[k])
            except UserError as error:
                messages.append(str(error))
        assert [one.prompts[0].text for one in examples] == [good["text"]] and "line 2: is not valid JSON" in messages[0]
    with pytest.raises(UserError, match="no line with split 'test'"):
        Folder(home, split="test")


def test_lines_are_counted_from_1_and_records_from_0(copy_samples):
    """The rule of docs/data.md for the second record: line 2 of a file of lines, #1 of a list."""
    home = copy_samples("yours", "mmbench", "interactive", "coco")
    captions = home / "yours" / "folder" / "captions.jsonl"
    first, second, *_ = captions.read_text().splitlines()
    captions.write_text("\n".join([first, json.dumps(json.loads(second) | {"text": ""})]))
    marks = home / "interactive" / "coco_interactive_val.json"
    edit_json(marks, lambda content: content[1].pop("anns"))
    table = home / "mmbench" / "MMBench_TEST_EN.tsv"
    last = len(MmBench(table)) - 1
    table.write_text(table.read_text()[:-9])
    for name, root, where in (
        ("folder", captions.parent, f"{captions} line 2: "),
        ("interactive", home, f"{marks}#1: "),
        ("mmbench", home, f"{table}#{last}: "),
    ):
        ((_, message),) = sorted_problems(run_check(root, name))
        assert message.startswith(where), name


def test_lines_end_at_line_feeds_only(copy_samples):
    home = copy_samples("yours") / "yours" / "folder"
    line = {"image": "images/0000.jpg", "text": "one\u2028or\x85two", "mask": None}
    (home / "captions.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert layouts.open_benchmark("folder", "all", home)[0].prompts[0].text == "one\u2028or\x85two"
    (home / "captions.jsonl").write_text('{"image": ' + "1" * 5000 + "}")
    with pytest.raises(UserError, match="line 1: is not valid JSON"):
        layouts.open_benchmark("folder", "all", home)


DOT = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR4nGP8z8DEwAAABQ0BA7hKXG8AAAAASUVORK5CYII="  # 2x2 pixels

LABELME = {
    "five numbers": ({"points": [[1, 2], [3, 4], [5]]}, "bad mask", "0000.json shapes#0: not a valid polygon"),
    "a line": ({"shape_type": "linestrip"}, "bad mask", "not a valid polygon, rectangle, circle or mask"),
    "a mask of another size": (
        {"shape_type": "mask", "points": [[1, 2], [9, 9]], "mask": DOT},
        "bad mask",
        "not a valid polygon",
    ),
    "a mask that is none": ({"shape_type": "mask", "points": [[1, 2], [3, 4]], "mask": "!"}, "bad mask", "not a valid polygon"),
}


@pytest.mark.parametrize("case", LABELME)
def test_labelme(copy_samples, case):
    fields, kind, message = LABELME[case]
    home = copy_samples("yours") / "yours" / "labelme"
    edit_nested("shapes", 0, **fields)(home / "0000.json")
    problems = sorted_problems(run_check(home, "labelme"))
    assert [pair[0] for pair in problems] == [kind] and message in problems[0][1]
    edit_nested(imageHeight=7)(home / "0001.json")
    assert any(
        "0001.jpg: is 192x192 pixels, its annotations say 192x7" in text
        for _, text in sorted_problems(run_check(home, "labelme"))
    )


def test_damaged_labelme_files_are_bad_records(copy_samples):
    home = copy_samples("yours") / "yours" / "labelme"
    classes = layouts.open_benchmark("labelme", "all", home).classes
    (home / "0000.json").write_text("{")
    reader = layouts.open_benchmark("labelme", "all", home)
    assert len(reader) > 1 and set(reader.classes) <= set(classes) and reader[1].prompts
    with pytest.raises(UserError, match=r"0000\.json: is not valid JSON"):
        reader[0]


@pytest.mark.parametrize("corner", [(50, 60), (-3, -2), (190, 191)])
def test_labelme_palette_masks_are_clipped(copy_samples, corner):
    home = copy_samples("yours") / "yours" / "labelme"
    drawn = np.random.default_rng(0).random((6, 8)) < 0.5
    image = Image.fromarray(drawn.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0] * 256)  # without colours, its indices count
    file = io.BytesIO()
    image.save(file, "PNG")
    x, y = corner
    mask = {"mask": base64.b64encode(file.getvalue()).decode(), "points": [[x, y], [x + 7, y + 5]], "shape_type": "mask"}
    edit_json(home / "0000.json", lambda content: content.update(shapes=[content["shapes"][0] | mask]))
    found = layouts.open_benchmark("labelme", "all", home)[0].prompts[0].masks[0, 0]
    expected = np.zeros((212, 212), bool)
    expected[10 + y : 16 + y, 10 + x : 18 + x] = drawn
    np.testing.assert_array_equal(found, expected[10:202, 10:202])


def test_jpeg_labels_are_refused(copy_samples):
    """JPEG changes the saved numbers."""
    root = copy_samples("ADEChallengeData2016")
    path = next((root / "ADEChallengeData2016" / "annotations" / "validation").glob("*.png"))
    Image.open(path).convert("L").save(path, "JPEG")
    assert any(path.name in text and "it is none of PNG" in text for _, text in sorted_problems(run_check(root, "ade20k")))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("77\tWhat?\tnan\ta\tb\t\t\tA\tx\t0\r78\tWhat?\tnan\ta\tb\t\t\tA\tx\t0", "a lone carriage return"),
        ('77\tA 5" tube?\tnan\ta\tb\t\t\tA\tx\t0\n78\tA 6" tube?\tnan\ta\tb\t\t\tA\tx\t0', "has a quote inside a cell"),
        ("77\tWhat?\tnan\ta\tb\t\t\tAB\tx\t0", "answer 'AB' is not one of its choices"),
        ("77\tWhat?\tnan\ta\tb\t\t\tC\tx\t0", "answer 'C' is not one of its choices"),
        ("77\tWhat?\tnan\ta\t\tc\t\tB\tx\t0", "choice B is empty, but a later choice is not"),
    ],
)
def test_ambiguous_rows_are_refused(copy_samples, row, why):
    table = copy_samples("mmbench") / "mmbench" / "MMBench_TEST_EN.tsv"
    text = table.read_text()
    table.write_text(f"{text.rstrip()}\n{row}\n")
    reader = MmBench(table)
    assert reader[0].prompts
    with pytest.raises(UserError, match=why):
        reader[len(reader) - 1]
    table.write_text(text.replace("hint", "question", 1))
    with pytest.raises(UserError, match="two columns have the same name"):
        MmBench(table)


def test_invalid_rows_of_a_table(copy_samples, monkeypatch):
    """Each is reported once, and the table is read once, whatever rows refer to."""
    root = copy_samples("mmbench")
    table = root / "mmbench" / "MMBench_TEST_EN.tsv"
    header, first, _ = table.read_text().split("\n0\t")[0], *table.read_text().split("\n0\t")[1].split("\n1000000\t")
    referring = "".join(f"{k}\tWhat?\tnan\ta\tb\t\t\tA\tx\t{k % 3}\n" for k in range(10, 200))
    table.write_text(f"{header}\n0\t{first}\na bad row\n0\tWhat?\tnan\ta\tb\t\t\tA\tx\t0\n{referring}")
    parsed, row = [], MmBench._parse_row
    monkeypatch.setattr(MmBench, "_parse_row", lambda self, raw, n: parsed.append(n) or row(self, raw, n))
    output = run_check(root, "mmbench")
    messages = [message for _, message in sorted_problems(output)]
    assert output.examples == 1 + len(range(12, 200, 3)) + 1 and len(parsed) < 3 * 193
    assert sum("has 1 cells, the header 10" in message for message in messages) == 1
    assert sum("#2: index '0' is also the index of #0" in message for message in messages) == 1
    assert len(messages) == 2 + 190 - len(range(12, 200, 3))
    reader = MmBench(table)
    assert len(reader) == 193 and reader[0].frames.size
    with limits.temporary_limits(seconds=1e-9), pytest.raises(UserError, match=r"limits\.seconds"):
        reader[0]
    os.mkfifo(root / "pipe.tsv")
    with pytest.raises(UserError, match=r"pipe\.tsv: is not a regular file"):
        MmBench(root / "pipe.tsv")
