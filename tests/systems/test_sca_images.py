"""SCA's training images: jitter by PyTorch, boxes that follow their pixels, the choice of regions."""

import numpy as np
import pytest
import torch

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt, Region
from hyperseg_jax.systems.sca.images import MEAN, STD, Jitter, augment, clip_boxes, shuffle_regions
from hyperseg_jax.systems.sca.objective import labels_of
from hyperseg_jax.systems.sca.texts import pack_captions


def make_image(rng, kind):
    """Returns an image of noise, of flat blocks, or with saturated areas: flat areas are truncated by rounding alone."""
    height, width = rng.integers(10, 90, 2)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "blocks":
        return np.kron(rng.integers(0, 256, (-(-height // 9), -(-width // 9), 3), np.uint8), np.ones((9, 9, 1), np.uint8))
    return np.clip(rng.normal(200, 80, (height, width, 3)), 0, 255).astype(np.uint8)


def jitter_by_torch(image, jitter):
    """The published operations, with PyTorch's interpolation in one thread, as in a worker of its data loader."""
    size = image.shape[:2]
    pixels = torch.from_numpy((image / 255 - MEAN) / STD).permute(2, 0, 1)[None]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    resized = torch.nn.functional.interpolate(pixels, jitter.resized(size), mode="bilinear", align_corners=False)
    torch.set_num_threads(threads)
    top, left = jitter.corner(size)
    part = resized[0].permute(1, 2, 0).numpy()[top : top + jitter.side, left : left + jitter.side]
    square = np.zeros((jitter.side, jitter.side, 3))
    square[: part.shape[0], : part.shape[1]] = part
    return ((square * STD + MEAN) * 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["noise", "blocks", "saturated"])
def test_jitter_equals_pytorch(kind):
    rng = np.random.default_rng(0)
    for _ in range(25):
        image = make_image(rng, kind)
        jitter = Jitter(rng.uniform(0.1, 2.0), rng.random(), int(rng.integers(20, 120)))
        np.testing.assert_array_equal(jitter.image(image), jitter_by_torch(image, jitter))


def test_boxes_follow_their_pixels():
    """A white block on black stays inside its box, also where it is cropped."""
    rng, seen = np.random.default_rng(1), 0
    for _ in range(30):
        image = np.zeros((60, 90, 3), np.uint8)
        top, left = int(rng.integers(0, 40)), int(rng.integers(0, 60))
        image[top : top + 20, left : left + 30] = 255
        jitter = Jitter(rng.uniform(0.5, 2.0), rng.random(), 64)
        square = jitter.image(image)[..., 0] > 128
        square &= np.arange(64)[:, None] < jitter.resized((60, 90))[0]  # padding has the mean colour
        square &= np.arange(64) < jitter.resized((60, 90))[1]
        (box,) = clip_boxes(jitter.boxes(np.array([[left, top, left + 30.0, top + 20.0]]), (60, 90)), (64, 64))
        if square.any():
            rows, columns = np.flatnonzero(square.any(1)), np.flatnonzero(square.any(0))
            np.testing.assert_allclose(box, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=0.75)
            seen += 1
    assert seen > 20


def make_prompt(boxes, captions=None):
    captions = captions or tuple((f"text {k}", f"other {k}") for k in range(len(boxes)))
    return Prompt("caption", regions=tuple(Region.from_box(*box) for box in boxes), captions=captions)


def test_regions_are_shuffled_with_their_texts():
    prompt = make_prompt([(k, k, k + 5, k + 5) for k in range(20)])
    orders, words = set(), set()
    for seed in range(20):
        regions = shuffle_regions(prompt, np.random.default_rng(seed))
        numbers = [int(text.split()[1]) for text in regions.texts]
        assert sorted(numbers) == list(range(20)) and regions.boxes[:, 0].tolist() == numbers
        orders.add(tuple(numbers))
        words |= {text.split()[0] for text in regions.texts}
    assert len(orders) == 20 and words == {"text", "other"}


def test_augmentation_keeps_the_first_visible_regions():
    image = np.zeros((50, 100, 3), np.uint8)
    boxes = [(k, 0, k + 10, 10) for k in range(0, 90, 3)] + [(20, 20, 20, 30), (100, 50, 100, 50)]  # two are empty
    prompt, counts = make_prompt(boxes), set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        square, regions = augment(image, prompt, rng, side=64, scale=(0.1, 2.0), most=16)
        assert square.shape == (64, 64, 3) and len(regions.boxes) == len(regions.texts) <= 16
        assert (regions.boxes >= 0).all() and (regions.boxes <= 64).all()
        assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
        counts.add(len(regions.texts))
        everything = shuffle_regions(prompt, np.random.default_rng(seed)).texts
        assert list(regions.texts) == sorted(regions.texts, key=everything.index)  # in the random order
    assert 16 in counts
    same, regions = augment(image, prompt, np.random.default_rng(0), side=64, scale=None, most=100)
    assert same is image and len(regions.boxes) == 30


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (make_prompt([(0, 0, 5, 5)], ((),)), "has no text; its reader must return Prompt.captions"),
        (Prompt("caption", regions=(Region.from_box(0, 0, 5, 5),)), "has no text; its reader must return Prompt.captions"),
        (Prompt("caption", regions=(Region.from_point(3, 3),), captions=(("a",),)), "has no box, .* read them with mark='box'"),
    ],
)
def test_regions_that_cannot_be_trained(prompt, message):
    with pytest.raises(UserError, match=message):
        shuffle_regions(prompt, np.random.default_rng(0))


def test_captions_of_gpt2_end_where_padding_begins():
    """The end token and padding have one id; only the end is a label."""
    ids, mask = pack_captions([[5, 6], [], [1, 2, 3, 4, 5]], 4, end=9, padding=9)
    assert ids.tolist() == [[5, 6, 9, 9], [9, 9, 9, 9], [1, 2, 3, 9]]
    labels = [[-100, 5, 6, 9, -100], [-100, 9, -100, -100, -100], [-100, 1, 2, 3, 9]]
    batch = {
        "caption_ids": ids[None],
        "caption_mask": mask[None],
        "bad": np.zeros(1, bool),
        "region_valid": np.ones((1, 3), bool),
    }
    assert labels_of(batch).tolist() == labels
