"""ReVOS: JPEGImages/<video>/<frame>.jpg, meta_expressions_{train,valid}_.json {videos: {name: {height, width, frames,
expressions: {id: {exp, anno_id, type_id}}}}}, mask_dict.json {anno_id: [run-length encoding or null per frame]}."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from hyperseg_jax.datasets import fields, files, masks
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.frame_sampling import Sampling
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.video_reader import VideoReader
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.text.expressions import clean_video_expression
from hyperseg_jax.untrusted import budget

SENTENCES = ("each", "random")
TYPES = {0: "referring", 1: "reasoning", 2: "absent"}
"""type_id -> group of the scores; expressions of type 2 refer to nothing in the video."""


class ReVos(VideoReader):
    """Random access to the expressions of one meta file in file order, each with its clip."""

    def __init__(
        self,
        meta_path: str | os.PathLike,
        mask_path: str | os.PathLike,
        frame_root: str | os.PathLike,
        *,
        foreground_path: str | os.PathLike | None = None,
        frames: int | None = None,
        sampling: str = "stride",
        reach: int | None = None,
        sentences: str = "each",
        group_by_video: bool = False,
        prompts_per_example: int = 4,
        seed: int = 0,
    ):
        """mask_path: mask_dict.json. frame_root: the folder of the video folders (JPEGImages).
        foreground_path: mask_dict_foreground.json, {video: {masks_rle: [run-length encodings per frame]}}, for the robustness
        score.

        frames, sampling, reach: see frame_sampling.Sampling; a key frame shows a target.
        sentences: "each" is one prompt per expression; "random" is one example per video, with a random expression that has
        objects, as in InstructSeg's training. group_by_video: an example has up to prompts_per_example prompts of one video.
        seed: clips and random expressions are sampled from the seed and the index.
        """
        if sentences not in SENTENCES:
            raise UserError(f"sentences={sentences!r} is unknown; choose one of {', '.join(SENTENCES)}")
        if sentences == "random" and group_by_video:
            raise UserError("sentences='random' is one prompt of a video; remove group_by_video, or give sentences='each'")
        if prompts_per_example < 1:
            raise UserError(f"prompts_per_example={prompts_per_example} is too few; give at least 1")
        self._meta = files.Json(meta_path, dict)
        self._masks = files.Json(mask_path, dict)
        self._foreground = files.Json(foreground_path, dict) if foreground_path else None
        self._root = files.existing_folder(frame_root)
        self._sampling = Sampling(frames, sampling, reach)
        self._seed = seed
        self._random = sentences == "random"
        self._items: list[tuple[str, list[str]]] = []
        for video, record in fields.dict_field(self._meta.content, "videos", str(self._meta.path)).items():
            try:
                expressions = fields.dict_field(record, "expressions", f"{self._meta.path} {video}")
            except Problem:  # raised again when it is read
                self._items.append((video, []))
                continue
            keys = [key for key, expression in expressions.items() if not self._random or _has_objects(expression)]
            if keys:
                size = prompts_per_example if group_by_video else len(keys) if self._random else 1
                self._items += [(video, group) for group in files.split_evenly(keys, size)]

    @guard_record
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """Returns expressions with their video, or a clip sampled with rng."""
        video, keys = self._items[index]
        where = f"{self._meta.path} {video}"
        record = self._meta.content["videos"][video]
        fields.dict_field(record, "expressions", where)
        if self._random:
            keys = [keys[rng.integers(len(keys))]]
        size = fields.declared_image_size(record, where)
        names = fields.frames_field(record, "frames", where)
        expressions = {key: fields.dict_field(record["expressions"], key, where) for key in keys}
        anno_ids = {key: fields.id_list_field(expressions[key], "anno_id", f"{where}/{key}") for key in keys}
        times = self._sample_frame_indices([anno_id for ids in anno_ids.values() for anno_id in ids], len(names), rng)
        frames = np.stack(
            [files.read_image(files.join_inside(self._root, f"{video}/{names[t]}.jpg", where), size) for t in times]
        )
        foreground = self._read_foreground(video, times, size)
        prompts = tuple(
            self._build_prompt(expressions[key], anno_ids[key], times, len(names), size, f"{video}/{key}", foreground)
            for key in keys
        )
        return Example(f"{video}/{keys[0]}", frames, prompts, tuple(str(names[t]) for t in times))

    def _sample_frame_indices(self, anno_ids: list[int | str], length: int, rng: np.random.Generator) -> np.ndarray:
        """Samples frame indices. A key frame shows one of the objects."""
        tracks = [self._read_track(anno_id, length) for anno_id in anno_ids]
        if not self._sampling.has_key_frame or not tracks:
            return self._sampling.sample_frame_indices(length, rng)
        return self._sampling.sample_frame_indices_showing(
            length, rng, lambda t: any(_encoding_at(track, t) is not None for track in tracks)
        )

    def _read_track(self, anno_id: int | str, length: int) -> list:
        """Returns the run-length encoding (or None) of an annotation for each frame of its video. Reports a problem if it has
        too few frames."""
        budget.check_time(str(self._masks.path))
        track = fields.list_field(self._masks.content, str(anno_id), str(self._masks.path))
        if len(track) < length:
            message = f"{self._masks.path}: annotation {anno_id} has {len(track)} frames, its video {length}"
            report_problem("bad mask", f"{message}; use both files from the same release")
        return track

    def _read_foreground(self, video: str, times: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
        """Returns the union of all objects of the clip, bool [T, H, W]; None without a foreground file."""
        if self._foreground is None:
            return None
        where = f"{self._foreground.path} {video}"
        tracks = fields.list_field(fields.field(self._foreground.content, video, where), "masks_rle", where)
        foreground = np.zeros((len(times), *size), bool)
        for k, t in enumerate(times):
            if t >= len(tracks):
                report_problem(
                    "bad mask", f"{where}: has {len(tracks)} frames, the video more; use both files from the same release"
                )
                continue
            for track in tracks[t] if isinstance(tracks[t], list) else [tracks[t]]:
                if track is not None:
                    foreground[k] |= masks.decode_segmentation(track, *size, f"{where}, frame {t}")
        return foreground

    def _build_prompt(
        self,
        expression: dict,
        anno_ids: list[int | str],
        times: np.ndarray,
        length: int,
        size: tuple[int, int],
        key: str,
        foreground: np.ndarray | None,
    ) -> Prompt:
        where = f"{self._meta.path} {key}"
        budget.charge_masks(0, size, where)
        target = np.zeros((len(times), *size), bool)
        for anno_id in anno_ids:
            track = self._read_track(anno_id, length)
            for k, t in enumerate(times):
                if (mask := _encoding_at(track, t)) is not None:
                    target[k] |= masks.decode_segmentation(mask, *size, f"{self._masks.path} {anno_id}, frame {t}")
        kind = (
            TYPES.get(fields.integer_field(expression, "type_id", where), "")
            if fields.is_given(expression, "type_id")
            else TYPES[0]
        )
        return Prompt(
            task="video",
            text=clean_video_expression(fields.sentence_field(expression, "exp", where)),
            masks=target[None] if anno_ids else np.zeros((0, *target.shape), bool),
            group=fields.optional_name_field(expression, "group", where) or kind,
            foreground=foreground,
            key=key,
            needs_reasoning=True,
        )


def _has_objects(expression: Any) -> bool:
    """Returns whether an expression refers to something in the video. A malformed one counts, and raises when it is read."""
    return not isinstance(expression, dict) or expression.get("anno_id") != []


def _encoding_at(track: list, t: int) -> Any:
    """Returns the run-length encoding of frame t; None after the end of the track."""
    return track[t] if t < len(track) else None
