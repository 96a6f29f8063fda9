"""SCA's caption mixer (Huang et al. 2024, arXiv 2312.00869): learned queries read a region from SAM's tokens and image, and
become a prefix of the language model."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float, Int

from hyperseg_jax import axes
from hyperseg_jax.layers import two_way
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Identity, Row, SplitRows, Table


class CaptionMixer(nn.Module):
    """A two-way transformer over caption queries, the tokens of SAM's decoder and its image; keeps the queries.

    Corresponds to additional_transformer of ScaMultitaskV2Model's mask decoder. Parts: queries, transformer.
    """

    transformer: two_way.TwoWayTransformer
    num_queries: int = 8
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self,
        tokens: Float[DeviceArray, "B R T C"],
        image: Float[DeviceArray, "B _ N C"],
        image_positions: Float[DeviceArray, "N C"],
        valid: Bool[DeviceArray, "B R T"] | None = None,
    ) -> tuple[Float[jax.Array, "B R {self.num_queries} C"], two_way.Stages | None]:
        """Returns the features of each region, and the outputs of all layers if they are collected."""
        (b, r), width, count = tokens.shape[:2], tokens.shape[-1], self.num_queries
        init = axes.named(nn.initializers.normal(0.02), "queries", "embed")
        queries = self.precision.cast(self.param("queries", init, (count, width), self.precision.params))
        tokens = jnp.concatenate([jnp.broadcast_to(queries, (b, r, count, width)), tokens], axis=2)
        if valid is not None:
            valid = jnp.concatenate([jnp.ones((b, r, count), bool), valid], axis=2)
        tokens, _, stages = self.transformer(tokens, image, image_positions, valid)
        return tokens[:, :, :count], stages


class CaptionPrefix(nn.Module):
    """What the language model reads of a region: the vectors of a task, then the projected features of the region.

    heads: captions for each region; each has its own features. Corresponds to language_project and task_tokens of
    ScaMultitaskV2Model. Parts: projection, tasks.
    """

    features: int
    num_task_tokens: int = 6
    num_tasks: int = 2
    heads: int = 1
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self, queries: Float[DeviceArray, "B R Q C"], task: Int[DeviceArray, " B"]
    ) -> Float[jax.Array, "B R {self.heads} L {self.features}"]:
        """task: number of the task of each image."""
        p, init = self.precision, nn.initializers.normal(0.02)
        project = Linear(self.features, ("embed", "mlp"), precision=p, kernel_init=init, name="projection")
        queries = rearrange(project(queries), "b r (heads n) d -> b r heads n d", heads=self.heads)
        shape = (self.num_tasks, self.num_task_tokens, self.features)
        tasks = p.cast(self.param("tasks", axes.named(init, None, "queries", "embed"), shape, p.params))
        vectors = jnp.broadcast_to(tasks[task][:, None, None], (*queries.shape[:3], *shape[1:]))
        return jnp.concatenate([vectors, queries], axis=3)


def prefix_table(prefix: CaptionPrefix) -> Table:
    """Returns the weight table of a CaptionPrefix ("language_project.weight", "task_tokens.weight", ...)."""
    tasks = Row("tasks", "task_tokens.weight", SplitRows(prefix.num_tasks))
    return linear_table("projection", "language_project") + Table([tasks])


def table(mixer: CaptionMixer) -> Table:
    """Returns the weight table of the mixer ("caption_tokens.weight", "additional_transformer.layers.0...", ...)."""
    transformer = two_way.table(mixer.transformer).with_prefix("transformer/", "additional_transformer.")
    return Table([Row("queries", "caption_tokens.weight", Identity())]) + transformer
