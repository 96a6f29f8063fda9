"""The public checkpoints that SCA's weights are imported from, and the config.json that the authors' code requires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections

from hyperseg_jax.errors import UserError
from hyperseg_jax.tables import Rule, SourceCheckpoint
from hyperseg_jax.untrusted.printing import escaped_value

READS = "model.caption_mixer.reads"
CLASSES = {"ScaMultitaskV2Model": "decoded", "ScaMultitaskSplitMixerModel": "raw"}
"""Classes of the authors, by the values of READS. Their tensors have the same names and shapes."""


def check_settings(content: Mapping[str, Any], config: ml_collections.ConfigDict) -> None:
    """Raises UserError if a config.json is that of another class than the config describes."""
    names = content.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if name not in CLASSES:
        raise UserError(f"architectures = {escaped_value(names)}: is not SCA; SCA's is one of {', '.join(CLASSES)}")
    if CLASSES[name] != (reads := config.model.caption_mixer.reads):
        raise UserError(
            f"architectures = {name}, which needs {READS} = {CLASSES[name]}, but the config has {reads}; give "
            f"--config.{READS}={CLASSES[name]}"
        )


SCA = SourceCheckpoint(
    "SCA",
    mark=r"mask_decoder\.caption_tokens\.weight",
    file="the folder of xk-huang/segment-caption-anything-gpt2_large-vg or another released model, with its config.json",
    check_settings=check_settings,
)
NEW = Rule(
    r"mask_decoder\.(caption_tokens|additional_transformer)\..*|language_project\..*|task_tokens\.weight",
    "the caption mixer, its queries, the task tokens and the projection are randomly initialized",
)
