"""Scores against the published evaluation scripts."""

import numpy as np
import pytest

from hyperseg_jax.metrics import ClipScores, ReferringScores
from hyperseg_jax.metrics.ciou_giou import iou, overlap
from hyperseg_jax.metrics.jf import (
    accuracy,
    boundary_accuracy,
    boundary_map,
    region_similarity,
    robustness,
    statistics,
)


def of_both_classes(prediction, target, ignore):
    """(intersection, union, iou) for background and foreground, as the scripts hold them."""
    rows = [overlap(p, t, ignore) for p, t in ((~prediction, ~target), (prediction, target))]
    return [i for i, _ in rows], [u for _, u in rows], [iou(i, u) for i, u in rows]


@pytest.mark.golden("metrics", r"giou_ciou.*")
def test_giou_ciou(case):
    count = case.config["images"]
    scores, rows = ReferringScores(), []
    for k in range(count):
        best = int(case.inputs[f"score/{k}"].argmax())
        prediction, target = case.inputs[f"pred/{k}"][best] > 0, case.inputs[f"gt/{k}"]
        scores.update(prediction, target == 1, target == 255)
        rows.append(of_both_classes(prediction, target == 1, target == 255))
    intersection, union, per_image = (np.array(part, np.float32) for part in zip(*rows, strict=True))
    case.compare("intersection_bg_fg", intersection)
    case.compare("union_bg_fg", union)
    case.compare("iou_bg_fg", per_image)
    found = scores.compute()
    case.compare("ciou", np.array([found["ciou"]]))
    case.compare("giou", np.array([found["giou"]]))
    case.done()


@pytest.mark.golden("hyperseg", r"metrics.*")
def test_hyperseg_metrics(case):
    prediction, target = case.inputs["pred"] > 0, case.inputs["gt"] > 0
    foreground = case.inputs["foreground"] > 0
    frames = list(zip(prediction, target, foreground, strict=True))
    case.compare("J", [region_similarity(p, t) for p, t, _ in frames])
    case.compare("F", [boundary_accuracy(p, t) for p, t, _ in frames])
    case.compare("A", [accuracy(p, t) for p, t, _ in frames])
    case.compare("R", [robustness(p, t, f) for p, t, f in frames])
    # as the release runs: it reads predictions as 0 and 255, so that no foreground agrees and a wrong pixel counts 255 times
    case.compare("J_png255", [region_similarity(p, t) for p, t, _ in frames])
    case.compare("F_png255", [boundary_accuracy(p, t) for p, t, _ in frames])
    case.compare("A_png255", [accuracy(p, t) - np.mean(p & t) for p, t, _ in frames])
    case.compare("R_png255", [max(1 - 255 * (p & ~t).sum() / (f.sum() + 1e-6), 0) for p, t, f in frames])
    scores, rows = ReferringScores(), []
    for masks, query_scores, wanted in zip(case.inputs["query_preds"], case.inputs["query_scores"], target, strict=True):
        best = masks[int(query_scores.argmax())] > 0
        scores.update(best, wanted)
        rows.append(of_both_classes(best, wanted, None))
    intersection, union, per_image = (np.array(part, np.float32) for part in zip(*rows, strict=True))
    case.compare("intersection_sum", intersection.sum(0))
    case.compare("union_sum", union.sum(0))
    case.compare("per_image_iou_bg_fg", per_image)
    case.compare("ciou", np.array([scores.compute()["ciou"]]))
    case.compare("giou_single_process", np.array([scores.compute()["giou"]]))
    case.compare("giou_after_all_reduce", np.array([scores.compute()["giou"]]))
    case.done()


@pytest.mark.golden("metrics", r"davis_jf.*")
def test_davis_jf(case):
    prediction, target, void = (case.inputs[name] > 0 for name in ("pred", "gt", "void"))
    for suffix, voids in (("novoid", [None] * len(target)), ("void", void)):
        frames = list(zip(prediction, target, voids, strict=True))
        values = {
            "J": np.array([region_similarity(*frame) for frame in frames]),
            "F": np.array([boundary_accuracy(*frame) for frame in frames]),
        }
        for name, value in values.items():
            case.compare(f"{name}/{suffix}", value)
            told = statistics(value)
            expected = case.meta["expected"][f"{name}_{suffix}"]
            for key in ("mean", "recall", "decay"):
                case.compare(f"{name}_{suffix} {key}", told[key], np.float64(expected[key]))
    case.compare("F/radius3", [boundary_accuracy(p, t, tolerance=3) for p, t in zip(prediction, target, strict=True)])
    case.compare("boundary_map/gt", np.stack([boundary_map(mask) for mask in target]).astype(np.uint8))
    case.compare("boundary_map/pred", np.stack([boundary_map(mask) for mask in prediction]).astype(np.uint8))
    case.done()


@pytest.mark.golden("metrics", r"revos.*")
def test_revos(case):
    """J and F of every expression; the released A and R compare 0/1 with 0/255 and are not followed."""
    rows = []
    for video, record in case.meta["expressions"].items():
        for key, expression in record["expressions"].items():
            where, times = f"{video}/{key}", range(len(record["frames"]))
            prediction = np.stack([case.inputs[f"{where}/pred/{t}"] > 0 for t in times])
            target = np.zeros_like(prediction)
            for k in range(len(expression["anno_id"])):
                target |= np.stack([case.inputs[f"{where}/gt_anno{k}/{t}"] > 0 for t in times])
            scores = ClipScores()
            scores.update(prediction, target)
            rows.append([scores.compute()["j"], scores.compute()["f"]])
    case.compare("J and F", np.array(rows), case.outputs["JFAR"][:, :2])
    case.done(given=["JFAR", "JFAR_pred01"])  # their first two columns are what is compared
