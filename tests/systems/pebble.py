"""A stub system, for what shared rooms may know of one: images of any size, one query, and a memory from frame to frame.

A colour is compared with the mean of the words' embeddings; what a frame answered moves the next.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperseg_jax import axes
from hyperseg_jax.ops.transforms import Geometry, resize_and_pad, resize_and_pad_map
from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Answer, Answers, Thresholds
from hyperseg_jax.systems.system import System
from hyperseg_jax.tables import ConvKernel, Identity, Published, Row, Table
from hyperseg_jax.text.tokenizer import Tokenizer

STEP, STRIDE, WORDS = 32, 4, 12


class Pebble(nn.Module):
    width: int
    vocabulary: int

    @nn.compact
    def __call__(self, images, words, memory):
        """images [B, H, W, 3], words int32 [B, K, L] (0 pads), memory [B, K] -> logits [B, K, 1, H / 4, W / 4]."""
        init = nn.initializers.normal(0.1)
        kernel = self.param("kernel", axes.named(init, None, None, None, "mlp"), (STRIDE, STRIDE, 3, self.width))
        table = self.param("words", axes.named(init, "vocab", "embed"), (self.vocabulary, self.width))
        momentum = self.param("momentum", axes.named(nn.initializers.zeros, "embed"), (self.width,))
        seen = jax.lax.conv_general_dilated(
            images, kernel, (STRIDE, STRIDE), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        said = jnp.where((words > 0)[..., None], table[words], 0.0).sum(-2) + memory[..., None] * momentum
        return jnp.einsum("bhwd,bkd->bkhw", seen, said)[:, :, None]


@dataclasses.dataclass(frozen=True)
class Processor:
    tokenizer: Tokenizer
    height: int = STEP
    width: int = STEP
    frames: int = 1
    prompts: int = 1

    def __call__(self, example, *, train, rng=None, fill=1.0):
        geometry = self.geometry(*example.frames.shape[1:3])
        frames, prompts = example.frames[: self.frames], example.prompts[: self.prompts]
        images = np.zeros((self.frames, self.height, self.width, 3), np.uint8)
        images[: len(frames)] = [resize_and_pad(frame, geometry, 0) for frame in frames]
        words = np.zeros((self.prompts, WORDS), np.int32)
        masks = np.zeros((self.prompts, self.frames, self.height, self.width), bool)
        for k, prompt in enumerate(prompts):
            ids = self.tokenizer.encode(f" {prompt.text.strip(' .')}")[:WORDS]
            words[k, : len(ids)] = ids
            if prompt.masks is not None:
                union = prompt.masks[:, : self.frames].any(0)
                masks[k, : len(union)] = [resize_and_pad_map(mask, geometry) for mask in union]
        asked = np.arange(self.prompts) < len(prompts)
        there = np.arange(self.frames) < len(frames)
        return {"images": images, "words": words, "wanted": masks, "asked": asked, "there": there, "bad": np.asarray(False)}

    def bucket(self, example):
        up = lambda side: -(-side // (2 * STEP)) * STEP
        height, width = map(up, example.frames.shape[1:3])
        return {"height": height, "width": width, "frames": len(example.frames)}

    def for_bucket(self, shape):
        return dataclasses.replace(self, **shape)

    def widest(self, others):
        sizes = ("height", "width", "frames", "prompts")
        return dataclasses.replace(self, **{name: max(getattr(one, name) for one in (self, *others)) for name in sizes})

    def spec(self, batch_size):
        size, array = (self.height, self.width), lambda dtype, *shape: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        return {
            "images": array(np.uint8, self.frames, *size, 3),
            "words": array(np.int32, self.prompts, WORDS),
            "wanted": array(bool, self.prompts, self.frames, *size),
            "asked": array(bool, self.prompts),
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
        return {}

    def padding(self, element):
        return {"prompts": (int(element["asked"].sum()), self.prompts)}


def build(config):
    return Pebble(config.model.width, config.model.vocabulary)


def init(model, config, key):
    return model.init(key, jnp.zeros((1, STEP, STEP, 3)), jnp.zeros((1, 1, WORDS), jnp.int32), jnp.zeros((1, 1)))["params"]


def tokenizer(config, where=None):
    return Tokenizer.load(where) if where else Tokenizer.toy()


def processor(config, tokenizer, task):
    return Processor(tokenizer, **task)


def frame(model, params, batch, t, memory):
    logits = model.apply({"params": params}, batch["images"][:, t] / 127.5 - 1, batch["words"], memory)
    return logits, jnp.tanh(logits.mean((2, 3, 4)))


def forgotten(batch):
    return jnp.zeros(batch["asked"].shape)


def counts(model, config):
    return lambda batch: (batch["asked"].sum(1) * batch["there"].sum(1)).sum().astype(jnp.float32)


def loss(model, config):
    def of_batch(params, batch, key, counts):
        total, memory = 0.0, forgotten(batch)
        for t in range(batch["images"].shape[1]):
            logits, memory = frame(model, params, batch, t, memory)
            wanted = batch["wanted"][:, :, t, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
            each = optax.sigmoid_binary_cross_entropy(logits[:, :, 0], wanted).mean((2, 3))
            total += jnp.where(batch["asked"] & batch["there"][:, t, None], each, 0.0).sum()
        total /= jnp.maximum(counts, 1.0)
        return total, {"mask": total}

    return of_batch


def predict(model, config):
    def of_batch(params, batch, features, memory=None):
        memory = forgotten(batch) if memory is None else memory
        made = []
        for t in range(batch["images"].shape[1]):
            logits, memory = frame(model, params, batch, t, memory)
            made.append({"mask_logits": logits, "score": logits.max((3, 4)), "asked": batch["asked"]})
        return jax.tree.map(lambda *frames: jnp.stack(frames, 1), *made), memory

    return of_batch


def select(outputs, resize, thresholds):
    return selection.expression(outputs["mask_logits"], outputs["score"], resize, asked=outputs["asked"], soft=False)


def weight_table(config):
    rows = [Row("kernel", "stem.weight", ConvKernel()), Row("words", "words.weight", Identity())]
    return Table([*rows, Row("momentum", "momentum", Identity())])


PEBBLE = System(
    name="pebble",
    build=build,
    init=init,
    tokenizer=tokenizer,
    processor=processor,
    counts=counts,
    loss=loss,
    predict=predict,
    answers=Answers({"expression": Answer(select, answers.expression)}, Thresholds(None, 0.5), Thresholds(None, 0.5)),
    weight_table=weight_table,
    published=(Published("Pebble", mark=r"stem\.weight", file="a folder"),),
    extras=(),
    hf_config=lambda config: {"model_type": "pebble", "width": config.model.width},
)
