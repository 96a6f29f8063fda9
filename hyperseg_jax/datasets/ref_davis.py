"""Ref-DAVIS 2017: DAVIS 2017 with expressions by two annotators (davis_text_annotations), one per line: video, object number,
"sentence".

Davis17_annot<1|2>.txt describes the first frame, Davis17_annot<1|2>_full_video.txt the full video.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import note_problem, report_problem
from hyperseg_jax.datasets.davis import read_split
from hyperseg_jax.datasets.frame_sampling import Sampling
from hyperseg_jax.datasets.referring_video import Expression, ReferringVideos, group_expressions
from hyperseg_jax.datasets.video_folders import VideoFolders, object_number
from hyperseg_jax.errors import UserError

VIEWS = {"first_frame": "Davis17_annot{}.txt", "full_video": "Davis17_annot{}_full_video.txt"}
"""What the annotators saw -> file name; {} is the annotator, 1 or 2."""
MAX_OBJECTS = 20
"""Maximum number of objects of a video that DAVIS allows to be predicted together."""
_MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
_LINE = re.compile(r'(\S+)\s+(\S+)\s+"?(.*?)"?')


class RefDavis(ReferringVideos):
    """Random access to the expressions of one split: in the order of its video list, then by object, annotator and view.

    The group of a prompt is, for example, "annotator 1, first_frame". Published scores are means over the scores of the four
    groups.
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
        group_by_video: bool = False,
        prompts_per_example: int = 4,
        together: bool = False,
        seed: int = 0,
    ):
        """root: the folder of DAVIS 2017. text_root: the folder of the text files. split: a list in ImageSets/2017; None reads
        all videos that exist and have expressions. annotations: the mask folder in root. sentences: "each" is one prompt per
        expression, "joined" one prompt per object. frames, sampling, reach: see frame_sampling.Sampling. group_by_video: an
        example has up to prompts_per_example prompts of one video. together: an example has one prompt per object from the same
        annotator and view, as the benchmark evaluates them, and Prompt.others of its first prompt contains the objects of the
        first frame without expression. seed: clips are sampled from the seed and the index.
        """
        if unknown := sorted(set(views) - set(VIEWS)):
            raise UserError(f"views: {unknown[0]!r} is unknown; choose from {', '.join(VIEWS)}")
        davis, texts = files.existing_folder(root), files.as_path(text_root)
        folders = VideoFolders(files.subpath(davis, "JPEGImages", resolution), files.subpath(davis, annotations, resolution))
        videos = folders.videos() if split is None else read_split(files.subpath(davis, "ImageSets", "2017", f"{split}.txt"))
        by_video: dict[str, list[Expression]] = {video: [] for video in videos}
        for annotator in annotators:
            for view in views:
                for video, expression in _read_expressions(
                    files.subpath(texts, VIEWS[view].format(annotator)), annotator, view
                ):
                    by_video.get(video, []).append(expression)
        missing = [video for video, expressions in by_video.items() if not expressions]
        if missing and (split is not None or len(missing) == len(videos)):
            message = f"{texts}: no expression for {missing[0]}; use texts and video list from the same release"
            report_problem("bad record", message)
        for video, expressions in by_video.items():
            if (most := max(map(len, group_expressions(expressions)), default=0)) > MAX_OBJECTS:
                note_problem("bad record", f"{texts}: {video} has {most} objects, and scores allow {MAX_OBJECTS}; remove some")
        ordered = {video: sorted(group, key=lambda expression: expression.number or 0) for video, group in by_video.items()}
        super().__init__(
            folders,
            ordered,
            str(texts),
            sentences=sentences,
            sampling=Sampling(frames, sampling, reach),
            per_example=prompts_per_example if group_by_video else None,
            together=together,
            seed=seed,
        )


def _read_expressions(path: pathlib.Path, annotator: int, view: str) -> Iterator[tuple[str, Expression]]:
    """Yields (video, expression) of each line of a text file, which is UTF-8 or, for annotator 2, Latin-1."""
    what, other = "file; unpack davis_text_annotations into text_root", "latin-1" if annotator == 2 else ""
    for number, line in enumerate(files.read_lines(path, what, other), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        object_id = object_number(match[2]) if match else None
        if match is None or object_id is None or not match[3].strip():
            message = f'{path} line {number}: expected: video, object number from 1 to 254, "sentence"; correct or remove it'
            report_problem("bad record", message)
            continue
        video = _MISSPELT.get(match[1], match[1])
        key = f"{match[2]}.{annotator}.{view}"
        yield video, Expression(key, (match[3].strip(),), object_id, f"annotator {annotator}, {view}")
