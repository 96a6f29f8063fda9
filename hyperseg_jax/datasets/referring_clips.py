"""Clips of the videos of `referring_frames`, with sentences about the only object of each video.

The frames of a part, such as all even ones, are the frames of a video, so that those in between can be held back for testing.
"""

from __future__ import annotations

import os

from hyperseg_jax.datasets.frame_sampling import Sampling
from hyperseg_jax.datasets.referring_frames import open_parts, read_sentences
from hyperseg_jax.datasets.referring_video import Expression, ReferringVideos
from hyperseg_jax.errors import UserError

OBJECT = 1
"""The number of the object in the masks."""


class ReferringClips(ReferringVideos):
    """Random access to the videos, sorted by name, each with all of its sentences."""

    def __init__(
        self,
        folder: str | os.PathLike,
        part: str = "all",
        *,
        resolution: str = "240p",
        frames: int | None = None,
        sampling: str = "stride",
        reach: int | None = None,
        seed: int = 0,
    ):
        """part: "even", "odd" or "all" frames of each video. frames, sampling, reach: see frame_sampling.Sampling. seed: clips
        are sampled from the seed and the index. Raises UserError if a file is missing or damaged; a video with damaged
        sentences is one that cannot be read."""
        file, folders, names = open_parts(folder, part, resolution)
        expressions: dict[str, list[Expression]] = {}
        errors: dict[str, list[UserError]] = {}
        for video in names:
            try:
                sentences = read_sentences(file, video)
            except UserError as error:
                expressions[video], errors[video] = [], [error]
            else:
                expressions[video] = [Expression(str(k), (text,), OBJECT) for k, text in enumerate(sentences)]
        super().__init__(
            folders,
            expressions,
            str(file.path),
            names=names,
            sampling=Sampling(frames, sampling, reach),
            per_example=max(1, *map(len, expressions.values())),
            seed=seed,
            errors=errors,
        )
