"""A stub system that tests the shared rooms: images of any size, memory between frames, class names, and regions drawn on an
example image.

Each query is a vector: the mean embedding of an expression, the mean feature of a region, or the mean embedding of a class
name. Mask logits are the image features times that vector, and the prediction of a frame shifts the next one."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperseg_jax import axes
from hyperseg_jax.data.processor import Encoding
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.ops.transforms import Geometry, resize_and_pad, resize_and_pad_map
from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Answer, Answers, Thresholds
from hyperseg_jax.systems.system import System
from hyperseg_jax.tables import ConvKernel, Identity, Row, SourceCheckpoint, Table
from hyperseg_jax.text.tokenizer import Tokenizer

STEP, STRIDE, WORDS = 32, 4, 12


class Pebble(nn.Module):
    width: int
    vocabulary: int

    def setup(self):
        init = nn.initializers.normal(0.1)
        self.kernel = self.param("kernel", axes.named(init, None, None, None, "mlp"), (STRIDE, STRIDE, 3, self.width))
        self.words = self.param("words", axes.named(init, "vocab", "embed"), (self.vocabulary, self.width))
        self.momentum = self.param("momentum", axes.named(nn.initializers.ones, "embed"), (self.width,))

    def see(self, images):
        """uint8 [B, H, W, 3] -> [B, H / 4, W / 4, D]."""
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images / 127.5 - 1, self.kernel, (STRIDE, STRIDE), "VALID", dimension_numbers=numbers
        )

    def read(self, words):
        """Token ids [..., L], of which 0 pads -> [..., D]."""
        return jnp.where((words > 0)[..., None], self.words[words], 0.0).sum(-2)

    def look(self, images, regions):
        """The mean features of regions bool [B, K, R, H, W] of images [B, H, W, 3] -> [B, K, R, D]."""
        cells = regions[..., STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].astype(jnp.float32)
        return jnp.einsum("bkrhw,bhwd->bkrd", cells, self.see(images)) / jnp.maximum(cells.sum((-2, -1)), 1)[..., None]

    def __call__(self, features, queries, memory):
        """Features [B, h, w, D], queries [B, K, Q, D], memory [B, K] -> logits [B, K, Q, h, w]."""
        return jnp.einsum("bhwd,bkqd->bkqhw", features, queries + memory[..., None, None] * self.momentum)


@dataclasses.dataclass(frozen=True)
class Processor:
    tokenizer: Tokenizer
    height: int = STEP
    width: int = STEP
    frames: int = 1
    prompts: int = 1
    regions: int = 0
    classes: int = 0

    @property
    def questions(self):
        return 1 + self.regions + self.classes

    def __call__(self, example, *, train, rng=None, fill=1.0):
        geometry = self.geometry(*example.frames.shape[1:3])
        arrays = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), self.spec(1))
        frames, prompts = example.frames[: self.frames], example.prompts[: self.prompts]
        arrays["images"][: len(frames)] = [resize_and_pad(frame, geometry, 0) for frame in frames]
        drawn_on = example.frames[0] if example.drawn_on is None else example.drawn_on
        arrays["example_images"][:] = resize_and_pad(drawn_on, self.geometry(*drawn_on.shape[:2]), 0)
        for k, prompt in enumerate(prompts):
            first = 0
            if prompt.task == "region":
                first = 1
                for r, region in enumerate(prompt.regions):
                    mask = draw_region(region, drawn_on.shape[:2])
                    arrays["regions"][k, r] = resize_and_pad_map(mask, self.geometry(*drawn_on.shape[:2]))
                    arrays["asked"][k, 1 + r] = True
            elif prompt.classes:
                first = 1 + self.regions
                for c, name in enumerate(prompt.classes):
                    self._encode(name, arrays["vocabulary"][k, c])
                    arrays["asked"][k, first + c] = True
            else:
                self._encode(prompt.text, arrays["words"][k])
                arrays["asked"][k, 0] = True
            for mask, label in zip(() if prompt.masks is None else prompt.masks, prompt.labels or (0,), strict=False):
                for t in range(len(frames)):
                    arrays["wanted"][k, first + label, t] |= resize_and_pad_map(mask[t], geometry)
        arrays["there"][: len(frames)] = True
        return arrays

    def _encode(self, text, row):
        ids = self.tokenizer.encode(f" {text.strip(' .')}")[:WORDS]
        row[: len(ids)] = ids

    def bucket(self, example):
        round_up = lambda side: -(-side // (2 * STEP)) * STEP
        height, width = map(round_up, example.frames.shape[1:3])
        regions = max(len(prompt.regions) for prompt in example.prompts)
        classes = max(len(prompt.classes) for prompt in example.prompts)
        return {"height": height, "width": width, "frames": len(example.frames), "regions": regions, "classes": classes}

    def for_bucket(self, shape):
        return dataclasses.replace(self, **shape)

    def with_common_shape(self, others):
        sizes = ("height", "width", "frames", "prompts", "regions", "classes")
        return dataclasses.replace(
            self, **{name: max(getattr(processor, name) for processor in (self, *others)) for name in sizes}
        )

    def spec(self, batch_size):
        size, array = (self.height, self.width), lambda dtype, *shape: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        return {
            "images": array(np.uint8, self.frames, *size, 3),
            "example_images": array(np.uint8, *size, 3),
            "regions": array(bool, self.prompts, self.regions, *size),
            "words": array(np.int32, self.prompts, WORDS),
            "vocabulary": array(np.int32, self.prompts, self.classes, WORDS),
            "wanted": array(bool, self.prompts, self.questions, self.frames, *size),
            "asked": array(bool, self.prompts, self.questions),
            "there": array(bool, self.frames),
            "bad": array(bool),
        }

    def blank(self):
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), self.spec(1)) | {"bad": np.asarray(True)}

    def geometry(self, height, width):
        scale = min(self.height / height, self.width / width, 1.0)
        filled = max(1, int(height * scale)), max(1, int(width * scale))
        return Geometry((height, width), filled, (self.height, self.width))

    def parts(self, batch):
        part = lambda *names: {name: batch[name] for name in names}
        images = part("images") if batch["images"].shape[1] == 1 else None
        parts = {"image": images, "example": part("example_images", "regions"), "vocabulary": part("vocabulary")}
        return {name: arrays for name, arrays in parts.items() if arrays is not None}

    def padding(self, element):
        return {"prompts": (int(element["asked"].any(1).sum()), self.prompts)}


def build(config):
    return Pebble(config.model.width, config.model.vocabulary)


def init(model, config, key):
    zeros = jnp.zeros((1, STEP, STEP, 3))
    call = lambda m: (m.see(zeros), m.read(jnp.zeros((1, WORDS), jnp.int32)), m.momentum)
    return model.init(key, method=call)["params"]


def encode(model, config):
    """Encodings: features of a single-frame image, of the regions of the example image, and of the class names."""
    apply_method = lambda method: lambda params, arrays: model.apply({"params": params}, *arrays, method=method)
    return {
        "image": Encoding(lambda params, part, _: apply_method("see")(params, [part["images"][:, 0]])),
        "example": Encoding(lambda params, part, _: apply_method("look")(params, [part["example_images"], part["regions"]])),
        "vocabulary": Encoding(lambda params, part, _: apply_method("read")(params, [part["vocabulary"]])),
    }


def run_frames(model, params, batch, features, memory):
    """Returns (logits [B, K, Q, h, w] of each frame, number of regions, memory after the last frame)."""
    apply = lambda *args, **method: model.apply({"params": params}, *args, **method)
    expression = apply(batch["words"], method="read")[:, :, None]
    example, names = features.get("example"), features.get("vocabulary")
    example = apply(batch["example_images"], batch["regions"], method="look") if example is None else example
    names = apply(batch["vocabulary"], method="read") if names is None else names
    prompted = jnp.concatenate([expression, example, names], 2)
    memory, logits = jnp.zeros(batch["asked"].shape[:2]) if memory is None else memory, []
    for t in range(batch["there"].shape[1]):
        features_t = features["image"] if "image" in features else apply(batch["images"][:, t], method="see")
        logits.append(apply(features_t, prompted, memory))
        memory = jnp.tanh(logits[-1].mean((2, 3, 4)))
    return logits, example.shape[2], memory


def counts(model, config):
    return lambda batch: (batch["asked"].sum((1, 2)) * batch["there"].sum(1)).sum().astype(jnp.float32)


def loss(model, config):
    def batch_fn(params, batch, key, counts):
        total = 0.0
        for t, logits in enumerate(run_frames(model, params, batch, {}, None)[0]):
            target = batch["wanted"][:, :, :, t, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
            each = optax.sigmoid_binary_cross_entropy(logits, target).mean((3, 4))
            total += jnp.where(batch["asked"] & batch["there"][:, t, None, None], each, 0.0).sum()
        total /= jnp.maximum(counts, 1.0)
        return total, {"mask": total}

    return batch_fn


def predict(model, config):
    """Outputs: mask_logits [B, T, K, Q, h, w], asked [..., Q], and the type of each query: region [..., Q, R] and class
    [..., Q, C + 1], whose column after the last name is the background."""

    def batch_fn(params, batch, features, memory=None):
        logits, regions, memory = run_frames(model, params, batch, features, memory)
        prompted = batch["asked"]
        classes = prompted.shape[2] - 1 - regions
        names = prompted[:, :, 1 + regions :].sum(2)[..., None, None]
        query, column = jnp.arange(prompted.shape[2])[:, None], jnp.arange(classes + 1)
        class_match = jnp.where(query > regions, query - 1 - regions == column, column == names)
        outputs = {
            "asked": prompted,
            "region": jnp.broadcast_to(16.0 * (query == 1 + jnp.arange(regions)) - 8, (*prompted.shape, regions)),
            "class": 16.0 * class_match - 8,
            "class_valid": column <= names[..., 0],
        }
        outputs = {name: jnp.repeat(value[:, None], len(logits), 1) for name, value in outputs.items()}
        return outputs | {"mask_logits": jnp.stack(logits, 1)}, memory

    return batch_fn


def expression(outputs, resize, thresholds):
    scores = jnp.where(jnp.arange(len(outputs["asked"])) == 0, 8.0, -8.0)
    return selection.select_expression(outputs["mask_logits"], scores, resize, enabled=outputs["asked"][0], soft=False)


def regions(outputs, resize, thresholds):
    valid = outputs["asked"][1 : 1 + outputs["region"].shape[1]]
    return selection.select_regions(outputs["mask_logits"], outputs["region"], resize, valid=valid, soft=False)


def panoptic(outputs, resize, thresholds):
    limits = {"object_threshold": thresholds[0], "overlap_threshold": thresholds[1], "valid": outputs["class_valid"]}
    return selection.select_panoptic(outputs["mask_logits"], outputs["class"], resize, **limits)


ANSWERS = {
    "expression": Answer(expression, answers.predict_expression),
    "regions": Answer(regions, answers.predict_regions),
    "panoptic": Answer(panoptic, answers.predict_panoptic),
}


def weight_table(config):
    rows = [Row("kernel", "stem.weight", ConvKernel()), Row("words", "words.weight", Identity())]
    return Table([*rows, Row("momentum", "momentum", Identity())])


PEBBLE = System(
    name="pebble",
    build=build,
    init=init,
    tokenizer=lambda config, where=None: Tokenizer.load(where) if where else Tokenizer.toy(),
    processor=lambda config, tokenizer, task: Processor(tokenizer, **task),
    counts=counts,
    loss=loss,
    encode=encode,
    predict=predict,
    answers=Answers(ANSWERS, Thresholds(None, 0.5, 0.8), Thresholds(None, 0.5, 0.8)),
    weight_table=weight_table,
    source_checkpoints=(SourceCheckpoint("Pebble", mark=r"stem\.weight", file="a folder"),),
    extra_names=(),
    hf_config=lambda config: {"model_type": "pebble", "width": config.model.width},
)
