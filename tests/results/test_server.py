"""Submission files: names, values and counts, read back independently of the writers."""

import io
import json
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from hyperseg_jax.datasets.masks import decode_segmentation
from hyperseg_jax.results.server import coco_panoptic, mmbench, ref_youtube_vos, vqa, youtube_vis

CLIP = np.random.default_rng(0).random((2, 6, 9)) < 0.5


def test_ref_youtube_vos(tmp_path):
    path = tmp_path / "out" / "submission.zip"
    ref_youtube_vos.write(path, [("vid", "0", ["00000", "00005"], CLIP), ("vid", "1", ["00000", "00005"], ~CLIP)])
    with zipfile.ZipFile(path) as file:
        assert sorted(file.namelist()) == [f"Annotations/vid/{e}/{f}.png" for e in "01" for f in ("00000", "00005")]
        pixels = np.asarray(Image.open(io.BytesIO(file.read("Annotations/vid/1/00005.png"))))
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, 255 * ~CLIP[1])
    with pytest.raises(ValueError, match="2 masks for 1 frames"):
        ref_youtube_vos.write(tmp_path / "bad.zip", [("vid", "0", ["00000"], CLIP)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]  # no partial files remain


def test_youtube_vis(tmp_path):
    seen_once = np.stack([CLIP[0], np.zeros((6, 9), bool)])
    youtube_vis.write(tmp_path / "submission.zip", [(3, 12, np.float32(0.5), seen_once)])
    with zipfile.ZipFile(tmp_path / "submission.zip") as file:
        (row,) = json.loads(file.read("results.json"))
    assert (row["video_id"], row["category_id"], row["score"]) == (3, 12, 0.5)
    assert row["segmentations"][1] is None
    assert np.array_equal(decode_segmentation(row["segmentations"][0], 6, 9, "here"), CLIP[0])


def test_coco_panoptic(tmp_path):
    ids = np.array([[0, 1, 300], [70000, 70000, 0]], np.int32)
    segments = [{"id": 1, "category_id": 1}, {"id": 300, "category_id": 200, "score": 0.5}, {"id": 70000, "category_id": 7}]
    coco_panoptic.write(tmp_path / "out", [(9, "9.png", ids, segments)])
    (note,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
    assert (note["image_id"], note["file_name"]) == (9, "9.png") and note["segments_info"][1] == {"id": 300, "category_id": 200}
    pixels = np.asarray(Image.open(tmp_path / "out" / "predictions" / "9.png"), np.int64)
    assert np.array_equal(pixels @ [1, 256, 65536], ids)


def test_vqa(tmp_path):
    vqa.write(tmp_path / "answers.json", [(7, " two\ndogs "), (8, "no")])
    assert json.loads((tmp_path / "answers.json").read_text()) == [
        {"question_id": 7, "answer": "two dogs"},
        {"question_id": 8, "answer": "no"},
    ]
    with pytest.raises(ValueError, match="twice"):
        vqa.write(tmp_path / "answers.json", [(7, "a"), (7, "b")])


def test_mmbench(tmp_path):
    row = {"index": 241, "question": 'Is <a> & "b"\nthere?', "A": "yes", "B": "no", "prediction": "A\x00"}
    mmbench.write(tmp_path / "answers.xlsx", [row, row | {"index": 1000241}])
    with zipfile.ZipFile(tmp_path / "answers.xlsx") as file:
        for name in file.namelist():
            ElementTree.fromstring(file.read(name))  # every part is valid XML
        sheet = ElementTree.fromstring(file.read("xl/worksheets/sheet1.xml"))
    cells = [["".join(cell.itertext()) for cell in line] for line in sheet.iter() if line.tag.endswith("}row")]
    assert cells[0] == ["index", "question", "A", "B", "C", "D", "prediction"]
    assert cells[1] == ["241", 'Is <a> & "b"\nthere?', "yes", "no", "", "", "A"] and cells[2][0] == "1000241"
    with pytest.raises(ValueError, match="twice"):
        mmbench.write(tmp_path / "answers.xlsx", [row, row])


@pytest.mark.parametrize("name", ["", "a/../b", "a//b", "a\\b", "a\0", "\ud800", "\u00e9" * 200, "a/" * 20 + "b"])
def test_invalid_file_names_are_refused(tmp_path, name):
    assert not ref_youtube_vos.is_file_name(name) and ref_youtube_vos.is_file_name("video/\u00e9 1")
    with pytest.raises(ValueError, match="cannot be a file name in a zip"):
        ref_youtube_vos.write(tmp_path / "a.zip", [("video", name, ["0"], np.zeros((1, 2, 2), bool))])
    with pytest.raises(ValueError, match="duplicate frame names"):
        ref_youtube_vos.write(tmp_path / "a.zip", [("video", "0", ["0", "0"], np.zeros((2, 2, 2), bool))])
    assert not list(tmp_path.iterdir())


def test_mmbench_drops_characters_that_xml_cannot_store(tmp_path):
    row = dict.fromkeys(mmbench.COLUMNS, "") | {"index": 1, "question": "a\ud800b\x1bc\uffff<\u00e9\U0001f600"}
    mmbench.write(tmp_path / "a.xlsx", [row])
    with zipfile.ZipFile(tmp_path / "a.xlsx") as file:
        assert "abc&lt;\u00e9\U0001f600<" in file.read("xl/worksheets/sheet1.xml").decode()
