"""A stub system that tests the shared rooms: it is trained without pixels and generates a text for each region.

As in IFSeg, words replace images in training: a region is the mean embedding of its words, and in prediction the mean colour
of its pixels. Text is generated token by token.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperseg_jax import axes
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.llms.generate import Writer
from hyperseg_jax.ops.transforms import Geometry, stretch_mask_to_square, stretch_to_square
from hyperseg_jax.results.answers import Answers, Thresholds
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems.system import System
from hyperseg_jax.tables import Identity, Row, SourceCheckpoint, Table, Transpose
from hyperseg_jax.text.tokenizer import Tokenizer

SIDE, LENGTH = 16, 8


class Scribe(nn.Module):
    width: int
    vocabulary: int

    def setup(self):
        init = nn.initializers.normal(0.1)
        self.words = self.param("words", axes.named(init, "vocab", "embed"), (self.vocabulary, self.width))
        self.colour = self.param("colour", axes.named(init, None, "embed"), (3, self.width))
        self.head = self.param("head", axes.named(init, "embed", "vocab"), (self.width, self.vocabulary))

    def __call__(self, ids):
        """Token ids int32 [..., L], of which 0 pads -> logits [..., L, V] of each token, the first from the region only."""
        valid = (ids > 0)[..., None]
        region = (self.words[ids] * valid).sum(-2) / jnp.maximum(valid.sum(-2), 1)
        previous = jnp.pad(self.words[ids[..., :-1]], ((0, 0),) * (ids.ndim - 1) + ((1, 0), (0, 0)))
        return (jnp.tanh(region[..., None, :]) + previous) @ self.head

    def embed(self, images, regions):
        """images uint8 [B, S, S, 3], regions bool [B, K, R, S, S] -> region embeddings [B, K, R, D]."""
        colours = jnp.einsum("bkrhw,bhwc->bkrc", regions.astype(jnp.float32), images / 255.0)
        return jnp.tanh(colours / jnp.maximum(regions.sum((-2, -1)), 1)[..., None] @ self.colour)

    def first(self, region):
        return region @ self.head

    def next(self, ids, region):
        return (region + self.words[ids]) @ self.head


@dataclasses.dataclass(frozen=True)
class Processor:
    tokenizer: Tokenizer
    frames: int = 1
    prompts: int = 1
    regions: int = 0

    def __call__(self, example, *, train, rng=None, fill=1.0):
        ids = np.zeros((self.prompts, LENGTH), np.int32)
        regions = np.zeros((self.prompts, self.regions, SIDE, SIDE), bool)
        for k, prompt in enumerate(example.prompts[: self.prompts]):
            if train:
                ids_with_end = [*self.tokenizer.encode(prompt.captions[0][0]), self.tokenizer.eos_id][:LENGTH]
                ids[k, : len(ids_with_end)] = ids_with_end
            else:
                for r, region in enumerate(prompt.regions):
                    regions[k, r] = stretch_mask_to_square(draw_region(region, example.frames.shape[1:3]), SIDE)
        image = np.zeros((SIDE, SIDE, 3), np.uint8) if train else stretch_to_square(example.frames[0], SIDE)
        return {"ids": ids, "images": image, "regions": regions, "bad": np.asarray(False)}

    def bucket(self, example):
        return {"regions": max(1, *(len(prompt.regions) for prompt in example.prompts))}

    def for_bucket(self, shape):
        return dataclasses.replace(self, **shape)

    def with_common_shape(self, others):
        sizes = ("prompts", "regions")
        return dataclasses.replace(
            self, **{name: max(getattr(processor, name) for processor in (self, *others)) for name in sizes}
        )

    def spec(self, batch_size):
        make_spec = lambda dtype, *shape: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        return {
            "ids": make_spec(np.int32, self.prompts, LENGTH),
            "images": make_spec(np.uint8, SIDE, SIDE, 3),
            "regions": make_spec(bool, self.prompts, self.regions, SIDE, SIDE),
            "bad": make_spec(bool),
        }

    def blank(self):
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), self.spec(1)) | {"bad": np.asarray(True)}

    def geometry(self, height, width):
        return Geometry((height, width), (SIDE, SIDE), (SIDE, SIDE))

    def parts(self, batch):
        return {}

    def padding(self, element):
        return {"positions": (int((element["ids"] > 0).sum()), self.prompts * LENGTH)}


class Names:
    """A reader of text without pixels, one name per line."""

    def __init__(self, path: str):
        with open(path) as opened:
            self._path, self._names = path, opened.read().splitlines()

    def __len__(self):
        return len(self._names)

    def __getitem__(self, index):
        prompt = Prompt("caption", captions=((self._names[index],),))
        return Example(f"{self._path}#{index}", np.zeros((0, 0, 0, 3), np.uint8), (prompt,))


def build(config):
    return Scribe(config.model.width, config.model.vocabulary)


def counts(model, config):
    return lambda batch: (batch["ids"] > 0).sum().astype(jnp.float32)


def loss(model, config):
    def loss_fn(params, batch, key, counts):
        logits, ids = model.apply({"params": params}, batch["ids"]), batch["ids"]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
        total = jnp.where(ids > 0, each, 0.0).sum() / jnp.maximum(counts, 1.0)
        return total, {"text": total}

    return loss_fn


def write(model, config):
    def prepare(params, batch, features):
        regions = model.apply({"params": params}, batch["images"], batch["regions"], method="embed")
        return regions.reshape(-1, regions.shape[-1]), regions.shape[1:3]

    def begin(params, regions, empty_slots):
        return model.apply({"params": params}, regions, method="first"), regions

    def step(params, ids, number, regions):
        return model.apply({"params": params}, ids, regions, method="next"), regions

    return Writer(prepare, begin, step)


SCRIBE = System(
    name="scribe",
    build=build,
    init=lambda model, config, key: model.init(key, jnp.zeros((1, 1, LENGTH), jnp.int32))["params"],
    tokenizer=lambda config, where=None: Tokenizer.load(where) if where else Tokenizer.toy(),
    processor=lambda config, tokenizer, task: Processor(tokenizer, **task),
    counts=counts,
    loss=loss,
    answers=Answers({}, Thresholds(None, 0.5, 0.8), Thresholds(None, 0.5, 0.8)),
    write=write,
    weight_table=lambda config: Table(
        [Row("words", "words.weight", Identity()), Row("colour", "colour.weight", Transpose()), Row("head", "head", Identity())]
    ),
    source_checkpoints=(SourceCheckpoint("Scribe", mark=r"colour\.weight", file="a folder"),),
    extra_names=(),
    hf_config=lambda config: {"model_type": "scribe", "width": config.model.width},
)
