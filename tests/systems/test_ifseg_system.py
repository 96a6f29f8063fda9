"""IFSeg's cells, loss and answers do not depend on padding, and images of words teach it class names."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from hyperseg_jax import jaxprs
from hyperseg_jax.errors import UserError
from hyperseg_jax.llms import ofa
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results.mask_resize import canvas_size, geometry_array, make_mask_resize, resize_masks
from hyperseg_jax.structs import IGNORED
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.ifseg import inference, inputs
from hyperseg_jax.systems.ifseg.model import END, PADDING, START
from hyperseg_jax.systems.ifseg.scores import ABSENT, class_logits, present_classes
from hyperseg_jax.systems.ifseg.word_images import enlarge, random_grid
from hyperseg_jax.training.param_groups import ParamGroup, merge_params, split_params

IFSEG = systems.get("ifseg")
NAMES = [[10, 11], [12], [13, 14, 15], [16]]
COUNT = len(NAMES)
SIDE = 64


def make_config(**smoothing):
    layers = {"hidden_size": 16, "mlp_size": 32, "num_layers": 2, "num_heads": 2}
    model = {
        "precision": {"matmul": "highest"},
        "vocab_size": 20,
        "num_classes": COUNT,
        "decoder_input": "encoder_output",
        "image_encoder": {"blocks": (1, 1, 1), "width": 8},
        "encoder": {**layers, "text_buckets": 8, "side": 6, "base": (4, 4), "num_positions": 32},
        "decoder": {**layers, "side": 4},
        "smoothing": {"neighbours": 3, "rounds": 0, **smoothing},
    }
    return ml_collections.ConfigDict({"model": model, "loss": {}, "data": {"image_size": SIDE}})


CONFIG = make_config()
MODEL = IFSEG.build(CONFIG)


@pytest.fixture(scope="module")
def params():
    """Parameters, with distinct biases so that nothing vanishes."""
    drawn = jax.jit(lambda: IFSEG.init_plain(MODEL, CONFIG, jax.random.key(0)))()
    rng = np.random.default_rng(0)
    spread = lambda path, x: x if "variance" in str(path) else x + 0.3 * rng.standard_normal(x.shape, np.float32)
    return jax.tree_util.tree_map_with_path(spread, drawn)


def pad_rows(rows, count, length):
    padded = np.full((count, length), PADDING, np.int32)
    for row, ids in zip(padded, rows, strict=False):
        row[: len(ids)] = ids
    return padded


def make_classes(rows=1, count=COUNT, length=12):
    """Returns the arrays of the class list, padded to some counts."""
    text = [START, 5, *(token for name in NAMES for token in name), END]
    of_name = np.where(np.arange(count) < COUNT, np.arange(count), -1).astype(np.int32)
    arrays = {"text": pad_rows([text], 1, length)[0], "class_words": pad_rows(NAMES, count, 3), "class_of": of_name}
    return {name: np.broadcast_to(array, (rows, *array.shape)) for name, array in arrays.items()}


def make_words(rows=3, seed=0, **sizes):
    """Returns a batch of images of words."""
    rng = np.random.default_rng(seed)
    grids = [random_grid(rng, COUNT)[:5, :5] for _ in range(rows)]
    cells, pixels = (np.stack([enlarge(grid, size) for grid in grids]) for size in (SIDE // 16, SIDE))
    batch = {"cell_names": cells, "labels": pixels.astype(np.int16), "bad": np.zeros(rows, bool)}
    return batch | make_classes(rows, **sizes)


def make_images(sizes, canvas, seed=0):
    """Returns a batch of images of these (height, width) on a canvas, which is white beyond them."""
    images = np.full((len(sizes), 1, *canvas, 3), 255, np.uint8)
    for k, (height, width) in enumerate(sizes):
        drawn = np.random.default_rng(seed + k).integers(0, 256, (height, width, 3), np.uint8)
        drawn[height // 2 :] = 128  # looks like padding
        images[k, 0, :height, :width] = drawn
    arrays = {"images": images, "filled": np.array(sizes, np.int32), "bad": np.zeros(len(sizes), bool)}
    return arrays | make_classes(len(sizes))


def predict(params, batch, config=CONFIG):
    outputs, memory = jax.jit(inference.make_predict(MODEL, config))(params, batch, {})
    assert memory is None
    return {name: np.asarray(value)[:, 0, 0] for name, value in outputs.items()}


def test_images_of_any_size_share_a_canvas(params):
    """Also images with more cells than the base grid, with fewer, and beyond the table of positions."""
    sizes, config = [(41, 60), (64, 64), (100, 20), (30, 112)], make_config(rounds=4)
    together = predict(params, make_images(sizes, (112, 112)), config)["mask_logits"]
    for k, (height, width) in enumerate(sizes):
        cells = -(-height // 16), -(-width // 16)
        alone = predict(params, make_images([(height, width)], [16 * n for n in cells], seed=k), config)["mask_logits"]
        np.testing.assert_allclose(together[k, :, : cells[0], : cells[1]], alone[0], atol=1e-5)
    assert np.ptp(together[0, :, :3, :4], axis=0).min() > 0.01  # classes differ


@pytest.mark.parametrize("image", [True, False])
def test_attention_in_chunks_gives_the_same_answer(params, monkeypatch, image):
    """On a wide canvas, and no array has an entry for each head and pair of cells."""
    batch = make_images([(50, 256), (64, 200)], (64, 256)) if image else make_words(2)

    def largest_scores():
        """Returns the number of pairs in the largest array with an axis of heads."""
        program = jax.make_jaxpr(inference.make_predict(MODEL, CONFIG))(params, batch, {}).jaxpr
        shapes = [out.aval.shape for equation in jaxprs.equations(program) for out in equation.outvars]
        return max(shape[-2] * shape[-1] for shape in shapes if len(shape) == 4 and shape[1] == 2)

    whole, pairs = predict(params, batch)["mask_logits"], largest_scores()
    monkeypatch.setattr(ofa, "CHUNK", 4)
    np.testing.assert_allclose(predict(params, batch)["mask_logits"], whole, atol=1e-5)
    assert largest_scores() < 0.8 * pairs  # of images of words, those of the text are left


def test_features_that_were_encoded_before_give_the_same_answer(params):
    batch, config = make_images([(40, 64)], (64, 64)), make_config(rounds=2)
    image = jax.jit(inference.make_encodings(MODEL, config)["image"].function)(params, batch, {})
    rest = {name: array for name, array in batch.items() if name not in ("images", "filled")}
    outputs, _ = jax.jit(inference.make_predict(MODEL, config))(params, rest, {"image": image})
    np.testing.assert_allclose(outputs["mask_logits"][:, 0, 0], predict(params, batch, config)["mask_logits"], atol=1e-6)


@pytest.mark.parametrize("rounds", [0, 3])
def test_probabilities_of_the_answer(params, rounds):
    """With and without smoothing, they are those of the classes at the size of the image."""
    config = make_config(rounds=rounds)
    outputs = predict(params, make_images([(40, 64)], (64, 64)), config)
    geometry = Geometry((30, 48), (40, 64), (64, 64))
    given = {name: np.asarray(value[0]) for name, value in outputs.items()}
    resize = make_mask_resize(geometry_array(geometry), (4, 4), canvas_size(30, 48), "cells")
    answers = {}
    for kind in ("semantic", "soft_semantic"):
        answer = IFSEG.answers.find(kind)
        answers[kind] = jax.device_get(answer.select(given, resize, IFSEG.answers.default.segment_thresholds()))
    values = np.asarray(resize_masks(given["mask_logits"], resize))[:, :30, :48]
    expected = values if rounds else np.asarray(jax.nn.softmax(values, axis=0))
    np.testing.assert_allclose(expected.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(answers["soft_semantic"]["label"], answers["semantic"]["label"])
    np.testing.assert_allclose(answers["soft_semantic"]["score"][:30, :48], expected.max(0), rtol=1e-5)


def test_invalid_smoothing_is_refused():
    for wrong in ({"neighbours": 0}, {"rounds": -1}):
        with pytest.raises(UserError, match=r"model\.smoothing: .*give at least one neighbour, and 0 rounds or more"):
            inference.make_predict(MODEL, make_config(**wrong))


def run_loss(params, batch, counts=None):
    counts = IFSEG.counts(MODEL, CONFIG)(batch) if counts is None else counts
    value, metrics = jax.jit(IFSEG.loss(MODEL, CONFIG))(params, batch, jax.random.key(0), counts)
    assert set(metrics) == {"pixel"}
    return float(value)


def test_padding_and_unreadable_elements_leave_the_loss_unchanged(params):
    batch = make_words()
    expected = run_loss(params, batch)
    padded = make_words(count=7, length=15)
    assert run_loss(params, padded) == pytest.approx(expected, rel=1e-5)
    blank = {name: array[:1] for name, array in batch.items()} | {"bad": np.array([True])}
    more = {name: np.concatenate([batch[name], blank[name]]) for name in batch}
    assert run_loss(params, more) == pytest.approx(expected, rel=1e-6)


def test_the_losses_of_parts_sum_to_that_of_the_batch(params):
    batch = make_words()
    batch["labels"] = np.where(np.arange(3)[:, None, None] < np.arange(SIDE)[:, None] % 4, IGNORED, batch["labels"])
    counts = IFSEG.counts(MODEL, CONFIG)(batch)
    assert counts["pixels"] == (batch["labels"] != IGNORED).sum() < batch["labels"].size
    parts = [{name: array[rows] for name, array in batch.items()} for rows in (slice(0, 1), slice(1, 3))]
    assert sum(run_loss(params, part, counts) for part in parts) == pytest.approx(run_loss(params, batch), rel=1e-5)


def test_the_loss_of_images_is_over_their_pixels_alone(params):
    """The target of an image is stretched over its cells, wherever it is on the canvas."""
    sizes = [(41, 60), (64, 64)]
    batch = make_images(sizes, (64, 64))
    batch["labels"] = np.full((2, 64, 64), IGNORED, np.int16)
    total, pixels = 0.0, 0
    logits = predict(params, batch)["mask_logits"]
    for k, (height, width) in enumerate(sizes):
        target = np.random.default_rng(k).integers(0, 4, (height, width))
        batch["labels"][k, :height, :width] = target
        cells = -(-height // 16), -(-width // 16)
        scores = jnp.asarray(logits[k, :, : cells[0], : cells[1]])
        spread = jax.image.resize(scores, (4, height, width), "linear", antialias=False)
        total += optax.softmax_cross_entropy_with_integer_labels(jnp.moveaxis(spread, 0, -1), target).sum()
        pixels += height * width
    assert run_loss(params, batch) == pytest.approx(float(total) / pixels, rel=1e-5)


def test_a_class_is_as_probable_as_all_its_names():
    names = np.random.default_rng(0).standard_normal((1, 5, 4), np.float32)
    of_name = np.array([[1, 0, 1, -1]])
    scores = np.asarray(class_logits(names, of_name))
    expected = np.logaddexp(names[..., 0], names[..., 2])
    np.testing.assert_allclose(scores[..., :2], np.stack([names[..., 1], expected], -1), rtol=1e-6)
    assert (scores[..., 2:] == ABSENT).all()
    np.testing.assert_array_equal(present_classes(of_name), [[True, True, False, False]])
    np.testing.assert_array_equal(class_logits(names, np.arange(4)[None]), names)  # bit by bit without synonyms
    assert np.isnan(class_logits(np.full_like(names, np.nan), of_name)[..., :2]).all()  # damaged weights give no answer
    gradient = jax.grad(lambda x: class_logits(x, of_name)[..., :2].sum())(names)
    shares = np.exp(names[..., [0, 2]] - expected[..., None])
    one, none = np.ones_like(expected), np.zeros_like(expected)
    np.testing.assert_allclose(gradient, np.stack([shares[..., 0], one, shares[..., 1], none], -1), rtol=1e-5, atol=1e-7)


def test_images_of_words_teach_the_names_of_cells():
    """From random weights and with a frozen word table. Each image is new, so the loss is that of unseen grids."""
    groups = [ParamGroup(r"(image_encoder|image_projection|tokens|unused)/.*|classifier", rate=0.0), ParamGroup(".*")]
    plain = jax.jit(lambda: IFSEG.init_plain(MODEL, CONFIG, jax.random.key(1)))()
    plain["tokens"]["embedding"] = np.random.default_rng(0).standard_normal((20, 16), np.float32)
    trained, frozen = split_params(plain, groups)
    tx, loss, counts = optax.adam(5e-3), IFSEG.loss(MODEL, CONFIG), IFSEG.counts(MODEL, CONFIG)

    @jax.jit
    def step(trained, state, batch):
        value, gradients = jax.value_and_grad(
            lambda p: loss(merge_params(p, frozen), batch, jax.random.key(0), counts(batch))[0]
        )(trained)
        updates, state = tx.update(gradients, state)
        return optax.apply_updates(trained, updates), state, value

    state = tx.init(trained)
    first = last = None
    for k in range(100):
        trained, state, last = step(trained, state, make_words(8, seed=k))
        first = last if first is None else first
    assert float(first) > 1.2 and float(last) < 0.6 * float(first)


def test_the_arrays_of_a_batch_are_described():
    batch = make_words()
    assert {name for name in batch if name not in inputs.__doc__} == set()
