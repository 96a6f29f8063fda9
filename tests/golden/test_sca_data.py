"""SCA's images, boxes and masks against the published data code."""

import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.data.augment import flip_horizontally
from hyperseg_jax.ops.transforms import fit_to_square, resize_and_pad
from hyperseg_jax.results.mask_resize import geometry_array, make_mask_resize, resize_masks
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.systems.pixels import normalize_padded
from hyperseg_jax.systems.sca.images import Jitter, clip_boxes, nonempty_boxes, place_boxes, place_points
from hyperseg_jax.systems.sca.objective import labels_of
from hyperseg_jax.systems.sca.texts import pack_captions


def normalized(image, filled):
    """Returns the input of the encoder, [3, S, S]."""
    return np.asarray(normalize_padded(image[None], np.array([filled])))[0].transpose(2, 0, 1)


def count_images(case):
    return len({name.split(".")[0] for name in case.inputs})


@pytest.mark.golden("sca", r"preprocess_eval.*")
def test_evaluation_images(case):
    side = case.config["longest_edge"]
    for k in range(count_images(case)):
        image, boxes, points, logits = (case.inputs[f"{k}.{name}"] for name in ("image", "boxes", "points", "low_res_logits"))
        geometry = fit_to_square(*image.shape[:2], side)
        case.compare(f"{k}.original_size", np.array(geometry.original))
        case.compare(f"{k}.reshaped_size", np.array(geometry.filled))
        case.compare(f"{k}.pixel_values", normalized(resize_and_pad(image, geometry, 0), geometry.filled))
        case.compare(f"{k}.input_boxes", place_boxes(boxes.astype(float), geometry))
        case.compare(f"{k}.input_points", place_points(points.astype(float), geometry))
        resize = make_mask_resize(geometry_array(geometry), logits.shape[-2:], geometry.original)
        case.compare(f"{k}.mask_logits", np.asarray(resize_masks(jnp.asarray(logits), resize)))
    case.check()


@pytest.mark.golden("sca", r"preprocess_train_lsj.*")
def test_jittered_training_images(case):
    side, (low, high) = case.config["image_size"], (case.config[f"{name}_scale"] for name in ("min", "max"))
    for k in range(count_images(case)):
        image, boxes, draws = (case.inputs[f"{k}.{name}"] for name in ("image", "boxes", "draws"))
        regions = tuple(Region.from_box(*box) for box in boxes.tolist())
        example = Example("image", image[None], (Prompt("caption", regions=regions),))
        if draws[0] < 0.5:
            example = flip_horizontally(example)
        jitter = Jitter(low + float(draws[1]) * (high - low), float(draws[2]), side)
        moved = jitter.boxes(np.array([region.boxes[0] for region in example.prompts[0].regions]), example.frames.shape[1:3])
        case.compare(f"{k}.boxes_transformed", moved.astype(np.float32))
        clipped = clip_boxes(moved, (side, side))
        kept = nonempty_boxes(clipped)
        case.compare(f"{k}.kept_index", kept)
        case.compare(f"{k}.boxes_kept", clipped[kept].astype(np.float32))
        square = jitter.image(example.frames[0])
        case.compare(f"{k}.augmented_uint8", square)
        case.compare(f"{k}.pixel_values", normalized(square, (side, side)))
    compare_captions(case)
    case.check()


def compare_captions(case):
    """The packed captions and labels of a batch, which is as long as its longest caption."""
    config = case.config
    captions = [[[int(token) for token in text.split()] for text in image] for image in case.meta["caption_ids"]]
    expected = case.outputs["collate.input_ids"]
    assert expected.shape[-1] <= config["model_max_length"] - 1
    packed = [pack_captions(row, config["model_max_length"] - 1, end=config["eos"], padding=config["pad"]) for row in captions]
    cut = expected.shape[-1]
    case.compare("collate.input_ids", np.stack([ids[:, :cut] for ids, _ in packed]))
    case.compare("collate.attention_mask", np.stack([mask[:, :cut] for _, mask in packed]))
    ids, mask = (np.stack(arrays) for arrays in zip(*packed, strict=True))
    batch = {
        "caption_ids": ids,
        "caption_mask": mask,
        "bad": np.zeros(len(ids), bool),
        "region_valid": np.ones(ids.shape[:2], bool),
    }
    labels = np.asarray(labels_of(batch)).reshape(*ids.shape[:2], -1)
    case.compare("collate.labels", labels[..., : cut + 1])
