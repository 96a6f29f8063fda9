"""Wrong arguments of the Python API: an error in one line that says what to give, before anything is computed."""

import fuzz
import numpy as np
import pytest
from PIL import Image

import hyperseg_jax
from hyperseg_jax.errors import UserError
from hyperseg_jax.predictors import arguments
from hyperseg_jax.predictors.model import read_image
from hyperseg_jax.structs import Region

IMAGE = np.zeros((40, 60, 3), np.uint8)
MASK = np.ones((40, 60), bool)
BOX = Region.from_box(1, 1, 9, 9)


@pytest.fixture(scope="module")
def model():
    return hyperseg_jax.load("tiny")


CALLS = {
    "segment, None": (lambda m: m.segment(IMAGE, None), "text is None; give a text"),
    "segment, bytes": (lambda m: m.segment(IMAGE, b"dog"), r"text = .*dog.*: is bytes; give a text"),
    "segment, list": (lambda m: m.segment(IMAGE, ["dog"]), "text is a list; give a text"),
    "segment, half a character": (lambda m: m.segment(IMAGE, "dog\ud83d"), "half of a character"),
    "segment, reasoning": (lambda m: m.segment(IMAGE, "dog", reasoning="no"), "reasoning is .*no.*; give True or False"),
    "segment, soft": (lambda m: m.segment(IMAGE, "dog", soft=None), "soft is None; give True or False"),
    "segment, threshold": (
        lambda m: m.segment(IMAGE, "dog", no_target_threshold="0.5"),
        "no_target_threshold is .*0.5.*; give",
    ),
    "segment, nan": (lambda m: m.segment(IMAGE, "dog", no_target_threshold=float("nan")), "give a number from 0 to 1"),
    "no image": (lambda m: m.segment(None, "dog"), "the image is None; give a path"),
    "bytes": (lambda m: m.segment(b"\xff\xd8", "dog"), "the image is .*; give a path"),
    "grey": (lambda m: m.segment(IMAGE[..., 0], "dog"), r"the image is uint8 \(40, 60\); give uint8 \[height, width, 3\]"),
    "empty": (lambda m: m.segment(IMAGE[:0], "dog"), r"the image is uint8 \(0, 60, 3\)"),
    "float": (lambda m: m.segment(IMAGE / 255, "dog"), "the image is float64"),
    "classes, text": (
        lambda m: m.segment_classes(IMAGE, "dog"),
        r"classes = 'dog': is one text; give a list .*classes=\['dog'\]",
    ),
    "stuff, text": (lambda m: m.segment_classes(IMAGE, ["dog"], stuff="grass"), "stuff = 'grass': is one text"),
    "classes, bytes": (lambda m: m.segment_classes(IMAGE, b"dog"), "is one text; give a list"),
    "classes, None": (lambda m: m.segment_classes(IMAGE, None), "classes is None; give a list of names"),
    "classes, set": (lambda m: m.segment_classes(IMAGE, {"dog"}), "classes is a set; give a list"),
    "classes, dict": (lambda m: m.segment_classes(IMAGE, {"dog": 1}), "classes is a dict; give a list"),
    "classes, number": (lambda m: m.segment_classes(IMAGE, ["dog", 3]), r"classes\[1\] is 3; give a text"),
    "classes, empty": (lambda m: m.segment_classes(IMAGE, ["dog", " "]), "is empty"),
    "classes, none": (lambda m: m.segment_classes(IMAGE, []), "no classes are given"),
    "classes, twice": (
        lambda m: m.segment_classes(IMAGE, ["dog", "cat", " dog"]),
        "classes has 'dog' twice; give each name once",
    ),
    "stuff, twice": (lambda m: m.segment_classes(IMAGE, ["a"], stuff=["b", "b"]), "stuff has 'b' twice"),
    "in both": (lambda m: m.segment_classes(IMAGE, ["dog"], stuff=["dog"]), "'dog' is in classes and in stuff; give it once"),
    "kind": (lambda m: m.segment_classes(IMAGE, ["dog"], kind="all"), "kind = 'all': use one of"),
    "kind, None": (lambda m: m.segment_classes(IMAGE, ["dog"], kind=None), "kind is None; give a text"),
    "overlap": (lambda m: m.segment_classes(IMAGE, ["dog"], overlap=7), "overlap is 7; give a number from 0 to 1"),
    "probable": (lambda m: m.most_probable_classes(IMAGE, "dog"), "is one text"),
    "regions, one": (lambda m: m.segment_regions(IMAGE, BOX), r"regions is one Region; give a list"),
    "regions, mask": (
        lambda m: m.segment_regions(IMAGE, MASK),
        r"regions is an array of bool \(40, 60\), one mask; give a list",
    ),
    "regions, None": (lambda m: m.segment_regions(IMAGE, None), "regions is None; give a list"),
    "regions, text": (lambda m: m.segment_regions(IMAGE, "box"), "regions is 'box'; give a list"),
    "regions, numbers": (
        lambda m: m.segment_regions(IMAGE, [[1, 2, 3, 4]]),
        "region 1 is a list; give a Region, or a bool mask",
    ),
    "regions, none": (lambda m: m.segment_regions(IMAGE, []), "no regions are given"),
    "regions, size": (lambda m: m.segment_regions(IMAGE, [MASK.T]), r"region 1 has size \(60, 40\)"),
    "labels, fewer": (lambda m: m.segment_regions(IMAGE, [BOX, BOX], labels=["a"]), "1 labels for 2 regions; pass one"),
    "labels, text": (lambda m: m.segment_regions(IMAGE, [BOX], labels="a"), "labels = 'a': is one text; give a list"),
    "labels, number": (lambda m: m.segment_regions(IMAGE, [BOX], labels=[1]), r"labels\[0\] is 1; give a text"),
    "drawn on": (lambda m: m.segment_regions(IMAGE, [BOX], drawn_on=3), "the image is 3; give a path"),
    "alternatives": (lambda m: m.segment_alternatives(IMAGE, [BOX]), "region 1 is a list; give a Region"),
    "automatic": (lambda m: m.automatic(IMAGE, 32), "options is 32; give AutomaticOptions"),
    "rounds": (lambda m: list(m.segment_rounds(IMAGE, [BOX])), "regions is one Region"),
    "video, image": (lambda m: m.segment_video(IMAGE, "dog"), r"frames is an array of uint8 \(40, 60, 3\); give images"),
    "video, None": (lambda m: m.segment_video(None, "dog"), "frames is None; give images"),
    "video, PIL": (lambda m: m.segment_video(Image.fromarray(IMAGE), "dog"), "frames is a Image; give images"),
    "video, text": (lambda m: m.segment_video([IMAGE], None), "text is None; give a text"),
    "video, no text": (lambda m: m.segment_video([IMAGE], " "), "the prompt is empty"),
    "video, frame": (lambda m: list(m.segment_video([None], "dog")), "the image is None"),
    "track": (lambda m: m.track_classes([IMAGE], "dog"), "is one text"),
    "objects, None": (lambda m: m.segment_objects([IMAGE], None), "the masks of frame 0 are None; give the object id"),
    "objects, float": (lambda m: m.segment_objects([IMAGE], MASK * 0.5), r"float64 \(40, 60\); give the object id"),
    "objects, negative": (lambda m: m.segment_objects([IMAGE], MASK * -1), "have the id -1; give ids from 1 to 254"),
    "objects, large": (lambda m: m.segment_objects([IMAGE], MASK * 300), "have the id 300"),
    "objects, key": (lambda m: m.segment_objects([IMAGE], {"0": MASK * 1}), "masks has the key '0'; give numbers"),
    "chat, None": (lambda m: m.chat(IMAGE, None), "question is None; give a text"),
    "chat, seed": (lambda m: m.chat(IMAGE, "what?", seed="1"), "seed = '1': must be in 0 to"),
    "captions": (lambda m: m.caption_regions(IMAGE, BOX), "regions is one Region|generates no"),
    "session, classes": (lambda m: m.session(IMAGE, classes="dog"), "is one text"),
    "session, text": (lambda m: m.session(IMAGE).add_text(None), "text is None; give a text"),
    "session, points": (lambda m: m.session(IMAGE).add_points([["1", "2"]]), "points: are no points; give at least one"),
    "session, positive": (lambda m: m.session(IMAGE).add_points([[1, 2]], "no"), "positive is 'no'; give True or False"),
    "session, box": (lambda m: m.session(IMAGE).add_box("1", 2, 3, 4), "the box has '1'; give numbers"),
    "session, None": (lambda m: m.session(IMAGE).add_box(None, 2, 3, 4), "the box has None; give numbers"),
    "session, mask": (lambda m: m.session(IMAGE).add_mask(None), "the mask is None; give a bool mask"),
    "session, example": (lambda m: m.session(IMAGE).add_example(IMAGE, "dog"), "region 1 is 'dog'; give a Region"),
    "load": (lambda m: hyperseg_jax.load(None), "the model is None; give a name, or the path"),
    "region, mask": (lambda m: Region("mask", mask=[[1]]), "the mask of a region is no array"),
    "region, scribbles": (lambda m: Region("scribble", scribbles=None), "the scribbles of a region are no list"),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments(model, name):
    call, message = CALLS[name]
    with pytest.raises(UserError, match=message) as excinfo:
        call(model)
    fuzz.assert_one_line(str(excinfo.value))


def test_right_arguments():
    names = np.array(["dog", " cat"])
    assert arguments.check_names("classes", names) == arguments.check_names("classes", ["dog", "cat"]) == ("dog", "cat")
    assert arguments.class_prompt(("a",), ["b"]).things == (True, False)
    assert len(arguments.check_regions(np.stack([MASK, MASK]))) == len(arguments.check_regions([BOX, MASK * 1])) == 2
    assert arguments.region_names(2, ["a", "a"]) == ("a", "a") and arguments.region_names(1, ()) == ("region 1",)
    assert arguments.check_threshold("x", None) is None and arguments.check_threshold("x", np.float32(0.5)) == 0.5
    assert [*arguments.check_object_ids(MASK)] == [0] and [*arguments.check_object_ids({np.int64(3): MASK * 1})] == [3]
    assert arguments.check_seed(np.int64(4)) == 4 and read_image(Image.fromarray(IMAGE)).shape == IMAGE.shape
