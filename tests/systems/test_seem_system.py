"""SEEM: its arrays, losses, cached features, prompts of all kinds, and interactive sessions."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from sample_inputs import random_params
from seem_config import small_config

from hyperseg_jax import config as configs
from hyperseg_jax.data import sources
from hyperseg_jax.data.processor import common_shape
from hyperseg_jax.decoders.marks import MarkedPoints
from hyperseg_jax.decoders.seem import TABLES, SeemPrediction, SeemStage
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.benchmarks import BENCHMARKS
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.seem import inputs, marks, rounds
from hyperseg_jax.text.class_templates import TEMPLATES
from hyperseg_jax.text.tokenizer import Tokenizer

SYSTEM = systems.get("seem")
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (40, 60, 3), np.uint8)
CLASSES = ("ring", "star-merged", "square")


def make_points(masks):
    arrays = marks.mark_arrays(masks[0], np.zeros_like(masks[0]), (8, 0), None)
    return MarkedPoints(*(arrays[f"marked_{name}"][:1] for name in ("points", "prompt", "positive")))


def small_decoder():
    return SYSTEM.build(small_config()).decoder


def everywhere(prompts):
    """Answers every visual prompt with a mask of all pixels."""
    count = prompts.num_prompts * rounds.QUERIES_PER_PROMPT
    stage = SeemStage(*(jnp.ones((1, count, *shape)) for shape in ((4,), (16, 16), (4,), (4,))))
    return SeemPrediction((stage,), jnp.ones((1, prompts.num_prompts, 4)), None, (("mark_query", 0, count),))


def make_model(**fields):
    config = small_config(**fields)
    return Model(config, SYSTEM.tokenizer(config), random_params(SYSTEM.shapes(config), seed=3, spread=0.3))


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def tasks(world):
    config = small_config(data__root=str(world))
    return sources.build_tasks(config, SYSTEM, console=Console(quiet=True))


def stack(*rows):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


@pytest.mark.parametrize("name", ["panoptic", "referring", "region"])
def test_elements_have_the_declared_arrays(tasks, name):
    task = tasks[name]
    element = task.prepare(task.train[0], np.random.default_rng(0))
    for made in (element, task.blank()):
        spec = task.train_processor.spec(1)
        assert {key: (leaf.shape, leaf.dtype) for key, leaf in made.items()} == {
            key: (leaf.shape[1:], leaf.dtype) for key, leaf in spec.items()
        }
    asked = dataclasses.replace(task.val[0].prompts[0], masks=None, labels=())
    example = dataclasses.replace(task.val[0], prompts=(asked,))
    processor = task.processor.for_bucket(task.processor.bucket(example))
    made, spec = processor(example, train=False), processor.spec(1)
    assert {key: leaf.shape for key, leaf in made.items()} == {key: leaf.shape[1:] for key, leaf in spec.items()}


def test_sentences_are_read_as_they_are_asked_in_prediction(tasks, world):
    """In training, validation and the benchmark: without a period of ours, which would be another text."""
    line = BENCHMARKS["toy_referring"]
    benchmark = sources.open_reader("it", line.reader, line.fields, str(world))
    task = tasks["referring"]
    for split, reader in (("train", task.train), ("val", task.val), ("val", benchmark)):
        records = json.loads((world / "refcoco" / f"refcoco_{split}.json").read_text())
        written = {entry["raw"] for record in records for entry in record["instruction"]}
        assert {prompt.text for k in range(len(reader)) for prompt in reader[k].prompts} == written
        assert not any(text.endswith(".") for text in written)


@pytest.fixture(scope="module")
def loss(model):
    """f(*rows, divisors) -> (total, metrics) of elements, jitted; and f(*rows) -> their counts."""
    config = small_config(loss__rounds=0)
    module = SYSTEM.build(config)
    counts_of, loss_of = jax.jit(SYSTEM.counts(module, config)), jax.jit(SYSTEM.loss(module, config))
    counts = lambda *rows: counts_of(stack(*rows))

    def run(*rows, divisors=None):
        return loss_of(model.params, stack(*rows), jax.random.key(0), counts(*rows) if divisors is None else divisors)

    return run, counts


def assert_close(one, other, rtol=2e-5):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize(("variant", "field"), [("v0", "regions"), ("demo", "phrases"), ("demo", "regions")])
def test_prompts_that_a_variant_cannot_train(variant, field):
    """In v0 the marks of one object would be read as those of another; class lists alone can be trained."""
    config = small_config(model__mask_decoder__variant=variant).unlock()
    config.data.tasks = {"panoptic": config.data.tasks.panoptic}
    make = lambda: SYSTEM.loss(SYSTEM.build(config), config)
    assert make()
    config.data.tasks.panoptic[field] = 3
    message = rf"^data\.tasks\.panoptic\.{field} = 3: variant '{variant}' cannot be trained with them; give 0"
    with pytest.raises(UserError, match=message):
        make()
    config.data.tasks.panoptic.ratio = 0
    assert make()


def elements(tasks, name):
    task = tasks[name]
    rows = [task.prepare(task.train[k], np.random.default_rng(k)) for k in range(2)]
    return (*rows, task.blank())


@pytest.mark.parametrize("name", ["panoptic", "referring", "region"])
def test_unreadable_records_have_no_effect_and_slices_add_up(tasks, loss, name):
    run, counts = loss
    one, other, blank = elements(tasks, name)
    twice = run(one, one)
    assert float(twice[0]) > 0
    assert_close(run(one, blank), twice)
    nothing = run(blank, blank)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(nothing))
    divisors = counts(one, other)
    parts = [run(row, blank, divisors=divisors) for row in (one, other)]
    assert_close(jax.tree.map(lambda *values: sum(values), *parts), run(one, other))


def test_a_class_list_adds_names_and_marks_in_training(tasks):
    """Each object may be marked and named, in one pass with the class list."""
    task = tasks["panoptic"]
    processor = dataclasses.replace(task.train_processor, phrases=6, length=16, regions=4)
    element = processor(task.train[0], train=True, rng=np.random.default_rng(0))
    segments = int(task.train_processor(task.train[0], train=True, rng=np.random.default_rng(0))["valid"].sum())
    assert element["valid"].sum() == segments > 1
    assert element["region_present"].sum() == min(4, segments)
    assert not element["is_sentence"] and element["phrase_present"].sum() >= 1
    masks = element["region_segments"][element["region_planes"], 0] == np.arange(1, 5)[:, None, None]
    drawn = np.unpackbits(element["drawn"], axis=-1).astype(bool)
    assert (drawn & masks)[element["region_valid"]].any((1, 2)).all()
    assert element["phrase_valid"].sum() >= element["phrase_present"].sum()


@pytest.fixture(scope="module")
def composed(tasks):
    """f(seed, **sizes) -> an element with a class list, sentences about three objects and marks; and its class list."""
    lists, sentences = tasks["panoptic"].train[0], tasks["referring"].train[0].prompts
    objects = {prompt.masks.tobytes(): prompt for prompt in sentences if len(prompt.masks)}
    chosen = [dataclasses.replace(prompt, group="name") for prompt in list(objects.values())[:3]]  # any text of a file
    assert len(chosen) == 3
    again = [dataclasses.replace(prompt, text=f"{prompt.text} again") for prompt in chosen]
    example = dataclasses.replace(lists, prompts=(*lists.prompts, *chosen, *again))

    def make(seed, **sizes):
        sizes = {"prompts": 16, "phrases": 6, "length": 24, "regions": 4, "points": 64, "planes": 0, **sizes}
        processor = dataclasses.replace(tasks["panoptic"].train_processor, **sizes)
        return processor(example, train=True, rng=np.random.default_rng(seed)), processor

    return make


def test_sentences_replace_class_names_beside_a_class_list(composed):
    """One sentence about each of one to four objects, as published."""
    texts, counts = set(), set()
    for seed in range(24):
        element, processor = composed(seed)
        present = element["phrase_ids"][element["phrase_present"]]
        of_row = [processor.tokenizer.decode(ids.tolist()).strip() for ids in present]
        assert element["is_sentence"] and len({text.removesuffix(" again") for text in of_row}) == len(of_row)
        assert (element["phrase_valid"] == element["phrase_present"]).all() and element["region_valid"].sum() > 1
        texts |= set(of_row)
        counts.add(len(of_row))
    assert len(texts) == 6 and counts == {1, 2, 3}
    without, _ = composed(0, phrases=0, length=0)
    assert not without["phrase_ids"].size and without["region_valid"].any()


def test_prompts_of_one_record_do_not_change_each_other(composed, loss):
    """The losses of the class list and of the sentences of a record are those of each alone, as in the attention of v1."""
    run, _ = loss
    element, _ = composed(3)
    together = run(element)[1]
    assert {name.split("_")[0] for name in together} == {"objects", "phrases", "marks"}
    fields = {"": ("class_ids", "class_valid"), "phrase_": ("phrase_ids", "phrase_present")}
    for kind, left_out in (("objects", "phrase_"), ("phrases", "")):
        alone = {name: value for name, value in element.items() if name != "drawn"}
        for prefix in (left_out, "region_"):
            names = [*fields.get(prefix, ("region_present",)), *(f"{prefix}{name}" for name in ("planes", "valid", "labels"))]
            alone |= {name: element[name][:0] for name in (*names, f"{prefix}segments")}
        alone |= {name: value[:, :0] for name, value in element.items() if name.startswith("marked_")}
        metrics = run(alone)[1]
        assert metrics and all(
            name.startswith(kind) and float(value) > 0 for name, value in metrics.items() if "name" not in name
        )
        for name, value in metrics.items():
            np.testing.assert_allclose(value, together[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("names", "others"),
    [
        (CLASSES, CLASSES[::-1]),
        (("red ring\nblue star", "square"), ("red ring", "blue star\nsquare")),  # equal when they are joined by lines
        (  # equal in CRC-32
            ("redbdfh", "bluedfh", "greenbd", "ringbdf", "stardfh"),
            ("seecdfi", "cltddgh", "frddocd", "siofbeg", "stasdfh"),
        ),
    ],
)
def test_rows_may_have_different_class_lists(model, names, others):
    examples = [Example("it", IMAGE[None], (Prompt("panoptic", classes=of_row),)) for of_row in (names, others)]
    largest = jax.tree.map(max, *map(model._processor.bucket, examples))
    processor = model._processor.for_bucket(largest)
    rows = [processor(example, train=False) for example in examples]
    encode = jax.jit(SYSTEM.encode(SYSTEM.build(model.config), model.config)["classes"].function)
    both = encode(model.params, stack(*rows), {})
    for found, row in zip(both, rows, strict=True):
        np.testing.assert_allclose(found, encode(model.params, stack(row), {})[0], atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 1e-2


def test_class_vectors_stay_cached_for_further_images(model):
    model.engine.feature_cache.clear()
    model.segment_classes(IMAGE, CLASSES)
    cached = model.engine.feature_cache._cached
    assert len(cached["classes"]) >= 1 and len(cached["image"]) == 1
    model.engine.feature_cache.clear()
    assert len(cached["classes"]) >= 1 and not cached["image"]


def test_class_names_are_put_in_all_published_sentences():
    processor = make_processor(templates="all")
    prompt = Prompt("panoptic", classes=CLASSES)
    texts = processor._class_texts(prompt.classes, None)
    assert [len(of_class) for of_class in texts] == [len(TEMPLATES)] * 4 == [81] * 4
    decode = lambda ids: processor.tokenizer.decode(ids).strip()
    assert decode(texts[1][1]) == "a photo of a star."
    assert decode(texts[3][0]) == "background."


def test_a_class_list_is_tokenized_once(monkeypatch):
    """Not for each image and round: COCO's has more than ten thousand sentences."""
    processor, encoded = make_processor(templates="all"), []
    real = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: encoded.append(text) or real(self, text))
    asked = (Prompt("panoptic", classes=CLASSES), Prompt("region", regions=tuple(two_boxes()), classes=CLASSES))
    rows = []
    for prompt in asked:
        example = Example("it", IMAGE[None], (prompt,))
        rows.append(processor.for_bucket(processor.bucket(example))(example, train=False)["class_ids"])
    assert len(encoded) == 4 * len(TEMPLATES) and np.array_equal(*rows)


def make_processor(**fields):
    config = small_config()
    return dataclasses.replace(SYSTEM.processor(config, SYSTEM.tokenizer(config), {}), **fields)


def two_boxes():
    return [Region.from_box(5, 5, 25, 30), Region.from_box(30, 8, 55, 35)]


@pytest.mark.parametrize("variant", ["v1", "v0", "demo"])
def test_answers_of_all_kinds(variant):
    model = make_model(model__mask_decoder__variant=variant)
    assert variant in TABLES
    predicted = model.segment_regions(IMAGE, two_boxes())
    assert predicted.masks.shape == (2, 40, 60) and len(set(predicted.scores)) == 2
    composed = model.segment_regions(IMAGE, two_boxes(), text="the red ring")
    assert composed.scores != predicted.scores
    (phrase,) = model.segment(IMAGE, "the red ring")
    assert phrase.mask.shape == (40, 60)
    again = model.segment_regions(IMAGE, two_boxes())
    assert again.scores == predicted.scores  # choices are fixed in prediction
    one = model.segment_regions(IMAGE, two_boxes()[:1])
    if variant != "v1":  # there, the number of regions changes the chosen queries
        np.testing.assert_allclose(one.scores[0], predicted.scores[0], rtol=1e-4)


WIDE = {"short_side": 32, "long_side": 96, "multiple": 32, "bicubic": 1}


def test_images_keep_their_shape_in_prediction():
    """Elements are on canvases of the shape of their image, and one of a batch holds all of its images."""
    processor = make_processor(**WIDE)
    images = {(40, 60): (32, 48), (90, 30): (96, 32)}
    shapes = []
    for (height, width), filled in images.items():
        pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
        example = Example("it", pixels[None], (Prompt("region", regions=tuple(two_boxes()[:1])),))
        shapes.append(processor.bucket(example))
        of_bucket = processor.for_bucket(shapes[-1])
        made, spec = of_bucket(example, train=False), of_bucket.spec(1)
        assert {key: leaf.shape for key, leaf in made.items()} == {key: leaf.shape[1:] for key, leaf in spec.items()}
        assert made["filled"].tolist() == list(filled)
        expected = np.asarray(Image.fromarray(pixels).resize(filled[::-1], Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(made["images"][0, : filled[0], : filled[1]], expected)
        points = made["marked_points"][0][made["marked_prompt"][0] == 0]
        assert len(points) and (points * made["images"].shape[2:0:-1] < filled[::-1]).all()
    assert [(shape["height"], shape["width"]) for shape in shapes] == [(32, 64), (96, 32)]
    together = processor.for_bucket(common_shape(shapes))
    assert together.geometry(40, 60).padded == (96, 64) and together.geometry(40, 60).filled == (32, 48)


def test_padding_of_training():
    batch = {"images": np.full((1, 1, 4, 4, 3), 128, np.uint8), "filled": np.array([[4, 2]])}
    zero, grey = (inputs.training_images(batch, padding) for padding in ("zero", "grey"))
    assert not zero[:, :, 2:].any() and zero[:, :, :2].all()
    np.testing.assert_allclose(grey[0, 0, 3], (128 - np.array([123.675, 116.28, 103.53])) / [58.395, 57.12, 57.375], rtol=1e-6)
    np.testing.assert_array_equal(grey[:, :, :2], zero[:, :, :2])
    with pytest.raises(UserError, match=r"data\.padding = 'white': give one of 'zero', 'grey'"):
        configs.load("seem_focalt", ["data.padding=white"])


def test_sam_reads_images_of_one_size():
    config = configs.load("seem_samvitb")
    assert SYSTEM.processor(config, None, {}).geometry(480, 640).padded == (1024, 1024)
    config = configs.load("seem_samvitb", ["data.resize.multiple=32"])
    with pytest.raises(UserError, match=r"SAM's encoder has positions for 1024 x 1024 pixels only; give .* multiple = 1024"):
        SYSTEM.processor(config, None, {})


def test_answers_about_images_that_are_not_square():
    model = make_model(data__resize=WIDE)
    with pytest.raises(UserError, match="short_side = 99, long_side = 96, multiple = 32: give a long side of at least"):
        make_model(data__resize=WIDE | {"short_side": 99})
    tall = np.ascontiguousarray(IMAGE.transpose(1, 0, 2))
    (one,), (other,) = (model.segment(image, "the red ring") for image in (IMAGE, tall))
    assert one.mask.shape == (40, 60) and other.mask.shape == (60, 40)
    session = model.session(IMAGE)
    session.add_points([[10, 10]])
    assert session.add_points([[50, 35]], positive=False).masks.shape == (1, 40, 60)
    assert model.session(IMAGE).add_example(tall, Region.from_box(5, 5, 30, 25)).masks.shape == (1, 40, 60)


def test_marks_keep_thin_lines_and_small_clicks():
    processor = make_processor()
    big = (400, 600)
    geometry = processor.geometry(*big)
    line = Region.from_scribble([[10, 10], [590, 390]])
    click = Region("point", points=np.array([[300.0, 200.0, 1], [10.0, 10.0, 0]]))
    positive, negative = marks.draw_marks([line, click], big, geometry)
    assert positive[0].sum() > 20
    assert positive[1].sum() == 9 and negative[1].sum() == 4 and not negative[0].any()


@pytest.mark.parametrize(
    ("region", "why"),
    [
        (Region("point", points=np.array([[5.0, 5.0, 0]])), "has only points beside the object"),
        (Region("mask", points=np.array([[5.0, 5.0, 0]]), mask=np.zeros((40, 60), bool)), "has only points beside the object"),
        (Region.from_mask(np.zeros((40, 60), bool)), "is empty"),
        (Region("point"), "is empty"),
    ],
)
def test_regions_without_a_mark_on_the_object_are_refused(region, why):
    with pytest.raises(UserError, match=f"region 2 {why}; add a point on the object, a box, a scribble or a mask"):
        marks.draw_marks([Region.from_point(3, 3), region], (40, 60), make_processor().geometry(40, 60))


def test_pixels_are_shared_between_prompts():
    masks = np.zeros((2, 32, 32), bool)
    masks[0, :20] = masks[1, 30:, :4] = True
    for rng in (None, np.random.default_rng(0)):
        prompt, row, column = marks.sample_pixels(marks.find_pixels(masks), 16, rng)
        assert len(prompt) <= 16 and masks[prompt, row, column].all()
        assert 4 <= (prompt == 1).sum() <= 8


def test_memory_belongs_to_the_prompts_that_an_image_has():
    """Objects without a mark, as very small ones, leave gaps."""
    valid = jnp.array([[True, False, True, False], [False, False, False, True]])
    slots = rounds.random_choices(small_decoder(), jax.random.key(0), 8, valid).slots
    assert set(slots[:, :, 0].ravel().tolist()) == {0, 2} and set(slots[:, :, 1].ravel().tolist()) == {3}
    assert (jnp.diff(slots, axis=-1) >= 0).all()


@pytest.mark.parametrize("height", [255, 511, 512])
def test_pixels_of_a_box_are_spread_over_it(height):
    """At equal distances in raster order, those of a box that is 511 pixels high are in one column."""
    masks = np.zeros((1, 512, 300), bool)
    masks[0, :height, 20:120] = True
    first, again = (marks.sample_pixels(marks.find_pixels(masks), 512, None) for _ in range(2))
    prompt, row, column = first
    assert len({*zip(row.tolist(), column.tolist(), strict=True)}) == 512 and masks[prompt, row, column].all()
    assert abs(column.mean() - 69.5) < 4 and 26 < column.std() < 32 and abs(row.mean() - height / 2) < 2
    assert all(map(np.array_equal, first, again))


def test_simulated_rounds_click_until_the_mask_is_good():
    """A prediction that covers all pixels gets negative clicks; a perfect one gets none."""
    size, target = (16, 16), np.zeros((1, 2, 16, 16), bool)
    target[0, 0, :, :12] = target[0, 1] = True  # four columns too many, in which the later clicks overlap
    shown = np.zeros((1, 2, 16, 16), bool)
    shown[:, :, 0, 0] = True
    points = tuple(make_points(shown) for _ in range(4))
    decoder = small_decoder()
    choices = rounds.random_choices(decoder, jax.random.key(0), 9, jnp.ones((1, 2), bool))
    state, previous = rounds.simulate_rounds(
        everywhere, rounds.Marks(points, jnp.asarray(shown), jnp.zeros_like(shown)), jnp.asarray(target), choices, 8, size
    )
    assert (previous > 0).all()
    counts = np.asarray(state.negative.sum((2, 3)))[0]
    assert counts[0] > 0 and counts[1] == 0
    clicked = np.asarray(state.points[0].prompt) >= 0
    assert clicked.sum() == 2 + counts[0]  # no pixel twice
    _, nothing = rounds.simulate_rounds(
        everywhere, rounds.Marks(points, jnp.asarray(shown), jnp.zeros_like(shown)), jnp.asarray(target), choices, 0, size
    )
    assert not np.asarray(nothing).any()
