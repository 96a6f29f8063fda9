"""Scores of class lists with held-out classes: seen, held-out and harmonic mIoU, and the benchmarks' class lists."""

import numpy as np
import pytest

from hyperseg_jax.data.sources import open_reader
from hyperseg_jax.datasets.class_names import COCO_STUFF_WORDS, COCO_UNSEEN
from hyperseg_jax.evaluation.benchmarks import BENCHMARKS
from hyperseg_jax.evaluation.scoring import Scorer
from hyperseg_jax.evaluation.trivial_scores import trivial_scores
from hyperseg_jax.structs import Prediction, Prompt
from hyperseg_jax.toy.samples import write_samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples") / "all"
    write_samples(root)
    return root


CLASSES = ("person", "giraffe", "car", "cow")


def masks_of(labels):
    present = np.unique(labels[labels >= 0])
    return labels == present[:, None, None], tuple(present.tolist())


def test_the_harmonic_mean_of_seen_and_held_out_classes():
    rng = np.random.default_rng(0)
    intersection, union = np.zeros(4), np.zeros(4)
    scorer = Scorer({"panoptic": "zero_shot"})
    for k in range(3):
        truth, answer = rng.integers(-1, 4, (12, 9)), rng.integers(0, 4, (12, 9))
        (masks, labels), (ours, our_labels) = masks_of(truth), masks_of(answer)
        prompt = Prompt("panoptic", classes=CLASSES, masks=masks[:, None], labels=labels, ignore=truth[None] < 0)
        scorer.add(f"image {k}", prompt, [Prediction(ours, labels=our_labels)])
        for c in range(4):
            intersection[c] += ((truth == c) & (answer == c)).sum()
            union[c] += (((truth == c) | (answer == c)) & (truth >= 0)).sum()
    ious, scores = intersection / union, scorer.compute()
    seen, unseen = ious[[0, 2]].mean(), ious[[1, 3]].mean()
    assert scores["miou"] == pytest.approx(ious.mean())
    assert scores["seen_miou"] == pytest.approx(seen) and scores["unseen_miou"] == pytest.approx(unseen)
    assert scores["harmonic_miou"] == pytest.approx(2 / (1 / seen + 1 / unseen))


@pytest.mark.parametrize(
    "name, classes",
    [("coco_stuff_words", COCO_STUFF_WORDS), ("coco_unseen", COCO_UNSEEN), ("coco_zero_shot", COCO_STUFF_WORDS)],
)
def test_class_lists_of_the_benchmarks(samples, name, classes):
    line = BENCHMARKS[name]
    reader = open_reader(name, line.reader, line.fields, str(samples))
    assert reader.classes == classes
    scores = trivial_scores(name, line, reader)["most_frequent"]
    assert ("harmonic_miou" in scores) == (name == "coco_zero_shot") and 0 <= scores["miou"] <= 1
