"""Panoptic quality on full images, with predictions from RGB files and from two-channel files.

HYPERSEG_PANOPTIC_SAMPLES names the folder of panopticapi's two sample images; without it only generated ones are scored.
"""

import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from hyperseg_jax.datasets import CocoPanoptic
from hyperseg_jax.metrics import PanopticQuality
from hyperseg_jax.toy.samples import write_samples

REAL = os.environ.get("HYPERSEG_PANOPTIC_SAMPLES")


@pytest.fixture(scope="module", params=["drawn", *(["real"] if REAL else [])])
def samples(request, tmp_path_factory):
    """(reader, folder of two-channel files: category and instance id)."""
    if request.param == "real":
        folder = pathlib.Path(REAL)
        notes = folder / "panoptic_examples.json"
        return CocoPanoptic(
            notes, folder / "input_images", folder / "panoptic_examples"
        ), folder / "panoptic_examples_2ch_format"
    folder = tmp_path_factory.mktemp("panoptic") / "data"
    write_samples(folder)
    notes = folder / "coco" / "annotations"
    content = json.loads((notes / "panoptic_val2017.json").read_text())
    (folder / "two").mkdir()
    for note in content["annotations"]:
        with Image.open(notes / "panoptic_val2017" / note["file_name"]) as file:
            coded = np.asarray(file).astype(int) @ [1, 256, 65536]
        pixels = np.zeros((*coded.shape, 3), np.uint8)
        for number, segment in enumerate(note["segments_info"], 1):
            segment["iscrowd"] = int(number == 2)
            pixels[coded == segment["id"]] = (segment["category_id"], number, 0)
        Image.fromarray(pixels).save(folder / "two" / note["file_name"])
    (notes / "crowded.json").write_text(json.dumps(content))
    reader = CocoPanoptic(notes / "crowded.json", folder / "coco" / "val2017", notes / "panoptic_val2017")
    return reader, folder / "two"


def score_predictions(reader, predictions):
    scores = PanopticQuality()
    for example, (masks, labels) in zip(reader, predictions, strict=True):
        (prompt,) = example.prompts
        crowds = None if prompt.crowds is None else prompt.crowds[:, 0]
        scores.update(
            masks,
            labels,
            prompt.masks[:, 0],
            prompt.labels,
            prompt.classes,
            prompt.things,
            None if prompt.ignore is None else prompt.ignore[0],
            crowds,
            prompt.crowd_labels,
        )
    return scores


def ground_truth(reader):
    return [(example.prompts[0].masks[:, 0].copy(), list(example.prompts[0].labels)) for example in reader]


def test_ground_truth_scores_100(samples):
    reader, _ = samples
    result = score_predictions(reader, ground_truth(reader)).compute()
    assert [result[name] for name in ("pq", "sq", "rq", "pq_things", "pq_stuff")] == [1.0] * 5
    assert any(example.prompts[0].crowds is not None for example in reader)


def test_two_channel_files_score_100(samples):
    """These files contain crowds as ordinary segments; predictions on a crowd of their class are excused."""
    reader, folder = samples
    place = {number: k for k, number in enumerate(reader.category_ids)}
    predictions, count = [], 0
    for example in reader:
        name = f"{int(example.prompts[0].key):012d}.png"
        with Image.open(folder / name) as file:
            pixels = np.asarray(file).astype(int)
        pairs = sorted({(c, i) for c, i in zip(pixels[..., 0].ravel(), pixels[..., 1].ravel(), strict=True) if c})
        segments = np.array([(pixels[..., 0] == c) & (pixels[..., 1] == i) for c, i in pairs])
        predictions.append((segments, [place[c] for c, _ in pairs]))
        count += len(pairs)
    assert count > sum(len(example.prompts[0].masks) for example in reader)
    assert score_predictions(reader, predictions).compute()["pq"] == 1


def test_changed_predictions(samples):
    """Of every class with one segment in all: left out, PQ 0; in the place of another class, both 0; cut to a part r > 0.5 of
    its pixels, PQ r. The others keep PQ 1."""
    reader, _ = samples
    full = ground_truth(reader)
    flat = [(p, k, label) for p, (_, labels) in enumerate(full) for k, label in enumerate(labels)]
    alone = [(p, k, label) for p, k, label in flat if sum(other == label for *_, other in flat) == 1]
    assert len(alone) >= 2
    classes = len({label for *_, label in flat})
    (p, k, label), (_, _, other) = alone[:2]

    without = ground_truth(reader)
    without[p] = np.delete(without[p][0], k, 0), [x for n, x in enumerate(without[p][1]) if n != k]
    assert score_predictions(reader, without).compute()["pq"] == pytest.approx((classes - 1) / classes)

    swapped = ground_truth(reader)
    swapped[p][1][k] = other
    result = score_predictions(reader, swapped)
    name, second = reader.classes[label], reader.classes[other]
    # the other class has one right segment and one wrong: 1 / (1 + 0.5)
    assert result.by_class()[name] == 0 and result.by_class()[second] == pytest.approx(2 / 3)

    cut = ground_truth(reader)
    rows, columns = np.nonzero(cut[p][0][k])
    kept = int(0.7 * len(rows))
    cut[p][0][k][rows[kept:], columns[kept:]] = False
    assert score_predictions(reader, cut).by_class()[name] == pytest.approx(kept / len(rows))
    assert score_predictions(reader, cut).compute()["pq"] == pytest.approx((classes - 1 + kept / len(rows)) / classes)
