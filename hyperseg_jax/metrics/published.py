"""Scores reported by authors, for comparison, in their units: percent (CIDEr-D: hundredths) or clicks."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ReportedResult:
    """A reported score. benchmark, metric: names in this package. source: where the score is reported."""

    benchmark: str
    metric: str
    model: str
    value: float
    source: str


_SEEM = "README of SEEM, commit 7b2e76d"
_SEEM_METRICS = (
    ("coco_panoptic", "pq"),
    ("coco_panoptic_instances", "ap"),
    ("coco_semantic", "miou"),
    ("refcocog_first", "ciou"),
    ("refcocog_first", "giou"),
    ("refcocog_first", "precision@0.5"),
    ("voc_clicks", "noc@85"),
    ("voc_clicks", "noc@90"),
)
_SEEM_MODELS = {
    "SEEM v1 Focal-T": (50.8, 39.4, 60.7, 58.5, 63.7, 72.0, 3.19, 4.13),
    "SEEM v1 Focal-L": (56.1, 46.3, 65.8, 62.4, 67.8, 76.0, 2.66, 3.44),
    "SEEM v0 Focal-T": (50.6, 39.4, 60.9, 58.5, 63.5, 71.6, 3.54, 4.59),
    "SEEM v0 Focal-L": (56.2, 46.4, 65.5, 62.8, 67.7, 76.2, 3.04, 3.85),
    "SEEM v1 SAM-ViT-B": (52.0, 43.5, 60.2, 54.1, 62.2, 69.3, 2.53, 3.23),
    "SEEM v1 SAM-ViT-L": (49.0, 41.6, 58.2, 53.8, 62.2, 69.5, 2.40, 2.96),
    "SEEM v0 DaViT-d3": (56.2, 46.8, 65.3, 63.2, 68.3, 76.6, 2.99, 3.89),
}
_INSTRUCTSEG = "pictures of the tables in the repository of InstructSeg (imgs/exp_*.jpg), commit 0134314"
_INSTRUCTSEG_SCORES = {
    "refcoco": {"ciou": 85.8},  # cIoU for this family: the picture does not name it, its rows of other systems are cIoU
    "refcoco_testA": {"ciou": 86.6},
    "refcoco_testB": {"ciou": 84.0},
    "refcoco+": {"ciou": 80.1},
    "refcoco+_testA": {"ciou": 83.8},
    "refcoco+_testB": {"ciou": 75.6},
    "refcocog": {"ciou": 79.3},
    "refcocog_test": {"ciou": 80.3},
    "reasonseg": {"giou": 61.9, "ciou": 65.2},
    "revos": {
        **{"j": 52.0, "f": 56.9, "jf": 54.5},
        **{"j/reasoning": 49.2, "f/reasoning": 54.7, "jf/reasoning": 51.9},
        **{"j/referring": 54.8, "f/referring": 59.2, "jf/referring": 57.0},
    },
    "ref_davis": {"j": 67.3, "f": 74.9, "jf": 71.1},
    "ref_youtube_vos": {"j": 65.4, "f": 69.5, "jf": 67.5},
    "gqa": {"accuracy": 62.3},
    "scienceqa": {"accuracy": 69.2},
    "mmbench": {"accuracy": 68.6},
}
_SCA = "model zoo in the README of Segment and Caption Anything, commit 0d3f0b4"
_SCA_METRICS = (
    *("cider", "meteor", "spice", "bleu@1", "bleu@2", "bleu@3", "bleu@4", "rouge_l"),
    *("noun", "verb", "noun_fuzzy", "verb_fuzzy"),
)
_SCA_MODELS = {
    "SCA GPT2-large": (148.8, 17.4, 31.2, 38.0, 23.9, 16.6, 12.1, 35.5, 41.5, 4.8, 65.0, 7.6),
    "SCA LLaMA-3B": (149.8, 17.4, 31.3, 38.0, 23.9, 16.7, 12.2, 35.5, 41.2, 4.5, 64.6, 7.1),
    "SCA GPT2-large, Objects365 first": (149.8, 17.5, 31.4, 38.2, 24.1, 16.8, 12.2, 35.7, 41.7, 4.8, 65.1, 7.5),
}
REPORTED_RESULTS = (
    tuple(
        ReportedResult(benchmark, metric, model, value, _SEEM)
        for model, values in _SEEM_MODELS.items()
        for (benchmark, metric), value in zip(_SEEM_METRICS, values, strict=True)
    )
    + tuple(
        ReportedResult(benchmark, metric, "InstructSeg-3B", value, _INSTRUCTSEG)
        for benchmark, scores in _INSTRUCTSEG_SCORES.items()
        for metric, value in scores.items()
    )
    + tuple(
        ReportedResult("vg_densecap", metric, model, value, _SCA)
        for model, values in _SCA_MODELS.items()
        for metric, value in zip(_SCA_METRICS, values, strict=True)
    )
)


def find_reported_results(benchmark: str, metric: str) -> tuple[ReportedResult, ...]:
    """Returns the reported results of a metric, best first."""
    rows = [row for row in REPORTED_RESULTS if (row.benchmark, row.metric) == (benchmark, metric)]
    return tuple(sorted(rows, key=lambda row: row.value, reverse=not metric.startswith("noc")))
