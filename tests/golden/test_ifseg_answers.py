"""IFSeg's answers against the published system: from pixels, or from features, to the best class of each pixel."""

import ifseg_parts
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.encoders import resnet
from hyperseg_jax.losses.pixels import pixel_cross_entropy
from hyperseg_jax.metrics import SemanticScores
from hyperseg_jax.ops.neighbours import nearest_cells, smooth
from hyperseg_jax.ops.sampling import linear_weights
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results.mask_resize import canvas_size, geometry_array, make_mask_resize, resize_masks
from hyperseg_jax.structs import IGNORED
from hyperseg_jax.systems.ifseg import inference
from hyperseg_jax.systems.ifseg.postprocess import ANSWERS, KINDS

SMOOTHED = "_resnet_postprocess"


def pixels_of(scores, size):
    """Returns the scores [h, w, C] of cells at an image's size, and the answer to them."""
    grid, masks = scores.shape[:2], jnp.moveaxis(scores, -1, 0)
    filled = tuple(resnet.STRIDE * side for side in grid)
    geometry = Geometry(tuple(size), filled, filled)
    resize = make_mask_resize(geometry_array(geometry), grid, canvas_size(*size), KINDS["semantic"].last_filter)
    outputs = {"mask_logits": masks, "class_valid": np.ones(len(masks), bool)}
    selected = KINDS["semantic"].select(outputs, resize, ANSWERS.default.segment_thresholds())
    pixels = np.moveaxis(np.asarray(resize_masks(masks, resize)), 0, -1)
    crop = np.s_[: size[0], : size[1]]
    return pixels[crop], np.asarray(selected["label"])[crop]


def compare_areas(case, suffix, prediction, labels, count):
    """Compares the pixel counts of each class."""
    scores, names = SemanticScores(), [str(k) for k in range(count)]
    scores.update(prediction, np.where(labels == count, 0, labels), names, labels == count)
    both, label, predicted = np.array([scores.state()["sums"].get(name, [0, 0, 0]) for name in names]).T
    areas = {"intersect": both, "label": label, "pred_label": predicted, "union": label + predicted - both}
    for name, area in areas.items():
        case.compare(f"area_{name}{suffix}", area.astype(np.float32))


def mean_loss(scores, labels, count):
    """Returns the cross-entropy of cells [h, w, C], averaged over the supervised pixels."""
    target = np.where(labels == count, IGNORED, labels)
    sides = (linear_weights(n, size, (size, n))[None] for n, size in zip(scores.shape, labels.shape, strict=False))
    return pixel_cross_entropy(scores[None], target[None], *sides) / (target != IGNORED).sum()


@pytest.mark.golden("ifseg", r"knn_postprocess.*")
def test_smoothing(case):
    labels, size = case.inputs["label_map"], case.inputs["ori_hw"].tolist()
    features, logits, grid = case.inputs["features"][0], case.inputs["logits"][0, :-1], case.inputs["hw"].tolist()
    neighbours = jax.jit(nearest_cells, static_argnums=1)(features, case.config["K"])
    case.compare("topk_index", neighbours[None])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    case.compare("topk_cosine", np.einsum("nc,nkc->nk", unit, unit[np.asarray(neighbours)])[None])
    start = jax.nn.softmax(logits)
    for name in (name for name in case.outputs if name.startswith("prob_iter")):
        case.compare(name, smooth(start, neighbours, int(name.removeprefix("prob_iter")))[None])
    smoothed = smooth(start, neighbours, case.config["iters"])
    count = logits.shape[-1]
    for kind, suffix, scores in (("logits", "", logits), ("prob", SMOOTHED, smoothed)):
        pixels, answer = pixels_of(scores.reshape(*grid, -1), size)
        case.compare(f"{kind}_pixels", pixels[None])
        case.compare("pred_post" if suffix else "pred_raw", answer[None])
        compare_areas(case, suffix, answer, labels, count)
    case.compare("loss", mean_loss(logits.reshape(*grid, -1), labels, count))
    case.check()


def place(pixels, canvas):
    """Returns the batch arrays of a normalized image on a canvas, whose other pixels are white."""
    placed = np.full((1, 1, *canvas, 3), 255, np.uint8)
    placed[0, 0, : pixels.shape[1], : pixels.shape[2]] = np.moveaxis(np.rint(pixels * 127.5 + 127.5), 0, -1)
    return {"images": placed, "filled": np.array([pixels.shape[1:]], np.int32)}


@pytest.mark.golden("ifseg", r"eval_image.*")
@pytest.mark.parametrize("margin", [0, 3])
def test_answers(case, margin):
    """margin: columns and rows of the canvas beyond the cells of the image, which change nothing."""
    model, params, _ = ifseg_parts.load_model(case)
    pixels, words = case.outputs["network_input"][0], ifseg_parts.class_words(case)
    grid = tuple(-(-side // resnet.STRIDE) for side in pixels.shape[1:])
    batch = place(pixels, [resnet.STRIDE * (side + margin) for side in grid])
    batch |= {"text": case.outputs["source"], "class_words": words[None], "class_of": np.arange(len(words))[None]}
    config = ifseg_parts.make_config(case)
    answers, rows = {}, np.s_[: grid[0], : grid[1]]
    for rounds in (0, case.config["iters"]):
        config.model.smoothing = {"neighbours": case.config["K"], "rounds": rounds}
        outputs, _ = jax.jit(inference.make_predict(model, config))(params, batch, {})
        answers[rounds] = np.moveaxis(np.asarray(outputs["mask_logits"])[0, 0, 0], 0, -1)[rows]
    cells = jax.jit(inference.make_encodings(model, config)["image"].function)(params, batch, {})
    feature = np.asarray(cells.feature).reshape(*cells.canvas.grid, -1)[rows].reshape(-1, cells.feature.shape[-1])
    case.compare("image_feature_sub", feature[None, :, ::16])
    case.compare("topk_index", nearest_cells(feature, case.config["K"])[None])
    logits, smoothed = answers.values()
    flat = lambda x: x.reshape(1, -1, x.shape[-1])
    case.compare("logits", flat(logits), case.outputs["logits"][:, :-1])
    case.compare("prob_smoothed", flat(smoothed))
    labels = case.outputs["label_map"]
    for kind, suffix, scores in (("logits", "", logits), ("prob", SMOOTHED, smoothed)):
        resized, answer = pixels_of(scores, labels.shape)
        case.compare(f"{kind}_pixels_sub", resized[None, ::5, ::5])
        case.compare("pred_post" if suffix else "pred_raw", answer[None])
        compare_areas(case, suffix, answer, labels, len(words))
    case.compare("loss", mean_loss(logits, labels, len(words)))
    case.check(skipped=("network_input", "label_map", "source"))  # see test_ifseg_data
