"""The temporal adapter: what a frame of a video passes to the next ones (HyperSeg, arXiv 2411.17606, section 3).

Local injection: the fine-grained tokens of the previous frame, as the language model has read them, are the query of the
perceiver in the next frame. Global aggregation: what the prompts became in the last frames is averaged over time, projected,
and added to the prompts of the next frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from einops import rearrange
from jaxtyping import Bool, Float, Int

from hyperseg_jax import axes
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import DeviceArray, Layout, Source
from hyperseg_jax.untrusted.printing import escaped_value

MOST_FRAMES = 64
PROMPT_SOURCES = (Source.EXPRESSION, Source.CLASS, Source.REGION)
"""The sources of the items of a prompt. All items of a prompt have the same one."""


@dataclasses.dataclass(frozen=True)
class Temporal:
    """The fields of config.model.temporal; without this block, these defaults, which are those of the released weights.

    injection: local injection. aggregation: global aggregation. frames: number of frames that it averages, the last ones before
    the current frame.
    """

    injection: bool = True
    aggregation: bool = False
    frames: int = 5

    def __post_init__(self) -> None:
        for field in ("injection", "aggregation"):
            if type(value := getattr(self, field)) is not bool:
                raise UserError(f"model.temporal.{field} = {escaped_value(value)}: give True or False")
        if type(self.frames) is not int or not 1 <= self.frames <= MOST_FRAMES:
            raise UserError(f"model.temporal.frames = {escaped_value(self.frames)}: give an integer from 1 to {MOST_FRAMES}")

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict) -> Temporal:
        """Returns the fields of config.model.temporal."""
        return cls(**config.model.get("temporal", {}))


@flax.struct.dataclass
class PromptMemory:
    """What the prompts of images became in their last T frames, the newest first.

    embeddings: of each item of a prompt: its expression, each of its class names, or each of its regions. valid: whether the
    memory has such a frame, in which the prompt had this item.
    """

    embeddings: Float[DeviceArray, "B K T N D"]
    valid: Bool[DeviceArray, "B K T N"]

    @classmethod
    def empty(cls, rows: int, prompts: int, frames: int, items: int, width: int, dtype: str) -> PromptMemory:
        """Returns the memory before the first frame."""
        shape = rows, prompts, frames, items
        return cls(jnp.zeros((*shape, width), dtype), jnp.zeros(shape, bool))

    def mean(self) -> tuple[Float[jax.Array, "B K N D"], Bool[jax.Array, "B K N"]]:
        """Returns the mean of each item over its valid frames, and whether there are any."""
        weights = self.valid[..., None].astype(jnp.float32)
        total = (self.embeddings.astype(jnp.float32) * weights).sum(2)
        mean = total / jnp.maximum(weights.sum(2), 1.0)
        return mean.astype(self.embeddings.dtype), self.valid.any(2)

    def with_frame(
        self, embeddings: Float[DeviceArray, "B K N D"], valid: Bool[DeviceArray, "B K N"], present: Bool[DeviceArray, " B"]
    ) -> PromptMemory:
        """Returns the memory after a frame, which replaces the oldest one. present: False for padding frames, which change
        nothing."""
        push = lambda new, old: jnp.where(
            present.reshape(-1, *[1] * (old.ndim - 1)), jnp.concatenate([new[:, :, None], old[:, :, :-1]], axis=2), old
        )
        pushed = push(embeddings.astype(self.embeddings.dtype), self.embeddings)
        return PromptMemory(axes.constrain(pushed, "batch", None, None, None, None), push(valid, self.valid))

    def with_room(self, items: int) -> PromptMemory:
        """Returns the memory with room for at least this number of items; earlier items keep their indices."""
        missing = max(0, items - self.valid.shape[-1])
        widths = ((0, 0), (0, 0), (0, 0), (0, missing))
        return PromptMemory(jnp.pad(self.embeddings, (*widths, (0, 0))), jnp.pad(self.valid, widths))


@flax.struct.dataclass
class FrameMemory:
    """What the frames of images so far pass to the next one; None for a half of the adapter that is off.

    query: the fine-grained query. prompts: what the prompts became.
    """

    query: Float[DeviceArray, "B F P"] | None
    prompts: PromptMemory | None

    def of_prompts(self, count: int) -> FrameMemory:
        """Returns the memory of images with `count` prompts as that of separate rows, one for each prompt."""
        split = lambda x: x.reshape(-1, 1, *x.shape[2:])
        return FrameMemory(
            None if self.query is None else jnp.repeat(self.query, count, axis=0),
            None if self.prompts is None else jax.tree.map(split, self.prompts),
        )

    def of_images(self, count: int) -> FrameMemory:
        """Returns the memory of rows with one prompt as that of images with `count` prompts; the query is that of the first."""
        join = lambda x: x.reshape(-1, count, *x.shape[2:])
        return FrameMemory(
            None if self.query is None else self.query[::count],
            None if self.prompts is None else jax.tree.map(join, self.prompts),
        )


def count_items(num_classes: int, num_regions: int) -> int:
    """Returns the number of items of a prompt of any kind: one expression, class names or regions."""
    return max(1, num_classes, num_regions)


def item_numbers(layout: Layout, items: int) -> Int[jax.Array, "B L"]:
    """Returns the number of the item that each position belongs to, among those of all prompts; -1 outside of items."""
    item = jnp.where(layout.segment > 0, layout.segment - 1, layout.index)
    inside = jnp.isin(layout.source, jnp.array(PROMPT_SOURCES)) & (layout.prompt > 0) & (item < items)
    return jnp.where(inside, (layout.prompt - 1) * items + item, -1)


def present_items(layout: Layout, num_prompts: int, items: int) -> Bool[jax.Array, "B {num_prompts} {items}"]:
    """Returns which items the prompts of a layout have."""
    numbers = jnp.arange(num_prompts * items)[:, None]
    found = (item_numbers(layout, items)[:, None] == numbers).any(-1)
    return found.reshape(-1, num_prompts, items)


def join_sources(pooled: Collection[Float[DeviceArray, "B K _ D"]], items: int) -> Float[jax.Array, "B K {items} D"]:
    """Returns the embeddings of the items of prompts, from those of each source, which are zero for prompts of another kind."""
    padded = (jnp.pad(each, ((0, 0), (0, 0), (0, items - each.shape[2]), (0, 0))) for each in pooled)
    total: jax.Array = sum(padded)  # type: ignore[assignment]
    return total


def spread(values: Float[DeviceArray, "B K N D"], layout: Layout) -> Float[jax.Array, "B L D"]:
    """Returns the value of its item at each position of a prompt's items, and zero at other positions."""
    numbers = item_numbers(layout, values.shape[2])
    rows = rearrange(values, "b prompts items d -> b (prompts items) d")
    placed = jax.vmap(lambda row, index: row.at[index].get(mode="clip"))(rows, numbers)
    return jnp.where((numbers >= 0)[..., None], placed, 0)
