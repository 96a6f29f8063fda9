"""Scores against the published evaluation scripts."""

import numpy as np
import pytest

from hyperseg_jax.metrics import ClickScores, DavisScores, ReferringScores, ReVosScores, SemanticScores
from hyperseg_jax.metrics.ciou_giou import PRECISIONS, count_overlap, iou
from hyperseg_jax.metrics.davis import match_proposals, object_values
from hyperseg_jax.metrics.jf import boundary_accuracy, boundary_map, davis_statistics, region_similarity
from hyperseg_jax.metrics.mean_iou import harmonic_mean
from hyperseg_jax.metrics.revos import accuracy, released_accuracy, released_robustness, robustness
from hyperseg_jax.results.objects import merge_hard, merge_soft


def both_class_scores(prediction, target, ignore):
    """Returns (intersection, union, iou) of background and foreground, like the scripts."""
    rows = [count_overlap(p, t, ignore) for p, t in ((~prediction, ~target), (prediction, target))]
    return [i for i, _ in rows], [u for _, u in rows], [iou(i, u) for i, u in rows]


@pytest.mark.golden("metrics", r"giou_ciou.*")
def test_giou_ciou(case):
    count = case.config["images"]
    scores, rows = ReferringScores(), []
    for k in range(count):
        best = int(case.inputs[f"score/{k}"].argmax())
        prediction, target = case.inputs[f"pred/{k}"][best] > 0, case.inputs[f"gt/{k}"]
        scores.update(prediction, target == 1, target == 255)
        rows.append(both_class_scores(prediction, target == 1, target == 255))
    intersection, union, per_image = (np.array(part, np.float32) for part in zip(*rows, strict=True))
    case.compare("intersection_bg_fg", intersection)
    case.compare("union_bg_fg", union)
    case.compare("iou_bg_fg", per_image)
    result = scores.compute()
    case.compare("ciou", np.array([result["ciou"]]))
    case.compare("giou", np.array([result["giou"]]))
    case.check()


@pytest.mark.golden("hyperseg", r"metrics.*")
def test_hyperseg_metrics(case):
    prediction, target = case.inputs["pred"] > 0, case.inputs["gt"] > 0
    foreground = case.inputs["foreground"] > 0
    frames = list(zip(prediction, target, foreground, strict=True))
    case.compare("J", [region_similarity(p, t) for p, t, _ in frames])
    case.compare("F", [boundary_accuracy(p, t) for p, t, _ in frames])
    case.compare("A", [accuracy(p, t) for p, t, _ in frames])
    case.compare("R", [robustness(p, t, f) for p, t, f in frames])
    # like the release: predictions are read as 0 and 255, so that no foreground matches and a wrong pixel counts 255 times
    case.compare("J_png255", [region_similarity(p, t) for p, t, _ in frames])
    case.compare("F_png255", [boundary_accuracy(p, t) for p, t, _ in frames])
    case.compare("A_png255", [accuracy(p, t) - np.mean(p & t) for p, t, _ in frames])
    case.compare("R_png255", [max(1 - 255 * (p & ~t).sum() / (f.sum() + 1e-6), 0) for p, t, f in frames])
    scores, rows = ReferringScores(), []
    for masks, query_scores, expected in zip(case.inputs["query_preds"], case.inputs["query_scores"], target, strict=True):
        best = masks[int(query_scores.argmax())] > 0
        scores.update(best, expected)
        rows.append(both_class_scores(best, expected, None))
    intersection, union, per_image = (np.array(part, np.float32) for part in zip(*rows, strict=True))
    case.compare("intersection_sum", intersection.sum(0))
    case.compare("union_sum", union.sum(0))
    case.compare("per_image_iou_bg_fg", per_image)
    case.compare("ciou", np.array([scores.compute()["ciou"]]))
    case.compare("giou_single_process", np.array([scores.compute()["giou"]]))
    case.compare("giou_after_all_reduce", np.array([scores.compute()["giou"]]))
    case.check()


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
            statistics = davis_statistics(value)
            expected = case.meta["expected"][f"{name}_{suffix}"]
            for key in ("mean", "recall", "decay"):
                case.compare(f"{name}_{suffix} {key}", statistics[key], np.float64(expected[key]))
    for name in (name for name in case.outputs if name.startswith("F/radius")):
        radius = int(name.removeprefix("F/radius"))
        case.compare(name, [boundary_accuracy(p, t, tolerance=radius) for p, t in zip(prediction, target, strict=True)])
    case.compare("boundary_map/gt", np.stack([boundary_map(mask) for mask in target]).astype(np.uint8))
    case.compare("boundary_map/pred", np.stack([boundary_map(mask) for mask in prediction]).astype(np.uint8))
    case.check()


def read_video(case, video, key, expression, times):
    """Returns predictions bool [T, H, W], the number of annotations on each pixel uint8, and the pixels of all objects."""
    where = f"{video}/{key}"
    prediction = np.stack([case.inputs[f"{where}/pred/{t}"] > 0 for t in times])
    counts = np.zeros(prediction.shape, np.uint8)
    for k in range(len(expression["anno_id"])):
        counts += np.stack([case.inputs[f"{where}/gt_anno{k}/{t}"] for t in times])
    foreground = np.stack([case.inputs[f"{video}/foreground/{t}"] for t in times])
    return prediction, counts, foreground


@pytest.mark.golden("metrics", r"revos.*")
def test_revos(case):
    """The "released" rules reproduce the published script exactly; the "official" ones treat masks as boolean."""
    rows, rows_of_bits, official = [], [], []
    released = ReVosScores(rules="released")
    names = {0: "referring", 1: "reasoning", 2: "absent"}
    for video, record in case.meta["expressions"].items():
        for key, expression in record["expressions"].items():
            clip = read_video(case, video, key, expression, range(len(record["frames"])))
            prediction, counts, foreground = clip
            released.update(prediction, counts > 0, foreground, names[expression["type_id"]], counts)
            scores = ReVosScores()
            scores.update(prediction, counts > 0, foreground > 0)
            values = scores.compute()
            for results, drawn in ((rows, np.uint8(255)), (rows_of_bits, np.uint8(1))):
                frames = list(zip(prediction * drawn, counts, foreground, strict=True))
                results.append(
                    [
                        values["j"],
                        values["f"],
                        np.mean([released_accuracy(p, c) for p, c, _ in frames]),
                        np.mean([released_robustness(*frame) for frame in frames]),
                    ]
                )
            if counts.max(initial=0) <= 1:
                official.append((len(rows) - 1, [values["a"], values["r"]]))
    case.compare("JFAR", np.array(rows))
    case.compare("JFAR_pred01", np.array(rows_of_bits))
    where, result = zip(*official, strict=True)
    case.compare("A and R of the official rule", np.array(result), case.outputs["JFAR_pred01"][list(where), 2:])
    computed = released.compute()
    for group, suffix in (("referring", "/referring"), ("reason", "/reasoning"), ("overall", "")):
        for name, value in case.meta["expected"]["aggregate"][group].items():
            case.compare(f"{group} {name}", 100 * computed[name.lower() + suffix], np.float64(value))
    case.check()


@pytest.mark.golden("metrics", r"davis_unsupervised.*")
def test_davis_unsupervised(case):
    target, prediction, void = (case.inputs[name] > 0 for name in ("gt", "pred", "void"))
    objects = np.arange(len(target))
    for suffix, proposals in (("", prediction), ("_short", prediction[:2])):
        padded = np.concatenate([proposals, np.zeros((max(len(target) - len(proposals), 0), *target.shape[1:]), bool)])
        j, f = object_values(padded, target, void)
        chosen = match_proposals(j, f)
        by_proposal = np.argsort(chosen)  # the tool lists objects in the order of their proposals
        case.compare(f"J{suffix}", j[chosen, objects][by_proposal])
        case.compare(f"F{suffix}", f[chosen, objects][by_proposal])
    j, f = object_values(padded, target)  # recorded for the two proposals, without void
    case.compare("J_semi", j[objects, objects])
    case.compare("F_semi", f[objects, objects])
    scores = DavisScores("unsupervised")
    scores.update(prediction, target, void)
    for name, value in case.meta["expected"].items():
        case.compare(f"mean {name}", scores.compute()[name.lower()], np.float64(value))
    case.check()


@pytest.mark.golden("metrics", r"davis_object_merge.*")
def test_davis_object_merge(case):
    soft = case.inputs["soft_masks"]
    case.compare("labels_soft", merge_soft(soft))
    case.compare("labels_hard", merge_hard(soft > 0.5))
    case.check()


@pytest.mark.golden("seem", r"metrics.*")
def test_seem_metrics(case):
    clicks = ClickScores(limit=case.config["max_clicks"], at=(case.config["iou_iter"],))
    for ious in case.inputs["mask_iou"]:
        clicks.update(list(ious))  # float32, like the script's threshold comparison
    result = clicks.compute()
    names = ["noc@50", "noc@80", "noc@85", "noc@90", f"iou@{case.config['iou_iter']}"]
    case.compare("noc", np.array([result[name] for name in names]))
    scores = ReferringScores()
    for logits, expected in zip(case.inputs["grounding_logits"], case.inputs["grounding_gt"], strict=True):
        scores.update(logits > 0, expected > 0)
    result = scores.compute()
    case.compare("grounding_cIoU_mIoU", 100 * np.array([result["ciou"], result["giou"]]))
    for least in PRECISIONS:
        name = f"precision@{least}"
        case.compare(name, 100 * result[name], np.float64(case.meta["grounding"][name]))
    case.check()


@pytest.mark.golden("ifseg", r"metrics.*")
def test_ifseg_metrics(case):
    count = case.config["num_classes"]
    classes, scores = [str(k) for k in range(count)], SemanticScores()
    for k in range(len(case.config["sizes"])):
        prediction, target = case.inputs[f"scores{k}"].argmax(-1), case.inputs[f"label{k}"]
        one, ignore = SemanticScores(), target >= count
        for output in (one, scores):
            output.update(prediction, np.where(ignore, 0, target), classes, ignore)
        areas = np.array([one.state()["sums"].get(name, [0, 0, 0]) for name in classes]).T
        case.compare(f"area_intersect{k}", areas[0])
        case.compare(f"area_label{k}", areas[1])
        case.compare(f"area_pred_label{k}", areas[2])
        case.compare(f"area_union{k}", areas[1] + areas[2] - areas[0])
    ious, result = scores.by_class(), scores.compute()
    case.compare("per_class_iou", np.array([ious.get(name, -1) for name in classes]))
    rounded = np.round([result["aacc"], result["miou"], result["macc"]], 4)
    case.compare("summary_aAcc_mIoU_mAcc", rounded)
    halves = harmonic_mean(ious, [str(k) for k in case.config["unseen"]])
    case.compare("derived_seen_unseen_harmonic", np.array([halves["seen"], halves["unseen"], halves["harmonic"]]))
    case.check()
