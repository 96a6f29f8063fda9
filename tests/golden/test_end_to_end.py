"""HyperSeg end to end: from token ids and pixels to scores, post-processed masks and answers."""

import re

import flax.linen as nn
import jax
import numpy as np
import pytest
from case_answers import case_geometry, compute_answers
from case_model import CaseModel, layout_from_case
from golden_case import subsample
from import_weights import channels_last

from hyperseg_jax.decoders.mask2former import MaskedAttentionDecoder
from hyperseg_jax.ops.sampling import resize_bilinear
from hyperseg_jax.structs import Source


@pytest.mark.golden("hyperseg", r"e2e_.*")
def test_end_to_end(case):
    model = CaseModel(case)
    for prefix, result, layout in run_frames(case, model):
        compare(case, prefix, result, layout)
    case.check(skipped=["region_points_yx"])


@pytest.mark.golden("hyperseg", r"e2e_referring_tiny.*")
def test_given_attention_masks(case):
    """The fallback for flipped bits: the case's attention masks give the case's outputs, and other masks do not."""
    model = CaseModel(case)
    ((_, result, layout),) = run_frames(case, model, attention="given")
    compare(case, "", result, layout)
    case.check(skipped=[name for name in case.outputs if name.startswith("attn_mask")])
    for name in case.outputs:
        if name.startswith("attn_mask"):
            case.outputs[name] = ~case.outputs[name]
    ((_, other, _),) = run_frames(case, model, attention="given")
    assert np.abs(other.prediction.mask_logits - result.prediction.mask_logits).max() > 0.1


FIRST_ROW_ONLY = ("padding_mask", "out_hw", "best_query")  # arrays of the first row only


@pytest.mark.golden("hyperseg", r"e2e_(region|referring)_tiny.*")
def test_two_rows(case):
    """A case with every row twice: all rows are compared."""
    for arrays in (case.inputs, case.outputs):
        for name, array in [*arrays.items()]:
            if name == "token_refer_id":
                arrays |= {f"{name}_{row}": array for row in range(2)}
            elif name in ("region_masks", "region_points_yx", "region_embedding", "pred_region_logits"):
                arrays[name] = np.stack([array, array])
            elif len(array) == 1 and name not in FIRST_ROW_ONLY:
                arrays[name] = np.concatenate([array, array])
    case.inputs.pop("token_refer_id", None)
    ((_, result, layout),) = run_frames(case, CaseModel(case))
    compare(case, "", result, layout)
    case.check(skipped=["region_points_yx"])
    rows, notes = [*case.rows], [*case.notes]
    for name in {"pred_masks", "pred_region_logits"} & case.outputs.keys():  # a wrong second row is detected
        case.rows.clear()
        case.outputs[name][1] += 1.0
        compare(case, "", result, layout)
        assert [error > tolerance for what, error, tolerance in case.rows if what == name] == [True]
    case.rows[:], case.notes[:] = rows, notes


@pytest.mark.golden("hyperseg", r"e2e_.*_tiny.*")
def test_bfloat16(case):
    """Reports the difference between bfloat16 and the published float32 outputs. Unrelated outputs differ by 1.4 standard
    deviations."""
    for prefix, output, _ in run_frames(case, CaseModel(case, compute="bfloat16"), "unchecked"):
        target, masks = case.outputs[f"{prefix}pred_masks"], output.prediction.mask_logits
        name = next(n for n in case.outputs if n.startswith(f"{prefix}pred_") and n.endswith("_logits"))
        kind = {"SEG": "expression", "class": "class", "region": "region"}[name.removeprefix(f"{prefix}pred_").split("_")[0]]
        scores, expected = output.prediction.scores[kind], case.outputs[name]
        expected = (np.swapaxes(expected, -1, -2) if kind == "region" else expected).reshape(scores.shape)
        both, either = ((masks > 0) & (target > 0)).sum((-2, -1)), ((masks > 0) | (target > 0)).sum((-2, -1))
        iou = np.where(either > 0, both / np.maximum(either, 1), 1.0)
        distance = lambda ours, theirs: float(np.sqrt(np.mean((ours - theirs) ** 2)) / theirs.std())
        result = {
            "mask logits": distance(masks, target),
            "scores": distance(scores, expected),
            "mean IoU": float(iou.mean()),
            "median IoU": float(np.median(iou)),
        }
        case.measured.append((prefix.rstrip("_"), result))
        assert 1e-4 < result["mask logits"] < 0.5 and result["median IoU"] > 0.8, result


def run_frames(case, model, attention="own"):
    """Yields (prefix of its outputs, HyperSegOutput, layout) of each frame, with the memory of the previous frame.

    attention: "own" runs with the masks of our logits and compares them. If a bit differs (within tolerance, else the case
    fails), the frame runs again with the case's masks, since a flipped bit changes its query in all later layers. "given"
    runs with the case's masks only, "unchecked" with our own only.
    """
    length = next(v.shape[1] for k, v in case.outputs.items() if k.endswith("layout_labels"))
    layout, classes = layout_from_case(case, model.counts, length)
    regions, points = case.inputs.get("region_masks"), case.outputs.get("region_points_yx")

    def forward(params, image, clip_image, query, attention):
        def replace_attention(call, args, kwargs, context):
            decoding = isinstance(context.module, MaskedAttentionDecoder) and context.method_name == "__call__"
            if attention is not None and decoding:
                kwargs = kwargs | {"attention_masks": attention}
            return call(*args, **kwargs)

        with nn.intercept_methods(replace_attention):
            return model.model.apply(
                {"params": params},
                image,
                clip_image,
                layout,
                num_classes=classes,
                fine_grained_query=query,
                regions=None if regions is None else with_row_axis(regions, 3)[:, None] > 0,
                region_points=None if points is None else with_row_axis(points, 3)[:, None, ..., ::-1],
            )

    run, query = jax.jit(forward), None
    numbers = [match[1] for name in case.inputs if (match := re.fullmatch(r"image(\d*)", name))]
    for number in sorted(numbers, key=lambda text: int(text or 0)):
        prefix = f"frame{number}_" if number else ""
        inputs = (channels_last(case.inputs[f"image{number}"]), channels_last(case.inputs[f"image_clip{number}"]), query)
        result = None
        if attention != "given":
            result = jax.device_get(run(model.params, *inputs, None))
        if attention == "given" or (attention == "own" and not compare_attention(case, prefix, result)):
            result = jax.device_get(run(model.params, *inputs, given_attention(case, prefix)))
        query = result.next_query
        yield prefix, result, layout


def with_row_axis(array, dimensions):
    """Returns an array with a leading row axis, which cases of one row may omit. dimensions: rank of one row."""
    return array if array.ndim > dimensions else array[None]


def given_attention(case, prefix):
    """The case's attention masks, one bool [B, Q, h * w] a layer; the levels alternate, at strides 32, 16 and 8."""
    height, width = next(value.shape[-2:] for name, value in case.inputs.items() if name in ("image", "image0"))
    packed = [name for name in case.outputs if name.startswith(f"{prefix}attn_mask_")]
    sizes = [-(-height // stride) * -(-width // stride) for stride in (32, 16, 8)]
    return tuple(
        np.unpackbits(case.outputs[f"{prefix}attn_mask_{i}_packedbits"], axis=-1, count=sizes[i % 3]) > 0
        for i in range(len(packed))
    )


def compare_attention(case, prefix, result):
    """Returns whether all attention masks equal the case's. Stops comparing after the first that differs."""
    allowed = case.sign_tolerance((name for name in case.outputs if name.startswith(f"{prefix}pred_masks")), floors=10)
    for i, expected in enumerate(given_attention(case, prefix)):
        stage = result.prediction.stages[i]
        logits = np.moveaxis(np.asarray(stage["mask_logits"]), 1, -1)
        size = [-(-n // (8, 4, 2)[i % 3]) for n in logits.shape[1:3]]
        logits = np.moveaxis(np.asarray(resize_bilinear(logits, tuple(size))), -1, 1).reshape(expected.shape)
        if case.compare_signs(f"{prefix}attn_mask_{i}_packedbits", stage["attention_mask"], expected, logits, allowed):
            return False
    return True


def packed_masks(case, prefix, geometry):
    """The case's masks of all queries at the size of the image, bool [Q, H, W]; None if they are not stored."""
    packed = case.outputs.get(f"{prefix}post_mask_binary_packedbits")
    return None if packed is None else np.unpackbits(packed, axis=-1, count=geometry.original[1]) > 0


def compare(case, prefix, result, layout):
    """Compares every stored tensor of one frame. Regions of cases of one row may be stored without the row axis; answers and
    their masks are of the first row only, as in the published code."""
    inside, prediction = result.inside, result.prediction
    final = {"expression": prediction.scores.get("expression"), "class": prediction.scores.get("class")}
    direct = {
        "image_tokens": inside["image_tokens"],
        "fvp_tokens": inside["fine_grained"],
        "inputs_embeds": inside["stream"],
        "llm_last_hidden_state": result.hidden,
        "next_temporal_query": result.next_query,
        "seg_query_projected": inside["queries"][:, 0],
        "SEG_embedding": inside["expression"],
        "class_name_embedding": inside["class"][:, 0] if "class" in inside else None,
        "region_embedding": inside["region"][:, 0] if "region" in inside else None,
        "pred_SEG_logits": final["expression"][..., None],
        "pred_class_name_logits": final["class"],
        "pred_region_logits": np.swapaxes(prediction.scores["region"], 1, 2) if "region" in prediction.scores else None,
        "pred_boxes": prediction.boxes,
        "hs": prediction.embeddings["query"],
        "reid_embed_of_hs": prediction.embeddings["reid"],
        "pred_masks": np.asarray(prediction.mask_logits),
        "layout_labels": layout.labels,
        "layout_seg_query_mask": layout.source == Source.QUERY,
        "layout_temporal_mask": layout.source == Source.RESAMPLED,
        "layout_attention_mask": layout.mask,
        "layout_refer_indices": layout.source == Source.EXPRESSION,
        "layout_region_mask": layout.source == Source.REGION,
        "layout_class_name_indices": np.where(layout.source == Source.CLASS, layout.segment, 0),
    }
    for name in ("region_embedding", "pred_region_logits"):
        if direct[name] is not None and prefix + name in case.outputs:
            assert direct[name].shape == with_row_axis(case.outputs[prefix + name], 2).shape
            direct[name] = direct[name].reshape(case.outputs[prefix + name].shape)
    names = [name for name in case.outputs if name.startswith(prefix)]
    allowed = case.sign_tolerance((name for name in names if "post_mask_logits" in name), floors=1)
    if any("post_mask" in name for name in names):
        scores = {kind: value[0] for kind, value in prediction.scores.items()}
        geometry, things = case_geometry(case.inputs), case.meta.get("is_thing_list")
        positive = packed_masks(case, prefix, geometry)
        given = positive, allowed, case.outputs.get(f"{prefix}scores_by_query")
        result, flipped = compute_answers(prediction.mask_logits[0], scores, geometry, things, *given)
        direct |= result
        if flipped:
            case.notes.append(f"{prefix or 'all'} scores: computed with {flipped} legally flipped pixels as in the case")
    for name in names:
        what, _, step = name.removeprefix(prefix).partition("::")
        what, axis = (what[:-2], -3) if what.endswith("_q") else (what, -1)
        if what.endswith("_stats"):
            array = inside["mask_features"] if what.startswith("mask_features") else prediction.mask_logits
            case.compare(name, np.array([f(np.asarray(array)) for f in (np.mean, np.std, np.min, np.max)], np.float32))
        elif what in ("post_mask_binary_packedbits", "best_mask"):
            logits, expected = direct["post_mask_logits"], case.outputs[name]
            if what == "best_mask":
                logits = logits[direct["best_query"][0]]
            else:
                expected = packed_masks(case, prefix, geometry)
            case.compare_signs(name, logits > 0, expected > 0, logits, allowed)
        elif what == "completed_sem_seg":
            case.compare(name, subsample(direct[what], case.outputs[name].shape))
        elif not what.startswith("attn_mask") and what != "region_points_yx":
            case.compare(name, np.take(direct[what], np.arange(0, direct[what].shape[axis], int(step or 1)), axis))
