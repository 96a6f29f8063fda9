"""YouTube-VIS 2019 and 2021: instances.json or train.json {videos: [{id, height, width, file_names}], categories: [{id, name}],
annotations: [{video_id, category_id, iscrowd, segmentations: [run-length encoding, polygons or null per frame]}]}, images at
JPEGImages/<file_name>. The annotations of valid and test are null: an evaluation server scores submissions.
"""

from __future__ import annotations

import os

import numpy as np

from hyperseg_jax.datasets import fields, files, masks
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.class_prompts import ClassLists
from hyperseg_jax.datasets.frame_sampling import Sampling
from hyperseg_jax.datasets.id_index import IdIndex, read_categories
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.video_reader import VideoReader
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted import budget

EMPTY: tuple[None, list] = (None, [])
"""The segmentation of an object in a frame that does not show it."""


class YouTubeVis(VideoReader):
    """Random access to the videos of one json file in file order, each with a class list, by default that of the file.

    A prompt has one mask [T, H, W] per object, empty for frames with null or no polygon. An example is named
    "<json>#<video id>".
    """

    def __init__(
        self,
        json_path: str | os.PathLike,
        frame_root: str | os.PathLike,
        *,
        frames: int | None = None,
        sampling: str = "around",
        reach: int | None = None,
        max_classes: int | None = None,
        seed: int = 0,
    ):
        """frame_root: JPEGImages. frames, sampling, reach: see frame_sampling.Sampling; objects that are not visible in a
        sampled clip are dropped. max_classes: see class_prompts.ClassLists. seed: clips and class lists are sampled from the
        seed and the index.
        """
        self._file = files.Json(json_path, dict)
        self._root = files.existing_folder(frame_root)
        self._sampling = Sampling(frames, sampling, reach)
        self._seed = seed
        path, content = str(self._file.path), self._file.content
        videos = fields.list_field(content, "videos", path)
        self._items = range(len(videos))
        self._classes = read_categories(content, path)
        self._class_lists = ClassLists(self.classes, (True,) * len(self._classes), max_classes, seed=seed)
        self._has_masks = fields.is_given(content, "annotations")
        annotations = fields.list_field(content, "annotations", path) if self._has_masks else []
        self._videos = IdIndex(videos, "id", f"{path} videos")
        self._tracks: dict[int | str, list[int]] = {video: [] for video in self._videos}
        self._annotation_ids = IdIndex(annotations, "id", f"{path} annotations", strict=False).duplicates_only()
        for k, annotation in enumerate(annotations):
            video_id = fields.id_field(annotation, "video_id", f"{path} annotations#{k}")
            if video_id not in self._tracks:
                message = f"{path} annotations#{k}: video_id {video_id} is not among the videos of the file; correct it"
                report_problem("bad record", message)
                continue
            self._tracks[video_id].append(k)

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names, in the order of the file."""
        return tuple(self._classes.values())

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The category id of each class."""
        return tuple(self._classes)

    @guard_record
    def sample(self, index: int, rng: np.random.Generator) -> Example:
        """Returns a video, or a clip sampled with rng."""
        record = self._file.content["videos"][index]
        video = fields.id_field(record, "id", f"{self._file.path} videos#{index}")
        self._videos[video]  # reports duplicates
        where = f"{self._file.path} video {video}"
        size = fields.declared_image_size(record, where)
        names = fields.frames_field(record, "file_names", where)
        times = self._sample_frame_indices(video, len(names), rng)
        frames = np.stack([files.read_image(files.join_inside(self._root, names[t], where), size) for t in times])
        return Example(f"{self._file.path.name}#{video}", frames, (self._build_prompt(index, video, times, len(names), size),))

    def _sample_frame_indices(self, video: int | str, length: int, rng: np.random.Generator) -> np.ndarray:
        """Samples frame indices; the key frame shows an object if the video has one."""
        tracks = [self._segmentation_list(k) for k in self._tracks[video]]
        if not tracks:
            return self._sampling.sample_frame_indices(length, rng)
        shows = lambda t: any(any(part not in EMPTY for part in track[t : t + 1]) for track in tracks)
        return self._sampling.sample_frame_indices_showing(length, rng, shows)

    def _segmentation_list(self, k: int) -> list:
        """Returns the run-length encoding (or None) of annotation k for each frame."""
        return fields.list_field(self._file.content["annotations"][k], "segmentations", f"{self._file.path} annotations#{k}")

    def _build_prompt(self, index: int, video: int | str, times: np.ndarray, length: int, size: tuple[int, int]) -> Prompt:
        if not self._has_masks:
            return Prompt(task="panoptic", classes=self.classes, things=(True,) * len(self._classes), key=str(video))
        class_index = {category_id: k for k, category_id in enumerate(self._classes)}
        object_masks, labels, crowds, crowd_labels = [], [], [], []
        for k in self._tracks[video]:
            where = f"{self._file.path} annotations#{k}"
            annotation = self._file.content["annotations"][k]
            self._annotation_ids.check(annotation, where)
            category = fields.integer_field(annotation, "category_id", where)
            if category not in class_index:
                report_problem(
                    "bad record", f"{where}: category_id {category} is not among the categories of the file; correct it"
                )
                continue
            track = self._decode_track(self._segmentation_list(k), times, length, size, where)
            if fields.optional_flag_field(annotation, "iscrowd", where):
                crowds.append(track)
                crowd_labels.append(class_index[category])
            elif track.any() or self._sampling.frames is None:
                object_masks.append(track)
                labels.append(class_index[category])
        listed = self._class_lists.choose(index, 0, labels)
        new_label = {label: k for k, label in enumerate(listed)}
        ignored = [*crowds, *(mask for mask, label in zip(object_masks, labels, strict=True) if label not in new_label)]
        objects, crowds_of_list = (
            [(mask, new_label[label]) for mask, label in zip(tracks, numbers, strict=True) if label in new_label]
            for tracks, numbers in ((object_masks, labels), (crowds, crowd_labels))
        )
        return Prompt(
            task="panoptic",
            classes=tuple(self.classes[label] for label in listed),
            things=(True,) * len(listed),
            masks=np.array([mask for mask, _ in objects], bool).reshape(-1, len(times), *size),
            labels=tuple(label for _, label in objects),
            ignore=np.any(ignored, axis=0) if ignored else None,
            crowds=np.stack([mask for mask, _ in crowds_of_list]) if crowds_of_list else None,
            crowd_labels=tuple(label for _, label in crowds_of_list),
            key=str(video),
        )

    @staticmethod
    def _decode_track(segmentations: list, times: np.ndarray, length: int, size: tuple[int, int], where: str) -> np.ndarray:
        """Returns the mask of one object, bool [T, H, W]; frames with null or no polygon are empty."""
        if len(segmentations) != length:
            message = f"{where}: has {len(segmentations)} segmentations, its video {length} frames; write the annotation again"
            report_problem("bad mask", message)
            segmentations = [*segmentations, *[None] * length]
        track = np.zeros((len(times), *size), bool)
        for k, t in enumerate(times):
            if segmentations[t] not in EMPTY:
                track[k] = masks.decode_segmentation(
                    segmentations[t], *size, f"{where} segmentations, frame {t}", polygons="coco"
                )
            else:
                budget.charge_masks(1, size, f"{where}, frame {t}")
        return track
