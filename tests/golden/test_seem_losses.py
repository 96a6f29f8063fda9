"""SEEM's criterion and a training step against the published system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from real_vocabulary import CLIP_END, write_clip
from sample_inputs import masks_to_planes
from seem_model import CaseModel, marked_pixels, normalize_image

from hyperseg_jax.decoders import seem
from hyperseg_jax.decoders.marks import MarkedPoints
from hyperseg_jax.losses import MaskTargets, PointDraws, match_targets
from hyperseg_jax.losses.points import pack_segments
from hyperseg_jax.losses.stage_masks import StageMasks
from hyperseg_jax.structs import MaskPrediction
from hyperseg_jax.systems.seem import criterion, inputs, objective, texts
from hyperseg_jax.systems.seem import model as seem_model
from hyperseg_jax.systems.seem.criterion import MARKS, OBJECTS, PHRASES
from hyperseg_jax.systems.seem.objective import Rounds
from hyperseg_jax.systems.seem.rounds import Choices, Marks, answer_marks, round_prompts
from hyperseg_jax.tables import flatten, unflatten
from hyperseg_jax.text.tokenizer import Tokenizer

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
    """Reads the recorded random points of a case in the order of use, from the final prediction to the first."""

    def __init__(self, read, start=0):
        self.read, self.next = read, start

    def take(self):
        self.next += 1
        return self.read[f"draw.{self.next - 1:03d}"]

    def take_stage(self, targets):
        """Returns the matching points, candidates and further points of a stage by kind; those of matched masks in the order of
        matching."""
        result = {}
        for kind in ORDER:
            images = len(targets[OBJECTS].valid)
            matching = np.concatenate([self.take() for _ in range(images)])
            result[kind] = np.repeat(matching, len(targets[kind].valid) // images, axis=0), self.take(), self.take()
        return result


def place_draws(drawn, valid, query_of_target):
    """Returns the PointDraws of a stage: moves the draws of matched masks, which are ordered by row and query, to the targets.
    Without matched queries, only the matching points are set."""
    matching, *of_masks = drawn
    if query_of_target is None:
        return PointDraws(matching, *(np.zeros((*valid.shape, *points.shape[1:]), np.float32) for points in of_masks))
    order = [(b, n) for b, queries in enumerate(query_of_target) for n in np.argsort(queries, kind="stable") if valid[b, n]]
    placed = [np.zeros((*valid.shape, *points.shape[1:]), np.float32) for points in of_masks]
    for out, points in zip(placed, of_masks, strict=True):
        for target, of_mask in zip(order, points, strict=True):
            out[target] = of_mask
    return PointDraws(matching, *placed)


def match_with(criterion_of_kind, prediction, targets, draws):
    """Returns the query of each target in one stage, [B, N]. prediction: (mask logits, scores) of the stage."""
    masks, scores = prediction
    cost = criterion_of_kind.cost(StageMasks(masks), scores, targets, draws, pack_segments(targets.segments))
    return np.asarray(match_targets(cost[None], targets.valid)[0])


def place_all(criteria, predictions, targets, draws, stages):
    """Returns the PointDraws of all stages by kind, the final prediction last."""
    result = {}
    for kind in ORDER:
        outputs = [*((stage["mask_logits"], stage["scores"]) for stage in predictions[kind].stages)]
        outputs.append((predictions[kind].mask_logits, predictions[kind].scores))
        placed = []
        for k in range(stages):
            drawn, valid = draws[stages - 1 - k][kind], np.asarray(targets[kind].valid)
            queries = match_with(criteria[kind], outputs[k], targets[kind], place_draws(drawn, valid, None))
            placed.append(place_draws(drawn, valid, queries))
        result[kind] = jax.tree.map(lambda *leaves: np.stack(leaves), *placed)
    return result


def read_targets(read, images, num_prompts, names, phrase_kinds, groups):
    """Returns the targets of a case by kind. names: formats of its masks by kind, of the image."""
    masks = {kind: [read[names[kind].format(b)] for b in range(images)] for kind in LOSSES}
    labels = [read[names["labels"].format(b)] for b in range(images)]
    marks = pad_rows(masks[MARKS], num_prompts).reshape(-1, 1, *masks[MARKS][0].shape[1:])
    kinds = {"sentence": [kind == "text" for kind in phrase_kinds], "name": [kind == "class" for kind in phrase_kinds]}
    return {
        OBJECTS: make_targets(masks[OBJECTS], labels, {"class": [True] * images}),
        PHRASES: make_targets(masks[PHRASES], [np.asarray(of_image) for of_image in groups], kinds),
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
    draws = Draws(read)
    draws = [draws.take_stage(targets) for _ in range(stages)]
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
        losses = {kind: criteria[kind](predictions[kind], targets[kind], draws=placed[kind]) for kind in ORDER}
        costs = {}
        for kind in ORDER:
            one = predictions[kind]
            costs[kind] = criteria[kind].cost(
                StageMasks(one.mask_logits),
                one.scores,
                targets[kind],
                jax.tree.map(lambda leaf: leaf[-1], placed[kind]),
                pack_segments(targets[kind].segments),
            )
        return sum(each.total for each in losses.values()), (losses, costs)

    outputs = {name: value for name, value in read.items() if name.startswith("layer")}
    placed = place_all(criteria, jax.jit(predict)(outputs), targets, draws, stages)
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


def pad_sides(masks, multiple=32):
    return np.pad(masks, ((0, 0), (0, -masks.shape[1] % multiple), (0, -masks.shape[2] % multiple)))


def recorded_choices(case, decoder):
    """Returns the recorded queries and memory tokens of all rounds, of which the first has no memory, and the number of the
    first draw after them. Draws of subsets of the marked pixels are not needed: all pixels are in them."""
    kinds = [kind for kind, _ in case.meta["draws"]]
    first = [k for k, kind in enumerate(kinds) if kind == "randint"]
    read = lambda k: case.inputs[f"draw.{k:03d}"].astype(np.int32)
    slots = [np.zeros((decoder.num_layers, decoder.num_memories), np.int32)]
    slots += [np.stack([np.sort(read(k + 1 + layer)) for layer in range(decoder.num_layers)]) for k in first[1:]]
    return Choices(np.stack([read(k) for k in first]), np.stack(slots)), kinds.index("rand")


@pytest.mark.golden("seem", r"train_step.*")
def test_training_step(case, tmp_path):
    run, read = CaseModel(case), case.inputs
    images = len(case.meta["grounding_texts"])
    prompts = max(len(read[f"{b}.spatial_gt"]) for b in range(images))
    names = {OBJECTS: "{}.masks", PHRASES: "{}.grounding_masks", MARKS: "{}.spatial_gt", "labels": "{}.labels"}
    targets = read_targets(read, images, prompts, names, case.meta["grounding_mode"], case.meta["grounding_hash"])
    defaults = {"num_points": 64, "oversample": 3.0, "importance": 0.75, "eos_coef": 0.1}
    defaults["grounding_weight"] = {"text": 2.0, "class": 0.5}
    criteria = criterion.build_criteria(loss_config(defaults, case.config["weight_dict"]))
    choices, next_draw = recorded_choices(case, run.model.decoder)
    vocabulary = Tokenizer.load(write_clip(tmp_path / "clip"), eos=CLIP_END)
    context = run.config.model.text_encoder.context
    encoded = [[texts.text_ids(vocabulary, text, context) for text in of_image] for of_image in case.meta["grounding_texts"]]
    count = max(map(len, encoded))
    ids = np.stack([texts.pad_ids(of_image, count, context, vocabulary.eos_id) for of_image in encoded])
    present = np.stack([np.arange(count) < len(of_image) for of_image in encoded])
    size = tuple(-(-side // 32) * 32 for side in read["0.image"].shape[1:])
    fill = lambda masks: np.pad(masks, ((0, 0), (0, size[0] - masks.shape[1]), (0, size[1] - masks.shape[2]))) > 0
    drawn = pad_rows([fill(read[f"{b}.spatial_shape"]) for b in range(images)], prompts)
    marks = Marks(stack_points(drawn), jnp.asarray(drawn), jnp.zeros(drawn.shape, bool))
    pictures = np.concatenate([normalize_image(read[f"{b}.image"]) for b in range(images)])
    marked = targets[MARKS].masks.reshape(images, prompts, *targets[MARKS].segments.shape[2:])
    rounds = Rounds(marks, marked, choices, len(choices.slots) - 1)
    frozen = ("backbone/", "pixel_decoder/", "text_encoder/", "text_projection", "log_scale")
    flat = flatten(run.params)
    trained = {path: value for path, value in flat.items() if not path.startswith(frozen)}

    def predict(trained):
        params = unflatten(flat | trained)
        image = run.model.apply({"params": params}, pictures, method="encode_image")
        tokens, valid, phrases = inputs.encode_phrases(run.model, params, ids, present)
        prediction = objective.answer_prompts(run.model, params, image, objects=True, text=(tokens, valid), rounds=rounds)
        vectors = criterion.PromptVectors(read["text_embeddings"], phrases, params["log_scale"])
        return criterion.predictions_of(prediction, vectors, None), prediction

    found, prediction = jax.jit(predict)(trained)
    prompts_of = round_prompts(marks, choices, 0, np.zeros((images, prompts, 24, 32), np.float32), False)
    image = run.apply("encode_image", pictures)
    first = run.apply("decode", image, prompts_of, objects=False)
    rounds_masks = answer_marks(first).mask_logits
    case.compare("round0.prev_mask", rounds_masks)
    case.compare("final.pred_smaskembs", prediction.part(seem.MARK_QUERY).mask_embedding)
    case.compare("final.pred_gtexts", prediction.part(seem.TEXT_QUERY).class_embedding)
    stages, reader = len(prediction.stages), Draws(read, next_draw)
    placed = place_all(criteria, found, targets, [reader.take_stage(targets) for _ in range(stages)], stages)

    def loss(trained):
        predictions, _ = predict(trained)
        losses = {kind: criteria[kind](predictions[kind], targets[kind], draws=placed[kind]) for kind in ORDER}
        return sum(each.total for each in losses.values()), losses

    (total, losses), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(trained)
    case.compare("total", total.reshape(1))
    for k in range(stages):
        for kind, name in LOSSES.items():
            terms, weights = losses[kind].terms, criteria[kind].weights
            for term, short in (("mask", "bce"), ("dice", "dice")):
                case.compare(f"loss_{name}_{short}_{k}", weights[term] * terms[term][-1 - k].reshape(1))
            case.compare(f"loss_{name}_ce_{k}", sum(weights[score] * terms[score][-1 - k] for score in SCORES[kind]).reshape(1))
    compare_gradients(case, run, gradients)
    case.check()


def compare_gradients(case, run, gradients):
    """Compares the recorded gradients, and the norms of all."""
    table = seem_model.weight_table(run.config)
    zeros = {path: np.zeros_like(value) for path, value in flatten(run.params).items()}
    published = table.to_torch(unflatten(zeros | jax.tree.map(np.asarray, gradients)))
    for name in case.outputs:
        if name.startswith("grad."):
            case.compare(name, published[name.removeprefix("grad.")], kind="gradient")
    for name, norm in case.meta["grad_norms"].items():
        np.testing.assert_allclose(np.linalg.norm(published[name]), norm, rtol=1e-3, atol=1e-6, err_msg=name)


def stack_points(drawn):
    """Returns the marked pixels of masks [B, N, H, W] as points, for the mean features and for each level."""
    rows = [marked_pixels(masks, np.zeros_like(masks), masks.shape[1:])[0] for masks in drawn]
    length = max(row.prompt.shape[1] for row in rows)
    fill = {"points": 0, "prompt": -1, "positive": False}
    pad = lambda name, array: np.pad(
        array, ((0, 0), (0, length - array.shape[1]), *((0, 0),) * (array.ndim - 2)), constant_values=fill[name]
    )
    points = MarkedPoints(*(np.concatenate([pad(name, getattr(row, name)) for row in rows]) for name in fill))
    return (points,) * 4
