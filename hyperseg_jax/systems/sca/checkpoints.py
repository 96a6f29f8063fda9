"""The public checkpoints that SCA's weights are imported from, its parts, and the config.json that the authors' code reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from hyperseg_jax.errors import UserError
from hyperseg_jax.llms import hub
from hyperseg_jax.llms.settings import Settings
from hyperseg_jax.systems.sam import checkpoints as sam
from hyperseg_jax.systems.sam import model as sam_model
from hyperseg_jax.systems.sca.model import build_model
from hyperseg_jax.tables import Part, PublishedField, Rule, SourceCheckpoint
from hyperseg_jax.untrusted.printing import escaped_value

READS = "model.caption_mixer.reads"
CLASSES = {"ScaMultitaskV2Model": "decoded", "ScaMultitaskSplitMixerModel": "raw"}
"""Classes of the authors, and the values of READS. Their tensors have the same names and shapes."""
PUBLISHED_READS = PublishedField(READS, tuple(CLASSES.values()))


def check_settings(content: Mapping[str, Any], config: ml_collections.ConfigDict) -> None:
    """Raises UserError if a config.json is that of another class or language model than the config describes."""
    names = content.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if not isinstance(name, str) or name not in CLASSES:
        raise UserError(f"architectures = {escaped_value(names)} is not SCA; SCA's is one of {', '.join(CLASSES)}")
    if CLASSES[name] != (reads := config.model.caption_mixer.reads):
        raise UserError(
            f"architectures = {name}, which needs {READS} = {CLASSES[name]}, but the config has {reads}; give "
            f"--config.{READS}={CLASSES[name]}"
        )
    if "text_config" in content:
        try:
            published = Settings(content).block("text_config").content
            hub.check_settings(lambda config: build_model(config).llm, "model.llm", published, config)
        except UserError as error:
            raise UserError(f"text_config: {error}") from None


NEW = Rule(
    r"mask_decoder\.(caption_tokens|additional_transformer)\..*|language_project\..*|task_tokens\.weight",
    "the caption mixer, its queries, the task tokens and the projection are randomly initialized",
)
SCA = SourceCheckpoint(
    "SCA",
    mark=r"mask_decoder\.caption_tokens\.weight",
    file="the folder of xk-huang/segment-caption-anything-gpt2_large-vg or another released model, with its config.json",
    check_settings=check_settings,
)
SAM = tuple(dataclasses.replace(kind, initialized=(NEW,)) for kind in sam.CHECKPOINTS)
LLMS = hub.source_checkpoints(lambda config: build_model(config).llm, initialized=(NEW,))
CHECKPOINTS = (SCA, *SAM, *LLMS)


def make_parts() -> dict[str, Part]:
    """Returns the parts that transformers has classes for: "sam" (SamModel), and the language model."""
    table = lambda config: sam_model.weight_table(config).with_prefix("sam/")
    return {"sam": Part(("sam/",), table, sam.hf_config)} | hub.make_parts(lambda config: build_model(config).llm)


def hf_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config.json of the authors' classes."""
    model = build_model(config)
    mixer, (name, *_) = model.mixer, (name for name, reads in CLASSES.items() if reads == model.reads)
    settings = sam.hf_config(config)
    decoder = settings.pop("mask_decoder_config") | {
        "additional_num_hidden_layers": mixer.transformer.num_layers,
        "num_caption_tokens": mixer.num_queries,
        "num_caption_heads": 1,
    }
    return settings | {
        "architectures": [name],
        "model_type": "sca",
        "mask_caption_decoder_config": decoder,
        "text_config": hub.KINDS[config.model.llm.kind][1].hub_settings(model.llm),
        "num_task_tokens": model.prefix.num_task_tokens,
    }
