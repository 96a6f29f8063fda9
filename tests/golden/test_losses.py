"""The objective against InstructSeg's criterion (with gradients) and PSALM's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import recipe_uniform
from sample_inputs import masks_to_planes

from hyperseg_jax.losses import BalancedScores, ClassScores, MaskCriterion, MaskTargets, PointDraws
from hyperseg_jax.losses.points import pack_segments
from hyperseg_jax.losses.reidentification import choose_queries
from hyperseg_jax.losses.stage_masks import StageMasks
from hyperseg_jax.structs import MaskPrediction

NAMES = {"mask": "loss_mask", "dice": "loss_dice", "expression": "loss_SEG_class"}


def pad_rows(arrays, number):
    """Pads rows [n_b, ...] to [B, number, ...]."""
    return np.stack([np.concatenate([a, np.zeros((number - len(a), *a.shape[1:]), a.dtype)]) for a in arrays])


def make_targets(masks, kind, labels=None):
    """Returns MaskTargets of rows of one kind of prompt; masks: [n_b, H, W] of each row."""
    number = max(1, *(len(m) for m in masks))
    valid = np.stack([np.arange(number) < len(m) for m in masks])
    labels = pad_rows(labels, number) if labels else np.zeros(valid.shape, np.int32)
    supervised = {k: np.full(len(masks), k == kind) for k in ("expression", "class", "region")}
    return jax.tree.map(
        jnp.asarray,
        MaskTargets(**masks_to_planes(pad_rows(masks, number) > 0), valid=valid, labels=labels, supervised=supervised),
    )


def predict(stages):
    """Returns the outputs of a list of stages, of which the last is the final prediction."""
    return MaskPrediction(**stages[-1], stages=tuple(stages[:-1]))


def reorder_by_target(drawn, matched_targets, number):
    """Reorders the reference's random draws from matched pairs (by row and query) to target slots."""
    out = np.zeros((len(matched_targets), number, *drawn.shape[1:]), np.float32)
    slots = [(b, t) for b, targets in enumerate(matched_targets) for t in targets]
    for (b, t), one in zip(slots, drawn, strict=True):
        out[b, t] = one
    return out


@pytest.mark.golden("instructseg", r"criterion_.*")
def test_instructseg_criterion(case):
    config, batch = case.config, case.config["batch"]
    layers = case.meta["random_draws"]["per_layer"]
    layers = [*layers[1:], layers[0]]  # move the final prediction to the end
    order = [layer["layer"] for layer in layers]
    targets = make_targets([case.inputs[f"gt_masks_padded_{b}"] for b in range(batch)], "expression")
    number = targets.valid.shape[1]
    shapes = {call["name"]: call["shape"] for call in case.meta["random_draws"]["calls"]}
    pairs = {x: [case.outputs[f"match_tgt/{x}/{b}"] for b in range(batch)] for x in order}

    def drawn(name):
        return recipe_uniform(name, shapes[name])

    draws = PointDraws(
        matching=np.stack([np.concatenate([drawn(name) for name in layer["matcher_draws"]]) for layer in layers]),
        candidates=np.stack([reorder_by_target(drawn(x["oversample_draw"]), pairs[x["layer"]], number) for x in layers]),
        unselected=np.stack([reorder_by_target(drawn(x["random_draw"]), pairs[x["layer"]], number) for x in layers]),
    )
    size = [batch, config["queries"]]
    masks = {x: case.draw_input_as(f"pred_masks/{x}", [*size, *config["pred_mask_hw"]]) for x in order}
    scores = {x: case.draw_input_as(f"pred_SEG_logits/{x}", [*size, 1]) for x in order}
    for x in order:
        if f"pred_masks/{x}" in case.inputs:
            np.testing.assert_array_equal(masks[x], case.inputs[f"pred_masks/{x}"])
            np.testing.assert_array_equal(scores[x], case.inputs[f"pred_SEG_logits/{x}"])
    weights, costs_of = config["weights"], config["matcher_cost_weights"]
    criterion = MaskCriterion(
        {"expression": BalancedScores(weights[NAMES["expression"]])},
        num_points=config["num_points"],
        oversample=config["oversample_ratio"],
        importance=config["importance_sample_ratio"],
        mask_weight=weights[NAMES["mask"]],
        dice_weight=weights[NAMES["dice"]],
        match_mask_weight=costs_of["mask"],
        match_dice_weight=costs_of["dice"],
    )

    def loss(masks, scores):
        stages = [{"mask_logits": masks[x], "scores": {"expression": scores[x][..., 0]}} for x in order]
        losses = criterion(predict(stages), targets, draws=draws)
        patches = pack_segments(targets.segments)
        costs = [
            criterion.cost(
                StageMasks(stage["mask_logits"]), stage["scores"], targets, jax.tree.map(lambda a, i=i: a[i], draws), patches
            )
            for i, stage in enumerate(stages)
        ]
        return losses.total, (losses, costs)

    (total, (losses, costs)), (d_masks, d_scores) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(masks, scores)
    case.compare("total", np.reshape(total, 1))
    for s, x in enumerate(order):
        suffix = "" if x == "final" else f"_{x.removeprefix('aux')}"
        for kind, name in NAMES.items():
            case.compare(f"unweighted/{name}{suffix}", losses.terms[kind][s].reshape(1))
        for b in range(batch):
            if f"cost_total/{x}/{b}" in case.outputs:
                count = case.outputs[f"cost_total/{x}/{b}"].shape[1]
                case.compare(f"cost_total/{x}/{b}", np.asarray(costs[s][b])[:, :count])
            compare_pairs(case, np.asarray(losses.query_of_target[s, b]), f"match_src/{x}/{b}", f"match_tgt/{x}/{b}")
        case.compare(f"grad_SEG_logits/{x}", d_scores[x], kind="gradient")
        case.compare(f"grad_masks_abs_sum/{x}", np.abs(d_masks[x]).sum().reshape(1), kind="gradient")
        if f"grad_masks/{x}" in case.outputs:
            case.compare(f"grad_masks/{x}", d_masks[x], kind="gradient")
        if f"grad_masks_matched/{x}" in case.outputs:
            matched = [d_masks[x][b, case.outputs[f"match_src/{x}/{b}"]] for b in range(batch)]
            case.compare(f"grad_masks_matched/{x}", np.concatenate(matched), kind="gradient")
    for kind, name in NAMES.items():
        weighted = criterion.weights[kind] * losses.terms[kind].sum()
        case.compare(f"weighted_sum/{name}", weighted.reshape(1))
    inner = ("cost_mask/", "cost_dice/", "loss_point_coords")  # compared through the total cost and the losses
    case.check(skipped=[name for name in case.outputs if name.startswith(inner)])


def compare_pairs(case, query_of_target, source, target):
    """Compares the matched pairs, sorted by query like the reference's."""
    matched = np.flatnonzero(query_of_target >= 0)
    matched = matched[np.argsort(query_of_target[matched])]
    case.compare(target, matched)
    case.compare(source, query_of_target[matched])


@pytest.mark.golden("hyperseg", r"psalm_losses.*")
@pytest.mark.parametrize("kind", ["seg", "class", "region"])
def test_psalm_losses(case, kind):
    read = case.inputs
    score, name = {
        "seg": ("expression", "loss_SEG_class"),
        "class": ("class", "loss_class_name_class"),
        "region": ("region", "loss_region_class"),
    }[kind]
    count = 1 if kind == "seg" else None  # the expression names the first target
    batch, stages = range(read["pred_masks"].shape[1]), range(len(read["pred_masks"]))
    masks = [read[f"gt_masks_{b}"][:count] for b in batch]
    labels = [np.arange(len(masks[b]), dtype=np.int32) if kind == "region" else read[f"gt_labels_{b}"][:count] for b in batch]
    targets = make_targets(masks, score, labels)
    number = targets.valid.shape[1]
    if kind == "seg":
        scores = {"expression": read["pred_SEG_logits"][..., 0]}
    elif kind == "class":
        scores = {"class": read["pred_class_name_logits"]}
    else:
        regions = [read[f"pred_region_logits_{b}"] for b in batch]  # [S, R_b, Q]
        most = max(r.shape[1] for r in regions)
        targets = targets.replace(columns={"region": jnp.stack([jnp.arange(most) < r.shape[1] for r in regions])})
        padded = [np.pad(r, ((0, 0), (0, most - r.shape[1]), (0, 0)), constant_values=7.0) for r in regions]
        scores = {"region": np.stack(padded, 1).transpose(0, 1, 3, 2)}
    predictions = [{"mask_logits": read["pred_masks"][s], "scores": {k: v[s] for k, v in scores.items()}} for s in stages]
    suffixes = {**{f"aux{s}": f"_{s}" for s in stages[:-1]}, "final": ""}
    pairs = {x: [case.outputs[f"{kind}_{x}_match_target_{b}"] for b in batch] for x in suffixes}
    points = np.stack([reorder_by_target(read[f"{kind}_{x}_loss_points"], pairs[x], number) for x in suffixes])
    draws = PointDraws(
        matching=np.stack([np.concatenate([read[f"{kind}_{x}_match_points_{b}"] for b in batch]) for x in suffixes]),
        candidates=points[..., :0, :],
        unselected=points,
    )
    config = case.config
    classes = ClassScores(background=config["no_object_class_weight"], matching=config["cost_class"])
    criterion = MaskCriterion(
        {"expression": BalancedScores(), "class": classes, "region": BalancedScores()},
        num_points=config["num_points"],
        oversample=config["oversample_ratio"],
        importance=config["importance_sample_ratio"],
        match_mask_weight=config["cost_mask"],
        match_dice_weight=config["cost_dice"],
    )
    losses = jax.jit(lambda stages: criterion(predict(stages), targets, draws=draws))(predictions)
    for s, (x, suffix) in enumerate(suffixes.items()):
        for ours, theirs in (("mask", "loss_mask"), ("dice", "loss_dice"), (score, name)):
            case.compare(f"{kind}_{theirs}{suffix}", losses.terms[ours][s].reshape(1))
        for b in batch:
            names_of = (f"{kind}_{x}_match_{what}_{b}" for what in ("query", "target"))
            compare_pairs(case, np.asarray(losses.query_of_target[s, b]), *names_of)
    case.check(skipped=[name for name in case.outputs if not name.startswith(f"{kind}_")])


@pytest.mark.golden("hyperseg", r"reid_pos_neg.*")
def test_reidentification_targets(case):
    read = case.inputs
    args = [jnp.asarray(read[name]) for name in ("boxes", "class_prob", "gt_boxes", "gt_labels")]
    choose = jax.jit(choose_queries)
    everything = choose(*args, jnp.ones(len(read["gt_labels"]), bool))
    case.compare("pos", everything.positive)
    case.compare("not_neg", ~everything.negative)
    for name in (name for name in case.outputs if name.startswith("pos_with_gt")):
        absent = int(name.removeprefix("pos_with_gt").removesuffix("_invalid"))
        case.compare(name, choose(*args, jnp.arange(len(read["gt_labels"])) != absent).positive)
    case.check()
