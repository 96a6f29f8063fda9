"""SAM's automatic mode against a loop over single points in PyTorch, with its filters written out."""

import numpy as np
import pytest
import torch
from sam_model import SIDE, make_config, make_reference

from hyperseg_jax.errors import UserError
from hyperseg_jax.predictors import automatic
from hyperseg_jax.predictors.automatic import AutomaticOptions, _crops, _is_cut
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.results.proposals import suppress_overlaps
from hyperseg_jax.systems import system as systems

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
HEIGHT, WIDTH = 64, SIDE


@pytest.fixture(scope="module")
def reference():
    return make_reference()


@pytest.fixture(scope="module")
def model(reference):
    config, system = make_config(), systems.get("sam")
    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    return Model(config, None, system.weight_table(config).to_flax(state, system.shapes(config)))


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def box_iou(a, b):
    wide = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])
    return wide * high / (area(a) + area(b) - wide * high)


def search(reference, image, side, options):
    """Returns [(expected IoU, stability, box, mask, point)] that SAM's rules keep, best first."""
    padded = np.zeros((SIDE, SIDE, 3))
    padded[:HEIGHT, :WIDTH] = (image - MEAN) / STD
    pixels = torch.from_numpy(padded.transpose(2, 0, 1)[None].astype(np.float32))
    found = []
    for y in (np.arange(side) + 0.5) / side * HEIGHT:
        for x in (np.arange(side) + 0.5) / side * WIDTH:
            with torch.no_grad():
                out = reference(pixels, input_points=torch.tensor([[[[x, y]]]], dtype=torch.float32))
            large = torch.nn.functional.interpolate(out.pred_masks[0], (SIDE, SIDE), mode="bilinear", align_corners=False)
            for logits, iou in zip(large[0, :, :HEIGHT, :WIDTH].numpy(), out.iou_scores[0, 0].tolist(), strict=True):
                stability = (logits > options.stability_score_offset).sum() / (logits > -options.stability_score_offset).sum()
                if iou > options.pred_iou_thresh and stability >= options.stability_score_thresh:
                    rows, columns = np.nonzero(logits > 0)
                    box = (columns.min(), rows.min(), columns.max(), rows.max())
                    found.append((iou, stability, box, logits > 0, (x, y)))
    return sorted(found, key=lambda entry: -entry[0])


def test_finds_what_single_points_find(reference, model, image):
    offset = {"stability_score_offset": 0.02}
    everything = AutomaticOptions(pred_iou_thresh=1e-9, stability_score_thresh=0, **offset)
    candidates = search(reference, image, 3, everything)
    options = AutomaticOptions(
        points_per_side=3,
        points_per_batch=4,  # the last chunk is not full
        pred_iou_thresh=float(np.quantile([each[0] for each in candidates], 0.2)),
        stability_score_thresh=float(np.quantile([each[1] for each in candidates], 0.2)),
        box_nms_thresh=1,  # the masks of random weights touch every border
        **offset,
    )
    expected = search(reference, image, 3, options)
    assert 5 < len(expected) < len(candidates) < 28, "the case must show the filters at work"
    found = model.automatic(image, options)
    assert len(found) == len(expected)
    for n, (iou, stability, box, mask, point) in enumerate(expected):
        assert found.prediction.scores[n] == pytest.approx(iou, abs=1e-4)
        assert found.stability[n] == pytest.approx(stability, abs=5e-3)
        np.testing.assert_allclose(found.points[n], point, atol=1e-4)
        np.testing.assert_allclose(found.boxes[n], box, atol=1)
        assert (found.prediction.masks[n] != mask).mean() < 2e-3


def test_crops_cover_the_image_and_keep_their_place(model, image, monkeypatch):
    monkeypatch.setattr(automatic, "EDGE", -1)  # the masks of random weights touch every border
    options = AutomaticOptions(
        points_per_side=2, crop_n_layers=1, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1, crop_nms_thresh=1
    )
    found = model.automatic(image, options)
    assert len(np.unique(found.crops, axis=0)) > 1
    for n, (left, top, right, bottom) in enumerate(found.crops.astype(int)):
        outside = found.prediction.masks[n].copy()
        outside[top:bottom, left:right] = False
        assert not outside.any()
        x, y = found.points[n]
        assert left <= x < right and top <= y < bottom
    covered = np.zeros((HEIGHT, WIDTH), bool)
    for (left, top, right, bottom), layer in _crops((HEIGHT, WIDTH), options):
        if layer:
            covered[top:bottom, left:right] = True
    assert covered.all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 30), (17, 19)])
def test_crops_of_tiny_images_have_pixels(model, shape):
    """Images with fewer pixels than crops: some crops would be empty."""
    options = AutomaticOptions(points_per_side=1, crop_n_layers=4, pred_iou_thresh=0, stability_score_thresh=0)
    for (left, top, right, bottom), _ in _crops(shape, options):
        assert 0 <= left < right <= shape[1] and 0 <= top < bottom <= shape[0]
    if shape == (1, 1):
        found = model.automatic(np.full((*shape, 3), 200, np.uint8), options)
        assert found.prediction.masks.shape[1:] == shape


def test_boxes_that_a_crop_cuts_are_dropped():
    boxes = np.array([[40, 40, 60, 60], [40, 40, 95, 60], [2, 30, 60, 60], [30, 118, 60, 128]])
    assert _is_cut(boxes, (0, 0, 100, 128), (128, 200)).tolist() == [False, True, False, False]


def test_thresholds_of_zero_keep_everything(model, image):
    everything = AutomaticOptions(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1)
    assert len(model.automatic(image, everything)) == 2 * 2 * 3


def test_nothing_is_found_with_the_highest_threshold(model, image):
    found = model.automatic(image, AutomaticOptions(points_per_side=2, stability_score_thresh=1.0))
    assert len(found) == 0 and found.prediction.masks.shape == (0, HEIGHT, WIDTH)


def test_overlaps_are_suppressed_greedily():
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 60, (80, 2)), rng.uniform(5, 40, (80, 2))
    boxes, scores = np.concatenate([corner, corner + size], axis=1), rng.random(80)
    kept = []
    for n in np.argsort(-scores):
        if all(box_iou(boxes[n], boxes[k]) <= 0.4 for k in kept):
            kept.append(n)
    assert suppress_overlaps(boxes, scores, 0.4).tolist() == kept and 5 < len(kept) < 75


@pytest.mark.parametrize("field, value", [("points_per_side", 0), ("box_nms_thresh", 1.5), ("points_per_batch", 2.5)])
def test_bad_options_are_one_line(field, value):
    with pytest.raises(UserError, match=f"{field} = {value}: give a number"):
        AutomaticOptions(**{field: value})
