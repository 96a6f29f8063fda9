"""IFSeg's elements: images of words of any size and with synonyms, the same on every host; images with label maps."""

import pickle

import ml_collections
import numpy as np
import pytest

from hyperseg_jax.data.mixture import Mixture
from hyperseg_jax.data.pipeline import Stream
from hyperseg_jax.data.sources import Task, open_reader
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import IGNORED, Example, Prompt
from hyperseg_jax.systems.ifseg.model import PADDING
from hyperseg_jax.systems.ifseg.processor import make_processor
from hyperseg_jax.systems.ifseg.texts import load_tokenizer

SIZES = {"classes": 8, "class_length": 4, "length": 64}
CLASSES = ("red ring", "star|blue star|sun", "grass")


def make_config(**data):
    resize = {"short_side": 64, "long_side": 256, "multiple": 32}
    data = {"root": "", "tokenizer": "toy", "image_size": 96, "resize": resize, **data}
    return ml_collections.ConfigDict({"model": {"vocab_size": 600, "encoder": {"num_positions": 100}}, "data": data})


CONFIG = make_config()
TOKENIZER = load_tokenizer(CONFIG)


def make_words_task(side=96, classes=CLASSES):
    reader = open_reader("data.tasks.words.train", "class_words", {"classes": classes}, "")
    return Task("words", reader, None, 1, make_processor(make_config(image_size=side), TOKENIZER, {**SIZES, "words": 1}))


def make_example(size=(50, 70)):
    masks = np.zeros((2, 1, *size), bool)
    masks[0, 0, :30], masks[1, 0, 30:, :40] = True, True
    ignore = np.zeros((1, *size), bool)
    ignore[0, :, -10:] = True
    image = np.random.default_rng(0).integers(0, 255, (1, *size, 3), dtype=np.uint8)
    return Example("image", image, (Prompt("panoptic", classes=CLASSES, masks=masks, labels=(2, 0), ignore=ignore),))


@pytest.mark.parametrize("side", [96, 80, 512])
def test_cells_and_pixels_have_the_classes_of_one_grid(side):
    element = make_words_task(side).prepare(make_words_task().train[0], np.random.default_rng(5))
    assert element["cell_names"].shape == (side // 16, side // 16) and element["labels"].shape == (side, side)
    assert element["class_of"].tolist() == [0, 1, 1, 1, 2, -1, -1, -1]
    rows, columns = np.random.default_rng(5).integers(1, min(side // 16, 32) + 1, size=2)
    grid = element["labels"][:: max(side // rows, 1), :: max(side // columns, 1)]
    assert set(np.unique(grid)) <= {0, 1, 2}
    classes = element["class_of"][element["cell_names"]]
    y = np.arange(side // 16) * rows // (side // 16)
    first = (y * side + rows - 1) // rows  # the first pixel of the grid row that a cell shows
    x = np.arange(side // 16) * columns // (side // 16)
    left = (x * side + columns - 1) // columns
    np.testing.assert_array_equal(classes, element["labels"][np.ix_(first, left)])


def test_classes_are_uniform_and_names_within_a_class():
    task = make_words_task()
    names = np.concatenate([task.prepare(task.train[0], np.random.default_rng(k))["cell_names"].ravel() for k in range(400)])
    shares = np.bincount(names, minlength=5) / len(names)
    np.testing.assert_allclose(shares, [1 / 3, 1 / 9, 1 / 9, 1 / 9, 1 / 3], atol=0.05)


def test_the_stream_is_the_same_for_hosts_workers_and_resumed_runs():
    def batches(start=0, count=3, **options):
        with Stream(Mixture({"words": make_words_task(192)}, 4, seed=3), 4, position=4 * start, **options) as stream:
            return [next(stream) for _ in range(count)]

    whole = batches()
    assert len({batch["labels"][k].tobytes() for batch in whole for k in range(4)}) == 12, "each element is another image"
    for rows in ((0, 1), (3, 2)):
        for batch, part in zip(whole, batches(rows=rows), strict=True):
            for name in batch:
                np.testing.assert_array_equal(batch[name][list(rows)], part[name])
    for one, other in ((batches(start=2, count=1), whole[2:]), (batches(workers=2, count=2), whole[:2])):
        for batch, part in zip(one, other, strict=True):
            assert all(np.array_equal(batch[name], part[name]) for name in batch)


def test_labels_are_those_of_the_masks():
    process = make_processor(CONFIG, TOKENIZER, SIZES)
    element = process(make_example(), train=True)
    filled = (69, 96)
    assert tuple(element["filled"]) == filled and element["images"].shape == (1, 96, 96, 3)
    labels = element["labels"]
    assert (labels[69:] == IGNORED).all() and (labels[:, 84:] == IGNORED).all()
    assert (labels[:40, :80] == 2).all() and (labels[44:69, :53] == 0).all() and (labels[44:69, 58:80] == IGNORED).all()


def test_arrays_have_the_declared_shapes():
    for words, example in ((0, make_example()), (1, make_words_task().train[0])):
        process = make_processor(CONFIG, TOKENIZER, {**SIZES, "words": words})
        assert pickle.loads(pickle.dumps(process.for_bucket({}))).spec(1) == process.spec(1)
        for element in (process(example, train=True), process.blank()):
            spec = process.spec(1)
            assert element.keys() == spec.keys()
            for name, leaf in spec.items():
                assert (np.shape(element[name]), np.asarray(element[name]).dtype) == (leaf.shape[1:], leaf.dtype), name
        blank = process.blank()
        assert blank["bad"] and (blank["labels"] == IGNORED).all() and (blank["class_of"] == -1).all()
        assert (blank["text"] == PADDING).all() and (blank["class_words"] == PADDING).all()
        for used, room in process.padding(process(example, train=True)).values():
            assert 0 < used <= room


def test_a_bucket_holds_its_example():
    process = make_processor(CONFIG, TOKENIZER, {})
    for size in ((50, 70), (70, 50), (33, 400), (64, 64)):
        example = make_example(size)
        fitted = process.for_bucket(process.bucket(example))
        element = fitted(example, train=False)
        assert "labels" not in element
        assert element.keys() == fitted.spec(1).keys() and element["images"].shape[1:3] == fitted.geometry(*size).padded
        assert min(element["filled"]) <= 64 and max(element["filled"]) <= 256
        assert fitted.parts(element).keys() == {"image"}
    trained = make_processor(CONFIG, TOKENIZER, {**SIZES, "words": 1})
    assert "images" in trained.for_bucket(trained.bucket(example)).spec(1), "validation of a task of words has images"


def test_a_class_list_is_no_longer_than_the_text_that_the_model_reads():
    process = make_processor(CONFIG, TOKENIZER, {})
    example = Example("image", np.zeros((1, 8, 8, 3), np.uint8), (Prompt("panoptic", classes=("red " * 59, "red")),))
    assert process.bucket(example)["length"] == 100
    with pytest.raises(UserError, match=r"image: the text of its 2 class names has \d+ tokens, and the model reads 100"):
        process.bucket(Example("image", example.frames, (Prompt("panoptic", classes=("red " * 98, "red")),)))


@pytest.mark.parametrize(
    "prompt, message",
    [
        (Prompt("referring", "the star"), "IFSeg answers one class list"),
        (Prompt("panoptic"), "its class list is empty"),
        (Prompt("panoptic", classes=("a", "")), "has an empty name"),
        (Prompt("panoptic", classes=("a", " a")), "'a' is there twice"),
        (Prompt("panoptic", classes=tuple(f"c{k}" for k in range(9))), "9 classes, but the task allows 8"),
        (Prompt("panoptic", classes=("red " * 9,)), "9 class_length, but the task allows 4"),
        (Prompt("panoptic", classes=("red",)), "has no masks"),
    ],
)
def test_unsupported_prompts_are_refused(prompt, message):
    example = Example("image", np.zeros((1, 8, 8, 3), np.uint8), (prompt,))
    with pytest.raises(UserError, match=message):
        make_processor(CONFIG, TOKENIZER, SIZES)(example, train=True)


def test_mistakes_of_a_config_are_named():
    with pytest.raises(UserError, match=r"length, but the task allows 8; increase length"):
        make_processor(CONFIG, TOKENIZER, {**SIZES, "length": 8})(make_example(), train=True)
    with pytest.raises(UserError, match="set words = 1 of its task"):
        make_processor(CONFIG, TOKENIZER, SIZES)(make_words_task().train[0], train=True)
    words, images = (make_processor(CONFIG, TOKENIZER, {**SIZES, "words": k}) for k in (1, 0))
    with pytest.raises(UserError, match=r"data\.batches = 'task'"):
        words.with_common_shape([images])
    with pytest.raises(UserError, match=r"length = 101, but the model reads 100 tokens"):
        make_processor(CONFIG, TOKENIZER, {**SIZES, "length": 101})
    larger = make_processor(CONFIG, TOKENIZER, {**SIZES, "length": 80})
    assert images.with_common_shape([larger]).length == 80
    config = make_config()
    config.model.encoder.side = 5
    with pytest.raises(
        UserError, match=r"data\.image_size = 96: .* 6 cells, .*positions of 5 \(model\.encoder\.side\); .* at most 80"
    ):
        make_processor(config, TOKENIZER, {**SIZES, "words": 1})
    make_processor(config, TOKENIZER, SIZES)
    with pytest.raises(UserError, match=r"data\.image_size = 100: give a multiple of 16"):
        make_processor(make_config(image_size=100), TOKENIZER, SIZES)
    with pytest.raises(UserError, match=r"long_side = 32"):
        make_processor(make_config(resize={"short_side": 64, "long_side": 32, "multiple": 32}), TOKENIZER, SIZES)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "give one of them"),
        ({"classes": ("a",), "benchmark": "ade20k"}, "give one of them"),
        ({"benchmark": "ade"}, "choose one of ade20k, "),
        ({"classes": ("a", "a")}, "has an entry twice"),
        ({"classes": "a"}, "give a list of texts"),
    ],
)
def test_mistakes_of_a_class_list_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        open_reader("data.tasks.words.train", "class_words", fields, "")
