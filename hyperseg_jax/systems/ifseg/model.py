"""The IFSeg model, its parameters and its weight table (Yun et al. 2023, arXiv 2304.14369), on OFA."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from hyperseg_jax import axes
from hyperseg_jax.encoders import resnet
from hyperseg_jax.encoders.resnet import ResNet
from hyperseg_jax.errors import UserError
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.token_tables import Embedding
from hyperseg_jax.llms import grid_positions, ofa
from hyperseg_jax.llms.grid_positions import Canvas
from hyperseg_jax.llms.ofa import OfaEncoder, SegmentationDecoder
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Constant, Copies, Identity, Row, Table

START, PADDING, END = 0, 1, 2
"""Token ids of fairseq's dictionary."""
DECODER_INPUTS = ("encoder_output", "encoder_input")
"""What the decoder reads of the image cells: the states of the encoder, as in the published scripts, or its inputs."""
SCORES = ("decoder", "embedding")
"""What the classes of a cell are told by: the features of the decoder, as published, or the inputs of the encoder, which show
what the image encoder knows of words without any adaptation."""


@flax.struct.dataclass
class Cells:
    """The cells of images, and what they are compared by.

    embedding: input of the encoder. feature: of the image encoder, by which similar cells are found; None for images of words.
    canvas: where they are; with the size of each image, or of all images.
    """

    embedding: Float[DeviceArray, "B cells D"]
    feature: Float[DeviceArray, "B cells C"] | None
    canvas: Canvas


class UnusedDecoderParts(nn.Module):
    """Parts of OFA's decoder of texts and image codes, which segmentation does not use. They are kept for exports."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_positions: int
    text_buckets: int
    side: int
    precision: Precision

    @nn.compact
    def __call__(self) -> None:
        p, width = self.precision, self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"text_positions": (self.num_positions, width)}
        shapes["image_positions"] = (self.side**2 + 1, width)
        for name, shape in shapes.items():
            self.param(name, axes.named(ofa.INIT, "patch", "embed"), shape, p.params)
        rows = {"text_offsets": 2 * self.text_buckets - 1, "image_offsets": grid_positions.grid_table_rows(self.side)}
        for name, count in rows.items():
            shape = (self.num_layers, count, self.num_heads)
            self.param(name, axes.named(ofa.INIT, "layers", "window", None), shape, p.params)
        for name in ("text_place_norm", "image_place_norm", "code_norm"):
            LayerNorm(precision=p, name=name)(jnp.zeros((1, width)))


class IfSeg(nn.Module):
    """IFSeg: OFA's encoder over image cells and class names, and a decoder that returns features of each cell.

    num_classes: rows of the published classifier, which are means of word embeddings and are computed for each class list.
    decoder_input: one of DECODER_INPUTS. scores: one of SCORES. Parts: tokens, image_encoder, image_projection, encoder,
    decoder, classifier, unused.
    """

    tokens: Embedding
    image_encoder: ResNet
    image_projection: Linear
    encoder: OfaEncoder
    decoder: SegmentationDecoder
    unused: UnusedDecoderParts
    num_classes: int
    decoder_input: str = DECODER_INPUTS[0]
    scores: str = SCORES[0]

    def setup(self) -> None:
        init = axes.named(nn.initializers.zeros, "classes", "embed")
        shape = (self.num_classes, self.encoder.hidden_size)
        self.classifier = self.param("classifier", init, shape, self.encoder.precision.params)

    def __call__(self, images: Float[DeviceArray, "B H W 3"], ids: Int[DeviceArray, "B L"]) -> jax.Array:
        """Runs all parts, to initialize them."""
        self.unused()
        return self.decode(self.see(images), ids)

    def see(self, images: Float[DeviceArray, "B H W 3"], filled: Int[DeviceArray, "B 2"] | None = None) -> Cells:
        """Returns the cells of normalized images. filled: (height, width) of the images on their canvas, see ResNet."""
        found = self.image_encoder(images, filled)
        grid = found.shape[1], found.shape[2]
        feature = found.reshape(found.shape[0], -1, found.shape[-1])
        canvas = Canvas.full(grid) if filled is None else Canvas(-(-filled // resnet.STRIDE), grid)
        return Cells(self.image_projection(feature), feature, canvas)

    def mean_words(self, ids: Int[DeviceArray, "*N S"]) -> Float[jax.Array, "*N D"]:
        """Returns the mean embedding of the tokens of each name; ids are padded with PADDING."""
        valid = ids != PADDING
        total = jnp.where(valid[..., None], self.tokens(ids).astype(jnp.float32), 0).sum(axis=-2)
        return total / jnp.maximum(valid.sum(axis=-1, keepdims=True), 1)

    def compare(
        self, embedding: Float[DeviceArray, "B cells D"], names: Float[DeviceArray, "*B N D"]
    ) -> Float[jax.Array, "B cells N"]:
        """Returns the cosine between cells and embeddings of names, each without its mean, as the norms of the encoder see
        them."""
        p, eps = self.encoder.precision, 1e-6
        center = lambda x: x - x.mean(axis=-1, keepdims=True)
        # The gradient of a norm of zeros would be NaN, and cells beyond an image may be zeros.
        unit = lambda x: x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), eps**2))
        a, b = (unit(center(x.astype(jnp.float32))) for x in (embedding, names))
        return p.einsum("bcd,...nd->bcn", a, b)

    def imagine(self, names: Float[DeviceArray, "B N D"], of_cell: Int[DeviceArray, "B h w"]) -> Cells:
        """Returns the cells of images made of words. names: the embedding of each name, see mean_words. of_cell: the name of
        each cell."""
        b, h, w = of_cell.shape
        embedding = jnp.take_along_axis(names, of_cell.reshape(b, h * w, 1), axis=1)
        return Cells(self.encoder.precision.cast(embedding), None, Canvas.full((h, w)))

    def decode(self, cells: Cells, ids: Int[DeviceArray, "B L"], deterministic: bool = True) -> Float[jax.Array, "B cells D"]:
        """Returns features of each cell. ids: the text that names the classes, padded with PADDING."""
        canvas, valid, image = cells.canvas, ids != PADDING, cells.embedding
        hidden, positions = self.encoder(
            image, self.tokens(ids), valid, canvas, resized=cells.feature is not None, deterministic=deterministic
        )
        read = hidden[:, : image.shape[1]] if self.decoder_input == DECODER_INPUTS[0] else image
        start = self.tokens(jnp.full((image.shape[0], 1), START))
        every = jnp.concatenate([jnp.broadcast_to(canvas.valid, image.shape[:2]), valid], axis=1)
        out = self.decoder(start, read, hidden, positions, every, canvas, deterministic=deterministic)
        return jnp.take_along_axis(out, jnp.broadcast_to(canvas.before, image.shape[:2])[..., None], axis=1)


def build_model(config: ml_collections.ConfigDict) -> IfSeg:
    """Builds the model of a config. Raises UserError if a choice is unknown."""
    m, p = config.model, Precision(**config.model.precision)
    scores = m.get("scores", SCORES[0])
    for name, value, known in (("decoder_input", m.decoder_input, DECODER_INPUTS), ("scores", scores, SCORES)):
        if value not in known:
            raise UserError(f"model.{name} = {value!r}: use one of {', '.join(known)}")
    encoder = OfaEncoder(**{**m.encoder, "base": tuple(m.encoder.base)}, precision=p)
    decoder = SegmentationDecoder(**m.decoder, precision=p)
    width, heads = encoder.hidden_size, decoder.num_heads
    return IfSeg(
        Embedding(m.vocab_size, width, p),
        ResNet(**{**m.image_encoder, "blocks": tuple(m.image_encoder.blocks)}, precision=p),
        Linear(width, precision=p, kernel_init=ofa.INIT),
        encoder,
        decoder,
        UnusedDecoderParts(width, decoder.num_layers, heads, encoder.num_positions, encoder.text_buckets, encoder.side, p),
        m.num_classes,
        m.decoder_input,
        scores,
    )


def init_params(model: IfSeg, config: ml_collections.ConfigDict, key: PRNGKeyArray) -> Any:
    """Returns randomly initialized parameters, boxed with their axis names."""
    side = config.data.image_size
    return model.init(key, jnp.zeros((1, side, side, 3)), jnp.zeros((1, 4), jnp.int32))["params"]


WORD_TABLES = ("encoder.embed_tokens.weight", "encoder.embed_tokens_bag.weight", "decoder.embed_tokens.weight")
CLASS_TABLES = ("encoder.seg_embed_tokens.weight", "decoder.seg_embed_tokens.weight", "decoder.seg_projection.weight")
OFFSETS_LENGTH = 1024
"""Number of tokens in the published index tables."""
BINS = 1000
"""Number of OFA's tokens of coordinates, the last of the vocabulary."""
REGION = (976, 35)
"""Token ids of "region:", a published buffer."""


def weight_table(config: ml_collections.ConfigDict) -> Table:
    """Returns the weight table of the published state dict, with its tied tables and index buffers."""
    model = build_model(config)
    rows = Table(
        [Row("tokens/embedding", WORD_TABLES, Copies(WORD_TABLES)), Row("classifier", CLASS_TABLES, Copies(CLASS_TABLES))]
    )
    rows += resnet.table(model.image_encoder).with_prefix("image_encoder/", "encoder.embed_images.")
    rows += linear_table("image_projection", "encoder.image_proj")
    rows += ofa.encoder_table(model.encoder).with_prefix("encoder/", "encoder.")
    rows += ofa.decoder_table(model.decoder).with_prefix("decoder/", "decoder.")
    return rows + _unused_table(model.unused).with_prefix("unused/", "decoder.") + Table(_buffers(model))


def _unused_table(unused: UnusedDecoderParts) -> Table:
    rows = Table(
        [
            Row("text_positions", "embed_positions.weight", Identity()),
            Row("image_positions", "embed_image_positions.weight", Identity()),
        ]
    )
    norms = {"text_place_norm": "pos_ln", "image_place_norm": "image_pos_ln", "code_norm": "code_layernorm_embedding"}
    for path, name in norms.items():
        rows += norm_table(path, name)
    layer = Table(
        [
            Row("text_offsets", "token_rel_pos_table_list.{i}.weight", Identity()),
            Row("image_offsets", "image_rel_pos_table_list.{i}.weight", Identity()),
        ]
    )
    return rows + layer.stacked(unused.num_layers)


def _buffers(model: IfSeg) -> Iterable[Row]:
    """Yields the rows of tensors that the sizes determine."""
    encoder, side, words = model.encoder, model.decoder.side, model.tokens.rows - 1  # the published table has one unused row
    for part in ("encoder", "decoder"):
        yield Row((), f"{part}.version", Constant((np.full, (1,), np.float32(3))))
        yield Row((), f"{part}.token_rp_bucket", Constant((grid_positions.text_offsets, OFFSETS_LENGTH, encoder.text_buckets)))
        yield Row((), f"{part}.image_rp_bucket", Constant((grid_positions.cell_offsets, encoder.side)))
    yield Row((), "decoder.seg_rp_bucket", Constant((grid_positions.cell_offsets, side)))
    yield Row((), "decoder.image_position_idx", Constant((_code_positions, encoder.side)))
    for name, numbers in {"bin_id_offset": (words - BINS,), "seg_id_offset": (words,), "region_prefix": REGION}.items():
        yield Row((), f"decoder.{name}", Constant((np.array, numbers, np.int64)))


def _code_positions(side: int) -> Int[np.ndarray, " 1026"]:
    """Returns the published positions of image codes, which OFA generates: a first token, 16 x 16 codes, and a filler."""
    codes = np.arange(16)[:, None] * side + np.arange(16) + 1
    return np.concatenate([[0], codes.ravel(), np.full(769, 1024)])
