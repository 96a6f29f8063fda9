"""Panoptic quality on files of COCO's layout: the truth itself gives 100, what is changed gives numbers worked out by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from hyperseg_jax.datasets import CocoPanoptic
from hyperseg_jax.metrics import PanopticQuality
from hyperseg_jax.results.server.coco_panoptic import write

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 17, "name": "cat", "isthing": 1},
    {"id": 149, "name": "grass", "isthing": 0},
]


def colours(owner):
    return np.stack([owner & 255, (owner >> 8) & 255, owner >> 16], -1).astype(np.uint8)


@pytest.fixture
def coco(tmp_path):
    """One image of 20 x 20: two people, grass, a crowd of people, the last column void."""
    owner = np.zeros((20, 20), np.int64)
    owner[0:10, 0:10], owner[0:10, 10:19], owner[10:15, 0:19], owner[15:20, 0:19] = 70000, 300, 5, 9
    segments = [(70000, 1, 0), (300, 1, 0), (5, 149, 0), (9, 1, 1)]
    (tmp_path / "pngs").mkdir()
    (tmp_path / "images").mkdir()
    Image.fromarray(colours(owner)).save(tmp_path / "pngs" / "7.png")
    Image.fromarray(colours(owner)).save(tmp_path / "images" / "7.jpg")
    note = {
        "image_id": 7,
        "file_name": "7.png",
        "segments_info": [
            {"id": number, "category_id": kind, "iscrowd": crowd, "area": int((owner == number).sum()), "bbox": [0, 0, 1, 1]}
            for number, kind, crowd in segments
        ],
    }
    content = {
        "images": [{"id": 7, "file_name": "7.jpg", "height": 20, "width": 20}],
        "annotations": [note],
        "categories": CATEGORIES,
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    return CocoPanoptic(tmp_path / "panoptic.json", tmp_path / "images", tmp_path / "pngs")[0].prompts[0]


def score(prompt, predicted, labels):
    scores = PanopticQuality()
    scores.update(
        np.array(predicted),
        labels,
        prompt.masks[:, 0],
        prompt.labels,
        prompt.classes,
        prompt.things,
        prompt.ignore[0],
        prompt.crowds[:, 0],
        prompt.crowd_labels,
    )
    return scores.compute()


def block(rows, columns):
    mask = np.zeros((20, 20), bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def test_the_truth_gives_100(coco):
    found = score(coco, coco.masks[:, 0], coco.labels)
    assert [found[f"{name}{part}"] for name in ("pq", "sq", "rq") for part in ("", "_things", "_stuff")] == [1.0] * 9
    assert found["classes"] == 2  # the crowd is no segment to be found, cats were neither seen nor told


def test_void_leaves_the_union_and_excuses(coco):
    wider = coco.masks[:, 0].copy()
    wider[1] |= block((0, 10), (19, 20))  # a person painted into void: still IoU 1
    assert score(coco, wider, coco.labels)["pq"] == 1
    on_void = block((10, 20), (19, 20))  # all of it
    assert score(coco, [*coco.masks[:, 0], on_void], [*coco.labels, 1])["pq"] == 1


def test_a_crowd_excuses_its_own_class_alone(coco):
    on_crowd = block((15, 20), (0, 10))
    assert score(coco, [*coco.masks[:, 0], on_crowd], [*coco.labels, 0])["pq"] == 1
    other = score(coco, [*coco.masks[:, 0], on_crowd], [*coco.labels, 1])  # cats on a crowd of people are wrong: PQ of cat 0
    assert other["pq"] == pytest.approx(2 / 3) and other["pq_things"] == 0.5


def test_a_crowd_stays_in_the_union(coco):
    """A person painted 50 pixels into the crowd: 100 / 150. Were the crowd void, it would be 1."""
    spilled = coco.masks[:, 0].copy()
    spilled[0] |= block((15, 20), (0, 10))
    found = score(coco, spilled, coco.labels)
    assert found["sq_things"] == pytest.approx((100 / 150 + 1) / 2) and found["rq"] == 1


def test_perturbed_by_hand(coco):
    """Person 1 cut to 60 of 100 pixels: IoU 0.6. Person 2 at 45 of 90: exactly 0.5 is no match, so one missed, one wrong.
    Grass right. Person: IoU 0.6, 1 right, 1 missed, 1 wrong: PQ 0.6 / 2, RQ 1 / 2."""
    cut = [block((0, 6), (0, 10)), block((0, 5), (10, 19)), coco.masks[2, 0]]
    found = score(coco, cut, coco.labels)
    assert (found["pq_things"], found["sq_things"], found["rq_things"]) == pytest.approx((0.3, 0.6, 0.5))
    assert (found["pq_stuff"], found["pq"]) == pytest.approx((1.0, 0.65))


def test_the_written_prediction_reads_back_as_it_was(coco, tmp_path):
    ids = np.zeros((20, 20), np.int32)
    rows = []
    for k, (mask, label) in enumerate(zip(coco.masks[:, 0], coco.labels, strict=True), 1):
        ids[mask] = k
        rows.append({"id": k, "category_id": CATEGORIES[label]["id"]})
    write(tmp_path / "ours", [(7, "7.png", ids, rows)])
    written = json.loads((tmp_path / "ours" / "predictions.json").read_text())["annotations"]
    truth = json.loads((tmp_path / "panoptic.json").read_text())
    (tmp_path / "again.json").write_text(json.dumps(truth | {"annotations": written}))
    again = CocoPanoptic(tmp_path / "again.json", tmp_path / "images", tmp_path / "ours" / "predictions")[0].prompts[0]
    assert score(coco, again.masks[:, 0], again.labels)["pq"] == 1
