"""Panoptic quality on COCO files: the ground truth scores 100, changes give manually computed values."""

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


def to_colours(owner):
    return np.stack([owner & 255, (owner >> 8) & 255, owner >> 16], -1).astype(np.uint8)


@pytest.fixture
def coco(tmp_path):
    """An image of 20 x 20: two people, grass, a crowd of people, and a void last column."""
    owner = np.zeros((20, 20), np.int64)
    owner[0:10, 0:10], owner[0:10, 10:19], owner[10:15, 0:19], owner[15:20, 0:19] = 70000, 300, 5, 9
    segments = [(70000, 1, 0), (300, 1, 0), (5, 149, 0), (9, 1, 1)]
    (tmp_path / "pngs").mkdir()
    (tmp_path / "images").mkdir()
    Image.fromarray(to_colours(owner)).save(tmp_path / "pngs" / "7.png")
    Image.fromarray(to_colours(owner)).save(tmp_path / "images" / "7.jpg")
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


def score_prediction(prompt, predicted, labels):
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


def make_block(rows, columns):
    mask = np.zeros((20, 20), bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def test_ground_truth_scores_100(coco):
    result = score_prediction(coco, coco.masks[:, 0], coco.labels)
    assert [result[f"{name}{part}"] for name in ("pq", "sq", "rq") for part in ("", "_things", "_stuff")] == [1.0] * 9
    assert result["classes"] == 2  # the crowd is no segment to be found, cats were neither seen nor told


def test_void_is_excluded_from_unions_and_false_positives(coco):
    wider = coco.masks[:, 0].copy()
    wider[1] |= make_block((0, 10), (19, 20))  # a person painted into void: still IoU 1
    assert score_prediction(coco, wider, coco.labels)["pq"] == 1
    on_void = make_block((10, 20), (19, 20))  # all of it
    assert score_prediction(coco, [*coco.masks[:, 0], on_void], [*coco.labels, 1])["pq"] == 1


def test_crowds_excuse_only_their_class(coco):
    on_crowd = make_block((15, 20), (0, 10))
    assert score_prediction(coco, [*coco.masks[:, 0], on_crowd], [*coco.labels, 0])["pq"] == 1
    other = score_prediction(
        coco, [*coco.masks[:, 0], on_crowd], [*coco.labels, 1]
    )  # cats on a crowd of people are wrong: PQ of cat 0
    assert other["pq"] == pytest.approx(2 / 3) and other["pq_things"] == 0.5


def test_crowds_count_in_unions(coco):
    """A person predicted 50 pixels into the crowd: 100 / 150. With void instead of a crowd, it would be 1."""
    spilled = coco.masks[:, 0].copy()
    spilled[0] |= make_block((15, 20), (0, 10))
    result = score_prediction(coco, spilled, coco.labels)
    assert result["sq_things"] == pytest.approx((100 / 150 + 1) / 2) and result["rq"] == 1


def test_perturbed_predictions(coco):
    """Person 1 cut to 60 of 100 pixels: IoU 0.6. Person 2 at 45 of 90: exactly 0.5 is no match, so one missed, one wrong.
    Grass right. Person: IoU 0.6, 1 right, 1 missed, 1 wrong: PQ 0.6 / 2, RQ 1 / 2."""
    cut = [make_block((0, 6), (0, 10)), make_block((0, 5), (10, 19)), coco.masks[2, 0]]
    result = score_prediction(coco, cut, coco.labels)
    assert (result["pq_things"], result["sq_things"], result["rq_things"]) == pytest.approx((0.3, 0.6, 0.5))
    assert (result["pq_stuff"], result["pq"]) == pytest.approx((1.0, 0.65))


def test_written_predictions_round_trip(coco, tmp_path):
    ids = np.zeros((20, 20), np.int32)
    rows = []
    for k, (mask, label) in enumerate(zip(coco.masks[:, 0], coco.labels, strict=True), 1):
        ids[mask] = k
        rows.append({"id": k, "category_id": CATEGORIES[label]["id"]})
    write(tmp_path / "ours", [(7, "7.png", ids, rows)])
    written = json.loads((tmp_path / "ours" / "predictions.json").read_text())["annotations"]
    truth = json.loads((tmp_path / "panoptic.json").read_text())
    (tmp_path / "again.json").write_text(json.dumps(truth | {"annotations": written}))
    repeated = CocoPanoptic(tmp_path / "again.json", tmp_path / "images", tmp_path / "ours" / "predictions")[0].prompts[0]
    assert score_prediction(coco, repeated.masks[:, 0], repeated.labels)["pq"] == 1
