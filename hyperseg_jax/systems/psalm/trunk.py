"""What the models of these systems have in common: submodules, methods of the language model, and weight table."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Float, Int

from hyperseg_jax.connectors import projector
from hyperseg_jax.decoders import mask2former, pixel_decoder
from hyperseg_jax.encoders import siglip, swin
from hyperseg_jax.layers.linear import LoRA
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import save_activation
from hyperseg_jax.llms import head, phi
from hyperseg_jax.llms.cache import KeyValues
from hyperseg_jax.llms.splice import splice
from hyperseg_jax.structs import DeviceArray, Layout, Pyramid, Source, TokenStream
from hyperseg_jax.tables import Identity, Row, Table

ImageTokens = Float[jax.Array, "B N D"]
"""Image tokens for the language model."""


@flax.struct.dataclass
class ImageFeatures:
    """Image features of the mask branch: the pyramid of the encoder and the outputs of the pixel decoder."""

    pyramid: Pyramid
    mask_features: Float[DeviceArray, "B h w D"]
    levels: tuple[Float[DeviceArray, "B _ _ C"], ...]


class Trunk(nn.Module):
    """The submodules of build_trunk, and what the language model does without a mask decoder.

    Submodules are passed as fields; their parameters are stored under the field names.
    """

    clip_encoder: siglip.Siglip
    projector: projector.Projector
    mask_encoder: swin.Swin
    llm: phi.Phi
    language_head: head.LanguageHead
    pixel_decoder: pixel_decoder.DeformablePixelDecoder
    mask_decoder: mask2former.MaskedAttentionDecoder
    num_queries: int
    precision: Precision

    def encode_image(self, images: Float[DeviceArray, "B H W 3"], *, deterministic: bool = True) -> ImageFeatures:
        """Encodes normalized images for the mask branch."""
        pyramid = save_activation(self.mask_encoder(images, deterministic=deterministic))
        return ImageFeatures(pyramid, *self.pixel_decoder(pyramid))

    def image_tokens(self, clip_images: Float[DeviceArray, "B s s 3"]) -> ImageTokens:
        """Encodes normalized clip_images to tokens for the language model."""
        return save_activation(self.projector(self.clip_encoder(clip_images)))

    def embed_text(self, ids: Int[DeviceArray, "B L"]) -> Float[jax.Array, "B L D"]:
        """Embeds the text of a layout."""
        return self.llm.embed(ids)

    def question_stream(self, image_tokens: ImageTokens, layout: Layout) -> TokenStream:
        """Builds the token stream of prompts without masks. layout: [B, L], only text and image tokens."""
        return splice(layout, self.embed_text(jnp.asarray(layout.text_ids)), {Source.IMAGE: image_tokens})

    def text_hidden(
        self, clip_images: Float[DeviceArray, "B s s 3"], layout: Layout, *, deterministic: bool = True
    ) -> Float[jax.Array, "B L D"]:
        """Returns the hidden states of prompts without masks. clip_images: normalized. layout: see question_stream."""
        stream = self.question_stream(self.image_tokens(clip_images), layout)
        hidden: jax.Array = self.llm(stream, deterministic=deterministic)
        return hidden

    def prefill(
        self, image_tokens: ImageTokens, layout: Layout, empty_slots: int, past: KeyValues | None = None
    ) -> tuple[Float[jax.Array, "B V"], Int[DeviceArray, " B"], KeyValues]:
        """Runs the language model over a question. Returns the logits of the next token, its position, and the cache.

        empty_slots: number of slots in the cache for the tokens to be generated. past: keys and values of the first positions.
        """
        begin = 0 if past is None else past.visible.shape[1]
        length = (layout.source != Source.PADDING).sum(-1)
        hidden, cache = self.llm.prefill(self.question_stream(image_tokens, layout.part(begin)), empty_slots, past)
        last = jnp.take_along_axis(hidden, (length - begin - 1)[:, None, None], axis=1)[:, 0]
        return self.language_head(last), length, cache

    def decode_step(
        self, ids: Int[DeviceArray, " B"], positions: Int[DeviceArray, " B"], cache: KeyValues
    ) -> tuple[Float[jax.Array, "B V"], KeyValues]:
        """Decodes one token per row: its id and position -> (logits of the next token, updated cache)."""
        hidden, cache = self.llm.step(self.llm.embed(ids), positions, cache)
        return self.language_head(hidden), cache


def build_trunk(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the shared fields of a model by name: its submodules, number of queries and precision."""
    m = config.model
    precision = Precision(**m.precision)
    lora = LoRA(m.lora.rank, m.lora.alpha, m.lora.dropout) if m.lora.rank else None
    return {
        "clip_encoder": siglip.Siglip(**m.clip_encoder, precision=precision),
        "projector": projector.Projector(m.llm.hidden_size, precision=precision),
        "mask_encoder": swin.Swin(**_lists_to_tuples(m.mask_encoder), precision=precision),
        "llm": phi.Phi(**m.llm, lora=lora, lora_targets=tuple(m.lora.targets), precision=precision),
        "language_head": head.LanguageHead(m.head_vocab_size, precision=precision),
        "pixel_decoder": pixel_decoder.DeformablePixelDecoder(**m.pixel_decoder, precision=precision),
        "mask_decoder": mask2former.MaskedAttentionDecoder(**_lists_to_tuples(m.mask_decoder), precision=precision),
        "num_queries": m.num_queries,
        "precision": precision,
    }


def _lists_to_tuples(block: ml_collections.ConfigDict) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in block.items()}


def trunk_table(model: Any) -> Table:
    """Returns the weight table of the submodules of build_trunk and of the mask queries."""
    rows = phi.table(model.llm).with_prefix("llm/", "model.") + head.head_table().with_prefix("language_head/")
    rows += siglip.table(model.clip_encoder).with_prefix("clip_encoder/", "model.vision_tower.")
    rows += projector.table(model.projector).with_prefix("projector/", "model.mm_projector.")
    rows += swin.table(model.mask_encoder).with_prefix("mask_encoder/", "model.vision_tower_mask.")
    rows += pixel_decoder.table(model.pixel_decoder).with_prefix("pixel_decoder/", "pixel_decoder.")
    rows += mask2former.table(model.mask_decoder).with_prefix("mask_decoder/", "predictor.")
    return rows + Table([Row("queries", "seg_query", Identity())])
