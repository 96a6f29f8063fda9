"""SEEM's answers about class lists, its composed prompts and interactive rounds against the published system."""

import jax.numpy as jnp
import numpy as np
import pytest
from seem_model import CaseModel, marked_pixels, next_clicks, normalize_image, resize

from hyperseg_jax.datasets import random_shapes
from hyperseg_jax.decoders import seem
from hyperseg_jax.decoders.marks import MarkedPoints, mean_features, sample_tokens
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Thresholds
from hyperseg_jax.results.mask_resize import canvas_size, geometry_array, make_mask_resize
from hyperseg_jax.structs import Prompt
from hyperseg_jax.systems.seem import scores


class ClassListAnswers:
    """The answers about a class list of one image. masks [Q, h, w], logits [Q, C + 1]."""

    def __init__(self, case, masks, logits, geometry, last):
        names, things = case.config["class_names"][:-1], case.config["thing_classes"]
        self.prompt = Prompt("panoptic", classes=tuple(names), things=tuple(k in things for k in range(len(names))))
        self.masks, self.logits, self.geometry = jnp.asarray(masks), jnp.asarray(logits), geometry
        self.valid = np.ones(logits.shape[-1], bool)
        self.resize = make_mask_resize(
            jnp.asarray(geometry_array(geometry)), masks.shape[-2:], canvas_size(*geometry.original), last
        )
        self.thresholds = case.config["thresholds"]

    def panoptic(self):
        """Returns the segment map and [(id, is a thing, category)]."""
        limits = {
            "object_threshold": self.thresholds["OBJECT_MASK_THRESHOLD"],
            "overlap_threshold": self.thresholds["OVERLAP_THRESHOLD"],
        }
        selected = selection.select_panoptic(self.masks, self.logits, self.resize, valid=self.valid, **limits)
        selected = {name: np.asarray(value) for name, value in selected.items()}
        result = answers.predict_panoptic(selected, self.prompt, self.geometry, Thresholds(None, 0.5, 0.5))
        segments = np.zeros(self.geometry.original, np.int32)
        for k, mask in enumerate(result.masks, 1):
            segments[mask] = k
        return segments, [(k, self.prompt.things[label], label) for k, label in enumerate(result.labels, 1)]

    def semantic(self):
        """Returns the score of each class at each pixel."""
        scores = selection.reduce_class_scores_by_rows(lambda x: x, self.masks, self.logits, self.resize, valid=self.valid)
        height, width = self.geometry.original
        return np.asarray(scores)[: len(self.prompt.classes), :height, :width]

    def instances(self, limit):
        """Returns classes, scores and areas, by descending score."""
        selected = selection.select_instances(self.masks, self.logits, self.resize, valid=self.valid, limit=limit)
        selected = {name: np.asarray(value) for name, value in selected.items()}
        result = answers.predict_instances(selected, self.prompt, self.geometry, Thresholds(None, 0.5, 0.5))
        order = np.argsort(-np.array(result.scores), kind="stable")
        areas = result.masks.sum((1, 2)).astype(np.float32)
        return np.array(result.labels, np.int32)[order], np.array(result.scores, np.float32)[order], areas[order]


def compare_class_list(case, found, prefix, segments_info, limit):
    segments, info = found.panoptic()
    case.compare(f"{prefix}panoptic_seg", segments)
    assert info == [(one["id"], one["isthing"], one["category_id"]) for one in segments_info]
    order = np.argsort(-case.outputs[f"{prefix}inst_scores"], kind="stable")
    for name, ours in zip(("classes", "scores", "mask_area"), found.instances(limit), strict=True):
        case.compare(f"{prefix}inst_{name}", ours, case.outputs[f"{prefix}inst_{name}"][order])


@pytest.mark.golden("seem", r"postprocess.*")
def test_class_lists(case):
    masks, logits = case.inputs["mask_pred_x64"] / np.float32(64), case.inputs["mask_cls"]
    size = masks.shape[-2:]
    found = ClassListAnswers(case, masks, logits, Geometry(size, size, size), "bilinear")
    compare_class_list(case, found, "", case.meta["segments_info"], case.meta["topk"])
    semantic = found.semantic()
    case.compare("sem_argmax", semantic.argmax(0).astype(np.int32))
    case.compare("sem_seg", semantic[:, ::2, ::2])
    case.check()


@pytest.mark.golden("seem", r"model_evaluate.*")
def test_images_of_two_sizes(case):
    run, read = CaseModel(case), case.inputs
    images = [normalize_image(read[f"image{i}"]) for i in range(2)]
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    batch = np.concatenate([np.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0))) for x in images])
    result = run.apply("decode", run.apply("encode_image", batch), seem.SeemPrompts())
    objects = result.part(seem.OBJECT)
    logits = np.asarray(scores.class_logits(objects.class_embedding, read["text_embeddings"], run.params["log_scale"]))
    case.compare("pred_logits", logits)
    case.compare("pred_masks", objects.mask_logits)
    limit = case.config["thresholds"].get("DETECTIONS_PER_IMAGE", 20)
    for i, original in enumerate(case.meta["original_sizes"]):
        geometry = Geometry(tuple(original), read[f"image{i}"].shape[1:], (height, width))
        found = ClassListAnswers(case, np.asarray(objects.mask_logits)[i], logits[i], geometry, "bicubic")
        compare_class_list(case, found, f"{i}.", case.meta["segments_info"][i], limit)
        semantic = found.semantic()
        case.compare(f"{i}.sem_seg_argmax", semantic.argmax(0).astype(np.int32))
        case.compare(f"{i}.sem_seg_strided", semantic[:, ::3, ::3])
    case.check()


@pytest.mark.golden("seem", r"demo_stroke_text.*")
def test_composed_prompts(case):
    run, read = CaseModel(case), case.inputs
    image = run.apply("encode_image", normalize_image(read["image"]))
    tokens, vectors = run.apply("encode_text", read["input_ids"]), run.apply("text_vectors", read["input_ids"])
    text = {"text": tokens, "text_valid": read["attention_mask"] == 1}
    marked = {"marked": marked_pixels(read["stroke"][0], np.zeros_like(read["stroke"][0]), (96, 128))}
    for name, fields in {"stroke": marked, "text": text, "stroke_text": {**text, **marked}}.items():
        result = run.apply("decode", image, seem.SeemPrompts(**fields))
        objects = result.part(seem.OBJECT)
        if "marked" in fields:
            logits = scores.mark_logits(objects.mask_embedding, result.marked_mean)
        else:
            logits = scores.phrase_logits(objects.class_embedding, vectors[None], run.params["log_scale"])
        chosen, best = scores.choose_masks(logits, objects.mask_logits)
        case.compare(f"{name}.selection_logits", logits[0, :, 0])
        case.compare(f"{name}.selected_query", best[0])
        case.compare(f"{name}.pred_masks", objects.mask_logits[:, ::2])
        size = read["image"].shape[1:]
        case.compare(f"{name}.binary_mask", resize(chosen[0], size, size, "bilinear") > 0)
    case.check()


@pytest.mark.golden("seem", r"demo_example.*")
def test_example_images(case):
    run, read = CaseModel(case), case.inputs
    size = tuple(-(-side // 32) * 32 for side in read["ref_image"].shape[1:])
    marked = marked_pixels(read["ref_mask"][0], np.zeros_like(read["ref_mask"][0]), size)
    reference = run.apply("encode_image", normalize_image(read["ref_image"]))
    encode = lambda model, image, prompts: model.decoder.encode_example(image.mask_features, image.levels, prompts)
    mean, tokens = run.apply(encode, reference, seem.SeemPrompts(marked=marked))
    case.compare("ref.visual_query_pos", np.moveaxis(np.asarray(mean), 1, 0))
    case.compare("ref.visual_query_neg", np.zeros_like(case.outputs["ref.visual_query_neg"]))
    for i, level in enumerate(tokens):
        case.compare(f"ref.src_visual_queries.{i}", level.transpose(1, 0, 2))
        case.compare(f"ref.src_visual_maskings.{i}", np.zeros(level.shape[:2], np.uint8))
    example = {"example": tokens, "example_valid": np.ones(tokens[0].shape[:2], bool)}
    for k in range(2):
        image = run.apply("encode_image", normalize_image(read[f"frame{k}"]))
        objects = run.apply("decode", image, seem.SeemPrompts(**example)).part(seem.OBJECT)
        logits = scores.mark_logits(objects.mask_embedding, mean)
        chosen, best = scores.choose_masks(logits, objects.mask_logits)
        case.compare(f"frame{k}.selection_logits", logits[:, :, 0])
        case.compare(f"frame{k}.selected_query", best[0])
        case.compare(f"frame{k}.pred_masks", objects.mask_logits)
        classes = scores.class_logits(objects.class_embedding, read["text_embeddings"], run.params["log_scale"])
        case.compare(f"frame{k}.pred_class", np.asarray(classes)[0, best[0], :-1].argmax(-1))
        size = read[f"frame{k}"].shape[1:]
        case.compare(f"frame{k}.binary_mask", resize(chosen[0], size, size, "bilinear") > 0)
    case.check()


@pytest.mark.golden("seem", r"model_interactive.*")
def test_interactive_rounds(case):
    run, read = CaseModel(case), case.inputs
    image = run.apply("encode_image", normalize_image(read["image"]))
    size = tuple(-(-side // 32) * 32 for side in read["image"].shape[1:])
    fill = lambda masks: np.pad(masks, ((0, 0), (0, size[0] - masks.shape[1]), (0, size[1] - masks.shape[2]))).astype(bool)
    targets, positive = fill(read["gt_masks"]), fill(read["rand_shape"][:, 0])
    negative, previous, ious = np.zeros_like(positive), None, []
    original = read["gt_masks_orisize"]
    for k in range(4):
        slots = [read[name] for name in (f"round{k}.draw.layer{i}.memory_indices" for i in range(9)) if name in read]
        prompts = seem.SeemPrompts(
            marked=marked_pixels(positive, negative, size),
            query_index=read[f"round{k}.draw.spatial_query_index"],
            previous=previous,
            slots=np.stack(slots) if slots else None,
            num_prompts=2,
        )
        result = run.apply("decode", image, prompts, objects=False)
        marked = result.part(seem.MARK_QUERY)
        each = marked.mask_logits.shape[1] // 2
        previous, _ = scores.choose_masks(
            scores.mark_logits(marked.mask_embedding, result.marked_mean, per_prompt=each), marked.mask_logits
        )
        case.compare(f"round{k}.prev_mask", previous)
        predicted = resize(previous[0], size, size, "bilinear") > 0
        positive, negative = (np.asarray(x) for x in next_clicks(predicted, targets, positive, negative))
        case.compare(f"round{k}.next_pos", positive)
        case.compare(f"round{k}.next_neg", negative)
        masks = resize(previous[0], read["image"].shape[1:], original.shape[1:], "bilinear") > 0
        counted = original != -1
        overlap = (masks & (original == 1) & counted).sum((1, 2))
        ious.append(overlap / ((masks | (original == 1)) & counted).sum((1, 2)))
    for k in range(2):
        case.compare(f"mask_iou.{k}", np.array(ious, np.float32)[:, k])
    case.check()


@pytest.mark.golden("seem", r"visual_sampler.*")
def test_visual_prompts(case):
    read = case.inputs
    case.compare("bezier_curve_xy", random_shapes.smooth_outline(read["bezier_points"]))
    case.compare("bezier_curve_single_xy", random_shapes.smooth_outline(read["bezier_points_single"]))
    vertices = np.stack([read["stroke_x"], read["stroke_y"]], axis=1)
    case.compare("stroke_mask", random_shapes.draw_stroke(vertices, 7, case.outputs["stroke_mask"].shape))
    for name in ("Point", "Box"):
        masks = read["gt_masks"] == 1
        if name == "Box":
            masks = np.stack([fill_box(mask) for mask in masks])
        first = np.stack(
            [
                np.asarray(next_clicks(mask[None] & False, mask[None], mask[None] & False, mask[None] & False)[0])
                for mask in masks
            ]
        )
        case.compare(f"{name}.rand_shape", first)
        case.compare(f"{name}.gt_masks", masks)
    compare_tokens(case)
    random = {name for name in case.outputs if name.startswith(("train.", "Circle.", "Scribble.", "Polygon."))}
    case.check(skipped=random)


def compare_tokens(case):
    """Compares the tokens and mean features of the first prompt of each shape, with the recorded pixels."""
    read, prompts = case.inputs, len(case.inputs["tokens.pos_masks"])
    weight = lambda name: jnp.asarray(case.weights[f"sem_seg_head.predictor.{name}"])

    def points(draw):
        rows = [read[f"tokens.draw.points.{2 * draw + sign}"] for sign in (0, 1)]
        both = np.concatenate(rows, axis=1)
        positive = np.arange(both.shape[1]) < rows[0].shape[1]
        return MarkedPoints(both[[2, 1]].T[None].astype(np.float32), both[0][None].astype(np.int32), positive[None])

    features = np.moveaxis(read["mask_features"], 1, -1)
    for name, positive in (("pos", True), ("neg", False)):
        mean = mean_features(features, points(0), prompts, positive=positive, empty=-1.0)
        case.compare(f"tokens.spatial_query_{name}", np.moveaxis(np.asarray(mean), 1, 0))
    for i in range(3):
        level = np.moveaxis(read[f"ms{i}"], 1, -1) + weight("level_embed.weight")[i]
        marked = points(1 + i)
        tokens = sample_tokens(level, marked, weight(f"mask_sptial_embed.{i}"), weight("pn_indicator.weight"), Precision())
        case.compare(f"tokens.level{i}", np.moveaxis(np.asarray(tokens), 1, 0))
        case.compare(f"tokens.level{i}.padding", marked.prompt < 0)


def fill_box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.zeros_like(mask)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box
