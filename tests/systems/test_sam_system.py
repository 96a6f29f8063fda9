"""SAM as a system: imports, answers and exports what transformers' SamModel has."""

import numpy as np
import pytest
import torch
import transformers
from sam_model import SIDE, make_config, make_reference

from hyperseg_jax.errors import UserError
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.structs import Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
HEIGHT, WIDTH = SIDE // 2, SIDE
POINT, BOX = (31.0, 20.0), (12.0, 8.0, 70.0, 40.0)


@pytest.fixture(scope="module")
def reference():
    return make_reference()


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    source, out = tmp_path_factory.mktemp("sam") / "source", tmp_path_factory.mktemp("sam") / "model"
    reference.save_pretrained(source)
    import_weights([source], make_config(), out)
    return out


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def ask(reference, image, **prompts):
    """Returns (masks at the image's size, IoU) of all four candidates."""
    padded = np.zeros((SIDE, SIDE, 3))
    padded[:HEIGHT, :WIDTH] = (image - MEAN) / STD
    pixels = torch.from_numpy(padded.transpose(2, 0, 1)[None].astype(np.float32))
    results = []
    with torch.no_grad():
        for several in (False, True):
            out = reference(pixels, multimask_output=several, **prompts)
            large = torch.nn.functional.interpolate(out.pred_masks[0], (SIDE, SIDE), mode="bilinear", align_corners=False)
            results.append((large[..., :HEIGHT, :WIDTH].numpy() > 0, out.iou_scores[0].numpy(), out.pred_masks))
    return results


def test_a_point_gets_the_best_candidate(reference, folder, image):
    model = Model.load(folder)
    _, (masks, iou, _) = ask(reference, image, input_points=torch.tensor([[[POINT]]]))
    predicted = model.segment_regions(image, [Region.from_point(*POINT)])
    best = iou[0].argmax()
    np.testing.assert_allclose(predicted.scores, iou[0][best], atol=1e-5)
    assert (predicted.masks[0] != masks[0, best]).mean() < 1e-3
    every = model.segment_alternatives(image, Region.from_point(*POINT))
    order = np.argsort(-iou[0], kind="stable")
    np.testing.assert_allclose(every.scores, iou[0][order], atol=1e-5)
    assert (every.masks != masks[0, order]).mean() < 1e-3


def test_several_regions_are_answered_as_alone(reference, folder, image):
    (boxes, iou, _), _ = ask(reference, image, input_boxes=torch.tensor([[BOX]]))
    regions = [Region.from_point(*POINT), Region.from_box(*BOX), Region("point", np.array([[*POINT, 1], [60, 30, 0]]))]
    predicted = Model.load(folder).segment_regions(image, regions)
    np.testing.assert_allclose(predicted.scores[1], iou[0, 0], atol=1e-5)
    assert (predicted.masks[1] != boxes[0, 0]).mean() < 1e-3
    points = {"input_points": torch.tensor([[[POINT, (60.0, 30.0)]]]), "input_labels": torch.tensor([[[1, 0]]])}
    (masks, iou, _), _ = ask(reference, image, **points)
    np.testing.assert_allclose(predicted.scores[2], iou[0, 0], atol=1e-5)
    assert (predicted.masks[2] != masks[0, 0]).mean() < 1e-3


def test_a_session_gives_the_last_mask_to_the_decoder(reference, folder, image):
    model = Model.load(folder)
    session = model.session(image)
    session.add_points([POINT])
    second = session.add_points([(60.0, 30.0)], positive=False)
    _, (_, iou, low) = ask(reference, image, input_points=torch.tensor([[[POINT]]]))
    mask = low[0, 0, iou[0].argmax()][None, None]
    points = {"input_points": torch.tensor([[[POINT, (60.0, 30.0)]]]), "input_labels": torch.tensor([[[1, 0]]])}
    (masks, iou, _), _ = ask(reference, image, **points, input_masks=mask)
    np.testing.assert_allclose(second.scores[0], iou[0, 0], atol=1e-4)
    assert (second.masks[0] != masks[0, 0]).mean() < 2e-3


def test_a_new_object_of_a_session_has_no_last_mask(folder, image):
    """Three objects are padded to four, so that a fourth one takes the place of padding."""
    model = Model.load(folder)
    points = [POINT, (60.0, 30.0), (80.0, 10.0), (10.0, 40.0)]
    session = model.session(image)
    for target, point in enumerate(points):
        found = session.add_points([point], target=target)
    alone = model.segment_regions(image, [Region.from_point(*points[-1])])
    np.testing.assert_allclose(found.scores[-1], alone.scores[0], atol=1e-5)
    assert (found.masks[-1] == alone.masks[0]).all()


def test_objects_whose_marks_do_not_change_keep_their_masks(folder, image):
    """SAM would read their last mask as a prompt, and answer otherwise."""
    session = Model.load(folder).session(image)
    first = session.add_points([POINT])
    second = session.add_points([(60.0, 30.0)], target=1)
    assert second.scores[0] == first.scores[0] and (second.masks[0] == first.masks[0]).all()
    third = session.add_points([(30.0, 40.0)], positive=False, target=1)
    assert third.scores[0] == first.scores[0] and (third.masks[0] == first.masks[0]).all()
    assert third.scores[1] != second.scores[1]
    fourth = session.add_points([(70.0, 40.0)], target=0)
    assert fourth.scores[0] != first.scores[0] and fourth.scores[1] == third.scores[1]


def test_exports_what_transformers_reads(reference, folder, tmp_path):
    export_weights(folder, tmp_path / "hf")
    again = transformers.SamModel.from_pretrained(tmp_path / "hf")
    state = again.state_dict()
    for name, tensor in reference.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert again.config.vision_config.global_attn_indexes == reference.config.vision_config.global_attn_indexes


def test_shapes_depend_on_the_image_size():
    """The encoder has a position vector for each cell of the image."""
    small, large = make_config(), make_config()
    large.data.image_size = 2 * SIDE
    for config, side in ((small, SIDE), (large, 2 * SIDE)):
        assert systems.get("sam").shapes(config)["encoder"]["vit"]["positions"].shape == (side // 16, side // 16, 32)


def test_texts_and_captions_are_refused(folder, image):
    model = Model.load(folder)
    with pytest.raises(UserError, match="points, boxes and masks only"):
        model.segment(image, "the dog")
    with pytest.raises(UserError, match="writes no text"):
        model.caption_regions(image, [])
