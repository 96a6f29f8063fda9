"""Label images whose numbers are easily mistaken: both kinds of ADE20K, the classes of COCO-Stuff, and IFSeg's tables."""

import base64
import io
import os

import fuzz
import numpy as np
import pytest
from damage import run_check, sorted_problems
from PIL import Image

from hyperseg_jax.commands.main import main
from hyperseg_jax.datasets import Ade20k, ClassWords, CocoStuff, SegmentationTable, class_names, layouts
from hyperseg_jax.datasets.class_prompts import ClassLists
from hyperseg_jax.datasets.segmentation_table import write_table
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits

SIZE = (8, 10)


def png(pixels, kind="PNG"):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def write_pairs(images, labels, numbers):
    """Writes an image with each of these label images."""
    for folder in (images, labels):
        folder.mkdir(parents=True)
    for k, label in enumerate(numbers):
        (images / f"{k:04d}.jpg").write_bytes(png(np.full((*SIZE, 3), k, np.uint8), "JPEG"))
        (labels / f"{k:04d}.png").write_bytes(png(label))
    return images, labels


def label_map(prompt):
    labels = np.full(prompt.masks.shape[2:], -1)
    for mask, label in zip(prompt.masks[:, 0], prompt.labels, strict=True):
        labels[mask] = label
    return labels


# ADE20K


@pytest.fixture
def ade20k(tmp_path):
    """ade20k(label images) -> their folder."""

    def write(numbers):
        write_pairs(*(tmp_path / name / "validation" for name in ("images", "annotations")), numbers)
        return tmp_path

    return write


def scene(first, void, k):
    """Returns labels of the classes 0 to 3 and some pixels of none."""
    labels = np.repeat(np.arange(4, dtype=np.uint8)[:, None] + first, 2, axis=0).repeat(SIZE[1], 1)
    labels[:, k % 9 : k % 9 + 2] = void
    return labels


def test_both_kinds_of_ade20k_have_the_same_classes(ade20k, tmp_path):
    for kind, first, void in (("public", 1, 0), ("raw", 0, 150), ("raw", 0, 255)):
        folder = tmp_path / f"{kind}{void}"
        write_pairs(
            *(folder / name / "validation" for name in ("images", "annotations")), [scene(first, void, k) for k in range(9)]
        )
        prompt = Ade20k(folder, "validation", labels=kind)[4].prompts[0]
        assert prompt.classes[:3] == ("wall", "building", "sky") and prompt.labels == (0, 1, 2, 3)
        expected = np.where(np.isin(np.arange(SIZE[1]), (4, 5)), -1, np.arange(4).repeat(2)[:, None])
        np.testing.assert_array_equal(label_map(prompt), expected)
        np.testing.assert_array_equal(prompt.ignore[0], expected < 0)


@pytest.mark.parametrize(("kind", "other", "first", "void"), [("public", "raw", 1, 0), ("raw", "public", 0, 150)])
def test_the_wrong_kind_of_ade20k_is_refused(ade20k, kind, other, first, void):
    folder = ade20k([scene(first, void, k) for k in range(20)])
    with pytest.raises(UserError, match=rf"annotations/validation: its label images are {kind} ones .*; give labels='{kind}'"):
        Ade20k(folder, "validation", labels=other)
    with pytest.raises(UserError, match="labels='new' is unknown; choose one of public, raw"):
        Ade20k(folder, "validation", labels="new")


def test_few_or_unreadable_label_images_do_not_decide(ade20k):
    folder = ade20k([scene(1, 0, k) for k in range(8)])
    (folder / "annotations" / "validation" / "0003.png").write_bytes(b"x")
    assert len(Ade20k(folder, "validation", labels="raw")) == 8, "of seven readable label images"
    assert len(Ade20k(folder, "validation")) == 8


def test_the_rare_flag_does_not_make_public_labels_raw(ade20k):
    numbers = [scene(1, 0, k) for k in range(16)]
    for label in numbers[:8]:
        label[0, 0] = 150
    reader = Ade20k(ade20k(numbers), "validation")
    assert reader.classes[reader[0].prompts[0].labels[-1]] == "flag"


# COCO-Stuff


@pytest.fixture
def coco(tmp_path):
    numbers = np.arange(256, dtype=np.uint8)
    known = np.array([k for k in numbers if k < 182 or k == 255], np.uint8)
    return write_pairs(
        tmp_path / "images",
        tmp_path / "labels",
        [np.resize(known[first:], SIZE) for first in (0, 80, 160)],
    )


def test_numbers_of_coco_stuff(coco):
    readers = {name: CocoStuff(*coco, names=name) for name in ("official", "words")}
    for k in range(3):
        numbers = np.asarray(Image.open(coco[1] / f"{k:04d}.png"))
        for reader in readers.values():
            found = label_map(reader[k].prompts[0])
            for number in np.unique(numbers):
                expected = -1 if number not in class_names.COCO_STUFF_IDS else class_names.COCO_STUFF_IDS.index(number)
                assert (found[numbers == number] == expected).all(), number
    names = {key: reader.classes for key, reader in readers.items()}
    pairs = {"wall-brick": "brick wall", "sky-other": "sky", "ceiling-tile": "ceiling tile", "window-blind": "blind window"}
    pairs |= {"floor-other": "other floor", "mirror-stuff": "mirror", "giraffe": "giraffe", "clothes": "clothes"}
    for official, words in pairs.items():
        assert names["words"][names["official"].index(official)] == words
    assert len(set(names["words"])) == 171 and "-" not in "".join(names["words"])


def test_held_out_classes_of_coco_stuff(coco):
    reader, every = CocoStuff(*coco, names="words", subset="unseen"), CocoStuff(*coco, names="words")
    assert len(reader) == len(every) and reader.classes == class_names.COCO_UNSEEN
    for k in range(3):
        found, all_labels = label_map(reader[k].prompts[0]), label_map(every[k].prompts[0])
        names = np.array(["", *reader.classes])[found + 1], np.array(["", *every.classes])[all_labels + 1]
        np.testing.assert_array_equal(names[0], np.where(np.isin(names[1], reader.classes), names[1], ""))
        np.testing.assert_array_equal(reader[k].prompts[0].ignore[0], found < 0)
    assert CocoStuff(*coco, subset="unseen").classes[9] == "wall-concrete"
    for field in ("names", "subset"):
        with pytest.raises(UserError, match=f"{field}='seen' is unknown; choose one of "):
            CocoStuff(*coco, **{field: "seen"})


def test_chosen_classes_with_synonyms(coco):
    """They have the labels of all their names; all other pixels are ignored."""
    chosen = ("grass|moss", "person", "sky|heaven")
    reader, every = CocoStuff(*coco, names="words", chosen=chosen), CocoStuff(*coco, names="words")
    assert reader.classes == chosen and reader.things == (False,) * 3
    new = {"grass": 0, "moss": 0, "person": 1, "sky": 2}
    for k in range(3):
        prompt, all_labels = reader[k].prompts[0], label_map(every[k].prompts[0])
        expected = np.array([-1, *(new.get(name, -1) for name in every.classes)])[all_labels + 1]
        np.testing.assert_array_equal(label_map(prompt), expected)
        np.testing.assert_array_equal(prompt.ignore[0], expected < 0)
        assert prompt.classes == chosen
    sampled = CocoStuff(*coco, names="words", chosen=chosen, max_classes=2)[0].prompts[0]
    assert len(sampled.classes) == 2 and set(sampled.classes) < set(chosen)
    with pytest.raises(
        UserError, match=r"have no class 'gras\|x'; did you mean 'grass'\?; choose some of person, bicycle, .*, \.\.\."
    ):
        CocoStuff(*coco, chosen=("person", "gras|x"))


def test_chosen_things(samples):
    reader = layouts.open_benchmark("coco_panoptic", "val2017", samples, chosen=("cat|person", "sea"))
    assert reader.things == (True, False)


# tables


def write_lines(path, *lines):
    path.write_bytes(b"".join(b"\t".join(cells) + b"\n" for cells in lines))
    return path


def cells(labels=None, image=None, name=b"one"):
    labels = np.zeros(SIZE, np.uint8) if labels is None else labels
    image = np.zeros((*SIZE, 3), np.uint8) if image is None else image
    return [base64.b64encode(png(image)), base64.b64encode(png(labels)), name]


def test_a_table_has_the_labels_of_its_reader(tmp_path):
    labels = [scene(1, 0, k) for k in range(3)]
    write_pairs(*(tmp_path / name / "validation" for name in ("images", "annotations")), labels)
    reader = Ade20k(tmp_path, "validation")
    write_table(reader, tmp_path / "ade.tsv")
    rows = [line.split(b"\t") for line in (tmp_path / "ade.tsv").read_bytes().splitlines()]
    assert [row[2] for row in rows] == [b"0000", b"0001", b"0002"]
    for row, expected in zip(rows, labels, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(row[1])))), expected)
    again = SegmentationTable(tmp_path / "ade.tsv", benchmark="ade20k")
    for k in range(3):
        one, two = reader[k], again[k]
        np.testing.assert_array_equal(one.frames, two.frames)
        np.testing.assert_array_equal(one.prompts[0].masks, two.prompts[0].masks)
        np.testing.assert_array_equal(one.prompts[0].ignore, two.prompts[0].ignore)
        assert (one.prompts[0].labels, one.prompts[0].classes) == (two.prompts[0].labels, two.prompts[0].classes)
        assert two.prompts[0].key == f"000{k}" and two.name == f"ade.tsv#{k}"


def test_a_table_may_have_more_classes_than_a_byte(tmp_path):
    labels = np.full(SIZE, 300, np.uint16)
    classes = tuple(f"class {k}" for k in range(300))
    table = write_lines(tmp_path / "many.tsv", cells(labels))
    reader = SegmentationTable(table, classes=classes)
    write_table(reader, tmp_path / "again.tsv")
    assert SegmentationTable(tmp_path / "again.tsv", classes=classes)[0].prompts[0].labels == (299,)


def test_base64_may_have_the_letters_for_urls(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    row = cells(image=image)
    assert b"+" in row[0] or b"/" in row[0]
    table = write_lines(tmp_path / "t.tsv", [row[0].replace(b"+", b"-").replace(b"/", b"_"), *row[1:]])
    np.testing.assert_array_equal(SegmentationTable(table, classes=("a",))[0].frames[0], image)


GIF = base64.b64encode(png(np.zeros((*SIZE, 3), np.uint8), "GIF"))
JPEG_LABEL = base64.b64encode(png(np.zeros(SIZE, np.uint8), "JPEG"))


@pytest.mark.parametrize(
    "row, message",
    [
        (cells()[:2], "has 2 cells; write an image, a label image and an id"),
        ([*cells(), b"x"], "has 4 cells"),
        ([b"!!", *cells()[1:]], "its image is no base64"),
        ([base64.b64encode(b"x"), *cells()[1:]], "its image cannot be read"),
        ([GIF, *cells()[1:]], "its image cannot be read as an image .*PNG, JPEG"),
        ([cells()[0], JPEG_LABEL, b"1"], "its label image cannot be read"),
        ([cells()[0], b"", b"1"], "its label image cannot be read"),
        (cells(np.zeros((3, 4), np.uint8)), "its label image is 4x3 pixels, its image 10x8; both must have the same size"),
        (cells(np.full(SIZE, 3, np.uint8)), "has pixel values 3, which are neither a class nor void"),
        (cells(np.zeros((*SIZE, 3), np.uint8)), "it has colours"),
    ],
)
def test_bad_lines_of_a_table_are_named(tmp_path, row, message):
    table = write_lines(tmp_path / "t.tsv", cells(), row, cells())
    reader = SegmentationTable(table, classes=("a", "b"))
    assert len(reader) == 3 and len(reader[0].frames) and len(reader[2].frames)
    with pytest.raises(UserError, match=rf"t\.tsv#1: .*{message}") as caught:
        reader[1]
    assert "\n" not in str(caught.value)


def test_large_lines_and_images_are_refused(tmp_path, monkeypatch):
    table = write_lines(tmp_path / "t.tsv", cells())
    with limits.temporary_limits(pixels=SIZE[0] * SIZE[1] - 1), pytest.raises(UserError, match="limit is 79"):
        SegmentationTable(table, classes=("a",))[0]
    monkeypatch.setattr("hyperseg_jax.datasets.segmentation_table.LONGEST_LINE", 50)
    with pytest.raises(UserError, match="a line is longer than 50 bytes"):
        SegmentationTable(table, classes=("a",))


def test_a_table_of_many_short_lines_needs_little_memory(tmp_path):
    (tmp_path / "t.tsv").write_bytes(b"a\n" * 1_500_000)
    reader = fuzz.check_call(lambda: SegmentationTable(tmp_path / "t.tsv", classes=("a",)), memory=2**27)
    assert len(reader) == 1_500_000
    with pytest.raises(UserError, match=r"t\.tsv#1499999: has 1 cells"):
        reader[1_499_999]


def test_a_name_that_is_no_text_is_one_line(ade20k, tmp_path):
    """Such as a file name in Latin-1."""
    root = ade20k([scene(1, 0, 0)])
    for path in (root / "images/validation/0000.jpg", root / "annotations/validation/0000.png"):
        path.rename(path.with_stem(os.fsdecode(b"\xff")))
    with pytest.raises(UserError, match=r"its name '\\udcff' is not valid Unicode; rename the image"):
        write_table(Ade20k(root, "validation"), tmp_path / "t.tsv")
    assert not (tmp_path / "t.tsv").exists()


def test_missing_and_empty_tables(tmp_path):
    with pytest.raises(UserError, match="no such table"):
        SegmentationTable(tmp_path / "t.tsv", classes=("a",))
    (tmp_path / "t.tsv").write_bytes(b"\n")
    with pytest.raises(UserError, match="is empty"):
        SegmentationTable(tmp_path / "t.tsv", classes=("a",))


def test_a_check_lists_every_bad_line(copy_samples):
    root = copy_samples("ifseg")
    table = root / "ifseg" / "coco_unseen.tsv"
    lines = table.read_bytes().splitlines()
    table.write_bytes(b"\n".join([lines[0], b"x\ty\tz", b"x"]) + b"\n")
    report = run_check(root, "ifseg_table", "coco_unseen")
    assert report.examples == 1 and len(sorted_problems(report)) == 2


def test_the_command_writes_a_table(samples, tmp_path, capsys):
    line = ["data", "table", "coco_stuff", "--root", str(samples), "--split", "val2017", "--out", str(tmp_path / "t.tsv")]
    main([*line, "--option", "names=words", "--option", "subset=unseen"])
    assert (tmp_path / "t.tsv").read_bytes() == (samples / "ifseg" / "coco_unseen.tsv").read_bytes()
    for words, message in (
        (["--option", "subset=seen"], "subset='seen' is unknown"),
        (["--split", "test"], "has no such split"),
        (["--out", str(tmp_path / "no" / "t.tsv")], "its folder does not exist"),
    ):
        with pytest.raises(SystemExit):
            main([*line, *words])
        assert message in capsys.readouterr().err
    line[2:7] = ["refcoco", "--root", str(samples), "--split", "val"]
    with pytest.raises(SystemExit):
        main(line)
    assert "is not an image with one class list and its masks" in capsys.readouterr().err


def test_class_lists_by_name():
    for name in class_names.CLASS_LISTS:
        assert ClassWords(benchmark=name)[0].prompts[0].classes == class_names.CLASS_LISTS[name]
    assert layouts.find_layout("ifseg_table").splits == ("ade20k", "coco_stuff", "coco_unseen")


def test_a_check_of_raw_labels_takes_an_option(ade20k, tmp_path, capsys):
    ade20k([scene(0, 150, k) for k in range(9)])
    for name in ("images", "annotations"):
        (tmp_path / "ADEChallengeData2016").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "ADEChallengeData2016" / name)
    line = ["data", "check", "ade20k", "--root", str(tmp_path), "--split", "validation"]
    with pytest.raises(SystemExit) as caught:
        main(line)
    assert caught.value.code == 1 and "give labels='raw'" in "".join(capsys.readouterr().out.split("\n"))
    main([*line, "--option", "labels=raw"])
    assert "9" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", "built", "--root", str(tmp_path), "--option", "labels=raw"])
    assert caught.value.code == 2 and "the records of a build have no options" in capsys.readouterr().err


@pytest.mark.parametrize("chosen", [("grass", "grass"), ("grass|sand", "sand")])
def test_chosen_names_are_there_once(chosen):
    with pytest.raises(UserError, match="twice; give each name once"):
        ClassLists(("grass", "sand"), (False, False), chosen=chosen)
