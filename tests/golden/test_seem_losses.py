"""SEEM's criterion and a training step against the published system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from sample_inputs import masks_to_planes

from hyperseg_jax.decoders import seem
from hyperseg_jax.losses import MaskTargets, PointDraws
from hyperseg_jax.losses.points import pack_segments
from hyperseg_jax.losses.stage_masks import StageMasks
from hyperseg_jax.structs import MaskPrediction
from hyperseg_jax.systems.seem import criterion
from hyperseg_jax.systems.seem.criterion import MARKS, OBJECTS, PHRASES

LOSSES = {OBJECTS: "mask", PHRASES: "grounding", MARKS: "spatial"}
SCORES = {OBJECTS: ("class",), PHRASES: ("sentence", "name"), MARKS: ("mark",)}
ORDER = (OBJECTS, MARKS, PHRASES)
"""Of the random draws of a stage."""


def loss_config(config, weights):
    """Returns config.loss with the weights of a case."""
    shared = {"num_points": config["num_points"], "oversample": config["oversample"], "importance": config["importance"]}
    of_kind = {
        kind: {name: weights[f"loss_{LOSSES[kind]}_{short}_0"] for name, short in (("mask", "bce"), ("dice", "dice"))}
        for kind in LOSSES
    }
    for kind, names in SCORES.items():
        for name in names:
            factor = {"sentence": "text", "name": "class"}.get(name)
            of_kind[kind][name] = weights[f"loss_{LOSSES[kind]}_ce_0"] * (config["grounding_weight"][factor] if factor else 1.0)
    return ConfigDict({"loss": {**shared, "points": "per_mask", "background": config["eos_coef"], **of_kind}})


def pad_rows(arrays, number):
    """Pads rows [n_b, ...] to [B, number, ...]."""
    return np.stack([np.concatenate([a, np.zeros((number - len(a), *a.shape[1:]), a.dtype)]) for a in arrays])


def make_targets(masks, labels, supervised, number=None):
    """Returns MaskTargets of rows; masks: [n_b, H, W] of each. Empty masks are not valid."""
    number = number or max(len(m) for m in masks)
    padded = pad_rows(masks, number) > 0
    rows = {name: np.asarray(flags) for name, flags in supervised.items()}
    return jax.tree.map(
        jnp.asarray,
        MaskTargets(
            **masks_to_planes(padded),
            valid=padded.any((2, 3)),
            labels=pad_rows(labels, number).astype(np.int32),
            supervised=rows,
        ),
    )


class Draws:
    """Reads the recorded random points of a case in the order of use, from the final prediction to the first.

    pairs(kind) returns the next matched pairs of all rows: (row, target) in the order of their draws.
    """

    def __init__(self, read, start=0):
        self.read, self.next = read, start

    def take(self):
        self.next += 1
        return self.read[f"draw.{self.next - 1:03d}"]

    def take_stage(self, targets, pairs):
        """Returns the PointDraws of a stage, by kind. pairs: by kind, the (row, target) of each matched mask in the order of
        their draws."""
        result = {}
        for kind in ORDER:
            valid, images = targets[kind].valid, len(targets[OBJECTS].valid)
            matching = np.concatenate([self.take() for _ in range(images)])
            drawn = []
            for _ in range(2):
                points = self.take()
                drawn.append(np.zeros((*valid.shape, *points.shape[1:]), np.float32))
                for pair, of_mask in zip(pairs[kind], points, strict=True):
                    drawn[-1][pair] = of_mask
            result[kind] = PointDraws(np.repeat(matching, len(valid) // images, axis=0), *drawn)
        return result


def read_targets(read, images, num_prompts, names, phrase_kinds, texts):
    """Returns the targets of a case by kind. names: formats of its masks by kind, of the image."""
    masks = {kind: [read[names[kind].format(b)] for b in range(images)] for kind in LOSSES}
    labels = [read[names["labels"].format(b)] for b in range(images)]
    marks = pad_rows(masks[MARKS], num_prompts).reshape(-1, 1, *masks[MARKS][0].shape[1:])
    kinds = {"sentence": [kind == "text" for kind in phrase_kinds], "name": [kind == "class" for kind in phrase_kinds]}
    return {
        OBJECTS: make_targets(masks[OBJECTS], labels, {"class": [True] * images}),
        PHRASES: make_targets(masks[PHRASES], [np.asarray(of_image) for of_image in texts], kinds),
        MARKS: make_targets(marks, [np.zeros(1)] * len(marks), {"mark": [True] * len(marks)}),
    }


@pytest.mark.golden("seem", r"criterion.*")
def test_criterion(case):
    read, images, stages = (
        case.inputs,
        len(case.meta["grounding_task"]),
        1 + max(int(n[5]) for n in case.inputs if n[:5] == "layer"),
    )
    prompts = read["layer0.pred_pspatials"].shape[1]
    names = {OBJECTS: "target{}.masks", PHRASES: "target{}.grounding_masks", MARKS: "target{}.gt_spatial_masks"}
    names["labels"] = "target{}.labels"
    targets = read_targets(read, images, prompts, names, case.meta["grounding_task"], case.meta["grounding_hash"])
    criteria = criterion.build_criteria(loss_config(case.config, case.config["weight_dict"]))
    matches = iter(case.outputs[name] for name in sorted(case.outputs) if name.startswith("match."))
    draws, by_stage, recorded = Draws(read), [], []
    for _ in range(stages):
        recorded.append({kind: [next(matches) for _ in range(images)] for kind in ORDER})
        pairs = {
            kind: [(b, n) for b, (_, of_image) in enumerate(of_kind) for n in of_image]
            for kind, of_kind in recorded[-1].items()
        }
        rows = [(b * prompts + n, 0) for b, n in pairs[MARKS]]
        pairs[MARKS] = [row for row in rows if targets[MARKS].valid[row]]
        by_stage.insert(0, draws.take_stage(targets, pairs))
    vectors = criterion.PromptVectors(
        None,
        pad_rows([read[f"target{b}.grounding_class_embs"] for b in range(images)], targets[PHRASES].valid.shape[1]),
        case.config["logit_scale"],
    )

    def predict(outputs):
        stage = lambda k: {
            name: outputs[f"layer{k}.pred_{name}"]
            for name in ("logits", "masks", "gmasks", "gtexts", "smasks", "smaskembs", "pspatials")
        }
        text = lambda x: seem.SeemStage(None, x["gmasks"], x["gmasks"], x["gtexts"])
        mark = lambda x: seem.SeemStage(None, x["smasks"], x["smaskembs"], x["smaskembs"])
        of_kind = {
            OBJECTS: lambda x: {"mask_logits": x["masks"], "scores": {"class": x["logits"]}},
            PHRASES: lambda x: {"mask_logits": x["gmasks"], "scores": criterion.phrase_scores(text(x), vectors)},
            MARKS: lambda x: {"mask_logits": x["smasks"], "scores": criterion.mark_scores(mark(x), x["pspatials"])},
        }
        result = {}
        for kind, convert in of_kind.items():
            *earlier, last = [convert(stage(k)) for k in range(stages)]
            result[kind] = MaskPrediction(**last, stages=tuple(earlier))
        result[MARKS] = criterion.by_prompt(result[MARKS], prompts)
        return result

    def loss(outputs):
        predictions = predict(outputs)
        stacked = lambda kind: jax.tree.map(lambda *x: np.stack(x), *(draws[kind] for draws in by_stage))
        losses = {kind: criteria[kind](predictions[kind], targets[kind], draws=stacked(kind)) for kind in ORDER}
        costs = {}
        for kind in ORDER:
            one = predictions[kind]
            costs[kind] = criteria[kind].cost(
                StageMasks(one.mask_logits),
                one.scores,
                targets[kind],
                by_stage[-1][kind],
                pack_segments(targets[kind].segments),
            )
        return sum(each.total for each in losses.values()), (losses, costs)

    outputs = {name: value for name, value in read.items() if name.startswith("layer")}
    (total, (losses, costs)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(outputs)
    case.compare("total_weighted", total.reshape(1))
    for k in range(stages):
        for kind, name in LOSSES.items():
            terms, weights = losses[kind].terms, criteria[kind].weights
            for term, short in (("mask", "bce"), ("dice", "dice")):
                case.compare(f"loss_{name}_{short}_{k}", terms[term][-1 - k].reshape(1))
            ce = sum(weights[score] * terms[score][-1 - k] for score in SCORES[kind])
            case.compare(f"loss_{name}_ce_{k}", ce.reshape(1) / case.config["weight_dict"][f"loss_{name}_ce_0"])
    number = 0
    for k in range(stages):
        for kind in ORDER:
            found = np.asarray(losses[kind].query_of_target[-1 - k]).reshape(images, -1)
            for b in range(images):
                pairs = np.stack([found[b], np.arange(len(found[b]))])[:, found[b] >= 0]
                if kind == MARKS:
                    pairs[0] += pairs[1] * (read["layer0.pred_smasks"].shape[1] // prompts)
                expected = case.outputs[f"match.{number:02d}"]
                if kind == MARKS:  # the published code also matches empty masks
                    kept = np.asarray(targets[MARKS].valid).reshape(images, -1)[b, expected[1]]
                    expected = expected[:, kept]
                case.compare(f"match.{number:02d}", pairs[:, np.argsort(pairs[0])], expected)
                number += 1
    compare_costs(case, costs, images, prompts)
    for k in range(stages):
        means = sum(gradients[f"layer{k}.pred_pspatials"] for k in range(stages))  # one tensor for all stages
        case.compare(f"grad.layer{k}.pred_pspatials", means, kind="gradient")
        for name in ("logits", "gtexts", "smaskembs"):
            case.compare(f"grad.layer{k}.pred_{name}", gradients[f"layer{k}.pred_{name}"], kind="gradient")
        for name in ("masks", "gmasks", "smasks"):
            case.compare(
                f"gradabsum.layer{k}.pred_{name}", np.abs(gradients[f"layer{k}.pred_{name}"]).sum().reshape(1), kind="gradient"
            )
    case.check()


def compare_costs(case, costs, images, prompts):
    """Compares the costs of the final prediction; those of other prompts are infinite."""
    for number, name in enumerate(name for name in sorted(case.outputs) if name.startswith("cost.")):
        kind, b = ORDER[number // images], number % images
        expected, cost = case.outputs[name], np.asarray(costs[kind])
        if kind == MARKS:
            blocks = cost.reshape(images, prompts, -1)[b]
            cost = np.full((prompts * blocks.shape[1], prompts), 1e30, np.float32)
            for n, block in enumerate(blocks):
                cost[n * len(block) : (n + 1) * len(block), n] = block
            case.compare(name, cost[:, : expected.shape[1]], expected)
        else:
            case.compare(name, cost[b, :, : expected.shape[1]])
