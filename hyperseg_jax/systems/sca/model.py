"""The SCA model, its parameters and its weight table (Huang et al. 2024, arXiv 2312.00869)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from einops import rearrange
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from hyperseg_jax.connectors import caption_mixer
from hyperseg_jax.decoders.sam import SamPrediction
from hyperseg_jax.decoders.sam_prompts import ABSENT, SamPrompts
from hyperseg_jax.errors import UserError
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.two_way import TwoWayTransformer
from hyperseg_jax.llms import hub
from hyperseg_jax.llms.cache import KeyValues
from hyperseg_jax.llms.gpt2 import GPT2
from hyperseg_jax.llms.llama import Llama
from hyperseg_jax.structs import DeviceArray, TokenStream
from hyperseg_jax.systems.sam import model as sam
from hyperseg_jax.tables import Table

READS = ("decoded", "raw")
"""What the caption mixer reads: the outputs of SAM's decoder, as released, or its inputs (the ablation "split mixer")."""
RECOGNITION, CAPTION = 0, 1
"""Tasks, by which vectors the prefix of the language model begins."""


@flax.struct.dataclass
class SeenRegions:
    """Regions of images: SAM's masks, and the prefix of the language model for each region."""

    masks: SamPrediction
    prefix: Float[jax.Array, "B R L D"]


class Sca(nn.Module):
    """SCA: SAM, a caption mixer that reads regions from it, and a causal language model.

    reads: one of READS. Corresponds to ScaMultitaskV2Model. Parts: sam, mixer, prefix, llm.
    """

    sam: sam.Sam
    mixer: caption_mixer.CaptionMixer
    prefix: caption_mixer.CaptionPrefix
    llm: GPT2 | Llama
    reads: str = "decoded"

    def __call__(
        self,
        images: Float[DeviceArray, "B H W 3"],
        prompts: SamPrompts,
        task: Int[DeviceArray, " B"],
        ids: Int[DeviceArray, "B R T"],
        mask: Bool[DeviceArray, "B R T"],
    ) -> tuple[SeenRegions, Float[jax.Array, "B R T+1 V"]]:
        """Runs all parts, to initialize them."""
        seen = self.see(self.encode_image(images), prompts, task)
        return seen, self.logits(self.read(seen.prefix, ids, mask))

    def encode_image(self, images: Float[DeviceArray, "B H W 3"]) -> Float[jax.Array, "B h w C"]:
        """Encodes normalized square images to maps of stride 16."""
        return self.sam.encode_image(images)

    def decode(self, image: Float[DeviceArray, "B h w C"], prompts: SamPrompts) -> SamPrediction:
        """Returns SAM's masks of the regions of encoded images."""
        return self.sam.decode(image, prompts)

    def see(self, image: Float[DeviceArray, "B h w C"], prompts: SamPrompts, task: Int[DeviceArray, " B"]) -> SeenRegions:
        """Returns the masks and prefixes of the regions of encoded images. task: of each image, see RECOGNITION and CAPTION."""
        masks = self.sam.decode(image, prompts)
        places = rearrange(self.sam.image_positions(image.shape[1]), "h w c -> (h w) c")
        valid = prompts.kinds != ABSENT
        if self.reads == "raw":
            tokens, added = self.sam.encode_prompts(prompts)
            cells = rearrange(image, "b h w c -> b 1 (h w) c") + added
        else:
            tokens, cells = masks.tokens, masks.image
            own = tokens.shape[2] - valid.shape[2]  # tokens of SAM's decoder itself, before those of the marks
            valid = jnp.pad(valid, ((0, 0), (0, 0), (own, 0)), constant_values=True)
        queries, _ = self.mixer(tokens, cells, places, valid)
        return SeenRegions(masks, self.prefix(queries, task)[:, :, 0])

    def read(
        self,
        prefix: Float[DeviceArray, "B R L D"],
        ids: Int[DeviceArray, "B R T"],
        mask: Bool[DeviceArray, "B R T"],
        deterministic: bool = True,
    ) -> Float[jax.Array, "B R T+1 D"]:
        """Returns the hidden states of the last position of the prefix and of all tokens `ids`, each of which predicts the next
        token. mask: False at padding, which is at the end. deterministic: False applies the dropout of the language model."""
        b, r, length = prefix.shape[:3]
        words = self.llm.embed(ids)
        embeddings = rearrange(jnp.concatenate([prefix.astype(words.dtype), words], axis=2), "b r l d -> (b r) l d")
        known = jnp.ones((b * r, length), bool)
        stream = TokenStream.of_text(embeddings, jnp.concatenate([known, rearrange(mask, "b r t -> (b r) t")], axis=1))
        hidden = self.llm(stream, deterministic)[:, length - 1 :]
        return rearrange(hidden, "(b r) t d -> b r t d", b=b)

    def logits(self, hidden: Float[DeviceArray, "*B D"]) -> Float[jax.Array, "*B V"]:
        """Returns the logits of the next token."""
        return self.llm.logits(hidden)

    def begin_text(self, prefix: Float[DeviceArray, "M L D"], empty_slots: int) -> tuple[Float[jax.Array, "M V"], KeyValues]:
        """Returns the logits of the first token after each prefix, and the cache."""
        return self.llm.begin_text(prefix, empty_slots)

    def continue_text(self, ids: Int[DeviceArray, " M"], cache: KeyValues) -> tuple[Float[jax.Array, "M V"], KeyValues]:
        """Returns the logits after one more token of each text, and the updated cache."""
        return self.llm.continue_text(ids, cache)


def build_model(config: ml_collections.ConfigDict) -> Sca:
    """Builds the model of a config; config.model has one block of fields for each part. Raises UserError if a kind is
    unknown."""
    m, p = config.model, Precision(**config.model.precision)
    mixer, llm = dict(m.caption_mixer), dict(m.llm)
    reads, kind = mixer.pop("reads"), llm.pop("kind")
    if reads not in READS:
        raise UserError(f"model.caption_mixer.reads = {reads!r}: use one of {', '.join(READS)}")
    kinds: dict[str, Any] = {"gpt2": GPT2, "llama": Llama}
    if kind not in kinds:
        raise UserError(f"model.llm.kind = {kind!r}: use one of {', '.join(kinds)}")
    transformer = TwoWayTransformer(**mixer.pop("transformer"), precision=p)
    return Sca(
        sam.build_model(config),
        caption_mixer.CaptionMixer(transformer, **mixer, precision=p),
        caption_mixer.CaptionPrefix(llm["hidden_size"], m.num_task_tokens, precision=p),
        kinds[kind](**llm, precision=p),
        reads,
    )


def init_params(model: Sca, config: ml_collections.ConfigDict, key: PRNGKeyArray) -> Any:
    """Returns randomly initialized parameters, boxed with their axis names."""
    side, one = config.data.image_size, jnp.zeros((1, 1, 1), jnp.int32)
    prompts = SamPrompts(jnp.zeros((1, 1, 1, 2)), one)
    return model.init(key, jnp.zeros((1, side, side, 3)), prompts, one[0, 0], one, one == 0)["params"]


def weight_table(config: ml_collections.ConfigDict) -> Table:
    """Returns the weight table of the released state dicts (full_manifest of each model)."""
    model = build_model(config)
    rows = sam.table(model.sam).with_prefix("sam/") + caption_mixer.prefix_table(model.prefix).with_prefix("prefix/")
    rows += caption_mixer.table(model.mixer).with_prefix("mixer/", "mask_decoder.")
    return rows + hub.weight_table(model.llm, with_head=True).with_prefix("llm/", "language_model.")
