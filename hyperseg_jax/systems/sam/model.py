"""The SAM model, its parameters and its weight table (Kirillov et al. 2023, arXiv 2304.02643)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Float, Float32, PRNGKeyArray

from hyperseg_jax.decoders import sam, sam_prompts
from hyperseg_jax.decoders.sam import SamPrediction
from hyperseg_jax.decoders.sam_prompts import ABSENT, SamPrompts
from hyperseg_jax.encoders import sam_vit
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.two_way import TwoWayTransformer
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Table


class Sam(nn.Module):
    """SAM: an image encoder, a prompt encoder and a mask decoder (SamModel). Parts: encoder, prompt_encoder, decoder."""

    encoder: sam_vit.SamEncoder
    prompt_encoder: sam_prompts.SamPromptEncoder
    decoder: sam.SamDecoder

    def __call__(self, images: Float[DeviceArray, "B H W 3"], prompts: SamPrompts) -> SamPrediction:
        return self.decode(self.encode_image(images), prompts)

    def encode_image(self, images: Float[DeviceArray, "B H W 3"]) -> Float[jax.Array, "B h w C"]:
        """Encodes normalized square images to maps of stride 16."""
        return self.encoder(images)

    def decode(self, image: Float[DeviceArray, "B h w C"], prompts: SamPrompts) -> SamPrediction:
        """Answers prompts about encoded images."""
        tokens, added = self.encode_prompts(prompts)
        return self.decoder(image, added, self.image_positions(image.shape[1]), tokens, prompts.kinds != ABSENT)

    def encode_prompts(self, prompts: SamPrompts) -> tuple[Float[jax.Array, "B R M C"], Float[jax.Array, "B _ _ C"]]:
        """Returns the tokens of prompts, and what they add to the cells of the image (SamPromptEncoder)."""
        return self.prompt_encoder(prompts)

    def image_positions(self, cells: int) -> Float32[jax.Array, "{cells} {cells} C"]:
        """Returns the position vector of each cell of a square map."""
        return self.prompt_encoder.positions.grid(cells)


def build_model(config: ml_collections.ConfigDict) -> Sam:
    """Builds the model of a config; config.model has one block of fields for each submodule."""
    m, p, side = config.model, Precision(**config.model.precision), config.data.image_size
    encoder, decoder = (dict(block) for block in (m.image_encoder, m.mask_decoder))
    encoder["global_layers"] = tuple(encoder["global_layers"])
    channels = encoder.pop("channels")
    transformer = TwoWayTransformer(**decoder.pop("transformer"), precision=p)
    return Sam(
        sam_vit.SamEncoder(sam_vit.SamVit(side, **encoder, precision=p), sam_vit.SamNeck(channels, p)),
        sam_prompts.SamPromptEncoder(side, channels, **m.prompt_encoder, precision=p),
        sam.SamDecoder(transformer, channels, **decoder, precision=p),
    )


def init_params(model: Sam, config: ml_collections.ConfigDict, key: PRNGKeyArray) -> Any:
    """Returns randomly initialized parameters, boxed with their axis names."""
    side = config.data.image_size
    prompts = SamPrompts(jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 1, 1), jnp.int32))
    return model.init(key, jnp.zeros((1, side, side, 3)), prompts)["params"]


def table(model: Sam) -> Table:
    """Returns the weight table for SamModel ("vision_encoder.pos_embed", ...)."""
    rows = sam_vit.encoder_table(model.encoder).with_prefix("encoder/", "vision_encoder.")
    rows += sam_prompts.table().with_prefix("prompt_encoder/")
    return rows + sam.table(model.decoder).with_prefix("decoder/", "mask_decoder.")


def weight_table(config: ml_collections.ConfigDict) -> Table:
    """Returns the weight table of a config."""
    return table(build_model(config))
