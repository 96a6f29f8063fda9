"""OFA's encoder (Wang et al. 2022), and its decoder as IFSeg segments with it (Yun et al. 2023); it writes no text here.

Positions are not added to tokens. They are compared with each other by their own queries and keys, in every layer the same, and
relative positions add a bias of each layer (llms/grid_positions).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float

from hyperseg_jax import axes
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.mlp import ACTIVATIONS
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import stack_blocks
from hyperseg_jax.llms import grid_positions
from hyperseg_jax.llms.grid_positions import Canvas, Grid, Resize
from hyperseg_jax.ops.attention import attend
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Identity, Row, Table

Places = Float[jax.Array, "*B _ heads head_dim"]
"""Queries or keys of positions, of each example or of all examples."""
RowsBias = Callable[[Any, int], Float[jax.Array, "*B heads _ Lk"]]
RowsMask = Callable[[Any, int], Bool[jax.Array, "*_"]]
"""f(start, count) -> what belongs to the queries of `count` rows of the grid, for all keys."""
CHUNK = 1024
"""Maximum number of grid cells whose attention is computed at once."""
INIT = nn.initializers.normal(0.02)


def _heads(x: Float[DeviceArray, "*B L D"], num_heads: int) -> Float[jax.Array, "*B L heads head_dim"]:
    return rearrange(x, "... (heads d) -> ... heads d", heads=num_heads)


def _chunk_rows(grid: Grid) -> int:
    """Returns the largest number of grid rows with at most CHUNK cells that divides all rows, at least 1."""
    return max(n for n in range(1, grid[0] + 1) if grid[0] % n == 0 and (n == 1 or n * grid[1] <= CHUNK))


def attend_grid(
    query: Float[DeviceArray, "B _ heads D"],
    key: Float[DeviceArray, "B Lk heads D"],
    value: Float[DeviceArray, "B Lk heads D2"],
    grid: Grid,
    bias: RowsBias | None,
    mask: RowsMask,
    precision: str,
) -> Float[jax.Array, "B _ heads D2"]:
    """Returns the attention of grid cells to all keys, some rows of the grid at a time."""
    rows = _chunk_rows(grid)

    def attend_rows(start: Any, some: jax.Array) -> jax.Array:
        added = bias(start, rows) if bias else None
        return attend(some, key, value, bias=added, mask=mask(start, rows), precision=precision)

    if rows == grid[0]:
        return attend_rows(0, query)
    chunks = rearrange(query, "b (n cells) heads d -> n b cells heads d", n=grid[0] // rows)
    starts = jnp.arange(0, grid[0], rows)
    attended = jax.lax.map(lambda given: jax.checkpoint(attend_rows)(*given), (starts, chunks))
    return rearrange(attended, "n b cells heads d -> b (n cells) heads d")


class OfaAttention(nn.Module):
    """Attention of tokens and positions: both have queries and keys, whose products are added. Each head has a learned scale.

    Parts: query, key, value, out, head_scale.
    """

    num_heads: int
    precision: Precision

    @nn.compact
    def __call__(
        self,
        x: Float[DeviceArray, "B Lq D"],
        source: Float[DeviceArray, "B Lk D"],
        places: tuple[Places, Places],
        attend: Callable[..., Float[jax.Array, "B Lq heads head_dim"]],
    ) -> Float[jax.Array, "B Lq D"]:
        """places: of the queries and of the keys. attend(query, key, value) -> [B, Lq, heads, head_dim]."""
        p, width = self.precision, x.shape[-1]
        project = functools.partial(Linear, width, ("embed", "heads"), precision=p, kernel_init=INIT)
        given = {"query": x, "key": source, "value": source}
        q, k, v = (_heads(project(name=name)(tokens), self.num_heads) for name, tokens in given.items())
        q, k = (  # attend() divides by the square root of the doubled width, as published
            jnp.concatenate([tokens, jnp.broadcast_to(place, tokens.shape)], axis=-1)
            for tokens, place in zip((q, k), places, strict=True)
        )
        scale = self.param("head_scale", axes.named(nn.initializers.ones, "norm"), (self.num_heads,), p.params)
        attended = attend(q, k, v) * p.cast(scale)[:, None]
        attended = rearrange(attended, "b l heads d -> b l (heads d)")
        return Linear(width, ("heads", "embed"), precision=p, kernel_init=INIT, name="out")(attended)


class _Layer(nn.Module):
    """What layers of the encoder and decoder have in common. dropout: rate after each branch."""

    num_heads: int
    mlp_size: int
    dropout: float
    deterministic: bool
    precision: Precision

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(precision=self.precision, name=name)

    def _add(self, x: jax.Array, branch: jax.Array, drop: Float[DeviceArray, ""]) -> jax.Array:
        """Adds a branch, with dropout, and for random examples without the branch (stochastic depth)."""
        branch = nn.Dropout(self.dropout, deterministic=self.deterministic)(branch)
        if not self.deterministic:
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - drop, (x.shape[0], 1, 1))
            branch = jnp.where(keep, branch / (1 - drop).astype(branch.dtype), 0)
        return axes.constrain(x + branch, "batch", "length", "act_embed")

    def _feed_forward(self, x: jax.Array, drop: Float[DeviceArray, ""]) -> jax.Array:
        """Adds the feed-forward block. Parts: mlp_norm, up, hidden_norm, down."""
        make = functools.partial(Linear, precision=self.precision, kernel_init=INIT)
        y = make(self.mlp_size, ("embed", "mlp"), name="up")(self._norm("mlp_norm")(x))
        y = self._norm("hidden_norm")(ACTIVATIONS["gelu"](y))
        return self._add(x, make(x.shape[-1], ("mlp", "embed"), name="down")(y), drop)

    def _table(self, name: str, rows: int) -> Float[jax.Array, "{rows} heads"]:
        table = self.param(name, axes.named(INIT, "window", None), (rows, self.num_heads), self.precision.params)
        return jnp.asarray(table, jnp.float32)


def _text_bias(table: Float[jax.Array, "rows heads"], length: int) -> Float[jax.Array, "heads {length} {length}"]:
    """Returns the relative bias of a text. The table has 2 * buckets - 1 rows."""
    return jnp.moveaxis(table[grid_positions.text_offsets(length, (table.shape[0] + 1) // 2)], -1, 0)


class EncoderLayer(_Layer):
    """A pre-norm layer over image cells and tokens. Parts: attention_norm, attention, attended_norm, those of _feed_forward,
    and text_offsets and image_offsets, the tables of relative positions."""

    text_buckets: int = 256
    side: int = 42

    @nn.compact
    def __call__(
        self,
        x: Float[DeviceArray, "B L D"],
        drop: Float[DeviceArray, ""],
        places: Any,
        valid: Bool[DeviceArray, "B L"],
        canvas: Canvas,
        resize: Resize,
    ) -> tuple[Float[jax.Array, "B L D"], None]:
        """canvas: of the image, whose cells come first. resize: of relative positions to it."""
        grid = canvas.grid
        cells, length = grid[0] * grid[1], x.shape[1]
        texts = self._table("text_offsets", 2 * self.text_buckets - 1)
        image = self._table("image_offsets", grid_positions.grid_table_rows(self.side))
        mask, precision = valid[:, None, None], self.precision.matmul

        def rows_bias(start: Any, count: int) -> jax.Array:
            bias = grid_positions.grid_bias(image, self.side, resize, start, count)
            return jnp.pad(bias, [(0, 0)] * (bias.ndim - 1) + [(0, length - cells)])

        def attend_all(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            of_cells = attend_grid(q[:, :cells], k, v, grid, rows_bias, lambda start, count: mask, precision)
            bias = jnp.pad(_text_bias(texts, length - cells), ((0, 0), (0, 0), (cells, 0)))
            of_texts = attend(q[:, cells:], k, v, bias=bias, mask=mask, precision=precision)
            return jnp.concatenate([of_cells, of_texts], axis=1)

        y = self._norm("attention_norm")(x)
        y = OfaAttention(self.num_heads, self.precision, name="attention")(y, y, (places[0], places[1]), attend_all)
        x = self._add(x, self._norm("attended_norm")(y), drop)
        return self._feed_forward(x, drop), None


class _Stack(nn.Module):
    """What encoder and decoder have in common; defaults are OFA-Base. Parts: layers (stacked), norm."""

    hidden_size: int = 768
    mlp_size: int = 3072
    num_layers: int = 6
    num_heads: int = 12
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: str = "none"
    precision: Precision = Precision()

    def _run_layers(
        self, layer: type[_Layer], x: Float[DeviceArray, "B L D"], *inputs: Any, deterministic: bool, **fields: Any
    ) -> Float[jax.Array, "B L D"]:
        """Runs all layers and the last norm. inputs: the same for every layer. fields: of the layers."""
        stacked = stack_blocks(layer, self.num_layers, self.remat, (0, *(nn.broadcast,) * len(inputs)))
        common = (self.num_heads, self.mlp_size, self.dropout, deterministic, self.precision)
        drops = jnp.linspace(0, self.drop_path, self.num_layers, dtype=jnp.float32)
        x, _ = stacked(*common, **fields, name="layers")(x, drops, *inputs)
        return LayerNorm(precision=self.precision, name="norm")(x)


class OfaEncoder(_Stack):
    """Encodes the cells of an image, or of an image made of words, together with a text; defaults are OFA-Base.

    side: of the largest square grid that the tables know. base: the grid on which they are looked up for other grids.
    Parts: kinds (embeddings of text and image), image_norm, text_norm, text_positions, image_positions, text_place_norm,
    image_place_norm, place_query, place_key, layers (stacked), norm.
    """

    text_buckets: int = 256
    side: int = 42
    base: Grid = (32, 32)
    num_positions: int = 1026

    @nn.compact
    def __call__(
        self,
        image: Float[DeviceArray, "B cells D"],
        text: Float[DeviceArray, "B L D"],
        valid: Bool[DeviceArray, "B L"],
        canvas: Canvas,
        *,
        resized: bool = True,
        deterministic: bool = True,
    ) -> tuple[Float[jax.Array, "B _ D"], Float[jax.Array, "*B _ D"]]:
        """Returns the hidden states of the cells and then the text, and their positions for the decoder.

        image: projected features of the image, or means of word embeddings. valid: tokens that are no padding. resized:
        relative positions are looked up on the base grid and resized, as for images; else on the canvas itself, as for images
        of words.
        Raises ValueError if the text is too long, or if the tables do not know the grid.
        """
        p, base = self.precision, self.base if resized else canvas.grid
        if text.shape[1] > self.num_positions:
            raise ValueError(f"OFA's encoder has {self.num_positions} positions, got {text.shape[1]} tokens")
        if max(base) > self.side:
            raise ValueError(f"OFA's encoder has positions of {self.side} x {self.side} cells, got {base[0]} x {base[1]}")
        table = lambda name, rows: p.cast(
            self.param(name, axes.named(INIT, "patch", "embed"), (rows, self.hidden_size), p.params)
        )
        drop = nn.Dropout(self.dropout, deterministic=deterministic)
        kinds = table("kinds", 2)
        image = drop(LayerNorm(precision=p, name="image_norm")(image + kinds[1]))
        text = drop(LayerNorm(precision=p, name="text_norm")(text + kinds[0]))
        x = jnp.concatenate([image, jnp.where(valid[..., None], text, 0)], axis=1)

        cells = _grid_rows(table("image_positions", self.side**2 + 1), self.side, self.base, canvas)
        cells = LayerNorm(precision=p, name="image_place_norm")(cells)
        words = LayerNorm(precision=p, name="text_place_norm")(table("text_positions", self.num_positions)[: text.shape[1]])
        words = jnp.broadcast_to(words, (*cells.shape[:-2], *words.shape))
        positions = jnp.concatenate([cells, words], axis=-2)
        places = tuple(place_heads(self, name, positions, self.num_heads) for name in ("place_query", "place_key"))
        valid = jnp.concatenate([jnp.broadcast_to(canvas.valid, image.shape[:2]), valid], axis=1)
        resize = canvas.resize_from(base) if resized else canvas.look_up()
        tables = {"text_buckets": self.text_buckets, "side": self.side}
        x = self._run_layers(EncoderLayer, x, places, valid, canvas, resize, deterministic=deterministic, **tables)
        return x, positions


def place_heads(module: nn.Module, name: str, positions: Float[DeviceArray, "*B L D"], num_heads: int) -> Places:
    """Returns queries or keys of positions, by a new part of the module with this name."""
    linear = Linear(positions.shape[-1], ("embed", "heads"), precision=module.precision, kernel_init=INIT, name=name)
    return _heads(linear(positions), num_heads)


def _grid_rows(table: Float[DeviceArray, "rows D"], side: int, base: Grid, canvas: Canvas) -> Float[jax.Array, "*B _ D"]:
    """Returns the positions of the cells of a canvas. An image with more cells than the base grid, or that the table does not
    know, gets resized positions of the base grid."""
    resized = (canvas.used.prod(-1) > base[0] * base[1]) | (canvas.used.max(-1) > side)
    resize = canvas.resize_from(base)

    def widen(weights: jax.Array) -> jax.Array:
        """Returns weights of the rows or columns of the table instead of the base grid."""
        padded = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, side - weights.shape[-1])])
        return jnp.where(resized[..., None, None], padded, jnp.eye(padded.shape[-2], padded.shape[-1]))

    return resize_table(table[1:], Resize(widen(resize.rows), widen(resize.columns)))


def resize_table(table: Float[DeviceArray, "_ D"], resize: Resize) -> Float[jax.Array, "*B _ D"]:
    """Resizes the positions of the cells of a base grid."""
    sides = resize.rows.shape[-1], resize.columns.shape[-1]
    base = jnp.asarray(table, jnp.float32).reshape(*sides, table.shape[-1])
    found = jnp.einsum("...hH,...wW,HWd->...hwd", resize.rows, resize.columns, base, precision="highest")
    return found.reshape(*found.shape[:-3], -1, table.shape[-1]).astype(table.dtype)


class SegmentationLayer(_Layer):
    """A pre-norm layer of the segmentation decoder. Parts: attention_norm, attention, attended_norm, cross_norm, cross,
    crossed_norm, those of _feed_forward, and offsets, the table of relative positions."""

    side: int = 32
    causal: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[DeviceArray, "B L D"],
        drop: Float[DeviceArray, ""],
        source: Float[DeviceArray, "B S D"],
        places: Any,
        valid: Bool[DeviceArray, "B S"],
        canvas: Canvas,
        resize: Resize,
    ) -> tuple[Float[jax.Array, "B L D"], None]:
        """x: the first token, then the cells. places: queries and keys of x, then those between x and the source. resize: of
        relative positions to the canvas."""
        grid = canvas.grid
        table = self._table("offsets", grid_positions.grid_table_rows(self.side))
        from_first, to_first, itself = grid_positions.token_to_grid(table)
        cells, heads, precision = grid[0] * grid[1], self.num_heads, self.precision.matmul
        known = _with_first(canvas.valid)[..., None, None, :]

        def rows_bias(start: Any, count: int) -> jax.Array:
            bias = grid_positions.grid_bias(table, self.side, resize, start, count)
            first = jnp.broadcast_to(to_first[:, None, None], (*bias.shape[:-1], 1))
            return jnp.concatenate([first, bias], axis=-1)

        def rows_mask(start: Any, count: int) -> jax.Array:
            """A cell sees the first token, the cells before it, and itself."""
            last = start * grid[1] + 1 + jnp.arange(count * grid[1])
            return known & ((jnp.arange(cells + 1) <= last[:, None]) | (not self.causal))

        def attend_all(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            others = jnp.broadcast_to(from_first[:, None, None], (heads, 1, cells))
            bias = jnp.concatenate([itself[:, None, None], others], axis=2)
            mask = known & ((jnp.arange(cells + 1) < 1) | (not self.causal))
            of_first = attend(q[:, :1], k, v, bias=bias, mask=mask, precision=precision)
            return jnp.concatenate([of_first, attend_grid(q[:, 1:], k, v, grid, rows_bias, rows_mask, precision)], axis=1)

        def cross(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            mask = valid[:, None, None]
            of_first = attend(q[:, :1], k, v, mask=mask, precision=precision)
            of_cells = attend_grid(q[:, 1:], k, v, grid, None, lambda start, count: mask, precision)
            return jnp.concatenate([of_first, of_cells], axis=1)

        y = self._norm("attention_norm")(x)
        y = OfaAttention(heads, self.precision, name="attention")(y, y, (places[0], places[1]), attend_all)
        x = self._add(x, self._norm("attended_norm")(y), drop)
        y = self._norm("cross_norm")(x)
        y = OfaAttention(heads, self.precision, name="cross")(y, source, (places[2], places[3]), cross)
        x = self._add(x, self._norm("crossed_norm")(y), drop)
        return self._feed_forward(x, drop), None


def _with_first(valid: Bool[jax.Array, "*B cells"]) -> Bool[jax.Array, "*B _"]:
    """Returns which cells are valid, after the first token, which is."""
    return jnp.pad(valid, [(0, 0)] * (valid.ndim - 1) + [(1, 0)], constant_values=True)


class SegmentationDecoder(_Stack):
    """IFSeg's decoder: reads the encoder's states of the image cells, and returns features of each cell.

    It reads no labels. Its first row is the start token, and row i of the result belongs to cell i; the published attention is
    causal, so it sees the cells before cell i. side: of the grid of a training image. causal: False lets all cells see each
    other. Parts: norm_in, positions, place_norm, self_query, self_key, cross_query, cross_key, layers (stacked), norm.
    """

    side: int = 32
    causal: bool = True

    @nn.compact
    def __call__(
        self,
        start: Float[DeviceArray, "B 1 D"],
        cells: Float[DeviceArray, "B cells D"],
        source: Float[DeviceArray, "B S D"],
        source_positions: Float[DeviceArray, "*C S D"],
        valid: Bool[DeviceArray, "B S"],
        canvas: Canvas,
        *,
        deterministic: bool = True,
    ) -> Float[jax.Array, "B _ D"]:
        """Returns cells + 1 rows. Row i sees the start and the cells before cell i of the canvas; Canvas.before is the row of
        each cell. start: embedding of the start token. source: states of the encoder."""
        p, side = self.precision, self.side
        x = LayerNorm(precision=p, name="norm_in")(jnp.concatenate([start, cells], axis=1))
        x = nn.Dropout(self.dropout, deterministic=deterministic)(x)
        table = self.param("positions", axes.named(INIT, "patch", "embed"), (side**2 + 1, self.hidden_size), p.params)
        resize = canvas.resize_from((side, side))
        resized = resize_table(jnp.asarray(table[1:]), resize)
        first = jnp.broadcast_to(table[:1], (*resized.shape[:-2], 1, self.hidden_size))
        positions = LayerNorm(precision=p, name="place_norm")(p.cast(jnp.concatenate([first, resized], axis=-2)))
        names = {"self_query": positions, "self_key": positions, "cross_query": positions, "cross_key": source_positions}
        places = tuple(place_heads(self, name, given, self.num_heads) for name, given in names.items())
        given = (x, source, places, valid, canvas, resize)
        return self._run_layers(SegmentationLayer, *given, deterministic=deterministic, side=side, causal=self.causal)


def encoder_table(encoder: OfaEncoder) -> Table:
    """Returns the weight table of an encoder ("layers.0.self_attn.q_proj.weight", "pos_q_linear.weight", ...)."""
    rows = _rows(
        kinds="type_embedding.weight", text_positions="embed_positions.weight", image_positions="embed_image_positions.weight"
    )
    norms = {"image_norm": "patch_layernorm_embedding", "text_norm": "layernorm_embedding", "norm": "layer_norm"}
    norms |= {"text_place_norm": "pos_ln", "image_place_norm": "image_pos_ln"}
    layer = _layer_table("attn_ln")
    layer += _rows(text_offsets="token_rel_pos_table_list.{i}.weight", image_offsets="image_rel_pos_table_list.{i}.weight")
    linears = linear_table("place_query", "pos_q_linear") + linear_table("place_key", "pos_k_linear")
    return rows + linears + _norms_table(norms) + layer.stacked(encoder.num_layers).with_prefix("layers/")


def decoder_table(decoder: SegmentationDecoder) -> Table:
    """Returns the weight table of a segmentation decoder ("layers.0.encoder_attn.q_proj.weight", ...)."""
    rows = _rows(positions="embed_seg_positions.weight")
    norms = {"norm_in": "layernorm_embedding", "place_norm": "seg_pos_ln", "norm": "layer_norm"}
    linears = Table()
    for kind in ("self", "cross"):
        linears += linear_table(f"{kind}_query", f"{kind}_pos_q_linear") + linear_table(f"{kind}_key", f"{kind}_pos_k_linear")
    layer = _layer_table("self_attn_ln") + _attention_table("cross", "layers.{i}.encoder_attn")
    layer += _norms_table({"cross_norm": "layers.{i}.encoder_attn_layer_norm", "crossed_norm": "layers.{i}.cross_attn_ln"})
    layer += _rows(offsets="seg_rel_pos_table_list.{i}.weight")
    return rows + linears + _norms_table(norms) + layer.stacked(decoder.num_layers).with_prefix("layers/")


def _rows(**names: str) -> Table:
    return Table(Row(path, name, Identity()) for path, name in names.items())


def _norms_table(names: Mapping[str, str]) -> Table:
    return functools.reduce(operator.add, (norm_table(path, name) for path, name in names.items()))


def _attention_table(path: str, name: str) -> Table:
    rows = Table([Row(f"{path}/head_scale", f"{name}.c_attn", Identity())])
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
        rows += linear_table(f"{path}/{ours}", f"{name}.{theirs}")
    return rows


def _layer_table(attended_norm: str) -> Table:
    name = "layers.{i}"
    norms = {"attention_norm": "self_attn_layer_norm", "attended_norm": attended_norm}
    norms |= {"mlp_norm": "final_layer_norm", "hidden_norm": "ffn_layernorm"}
    rows = _attention_table("attention", f"{name}.self_attn") + _norms_table({k: f"{name}.{n}" for k, n in norms.items()})
    return rows + linear_table("up", f"{name}.fc1") + linear_table("down", f"{name}.fc2")
