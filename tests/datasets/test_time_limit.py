"""limits.seconds is checked between the objects of a record, in readers, in builds and in augmentation."""

import contextlib
import dataclasses
import itertools
import time

import numpy as np
import pytest
from PIL import Image
from sample_inputs import make_regions

from hyperseg_jax.data.augment import Augment
from hyperseg_jax.data.mixture import Mixture
from hyperseg_jax.datasets import PascalVocObjects, record_errors
from hyperseg_jax.datasets.builds import images, records
from hyperseg_jax.datasets.class_prompts import ClassLists
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted import budget, limits

OBJECTS = 30
SIZE = (40, 60)


@contextlib.contextmanager
def expect_timeout(message):
    """Each look at the clock takes a second."""
    ticks = itertools.count(time.monotonic())
    with pytest.MonkeyPatch.context() as patch, limits.temporary_limits(seconds=20.0), budget.record_budget():
        patch.setattr(budget.time, "monotonic", lambda: next(ticks))
        with pytest.raises(UserError, match=f"{message}: has 2[01].* seconds of reading time.*limits.seconds"):
            yield


def make_example():
    """An image with a region prompt for OBJECTS objects."""
    masks = np.zeros((OBJECTS, 1, *SIZE), bool)
    masks[range(OBJECTS), 0, 10:30, range(10, 10 + OBJECTS)] = True
    prompt = Prompt(
        task="region", masks=masks, labels=tuple(range(OBJECTS)), regions=make_regions(masks[:, 0], *["mask"] * OBJECTS)
    )
    return Example("it", np.zeros((1, *SIZE, 3), np.uint8), (prompt,))


def test_points_of_voc_objects(tmp_path):
    for name in ("JPEGImages", "SegmentationObject", "ImageSets/Segmentation"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    object_ids = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) * (OBJECTS + 1) // (SIZE[0] * SIZE[1])
    Image.fromarray(object_ids.astype(np.uint8)).save(tmp_path / "SegmentationObject" / "a.png")
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "JPEGImages" / "a.jpg")
    reader = PascalVocObjects(tmp_path, "val")
    assert len(reader[0].prompts[0].regions) == OBJECTS
    with expect_timeout("a.png"):
        reader[0]


def test_class_lists_of_many_labels():
    """The negative classes are chosen in linear time, and the clock is read before each list."""
    labels = list(range(16_000))
    lists = ClassLists(tuple(map(str, range(160_000))), (True,) * 160_000, max_classes=8)
    start = time.process_time()
    assert len(lists.build_prompts(0, np.zeros((len(labels), 1, 1), bool), labels, np.zeros((1, 1), bool))[0].classes) == 8
    assert time.process_time() < start + 5
    lists = ClassLists(("a", "b"), (True, True), max_classes=1, prompts_per_example=OBJECTS)
    with expect_timeout("image 7"):
        lists.build_prompts(7, np.zeros((0, 1, 1), bool), [], np.zeros((1, 1), bool))


def test_masks_of_a_build():
    example = make_example()
    classes = {"task": "panoptic", "regions": (), "classes": ("a",) * OBJECTS, "things": (True,) * OBJECTS}
    example = dataclasses.replace(example, prompts=(dataclasses.replace(example.prompts[0], **classes),))
    data = records.encode_example(example, images.encode_losslessly(example.frames, []))
    with expect_timeout("s#0"):
        records.Record(data, "s#0").example()


@pytest.mark.parametrize("options", [{"marks": ("point",)}, {"crop": (0.5, 0.5)}])
def test_augmentation(options):
    with expect_timeout("the regions of the example"):
        Augment(**options)(make_example(), np.random.default_rng(0))


def test_augmentation_in_a_training_stream():
    """The time of reading and that of augmentation are added."""

    class SlowTask:
        train = (make_example(),)
        ratio = 1

        def prepare(self, example, rng):
            return Augment(marks=("point",))(example, rng)

        def blank(self):
            return {}

    with limits.temporary_limits(seconds=1e-9):
        message = record_errors.decode_message(Mixture({"slow": SlowTask()}, batch_size=1, seed=0)[0]["fault"])
    assert message.startswith("slow record 0: the regions of the example: has ")
