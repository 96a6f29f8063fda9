"""Writes toy videos in the layouts of the video benchmarks: DAVIS 2016 and 2017 with expressions, Ref-YouTube-VOS, YouTube-VIS
2019 and 2021, and ReVOS."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from hyperseg_jax.datasets.ref_davis import VIEWS
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.toy import toy_images, track_files
from hyperseg_jax.toy.expressions import Expression
from hyperseg_jax.toy.toy_images import World
from hyperseg_jax.toy.videos import Video
from hyperseg_jax.toy.vocabulary import CATEGORY_IDS, SIZE
from hyperseg_jax.toy.writer import REVOS_TYPES

SPLITS = {"train": "train", "val": "valid"}
"""Split names of DAVIS -> those of the YouTube datasets."""
_QUALITY = 90


@dataclasses.dataclass(frozen=True)
class _RenderedVideo:
    """A rendered video. number: its index in the split."""

    name: str
    number: int
    video: Video
    frames: np.ndarray
    expressions: list[Expression]

    @property
    def object_map(self) -> np.ndarray:
        return track_files.object_map(self.video)

    @property
    def names(self) -> list[str]:
        return [f"{t:05d}" for t in range(len(self.frames))]

    def single_target(self) -> Iterator[tuple[int, str]]:
        """Yields (object number, text) of each expression with one target."""
        for expression in self.expressions:
            if len(expression.targets) == 1:
                yield expression.targets[0] + 1, expression.text


def write_video_layouts(folder: str | os.PathLike, *, train: int = 2, val: int = 1, seed: int = 0) -> pathlib.Path:
    """Renders videos and writes them as davis2016/, davis2017/ (with davis_text_annotations/), ref_youtube_vos/,
    youtube_vis_2019/, youtube_vis_2021/ and revos/.

    train, val: number of videos of each split; they are those of the toy world with this seed. Returns the folder.
    """
    root, world = pathlib.Path(folder), World(seed=seed, clips=max(train, 5 * val))
    splits = {
        split: [_RenderedVideo(f"{split}-{k}", k, *toy_images.generate_video(world, split, k)) for k in range(count)]
        for split, count in (("train", train), ("val", val))
    }
    used_names = {thing.name for rendered in splits.values() for video in rendered for thing in video.video.things}
    names = [name for name in CATEGORY_IDS if name in used_names]
    for split, rendered in splits.items():
        _write_davis2016(root / "davis2016", split, rendered)
        _write_davis2017(root / "davis2017", split, rendered)
        _write_ref_youtube_vos(root / "ref_youtube_vos", SPLITS[split], rendered)
        youtube_split = SPLITS[split]
        _write_youtube_vis(
            root / "youtube_vis_2019" / f"{youtube_split}.json", root / "youtube_vis_2019" / youtube_split, rendered, names
        )
        _write_youtube_vis(
            root / "youtube_vis_2021" / youtube_split / "instances.json",
            root / "youtube_vis_2021" / youtube_split,
            rendered,
            names,
        )
        _write_revos(root / "revos", youtube_split, rendered)
    return root


def _write_davis2016(root: pathlib.Path, split: str, rendered: list[_RenderedVideo]) -> None:
    """Writes DAVIS 2016: masks of 0 and 255, and lists of image and mask files."""
    lines = []
    for video in rendered:
        _write_frames(root / "JPEGImages" / "480p" / video.name, video)
        _write_pngs(
            root / "Annotations" / "480p" / video.name,
            video.names,
            [Image.fromarray((o > 0) * np.uint8(255)) for o in video.object_map],
        )
        pairs = [(f"/JPEGImages/480p/{video.name}/{t}.jpg", f"/Annotations/480p/{video.name}/{t}.png") for t in video.names]
        lines += [" ".join(pair) for pair in pairs]
    _write_lines(root / "ImageSets" / "480p" / f"{split}.txt", lines)


def _write_davis2017(root: pathlib.Path, split: str, rendered: list[_RenderedVideo]) -> None:
    lines_by_file: dict[str, list[str]] = {}
    for video in rendered:
        _write_frames(root / "JPEGImages" / "480p" / video.name, video)
        for kind in ("Annotations", "Annotations_unsupervised"):
            _write_pngs(root / kind / "480p" / video.name, video.names, map(track_files.add_palette, video.object_map))
        for annotator in (1, 2):
            for view, pattern in VIEWS.items():
                lines = lines_by_file.setdefault(pattern.format(annotator), [])
                suffix = f", as {annotator} saw it in the {view.replace('_', ' ')}"
                lines += [f'{video.name} {number} "{text}{suffix}"' for number, text in dict(video.single_target()).items()]
    for year in ("2016", "2017"):
        _write_lines(root / "ImageSets" / year / f"{split}.txt", [video.name for video in rendered])
    for name, lines in lines_by_file.items():
        path = root / "davis_text_annotations" / name
        _write_lines(path, path.read_text().splitlines() + lines if path.exists() else lines)


def _write_ref_youtube_vos(root: pathlib.Path, split: str, rendered: list[_RenderedVideo]) -> None:
    """Writes Ref-YouTube-VOS; as published, only train has masks and object ids."""
    videos = {}
    for video in rendered:
        _write_frames(root / split / "JPEGImages" / video.name, video)
        records = [{"exp": text, "obj_id": str(number)} for number, text in video.single_target()]
        if split == "train":
            _write_pngs(root / split / "Annotations" / video.name, video.names, map(track_files.add_palette, video.object_map))
        else:
            records = [{"exp": record["exp"]} for record in records]
        videos[video.name] = {"expressions": {str(k): record for k, record in enumerate(records)}, "frames": video.names}
    _write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})


def _write_youtube_vis(
    annotations_path: pathlib.Path, root: pathlib.Path, rendered: list[_RenderedVideo], names: list[str]
) -> None:
    """Writes YouTube-VIS. names: the categories. As published, the annotations of valid are null."""
    videos: list[dict] = []
    annotations: list[dict] = []
    for video in rendered:
        _write_frames(root / "JPEGImages" / video.name, video)
        files = [f"{video.name}/{t}.jpg" for t in video.names]
        size = {"height": SIZE, "width": SIZE}
        videos.append({"id": video.number + 1, **size, "length": len(files), "file_names": files})
        for thing, track in zip(video.video.things, video.video.masks, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": video.number + 1,
                    "category_id": CATEGORY_IDS[thing.name],
                    "iscrowd": 0,
                    **size,
                    "segmentations": [run_lengths.encode(mask) if mask.any() else None for mask in track],
                    "areas": [int(mask.sum()) if mask.any() else None for mask in track],
                }
            )
    categories = [{"id": CATEGORY_IDS[name], "name": name, "supercategory": "object"} for name in names]
    content = {"videos": videos, "categories": categories, "annotations": annotations if root.name == "train" else None}
    _write_json(annotations_path, content)


def _write_revos(root: pathlib.Path, split: str, rendered: list[_RenderedVideo]) -> None:
    """Writes ReVOS; as published, one file has the masks of both splits. All objects are foreground."""
    videos, tracks, foreground = {}, _read_json(root / "mask_dict.json"), _read_json(root / "mask_dict_foreground.json")
    for video in rendered:
        _write_frames(root / "JPEGImages" / video.name, video)
        first = len(tracks)
        for k, track in enumerate(video.video.masks):
            tracks[str(first + k)] = [run_lengths.encode(mask) if mask.any() else None for mask in track]
        foreground[video.name] = {"masks_rle": [run_lengths.encode(object_map > 0) for object_map in video.object_map]}
        records = {
            str(k): {
                "exp": expression.text,
                "obj_id": list(expression.targets),
                "anno_id": [first + target for target in expression.targets],
                "type_id": REVOS_TYPES.get(expression.group, 0),
            }
            for k, expression in enumerate(video.expressions)
        }
        size = {"height": SIZE, "width": SIZE}
        videos[video.name] = {"vid_id": video.number, **size, "frames": video.names, "expressions": records}
    _write_json(root / f"meta_expressions_{split}_.json", {"videos": videos})
    _write_json(root / "mask_dict.json", tracks)
    _write_json(root / "mask_dict_foreground.json", foreground)


def _read_json(path: pathlib.Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def _write_frames(folder: pathlib.Path, video: _RenderedVideo) -> None:
    folder.mkdir(parents=True)
    for name, frame in zip(video.names, video.frames, strict=True):
        Image.fromarray(frame).save(folder / f"{name}.jpg", quality=_QUALITY)


def _write_pngs(folder: pathlib.Path, names: list[str], images: Any) -> None:
    folder.mkdir(parents=True)
    for name, image in zip(names, images, strict=True):
        image.save(folder / f"{name}.png")


def _write_lines(path: pathlib.Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _write_json(path: pathlib.Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
