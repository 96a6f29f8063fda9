"""Ref-YouTube-VOS: <split>/JPEGImages/<video>/<frame>.jpg, <split>/Annotations/<video>/<frame>.png (palette values are object
ids), meta_expressions/<split>/meta_expressions.json {videos: {name: {frames, expressions: {id: {exp, obj_id}}}}}.

The splits valid and test have no masks and no obj_id: an evaluation server scores submissions of one png per frame and
expression.
"""

from __future__ import annotations

import os
from typing import Any

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.datasets.frame_sampling import Sampling
from hyperseg_jax.datasets.referring_video import Expression, ReferringVideos
from hyperseg_jax.datasets.video_folders import VOID, VideoFolders
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import escaped_value


class RefYouTubeVos(ReferringVideos):
    """Random access to the expressions of one meta file in file order. An example is named "<video>/<expression id>"."""

    def __init__(
        self,
        meta_path: str | os.PathLike,
        frame_root: str | os.PathLike,
        mask_root: str | os.PathLike | None = None,
        *,
        sentences: str = "each",
        frames: int | None = None,
        sampling: str = "stride",
        reach: int | None = None,
        group_by_video: bool = False,
        prompts_per_example: int = 4,
        seed: int = 0,
    ):
        """frame_root: JPEGImages. mask_root: Annotations; None for valid and test, whose prompts have no masks.

        sentences: "each" is one prompt per expression, "joined" one prompt per object. frames, sampling, reach: see
        frame_sampling.Sampling. group_by_video: an example has up to prompts_per_example prompts of one video. seed: clips are
        sampled from the seed and the index.
        """
        meta = files.Json(meta_path, dict)
        expressions: dict[str, list[Expression]] = {}
        names: dict[str, list[str]] = {}
        errors: dict[str, list[UserError]] = {}
        for video, record in fields.dict_field(meta.content, "videos", str(meta.path)).items():
            where = f"{meta.path} {video}"
            expressions[video], errors[video] = [], []
            try:
                names[video], rows = (
                    fields.frames_field(record, "frames", where),
                    fields.dict_field(record, "expressions", where),
                )
            except UserError as error:
                errors[video].append(error.with_traceback(None))
                continue
            for key, row in rows.items():
                try:
                    expressions[video].append(_parse_expression(key, row, mask_root is not None, f"{where} {key}"))
                except UserError as error:
                    errors[video].append(error.with_traceback(None))
        super().__init__(
            VideoFolders(frame_root, mask_root),
            expressions,
            str(meta.path),
            names=names,
            sentences=sentences,
            sampling=Sampling(frames, sampling, reach),
            per_example=prompts_per_example if group_by_video else None,
            seed=seed,
            errors=errors,
        )


def _parse_expression(key: str, record: Any, has_masks: bool, where: str) -> Expression:
    """Builds the Expression of a record. Raises UserError if obj_id is not a number."""
    text = fields.text_field(record, "exp", where)
    if not text.strip():
        raise Problem("bad record", f"{where}: field 'exp' is empty; describe the object, or remove the expression")
    if not has_masks:
        return Expression(key, (text,), None)
    value = fields.field(record, "obj_id", where)
    number = fields.parse_number(value)
    if number is None or number not in range(1, VOID):
        raise Problem("bad record", f"{where}: obj_id {escaped_value(value)} is not an object number from 1 to 254; correct it")
    return Expression(key, (text,), int(number))
