"""The SEEM model, its parameters and its weight table (Zou et al. 2023, arXiv 2304.06718)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Float, Float32, Int, PRNGKeyArray

from hyperseg_jax import axes
from hyperseg_jax.decoders import fpn_pixel_decoder, pixel_decoder, seem
from hyperseg_jax.decoders.seem import SeemPrediction, SeemPrompts
from hyperseg_jax.encoders import clip_text, davit, focal, sam_vit
from hyperseg_jax.errors import UserError
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.systems.seem.scores import normalize
from hyperseg_jax.tables import Constant, Identity, Row, Table

HEAD, PREDICTOR = "sem_seg_head.", "sem_seg_head.predictor."
BACKGROUND_WEIGHT = 0.1
"""Weight of the class "background" in the loss of classes, which the published state dict repeats."""


@flax.struct.dataclass
class SeemImage:
    """What the decoder reads of an image: mask features at stride 4, and three maps, coarse to fine."""

    mask_features: Float[DeviceArray, "B h w D"]
    levels: tuple[Float[DeviceArray, "B _ _ C"], ...]


class Seem(nn.Module):
    """SEEM: an image encoder, a pixel decoder, CLIP's text encoder, and a decoder that answers prompts of all kinds.

    Parts: backbone, pixel_decoder, text_encoder, text_projection, log_scale, decoder.
    """

    backbone: focal.FocalNet | davit.DaViT | sam_vit.SamPyramid
    pixel_decoder: fpn_pixel_decoder.FPNPixelDecoder | pixel_decoder.DeformablePixelDecoder
    text_encoder: clip_text.ClipText
    decoder: seem.SeemDecoder
    precision: Precision

    def setup(self) -> None:
        p, width = self.precision, self.text_encoder.hidden_size
        init = axes.named(nn.initializers.normal(width**-0.5), "embed", "mlp")
        self.text_projection = self.param("text_projection", init, (width, self.decoder.class_dim), p.params)
        self.log_scale = self.param("log_scale", axes.named(nn.initializers.ones), (), p.params)

    def __call__(
        self, images: Float[DeviceArray, "B H W 3"], ids: Int[DeviceArray, "N L"], prompts: SeemPrompts
    ) -> tuple[SeemPrediction, Float[jax.Array, "N L E"], Float32[jax.Array, ""]]:
        """Runs all parts, to initialize them."""
        return self.decode(self.encode_image(images), prompts), self.encode_text(ids), self.log_scale

    def encode_image(self, images: Float[DeviceArray, "B H W 3"]) -> SeemImage:
        """Encodes normalized images whose sides are multiples of 32."""
        return SeemImage(*self.pixel_decoder(self.backbone(images)))

    def encode_text(self, ids: Int[DeviceArray, "N L"]) -> Float[jax.Array, "N L E"]:
        """Returns a vector for each token of each text, of any length."""
        return self.precision.product(self.text_encoder(ids), self.text_projection)

    def text_vectors(self, ids: Int[DeviceArray, "N L"]) -> Float[jax.Array, "N E"]:
        """Returns a vector for each text: that of its end token."""
        return clip_text.select_end(self.encode_text(ids), ids, self.text_encoder.end_id)

    def decode(
        self, image: SeemImage, prompts: SeemPrompts, *, objects: bool = True, variant: str | None = None
    ) -> SeemPrediction:
        """Answers prompts about an encoded image. objects: whether the queries without a prompt are run. variant: another
        attention table than that of the decoder."""
        return self.decoder(image.mask_features, image.levels, prompts, objects=objects, variant=variant)

    def encode_example(
        self, image: SeemImage, prompts: SeemPrompts
    ) -> tuple[Float[jax.Array, "B N D"], tuple[Float[jax.Array, "B P C"], ...]]:
        """Returns the mean feature and the tokens of marked pixels, to find what they mark in other images."""
        return self.decoder.encode_example(image.mask_features, image.levels, prompts)


def average_templates(vectors: Float[DeviceArray, "K T E"]) -> Float[jax.Array, "K E"]:
    """Returns class vectors of unit length: the mean over the unit vectors of all templates."""
    mean = normalize(vectors).mean(1)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def build_model(config: ml_collections.ConfigDict) -> Seem:
    """Builds the model of a config; config.model has one block of fields for each submodule. Raises UserError if the kind of
    backbone or pixel decoder is unknown."""
    m, p = config.model, Precision(**config.model.precision)
    return Seem(
        _build_backbone(_with_tuples(m.mask_encoder), config.data.image_size, p),
        _build_pixel_decoder(dict(m.pixel_decoder), p),
        clip_text.ClipText(**m.text_encoder, precision=p),
        seem.SeemDecoder(**m.mask_decoder, precision=p),
        p,
    )


def _with_tuples(block: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the fields of a block; configs that were read from a file have lists instead of tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in block.items()}


def _build_backbone(fields: dict[str, Any], image_size: int, p: Precision) -> focal.FocalNet | davit.DaViT | sam_vit.SamPyramid:
    kind = fields.pop("kind")
    if kind in ("focal", "focal_dw"):
        return focal.FocalNet(kind, **fields, precision=p)
    if kind == "davit":
        return davit.DaViT(**fields, precision=p)
    if kind == "sam_vit":
        neck = sam_vit.PyramidNeck(fields.pop("neck_features"), p)
        return sam_vit.SamPyramid(sam_vit.SamVit(image_size, **fields, precision=p), neck)
    raise UserError(f"model.mask_encoder.kind = {kind!r}: use focal, focal_dw, davit or sam_vit")


def _build_pixel_decoder(
    fields: dict[str, Any], p: Precision
) -> fpn_pixel_decoder.FPNPixelDecoder | pixel_decoder.DeformablePixelDecoder:
    match fields.pop("kind"):
        case "fpn":
            return fpn_pixel_decoder.FPNPixelDecoder(**fields, precision=p)
        case "deformable":
            return pixel_decoder.DeformablePixelDecoder(**fields, merge="detectron2", precision=p)
        case kind:
            raise UserError(f"model.pixel_decoder.kind = {kind!r}: use fpn or deformable")


def init_params(model: Seem, config: ml_collections.ConfigDict, key: PRNGKeyArray) -> Any:
    """Returns randomly initialized parameters, boxed with their axis names."""
    side = config.data.image_size
    return model.init(key, jnp.zeros((1, side, side, 3)), jnp.zeros((1, 2), jnp.int32), SeemPrompts())["params"]


def weight_table(config: ml_collections.ConfigDict) -> Table:
    """Returns the weight table of the released state dicts (full_manifest of each model)."""
    model = build_model(config)
    rows = _backbone_table(model.backbone).with_prefix("backbone/", "backbone.")
    if isinstance(model.pixel_decoder, fpn_pixel_decoder.FPNPixelDecoder):
        pixels = fpn_pixel_decoder.table(model.pixel_decoder)
    else:
        pixels = pixel_decoder.table(model.pixel_decoder)
    rows += pixels.with_prefix("pixel_decoder/", f"{HEAD}pixel_decoder.")
    text = clip_text.table(model.text_encoder).with_prefix("text_encoder/", "lang_encoder.")
    text += Table([Row("text_projection", "lang_proj", Identity()), Row("log_scale", "logit_scale", Identity())])
    rows += text.with_prefix(name=f"{PREDICTOR}lang_encoder.")
    rows += seem.table(model.decoder).with_prefix("decoder/", PREDICTOR)
    constants = [Row((), "dilation_kernel", Constant((np.ones, (1, 1, 3, 3), np.float32)))]
    if model.decoder.variant != "demo":
        constants.append(Row((), "criterion.empty_weight", Constant((class_weights, config.model.num_classes))))
    return rows + Table(constants)


def class_weights(num_classes: int) -> Float32[np.ndarray, " {num_classes}+1"]:
    """Returns the weight of each class in the loss; the last one is "background"."""
    weights = np.ones(num_classes + 1, np.float32)
    weights[-1] = BACKGROUND_WEIGHT
    return weights


def _backbone_table(backbone: focal.FocalNet | davit.DaViT | sam_vit.SamPyramid) -> Table:
    if isinstance(backbone, focal.FocalNet):
        return focal.table(backbone)
    if isinstance(backbone, davit.DaViT):
        return davit.table(backbone)
    return sam_vit.table(backbone.vit).with_prefix("vit/") + sam_vit.neck_table().with_prefix("neck/", "neck.")
