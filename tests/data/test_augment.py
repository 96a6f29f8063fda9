"""Augmentations are consistent: masks, region marks and labels follow their pixels, and targets stay visible."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console
from sample_inputs import draw_regions, make_regions, region_kinds

from hyperseg_jax.data import sources
from hyperseg_jax.data.augment import Augment, crop_example, crop_keeps_meaning, flip_horizontally
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.hyperseg.processor import HyperSegProcessor
from hyperseg_jax.text.tokenizer import Tokenizer

HEIGHT, WIDTH = 40, 60
COLOURS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)
PROCESSOR = HyperSegProcessor(Tokenizer.toy(), 64, 32, 9, 4, 4, frames=2, length=160, targets=3, classes=4, regions=3)


def make_masks():
    """Returns masks of three things [N, T, H, W]; the second frame is shifted down by a pixel."""
    result = np.zeros((3, 2, HEIGHT, WIDTH), bool)
    for n, (top, left) in enumerate(((2, 3), (20, 40), (25, 10))):
        for t in range(2):
            result[n, t, top + t : top + t + 8, left : left + 12] = True
    return result


def paint(masks):
    """Paints each thing in its colour, so that masks can be recovered from pixels."""
    frames = np.full((2, HEIGHT, WIDTH, 3), 90, np.uint8)
    for mask, colour in zip(masks, COLOURS, strict=True):
        frames[mask] = colour
    return frames


def make_example(**prompt):
    masks = make_masks()
    kwargs = {"task": "panoptic", "masks": masks, "labels": (0, 1, 2), "classes": ("a", "b", "c"), "things": (True,) * 3}
    return Example("it", paint(masks), (Prompt(**{**kwargs, **prompt}),))


def region_example():
    masks = make_masks()
    marks = masks[:, 0].copy()
    marks[:, :, 30:] &= np.arange(30) % 3 == 0
    return make_example(
        task="region",
        classes=(),
        things=(),
        masks=masks[[2, 0, 1]],
        labels=(2, 0, 1),
        regions=make_regions(marks, *("box",) * 3),
    )


def colour_mask(frames, colour):
    return (frames == colour).all(-1)


WINDOW = (slice(18, 40), slice(8, 56))  # 22 x 48: without the first thing


def test_crops_with_class_lists():
    full = make_example(ignore=make_masks()[0], crowds=make_masks()[1:2], crowd_labels=(1,))
    part = crop_example(full, WINDOW)
    (prompt,) = part.prompts
    assert part.frames.shape == (2, 22, 48, 3) and prompt.masks.shape == (2, 2, 22, 48)
    assert prompt.labels == (1, 2) and prompt.classes == ("a", "b", "c") and prompt.crowd_labels == (1,)
    for mask, label in zip(prompt.masks, prompt.labels, strict=True):
        np.testing.assert_array_equal(mask, colour_mask(part.frames, COLOURS[label]))
    assert [tuple(np.argwhere(mask[0])[0]) for mask in prompt.masks] == [(2, 32), (7, 2)]
    assert not prompt.ignore.any() and prompt.ignore.shape == (2, 22, 48)
    np.testing.assert_array_equal(prompt.crowds[0], colour_mask(part.frames, COLOURS[1]))


def test_crops_renumber_regions():
    (prompt,) = crop_example(region_example(), WINDOW).prompts
    assert prompt.labels == (1, 0) and len(prompt.regions) == 2
    for mask, label in zip(prompt.masks, prompt.labels, strict=True):
        mark = draw_regions(prompt)[label]
        assert (mark & mask[0]).any() and not (mark & ~mask[0]).any()


def make_prompt(text, **changes):
    return Prompt("referring", text=text, masks=make_masks()[1:2], **changes)


@pytest.mark.parametrize(
    ("prompt", "may"),
    [
        (make_prompt("the green thing"), True),
        (make_prompt("the green thing on the left"), False),
        (make_prompt("The Second one"), False),
        (make_prompt("the 2nd one"), False),
        (dataclasses.replace(make_prompt("the red thing"), masks=make_masks()[:1]), False),
        (Prompt("chat", text="how many?"), False),
        (Prompt("referring", text="a cat", masks=np.zeros((0, 2, HEIGHT, WIDTH), bool)), True),
        (Prompt("panoptic", classes=("a",), masks=make_masks()[:1], labels=(0,)), False),
        (Prompt("caption", regions=make_regions(make_masks()[:, 0])), True),
        (Prompt("caption", regions=make_regions(make_masks()[:1, 0])), False),
    ],
)
def test_prompts_that_prevent_cropping(prompt, may):
    assert crop_keeps_meaning(prompt, WINDOW, (HEIGHT, WIDTH)) is may
    assert crop_keeps_meaning(prompt, (slice(0, HEIGHT), slice(0, WIDTH)), (HEIGHT, WIDTH))


def test_jitter_by_hand():
    """At scale 2 a square of 64 shows 30 of 60 columns and 30 of 40 rows; at scale 0.5 the image fills 32."""
    large, fill = Augment(scale=(2.0, 2.0))(make_example(), np.random.default_rng(0))
    assert large.frames.shape == (2, 30, 30, 3) and fill == 1.0
    small, fill = Augment(scale=(0.5, 0.5))(make_example(), np.random.default_rng(0))
    arrays = PROCESSOR(small, train=True, fill=fill)
    assert fill == 0.5 and arrays["filled"].tolist() == [21, 32]
    assert (arrays["images"][:, 21:] == 128).all() and (arrays["images"][:, :, 32:] == 128).all()
    assert not arrays["segments"][..., 21:, :].any() and not arrays["segments"][..., 32:].any()
    assert (arrays["segments"][0, 0, 0] == 1).sum() == pytest.approx(96 * (32 / 60) ** 2, rel=0.25)
    wide, _ = Augment(crop=(0.5, 0.5))(make_example(), np.random.default_rng(0))
    assert wide.frames.shape == (2, 20, 30, 3)


@pytest.mark.parametrize("make", [make_example, region_example])
def test_random_augmentations_keep_masks_aligned(make):
    augment = Augment(horizontal_flip=0.5, scale=(0.4, 2.0), crop=(0.6, 1.0))
    sizes, missing = set(), 0
    for seed in range(60):
        changed, fill = augment(make(), np.random.default_rng(seed))
        repeated, _ = augment(make(), np.random.default_rng(seed))
        np.testing.assert_array_equal(repeated.frames, changed.frames)
        (prompt,) = changed.prompts
        assert 0 < len(prompt.masks) == len(prompt.labels) and 0.4 <= fill <= 1
        assert prompt.masks.shape[1:] == changed.frames.shape[:3]
        colours = {label: k for k, label in enumerate((0, 1, 2))} if make is make_example else None
        for mask, label in zip(prompt.masks, prompt.labels, strict=True):
            colour = COLOURS[colours[label]] if colours else changed.frames[mask][0]
            np.testing.assert_array_equal(mask, colour_mask(changed.frames, colour))
            if not colours:
                assert (draw_regions(prompt)[label] & mask[0]).any()
        arrays = PROCESSOR(changed, train=True, fill=fill)
        assert int(arrays["valid"].sum()) == len(prompt.masks)
        sizes.add(changed.frames.shape)
        missing += len(prompt.masks) < 3
    assert len(sizes) > 30 and 10 < missing < 60


def test_expressions_keep_their_full_target():
    original = dataclasses.replace(make_example(), prompts=(make_prompt("the green thing"),))
    placed = dataclasses.replace(original, prompts=(make_prompt("the thing on the right"),))
    augment, cuts = Augment(scale=(0.5, 2.0)), 0
    for seed in range(40):
        changed, _ = augment(original, np.random.default_rng(seed))
        assert changed.prompts[0].masks.sum() == 2 * 96
        cuts += changed.frames.shape[1:3] != (HEIGHT, WIDTH)
        full, fill = augment(placed, np.random.default_rng(seed))
        assert full.frames.shape[1:3] == (HEIGHT, WIDTH) and fill <= 1
    assert cuts > 10


def test_too_small_targets_are_dropped():
    masks = make_masks()
    masks[0] = False
    masks[0, :, 1, 1] = True
    arrays = lambda example, train: PROCESSOR(example, train=train, fill=0.2)
    with_classes = arrays(make_example(masks=masks), True)
    assert with_classes["valid"].tolist() == [[False, True, True]] and with_classes["uses_classes"].all()
    spoken = arrays(dataclasses.replace(make_example(), prompts=(Prompt("referring", text="a", masks=masks[:1]),)), True)
    assert not spoken["valid"].any() and not spoken["uses_expression"].any()
    marks = masks[:, 0] | make_masks()[:, 0]
    marked = make_example(task="region", classes=(), things=(), masks=masks, regions=make_regions(marks))
    assert arrays(marked, True)["region_valid"].tolist() == [[False, True, True]]
    assert arrays(marked, False)["region_valid"].all() and arrays(marked, False)["valid"].all()


def test_region_marks_are_redrawn_in_their_targets():
    augment = Augment(marks=("point", "scribble", "box", "mask"), point_radius=1, scribble_radius=0)
    marks = {}
    for seed in range(60):
        (prompt,) = augment(region_example(), np.random.default_rng(seed))[0].prompts
        for region, kind in enumerate(region_kinds(prompt)):
            target = prompt.masks[prompt.labels.index(region), 0]
            mark = draw_regions(prompt)[region]
            marks.setdefault(kind, set()).add(mark.tobytes())
            inside = (mark & target).sum() / mark.sum()
            assert mark.any() and inside > {"point": 0.5, "scribble": 0.999, "box": 0.7, "mask": 0.6}[kind]
            if kind == "point":
                assert mark.sum() <= 5
    assert len(marks) == 4 and all(len(marks) > 3 for marks in marks.values())
    (prompt,) = Augment()(region_example(), np.random.default_rng(0))[0].prompts
    np.testing.assert_array_equal(draw_regions(prompt), draw_regions(region_example().prompts[0]))


def test_invalid_configs_are_reported(micro):
    def build(**blocks):
        config = micro(("referring", "region")).unlock()
        config.data.augment = blocks
        return sources.build_tasks(config, systems.get("hyperseg"), console=Console(quiet=True))

    tasks = build(region={"scale": (0.1, 2.0), "marks": ["point"], "horizontal_flip": 0.0})
    assert tasks["region"].augment == Augment(0.0, (0.1, 2.0), marks=("point",)) and tasks["referring"].augment == Augment(0.5)
    result = [tasks["region"].prepare(tasks["region"].train[0], np.random.default_rng(seed)) for seed in range(6)]
    assert len({tuple(arrays["filled"]) for arrays in result}) > 2
    for blocks, messages in (
        ({"regoin": {}}, r"data\.augment\.regoin: no such task"),
        ({"region": {"zoom": 2}}, "zoom"),
        ({"region": {"scale": (2.0, 1.0)}}, "scale = .*the smaller first"),
        ({"region": {"crop": (0.5, 1.5)}}, "crop = .*up to 1"),
        ({"region": {"marks": ("dot",)}}, "point"),
        ({"region": {"horizontal_flip": 2}}, "a probability"),
    ):
        with pytest.raises(UserError, match=messages):
            build(**blocks)


def test_flips_swap_left_and_right_in_conversations():
    prompt = Prompt("chat", "Left one?", answer="left", history=(("Is it on the left?", "On the right."),))
    (flipped,) = flip_horizontally(Example("it", np.zeros((1, 4, 4, 3), np.uint8), (prompt,))).prompts
    assert (flipped.text, flipped.answer) == ("Right one?", "right")
    assert flipped.history == (("Is it on the right?", "On the left."),)


def test_flips_swap_left_and_right_in_texts():
    inputs = make_example(text="Left of the RIGHT one, leftover", classes=("left shoe", "right shoe", "copyright"))
    (prompt,) = flip_horizontally(inputs).prompts
    assert prompt.text == "Right of the LEFT one, leftover"
    assert prompt.classes == ("right shoe", "left shoe", "copyright")
    np.testing.assert_array_equal(prompt.masks[..., ::-1], inputs.prompts[0].masks)


def caption_example(*texts):
    """Boxes of the three things, each with its text."""
    boxes = []
    for mask in make_masks()[:, 0]:
        rows, columns = (np.flatnonzero(mask.any(axis)).tolist() for axis in (1, 0))
        boxes.append(Region.from_box(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    prompt = Prompt("caption", regions=tuple(boxes), captions=tuple((text,) for text in texts))
    return dataclasses.replace(make_example(), prompts=(prompt,))


def test_crops_drop_regions_with_their_captions():
    (prompt,) = crop_example(caption_example("red", "green", "blue"), WINDOW).prompts
    assert prompt.captions == (("green",), ("blue",))
    part = crop_example(caption_example("red", "green", "blue"), WINDOW).frames[0]
    for region, colour in zip(prompt.regions, COLOURS[1:], strict=True):
        left, top, right, bottom = region.boxes[0].astype(int)
        assert (part[top:bottom, left:right] == colour).all()


@pytest.mark.parametrize(
    ("rule", "texts", "expected"),
    [
        ("swap", ("a man on the left", "Right hand", "a cup"), ("a man on the right", "Left hand", "a cup")),
        ("keep", ("a man on the left", "Right hand", "a cup"), ("a man on the left", "Right hand", "a cup")),
        ("swap", ("der Hund links", "左边的狗", "a cup"), ("der Hund rechts", "右边的狗", "a cup")),
        ("swap", ("a cup", "koira vasemmalla", "a cup"), None),  # Finnish is not known
        ("swap", ("a cup", "a cup", "the lft cup"), None),
        ("keep", ("a cup", "koira vasemmalla", "the lft cup"), ("a cup", "koira vasemmalla", "the lft cup")),
        ("skip", ("a cup", "der Hund links", "a cup"), None),
        ("skip", ("a cup", "koira", "a cup"), None),
        ("skip", ("a man on the left", "a cup", "a cup"), None),
        ("skip", ("a man", "the word STOP", "a cup"), None),
        ("skip", ("a bright cup", "leftover food", "a cup"), ("a bright cup", "leftover food", "a cup")),
    ],
)
def test_flips_respect_texts(rule, texts, expected):
    example = caption_example(*texts)
    flipped, _ = Augment(horizontal_flip=1.0, flipped_texts=rule)(example, np.random.default_rng(0))
    if expected is None:
        assert flipped is example
        return
    assert [text for (text,) in flipped.prompts[0].captions] == list(expected)
    np.testing.assert_array_equal(flipped.frames, example.frames[:, :, ::-1])
    assert flipped.prompts[0].regions[0].boxes[0, 0] == WIDTH - example.prompts[0].regions[0].boxes[0, 2]


def test_unknown_rule_for_flipped_texts():
    with pytest.raises(UserError, match="flipped_texts = 'mirror': choose one of swap, skip, keep"):
        Augment(flipped_texts="mirror")


def test_sentences_beside_a_class_list_do_not_prevent_crops():
    """Those whose meaning a crop changes are left out; without a class list, they prevent it."""
    texts = ("the green thing", "the green thing on the left")
    sentences = tuple(make_prompt(text) for text in texts)
    composed = dataclasses.replace(make_example(), prompts=(*make_example().prompts, *sentences))
    augment, kept = Augment(scale=(1.5, 1.5)), set()
    for seed in range(20):
        example, fill = augment(composed, np.random.default_rng(seed))
        kept |= {prompt.text for prompt in example.prompts[1:]}
        assert fill == 1.0 and example.frames.shape[2] == 40 and example.prompts[0].task == "panoptic"
        for prompt in example.prompts[1:]:
            np.testing.assert_array_equal(prompt.masks[0], colour_mask(example.frames, COLOURS[1]))
    assert kept == {texts[0]}
    whole, _ = augment(dataclasses.replace(composed, prompts=sentences), np.random.default_rng(0))
    assert whole.frames.shape == composed.frames.shape and len(whole.prompts) == 2
