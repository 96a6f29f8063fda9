"""Clips of the videos of `referring_frames`, with sentences about the only object of each video.

The frames of a part, such as all even ones, are the frames of a video, so that those in between can be held back for testing.
"""

from __future__ import annotations

import os

from hyperseg_jax.datasets.frame_sampling import Sampling
from hyperseg_jax.datasets.referring_frames import open_parts, read_sentences
from hyperseg_jax.datasets.referring_video import Expression, ReferringVideos

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
        are sampled from the seed and the index. Raises UserError if a file is missing or damaged."""
        file, folders, names = open_parts(folder, part, resolution)
        expressions = {
            video: [Expression(str(k), (text,), OBJECT) for k, text in enumerate(read_sentences(file, video))]
            for video in names
        }
        super().__init__(
            folders,
            expressions,
            str(file.path),
            names=names,
            sampling=Sampling(frames, sampling, reach),
            per_example=max(map(len, expressions.values()), default=1),
            seed=seed,
        )
