"""The arrays of a batch, as the processor makes them and the model reads them.

Of every batch:
    text int32 [B, L]             ids of the encoder's text: start, prompt, names of all classes, "unknown", end; then PADDING
    class_words int32 [B, N, S]   ids of the sub-words of each name, then PADDING
    class_of int32 [B, N]         the class that each name belongs to, a number below N; -1 for padding. A class has several
                                  names if it has synonyms. Without synonyms: 0, 1, 2, ...
    bad bool [B]                  elements that replace unreadable records

Of a batch of images; absent from batches of images of words:
    images uint8 [B, 1, H, W, 3]  the image at the top left of a canvas, whose sides are multiples of resnet.STRIDE
    filled int32 [B, 2]           (height, width) of the unpadded part

Of a batch of images of words (see word_images); absent from batches of images:
    cell_names int32 [B, h, w]    the name of each cell: a row of class_words

Of a batch of images with captions; absent from all others, as text, class_words and class_of are from it:
    caption_words int32 [B, W]    ids of the different tokens of the captions, then PADDING

In training, except with captions:
    labels int16 [B, H, W]        the class of each pixel of the target; IGNORED where none is supervised. Of an image: of its
                                  canvas. Of an image of words: of a target of any size
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int, UInt8

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.encoders import resnet
from hyperseg_jax.structs import IGNORED, DeviceArray
from hyperseg_jax.systems.ifseg.model import PADDING, Cells, IfSeg
from hyperseg_jax.systems.pixels import normalize_for_llm


@flax.struct.dataclass
class Classes:
    """The classes of each element by their names. text: what the encoder reads. words: sub-words of each name. of_name: the
    class of each name, -1 for padding."""

    text: Int[DeviceArray, "B L"]
    words: Int[DeviceArray, "B N S"]
    of_name: Int[DeviceArray, "B N"]


def classes_of(batch: Batch) -> Classes:
    """Returns the classes of a batch."""
    return Classes(batch["text"], batch["class_words"], batch["class_of"])


def supervised_pixels(batch: Batch) -> Bool[DeviceArray, "B H W"]:
    """Returns the pixels whose class is supervised; none of unreadable elements."""
    supervised: Bool[DeviceArray, "B H W"] = (batch["labels"] != IGNORED) & ~batch["bad"][:, None, None]
    return supervised


def present_words(batch: Batch, vocab_size: int) -> Bool[DeviceArray, "B {vocab_size}"]:
    """Returns which tokens the captions of each image contain."""
    rows = jnp.arange(len(batch["bad"]))[:, None]
    ids = jnp.where(batch["caption_words"] == PADDING, vocab_size, batch["caption_words"])
    return jnp.zeros((len(rows), vocab_size), bool).at[rows, ids].set(True, mode="drop")


def normalized_images(
    images: UInt8[DeviceArray, "B 1 H W 3"], filled: Int[DeviceArray, "B 2"]
) -> Float32[jax.Array, "B H W 3"]:
    """Returns the pixels in -1..1, and 0 beyond the images."""
    rows, columns = (jnp.arange(images.shape[axis + 2]) < filled[:, axis, None] for axis in (0, 1))
    return jnp.where((rows[:, :, None] & columns[:, None])[..., None], normalize_for_llm(images[:, 0]), 0.0)


def cells_of(model: IfSeg, params: Any, batch: Batch) -> Cells:
    """Returns the cells of the images of a batch, or of its images of words."""
    apply: Any = lambda *given, method: model.apply({"params": params}, *given, method=method)
    if "images" in batch:
        return apply(normalized_images(batch["images"], batch["filled"]), batch["filled"], method="see")  # type: ignore[no-any-return]
    names = apply(batch["class_words"], method="mean_words")
    return apply(names, batch["cell_names"], method="imagine")  # type: ignore[no-any-return]


def sizes_of(batch: Batch) -> tuple[Int[jax.Array, "B 2"], Int[jax.Array, "B 2"]]:
    """Returns the (height, width) of each image in cells, and of its target in pixels."""
    if "images" in batch:
        filled = jnp.asarray(batch["filled"])
        return -(-filled // resnet.STRIDE), filled
    shapes = batch["cell_names"].shape[1:], batch["labels"].shape[1:]
    cells, pixels = (jnp.broadcast_to(jnp.asarray(shape), (len(batch["bad"]), 2)) for shape in shapes)
    return cells, pixels
