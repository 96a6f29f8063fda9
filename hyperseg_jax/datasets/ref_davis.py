"""Ref-DAVIS 2017: the folder of DAVIS 2017, and sentences of two people (davis_text_annotations), a line each: video, number of
the object, "sentence".

Davis17_annot<1|2>.txt was written about the first frame, Davis17_annot<1|2>_full_video.txt about the whole video.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.clip_sampling import Sampling
from hyperseg_jax.datasets.davis import read_split
from hyperseg_jax.datasets.referring_video import Expression, ReferringVideos
from hyperseg_jax.datasets.video_folders import VideoFolders
from hyperseg_jax.errors import UserError

VIEWS = {"first_frame": "Davis17_annot{}.txt", "full_video": "Davis17_annot{}_full_video.txt"}
"""What the writer had seen, and the file of annotator 1 or 2."""
_MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
_LINE = re.compile(r'(\S+)\s+(\d+)\s+"?(.*?)"?')


class RefDavis(ReferringVideos):
    """Random access to the sentences about the videos of one split: videos in its order, in each by object, annotator and view.

    A prompt's group is "annotator 1, first_frame": published scores are means over the four, each scored apart.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        text_root: str | os.PathLike,
        split: str | None = "val",
        *,
        annotators: Sequence[int] = (1, 2),
        views: Sequence[str] = ("first_frame", "full_video"),
        sentences: str = "each",
        annotations: str = "Annotations_unsupervised",
        resolution: str = "480p",
        frames: int | None = None,
        sampling: str = "stride",
        reach: int | None = None,
        group_by_clip: bool = False,
        prompts_per_example: int = 4,
        together: bool = False,
        seed: int = 0,
    ):
        """root: the folder of DAVIS 2017. text_root: the folder of the text files. split: a list of ImageSets/2017; None takes
        every video that is here and spoken of. annotations: the folder of the masks in root. sentences: "each" is a prompt, or
        "joined" all about one object are one. frames, sampling, reach: see clip_sampling.Sampling. group_by_clip: an example
        carries up to prompts_per_example of one video. together: it carries what one annotator says in one view about each
        object, as the benchmark scores them, and Prompt.others of its first prompt are the objects of the first frame that go
        unmentioned. seed: what clips are drawn from, with the index.
        """
        if unknown := sorted(set(views) - set(VIEWS)):
            raise UserError(f"views: {unknown[0]!r} is unknown; choose from {', '.join(VIEWS)}")
        home, texts = files.existing_folder(root), pathlib.Path(text_root)
        folders = VideoFolders(files.subpath(home, "JPEGImages", resolution), files.subpath(home, annotations, resolution))
        videos = folders.videos() if split is None else read_split(files.subpath(home, "ImageSets", "2017", f"{split}.txt"))
        said: dict[str, list[Expression]] = {video: [] for video in videos}
        for annotator in annotators:
            for view in views:
                for video, expression in _read(files.subpath(texts, VIEWS[view].format(annotator)), annotator, view):
                    said.get(video, []).append(expression)
        silent = [video for video, expressions in said.items() if not expressions]
        if silent and (split is not None or len(silent) == len(videos)):
            message = f"{texts}: no sentence about {silent[0]}; take the texts and the list of videos of one release"
            report_problem("bad record", message)
        ordered = {video: sorted(found, key=lambda expression: expression.number or 0) for video, found in said.items()}
        super().__init__(
            folders,
            ordered,
            str(texts),
            sentences=sentences,
            sampling=Sampling(frames, sampling, reach),
            per_example=prompts_per_example if group_by_clip else None,
            together=together,
            seed=seed,
        )


def _read(path: pathlib.Path, annotator: int, view: str) -> Iterator[tuple[str, Expression]]:
    """(video, expression) of each line. The files are UTF-8 or, those of annotator 2, Latin-1."""
    for number, line in enumerate(files.read_lines(path, "file; unpack davis_text_annotations into text_root"), 1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None or not found[3].strip():
            message = f'{path} line {number}: should be: video, number of the object, "sentence"; correct or remove it'
            report_problem("bad record", message)
            continue
        video = _MISSPELT.get(found[1], found[1])
        key = f"{found[2]}.{annotator}.{view}"
        yield video, Expression(key, (found[3].strip(),), int(found[2]), f"annotator {annotator}, {view}")
