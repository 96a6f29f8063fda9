"""The toy generator is frozen, and its exams are fair and correct."""

import collections
import hashlib
import json
import re

import numpy as np
import pytest

from hyperseg_jax import toy
from hyperseg_jax.toy import scenes, toy_images, writer
from hyperseg_jax.toy.expressions import LOOKALIKES, count_lookalikes
from hyperseg_jax.toy.vocabulary import COLORS, HELD_BACK_COLOR, HELD_BACK_SHAPE, SIZE, UNSEEN_PAIRS

WORLD = toy.World(val=60)


@pytest.fixture(scope="module")
def val():
    return [toy_images.generate_image(WORLD, "val", index) for index in range(WORLD.val)]


FROZEN = {
    "images": "3889dcfc993b0e02",
    "reasoning": "51491e2c5860ad9a",
    "clips": "4018eb9335ddf991",
}


def hash_parts(parts):
    total = hashlib.sha256()
    for text, pixels in parts:
        total.update(json.dumps(text, sort_keys=True).encode())
        total.update(np.ascontiguousarray(pixels).tobytes())
    return total.hexdigest()[:16]


def test_generator_is_frozen(val):
    """Any change of an image or sentence requires a new vocabulary.VERSION and new hashes."""
    questions = [toy_images.generate_reasoning_image(WORLD, "val", k) for k in range(4)]
    clips = [toy_images.generate_video(WORLD, "val", k) for k in range(3)]
    result = {
        "images": hash_parts((writer.build_image_records(WORLD, "val", k, val[k]), val[k].pixels) for k in range(12)),
        "reasoning": hash_parts(([question.text, question.answer], pixels) for _, pixels, question in questions),
        "clips": hash_parts(([e.text for e in written], frames) for _, frames, written in clips),
    }
    assert toy.VERSION == 1
    assert result == FROZEN


def test_exam_is_fair(val):
    """Targets are small, have distractors of the same colour or shape, and all types of expressions occur."""
    output = [(image.scene, expression) for image in val for expression in image.expressions]
    assert len(output) == WORLD.val * WORLD.expressions
    assert min(len(image.scene.things) for image in val) >= 3
    named = [(scene, expression.targets) for scene, expression in output if expression.targets]
    assert min(count_lookalikes(targets, scene.things) for scene, targets in named) >= LOOKALIKES == 2
    assert np.mean([scene.masks[list(targets)].any(0).mean() for scene, targets in named]) <= 0.15
    groups = [expression.group for _, expression in output]
    share = lambda group: groups.count(group) / len(groups)
    assert share("relation") >= 0.30 and 0.09 <= share("absent") <= 0.13 and 0.08 <= share("plural") <= 0.14


def test_things_are_sufficiently_visible(val):
    assert min(sample.scene.visible.min() for sample in val) >= scenes.MIN_VISIBLE["default"]
    sizes = [thing.diameter for sample in val for thing in sample.scene.things]
    assert min(sizes) >= 26 and max(sizes) <= 60


SIDES = {
    "left of": lambda a, b: a.x < b.x,
    "right of": lambda a, b: a.x > b.x,
    "above": lambda a, b: a.y < b.y,
    "below": lambda a, b: a.y > b.y,
}
EXTREMES = {
    "leftmost": lambda t: t.x,
    "rightmost": lambda t: -t.x,
    "topmost": lambda t: t.y,
    "bottommost": lambda t: -t.y,
    "largest": lambda t: -t.diameter,
    "smallest": lambda t: t.diameter,
}


def match_phrase(phrase, things):
    """Returns the things that match a noun phrase, by its words."""
    noun = phrase[-1]
    forms = {noun, noun.removesuffix("s"), noun.removesuffix("es")}
    result = []
    for k, thing in enumerate(things):
        output = all(word in (thing.color, thing.size) for word in phrase[:-1])
        if output and (thing.shape in forms or "shape" in forms):
            result.append(k)
    return result


def resolve(text, things):
    """Resolves an expression independently of the generator."""
    for side, holds in SIDES.items():
        if f" {side} " in text:
            noun, anchor = (part.split()[1:] for part in text.split(f" {side} "))
            (anchor_index,) = match_phrase(anchor, things)
            return [k for k in match_phrase(noun, things) if k != anchor_index and holds(things[k], things[anchor_index])]
    words = text.split()
    if words[1] in EXTREMES:
        result = match_phrase(words[2:], things)
        return [min(result, key=lambda k: EXTREMES[words[1]](things[k]))]
    return match_phrase(words[1:], things)


@pytest.mark.parametrize("split", ["val", "compositional"])
def test_expressions_are_correct(split, val):
    sample = val if split == "val" else [toy_images.generate_image(WORLD, split, k) for k in range(20)]
    for image in sample:
        for expression in image.expressions:
            assert tuple(resolve(expression.text, image.scene.things)) == expression.targets, expression


def test_relations_hold_by_a_margin(val):
    hard = toy.World(level="hard")
    for image in val + [toy_images.generate_image(hard, "val", k) for k in range(30)]:
        things = image.scene.things
        for expression in image.expressions:
            for side in SIDES:
                if f" {side} " in expression.text:
                    (anchor,) = match_phrase(expression.text.split(f" {side} ")[1].split()[1:], things)
                    target, anchor = things[expression.targets[0]], things[anchor]
                    away = sorted((abs(target.x - anchor.x), abs(target.y - anchor.y)))
                    along = abs(target.x - anchor.x) if "of" in side else abs(target.y - anchor.y)
                    assert along == away[1] > 15, expression
            word = expression.text.split()[1]
            if word in ("leftmost", "rightmost", "topmost", "bottommost"):
                key = EXTREMES[word]
                values = sorted(key(things[k]) for k in match_phrase(expression.text.split()[2:], things))
                assert values[1] - values[0] > 10, expression


def test_absent_targets_have_distractors(val):
    for image in val:
        things = image.scene.things
        for expression in image.expressions:
            if expression.group == "absent":
                output = set(expression.text.split()[1:]) - {"small", "large"}
                assert output <= {word for thing in things for word in thing.pair}, expression


def test_kinds_stay_in_their_splits(val):
    known = [toy_images.generate_image(WORLD, "train", k).scene for k in range(30)] + [sample.scene for sample in val]
    pairs = {thing.pair for scene in known for thing in scene.things}
    assert not pairs & UNSEEN_PAIRS
    assert not {HELD_BACK_COLOR, HELD_BACK_SHAPE} & {word for pair in pairs for word in pair}
    texts = " ".join(expression.text for sample in val for expression in sample.expressions)
    assert not re.search(f"{HELD_BACK_COLOR}|{HELD_BACK_SHAPE}", texts)
    assert not any(f"{color} {shape}" in texts for color, shape in UNSEEN_PAIRS)

    for k in range(15):
        sample = toy_images.generate_image(WORLD, "compositional", k)
        for expression in sample.expressions:
            named = [sample.scene.things[t].pair for t in expression.targets] or [tuple(expression.text.split()[-2:])]
            assert set(named) & UNSEEN_PAIRS, expression

    loaded = toy.World(kinds="held_back", compositional=0)
    for k in range(15):
        for expression in toy_images.generate_image(loaded, "val", k).expressions:
            assert re.search(f"{HELD_BACK_COLOR}|{HELD_BACK_SHAPE}", expression.text), expression


def test_masks_match_the_pixels(val):
    """The median colour of a mask is closest to the thing's colour."""
    right = total = 0
    for sample in val[:40]:
        for thing, mask in zip(sample.scene.things, sample.scene.masks, strict=True):
            middle = np.median(sample.pixels[mask], axis=0)
            nearest = min(COLORS, key=lambda color: np.abs(middle - COLORS[color]).sum())
            right += nearest == thing.color
            total += 1
        assert sample.scene.masks.sum(0).max() <= 1
    assert right == total


def test_nearer_things_occlude_farther_ones(val):
    zones = 0
    for sample in val:
        scene = sample.scene
        inside = scene.coverages > 0.99
        for near, thing in enumerate(scene.things):
            for far in range(near):
                both = inside[near] & inside[far] & (inside.sum(0) == 2)
                if both.sum() >= 40 and scene.things[far].color != thing.color:
                    zones += 1
                    middle = np.median(sample.pixels[both], axis=0)
                    distance = {t: np.abs(middle - COLORS[scene.things[t].color]).sum() for t in (near, far)}
                    assert distance[near] < distance[far]
                    assert scene.masks[near][both].all() and not scene.masks[far][both].any()
    assert zones >= 5


def test_reasoning_questions_are_correct():
    groups = collections.Counter()
    for k in range(40):
        scene, _, question = toy_images.generate_reasoning_image(WORLD, "val", k)
        groups[question.group] += 1
        things = scene.things
        if "larger" in question.text or "smaller" in question.text:
            order = sorted(range(len(things)), key=lambda t: things[t].diameter, reverse="larger" in question.text)
            assert question.targets == (order[0],)
        trait = "color" if re.search(r"\bcolor\b", question.text) else "shape"
        counts = collections.Counter(getattr(thing, trait) for thing in things)
        for word, count in (("exactly twice", 2), ("exactly three times", 3), ("no other has", 1)):
            if word in question.text:
                named = {k for k, thing in enumerate(things) if counts[getattr(thing, trait)] == count}
                assert named == set(question.targets), question
        if "most common" in question.text:
            best = max(counts, key=counts.get)
            assert {getattr(things[t], trait) for t in question.targets} == {best}
            assert len(question.targets) == counts[best]
    assert min(groups.values()) >= 10


def test_videos_have_motion_and_occlusion():
    hidden = 0
    for k in range(12):
        clip, frames, written = toy_images.generate_video(WORLD, "val", k)
        assert 6 <= len(frames) <= 8 and frames.shape[1:] == (SIZE, SIZE, 3)
        first, last = clip.scenes[0].things, clip.scenes[-1].things
        moves = [(b.x - a.x, b.y - a.y) for a, b in zip(first, last, strict=True)]
        hidden += np.stack([scene.visible for scene in clip.scenes]).min() < 0.6
        for expression in written:
            if expression.group == "motion":
                dx, dy = moves[expression.targets[0]]
                signs = {"right": dx > 40, "left": dx < -40, "down": dy > 40, "up": dy < -40}
                assert signs.get(expression.text.split()[-1], dx == dy == 0), expression
            assert (expression.group == "absent") == (not expression.targets)
    assert hidden >= 2
