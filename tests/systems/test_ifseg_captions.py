"""Images with captions teach IFSeg's image encoder which cells show a word."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.losses.words import BIAS, SCALE, word_presence_loss
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.ifseg import inference
from hyperseg_jax.systems.ifseg.model import PADDING
from hyperseg_jax.systems.ifseg.processor import make_processor
from hyperseg_jax.systems.ifseg.texts import load_tokenizer

IFSEG = systems.get("ifseg")
SIDE, WORDS = 64, 8


def make_config(scores="embedding"):
    layers = {"hidden_size": 16, "mlp_size": 32, "num_layers": 1, "num_heads": 2}
    model = {
        "precision": {"matmul": "highest"},
        "vocab_size": 640,
        "num_classes": 2,
        "decoder_input": "encoder_output",
        "scores": scores,
        "image_encoder": {"blocks": (1, 1, 1), "width": 8},
        "encoder": {**layers, "text_buckets": 8, "side": 6, "base": (4, 4), "num_positions": 64},
        "decoder": {**layers, "side": 4},
        "smoothing": {"neighbours": 3, "rounds": 0},
    }
    resize = {"short_side": SIDE, "long_side": 128, "multiple": 16}
    data = {"root": "", "tokenizer": "toy", "image_size": SIDE, "resize": resize}
    return ml_collections.ConfigDict({"model": model, "loss": {}, "data": data})


CONFIG = make_config()
TOKENIZER = load_tokenizer(CONFIG)
PROCESS = make_processor(CONFIG, TOKENIZER, {"caption_words": WORDS})


def make_example(*texts, image=None):
    image = np.zeros((SIDE, SIDE, 3), np.uint8) if image is None else image
    regions = tuple(Region.from_box(0, 0, 8, 8) for _ in texts)
    return Example("image", image[None], (Prompt("caption", regions=regions, captions=tuple((text,) for text in texts)),))


def test_a_word_is_present_if_it_fits_some_cells():
    rng = np.random.default_rng(0)
    cosines, present = rng.uniform(-1, 1, (2, 6, 3)).astype(np.float32), rng.random((2, 3)) < 0.5
    valid = np.array([[True] * 6, [True, True, False, True, False, False]])
    expected = np.zeros(2)
    for b in range(2):
        for v in range(3):
            logit = np.log(np.mean(np.exp(SCALE * cosines[b, valid[b], v]))) + BIAS
            expected[b] += np.logaddexp(0, -logit if present[b, v] else logit)
    np.testing.assert_allclose(word_presence_loss(cosines, valid, present), expected, rtol=1e-5)
    gradient = jax.grad(lambda x: word_presence_loss(x, valid, present).sum())(cosines)
    assert (gradient[1, ~valid[1]] == 0).all() and np.isfinite(gradient).all()


def test_elements_have_the_different_words_of_all_captions():
    element = PROCESS(make_example("a red star", "a star on grass"), train=True)
    ids = {token for word in ("a", "red", "star", "on", "grass") for token in TOKENIZER.encode(word)}
    words = element["caption_words"].tolist()
    assert words == sorted(ids) + [PADDING] * (WORDS - len(ids))
    for made in (element, PROCESS.blank()):
        spec = PROCESS.spec(1)
        assert made.keys() == spec.keys()
        assert all(np.shape(made[name]) == leaf.shape[1:] for name, leaf in spec.items())
    assert PROCESS.padding(element)["words"] == (len(ids), WORDS)


def test_mistakes_of_captions_are_named():
    with pytest.raises(UserError, match=r"image: .*caption_words, but the task allows 8; increase caption_words"):
        PROCESS(make_example("a large red star on grass", "a small blue ring at the top left"), train=True)
    with pytest.raises(UserError, match=r"image: has no captions; use a reader of captions, or set caption_words = 0"):
        PROCESS(Example("image", np.zeros((1, 8, 8, 3), np.uint8), (Prompt("panoptic", classes=("red",)),)), train=True)
    lists = make_processor(CONFIG, TOKENIZER, {"classes": 8, "class_length": 4, "length": 32})
    with pytest.raises(UserError, match=r"class lists and captions cannot be in one batch; set data\.batches = 'task'"):
        PROCESS.with_common_shape([lists])
    with pytest.raises(UserError, match=r"model\.scores = 'words': use one of decoder, embedding"):
        IFSEG.build(make_config("words"))


def test_an_adapted_model_answers_by_its_decoder():
    captions = configs.load("ifseg_tiny_captions")
    adapted = IFSEG.adapt(captions, TOKENIZER, ("red star", "grass"))
    assert (captions.model.scores, adapted.model.scores) == ("embedding", "decoder")
    assert adapted.data.resize == captions.data.resize


def test_cells_beyond_images_and_unreadable_elements_have_no_gradient():
    """Without biases, features far beyond an image are zeros, whose norm has no derivative."""
    model = IFSEG.build(CONFIG)
    params = jax.jit(lambda: IFSEG.init_plain(model, CONFIG, jax.random.key(0)))()
    gradient = jax.jit(jax.grad(lambda p, given: IFSEG.full_loss(model, CONFIG)(p, given, jax.random.key(0))[0]))
    element = PROCESS(make_example("a red star"), train=True)
    image = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    wide = np.pad(image, ((0, 0), (0, 2 * SIDE), (0, 0), (0, 0)))
    alone = gradient(params, jax.tree.map(lambda x: x[None], {**element, "images": image}))
    padded = {**element, "images": wide}
    unreadable = {**PROCESS.blank(), "images": np.zeros_like(wide)}
    together = gradient(params, jax.tree.map(lambda *rows: np.stack(rows), padded, unreadable))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4), alone, together)


COLORS = {"red": (220, 30, 30), "blue": (30, 60, 220), "green": (30, 180, 50), "white": (240, 240, 240)}


def make_batch(rng, count):
    """Returns images with four colours of four, each in a random half; captions name both, in no order."""
    elements, halves = [], []
    for _ in range(count):
        first, second = rng.choice(len(COLORS), 2, replace=False)
        image = np.empty((SIDE, SIDE, 3), np.uint8)
        image[:, : SIDE // 2], image[:, SIDE // 2 :] = (list(COLORS.values())[k] for k in (first, second))
        texts = (f"a {list(COLORS)[k]} star" for k in sorted((first, second)))
        elements.append(PROCESS(make_example(*texts, image=image), train=True))
        halves.append((first, second))
    return {name: np.stack([element[name] for element in elements]) for name in elements[0]}, np.array(halves)


@pytest.mark.slow
def test_captions_teach_which_cells_show_a_word():
    """The left half of an image gets its own colour, although captions do not say where a colour is."""
    model, rng = IFSEG.build(CONFIG), np.random.default_rng(0)
    params = jax.jit(lambda: IFSEG.init_plain(model, CONFIG, jax.random.key(0)))()
    tx, loss, counts = optax.adam(3e-3), IFSEG.loss(model, CONFIG), IFSEG.counts(model, CONFIG)

    @jax.jit
    def step(params, state, batch):
        value, gradients = jax.value_and_grad(lambda p: loss(p, batch, jax.random.key(0), counts(batch))[0])(params)
        updates, state = tx.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    batch, _ = make_batch(rng, 4)
    alone = {name: array[:3] for name, array in batch.items()}
    masked = {**batch, "bad": np.array([False, False, False, True])}
    value = lambda given: IFSEG.full_loss(model, CONFIG)(params, given, jax.random.key(0))[0]
    assert float(value(masked)) == pytest.approx(float(value(alone)), rel=1e-5)
    assert counts(masked)["images"] == 3

    state = tx.init(params)
    for _ in range(120):
        params, state, _ = step(params, state, make_batch(rng, 8)[0])

    batch, halves = make_batch(rng, 16)
    lists = make_processor(CONFIG, TOKENIZER, {})
    example = Example("image", np.zeros((1, SIDE, SIDE, 3), np.uint8), (Prompt("panoptic", classes=tuple(COLORS)),))
    element = lists.for_bucket(lists.bucket(example))(example, train=False)
    names = {key: np.stack([element[key]] * 16) for key in ("text", "class_words", "class_of")}
    outputs, _ = jax.jit(inference.make_predict(model, CONFIG))(params, {**batch, **names}, {})
    found = jnp.argmax(outputs["mask_logits"][:, 0, 0], axis=1)
    right = (found[:, :, 0] == halves[:, :1]).mean(), (found[:, :, -1] == halves[:, 1:]).mean()
    assert min(right) > 0.9, right
