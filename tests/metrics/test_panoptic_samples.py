"""Panoptic quality on whole images, with predictions from RGB files and from files of two channels.

HYPERSEG_PANOPTIC_SAMPLES names the folder of panopticapi's two sample images; without it only drawn ones are scored.
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
    """(reader, folder of files of two channels: category, number of the instance)."""
    if request.param == "real":
        home = pathlib.Path(REAL)
        notes = home / "panoptic_examples.json"
        return CocoPanoptic(notes, home / "input_images", home / "panoptic_examples"), home / "panoptic_examples_2ch_format"
    home = tmp_path_factory.mktemp("panoptic") / "data"
    write_samples(home)
    notes = home / "coco" / "annotations"
    content = json.loads((notes / "panoptic_val2017.json").read_text())
    (home / "two").mkdir()
    for note in content["annotations"]:
        with Image.open(notes / "panoptic_val2017" / note["file_name"]) as file:
            coded = np.asarray(file).astype(int) @ [1, 256, 65536]
        pixels = np.zeros((*coded.shape, 3), np.uint8)
        for number, segment in enumerate(note["segments_info"], 1):
            segment["iscrowd"] = int(number == 2)
            pixels[coded == segment["id"]] = (segment["category_id"], number, 0)
        Image.fromarray(pixels).save(home / "two" / note["file_name"])
    (notes / "crowded.json").write_text(json.dumps(content))
    reader = CocoPanoptic(notes / "crowded.json", home / "coco" / "val2017", notes / "panoptic_val2017")
    return reader, home / "two"


def score(reader, predictions):
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


def truths(reader):
    return [(example.prompts[0].masks[:, 0].copy(), list(example.prompts[0].labels)) for example in reader]


def test_the_truth_gives_100(samples):
    reader, _ = samples
    found = score(reader, truths(reader)).compute()
    assert [found[name] for name in ("pq", "sq", "rq", "pq_things", "pq_stuff")] == [1.0] * 5
    assert any(example.prompts[0].crowds is not None for example in reader)


def test_files_of_two_channels_give_100(samples):
    """They have the crowds as segments like any other; what lies on a crowd of its class is excused."""
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
    assert score(reader, predictions).compute()["pq"] == 1


def test_changes_by_hand(samples):
    """Of every class with one segment in all: left out, PQ 0; in the place of another class, both 0; cut to a part r > 0.5 of
    its pixels, PQ r. The others keep PQ 1."""
    reader, _ = samples
    whole = truths(reader)
    flat = [(p, k, label) for p, (_, labels) in enumerate(whole) for k, label in enumerate(labels)]
    alone = [(p, k, label) for p, k, label in flat if sum(other == label for *_, other in flat) == 1]
    assert len(alone) >= 2
    classes = len({label for *_, label in flat})
    (p, k, label), (_, _, other) = alone[:2]

    without = truths(reader)
    without[p] = np.delete(without[p][0], k, 0), [x for n, x in enumerate(without[p][1]) if n != k]
    assert score(reader, without).compute()["pq"] == pytest.approx((classes - 1) / classes)

    swapped = truths(reader)
    swapped[p][1][k] = other
    found = score(reader, swapped)
    name, second = reader.classes[label], reader.classes[other]
    # the other class has one right segment and one wrong: 1 / (1 + 0.5)
    assert found.by_class()[name] == 0 and found.by_class()[second] == pytest.approx(2 / 3)

    cut = truths(reader)
    rows, columns = np.nonzero(cut[p][0][k])
    kept = int(0.7 * len(rows))
    cut[p][0][k][rows[kept:], columns[kept:]] = False
    assert score(reader, cut).by_class()[name] == pytest.approx(kept / len(rows))
    assert score(reader, cut).compute()["pq"] == pytest.approx((classes - 1 + kept / len(rows)) / classes)
