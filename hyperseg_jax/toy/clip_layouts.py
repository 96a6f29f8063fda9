"""Toy clips in the layouts of the video benchmarks: DAVIS of both years with sentences, Ref-YouTube-VOS, YouTube-VIS of both
years, ReVOS."""

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
from hyperseg_jax.toy.clips import Clip
from hyperseg_jax.toy.expressions import Expression
from hyperseg_jax.toy.toy_images import World, clip
from hyperseg_jax.toy.vocabulary import CATEGORY_IDS, SIZE
from hyperseg_jax.toy.writer import REVOS_TYPES

SPLITS = {"train": "train", "val": "valid"}
"""The splits of DAVIS, and what YouTube's sets call them."""
_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128, 0, 128, 128]
"""The first colours of DAVIS."""
_QUALITY = 90


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A clip with its name. number: of the clip within its split."""

    name: str
    number: int
    clip: Clip
    frames: np.ndarray
    said: list[Expression]

    @property
    def owner(self) -> np.ndarray:
        """uint8 [T, H, W]: things are numbered from 1."""
        return (self.clip.masks * np.arange(1, len(self.clip.things) + 1)[:, None, None, None]).max(0).astype(np.uint8)

    @property
    def names(self) -> list[str]:
        return [f"{t:05d}" for t in range(len(self.frames))]

    def about_one(self) -> Iterator[tuple[int, str]]:
        """(thing, text) of each expression that names one thing."""
        for expression in self.said:
            if len(expression.targets) == 1:
                yield expression.targets[0] + 1, expression.text


def write_clip_layouts(folder: str | os.PathLike, *, train: int = 2, val: int = 1, seed: int = 0) -> pathlib.Path:
    """Draws clips and writes them as davis2016/, davis2017/ (with davis_text_annotations/), ref_youtube_vos/,
    youtube_vis_2019/, youtube_vis_2021/ and revos/.

    train, val: clips of each split; they are those of the toy world of this seed. Returns the folder.
    """
    home, world = pathlib.Path(folder), World(seed=seed, clips=max(train, 5 * val))
    splits = {
        split: [_Drawn(f"{split}-{k}", k, *clip(world, split, k)) for k in range(count)]
        for split, count in (("train", train), ("val", val))
    }
    shown = {thing.name for drawn in splits.values() for one in drawn for thing in one.clip.things}
    names = [name for name in CATEGORY_IDS if name in shown]
    for split, drawn in splits.items():
        _davis2016(home / "davis2016", split, drawn)
        _davis2017(home / "davis2017", split, drawn)
        _ref_youtube_vos(home / "ref_youtube_vos", SPLITS[split], drawn)
        place = SPLITS[split]
        _youtube_vis(home / "youtube_vis_2019" / f"{place}.json", home / "youtube_vis_2019" / place, drawn, names)
        _youtube_vis(home / "youtube_vis_2021" / place / "instances.json", home / "youtube_vis_2021" / place, drawn, names)
        _revos(home / "revos", place, drawn)
    return home


def _davis2016(home: pathlib.Path, split: str, drawn: list[_Drawn]) -> None:
    """The archive of 2016: masks of 0 and 255, lists of images and masks."""
    lines = []
    for one in drawn:
        _jpegs(home / "JPEGImages" / "480p" / one.name, one)
        _pngs(
            home / "Annotations" / "480p" / one.name, one.names, [Image.fromarray((o > 0) * np.uint8(255)) for o in one.owner]
        )
        where = [(f"/JPEGImages/480p/{one.name}/{t}.jpg", f"/Annotations/480p/{one.name}/{t}.png") for t in one.names]
        lines += [" ".join(pair) for pair in where]
    _text(home / "ImageSets" / "480p" / f"{split}.txt", lines)


def _davis2017(home: pathlib.Path, split: str, drawn: list[_Drawn]) -> None:
    said: dict[str, list[str]] = {}
    for one in drawn:
        _jpegs(home / "JPEGImages" / "480p" / one.name, one)
        for kind in ("Annotations", "Annotations_unsupervised"):
            _pngs(home / kind / "480p" / one.name, one.names, map(_palette, one.owner))
        for annotator in (1, 2):
            for view, pattern in VIEWS.items():
                lines = said.setdefault(pattern.format(annotator), [])
                also = f", as {annotator} saw it in the {view.replace('_', ' ')}"
                lines += [f'{one.name} {number} "{text}{also}"' for number, text in dict(one.about_one()).items()]
    for year in ("2016", "2017"):
        _text(home / "ImageSets" / year / f"{split}.txt", [one.name for one in drawn])
    for name, lines in said.items():
        path = home / "davis_text_annotations" / name
        _text(path, path.read_text().splitlines() + lines if path.exists() else lines)


def _ref_youtube_vos(home: pathlib.Path, split: str, drawn: list[_Drawn]) -> None:
    """Without masks and numbers of objects outside train, as it is published."""
    videos = {}
    for one in drawn:
        _jpegs(home / split / "JPEGImages" / one.name, one)
        said = [{"exp": text, "obj_id": str(number)} for number, text in one.about_one()]
        if split == "train":
            _pngs(home / split / "Annotations" / one.name, one.names, map(_palette, one.owner))
        else:
            said = [{"exp": record["exp"]} for record in said]
        videos[one.name] = {"expressions": {str(k): record for k, record in enumerate(said)}, "frames": one.names}
    _json(home / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})


def _youtube_vis(notes_path: pathlib.Path, home: pathlib.Path, drawn: list[_Drawn], names: list[str]) -> None:
    """names: the categories. The annotations of valid are null, as they are published."""
    videos: list[dict] = []
    notes: list[dict] = []
    for one in drawn:
        _jpegs(home / "JPEGImages" / one.name, one)
        files = [f"{one.name}/{t}.jpg" for t in one.names]
        size = {"height": SIZE, "width": SIZE}
        videos.append({"id": one.number + 1, **size, "length": len(files), "file_names": files})
        for thing, track in zip(one.clip.things, one.clip.masks, strict=True):
            notes.append(
                {
                    "id": len(notes) + 1,
                    "video_id": one.number + 1,
                    "category_id": CATEGORY_IDS[thing.name],
                    "iscrowd": 0,
                    **size,
                    "segmentations": [run_lengths.encode(mask) if mask.any() else None for mask in track],
                    "areas": [int(mask.sum()) if mask.any() else None for mask in track],
                }
            )
    categories = [{"id": CATEGORY_IDS[name], "name": name, "supercategory": "object"} for name in names]
    content = {"videos": videos, "categories": categories, "annotations": notes if home.name == "train" else None}
    _json(notes_path, content)


def _revos(home: pathlib.Path, split: str, drawn: list[_Drawn]) -> None:
    """Annotations of both splits in one file, as they are published; every thing is foreground."""
    videos, tracks, foreground = {}, _read(home / "mask_dict.json"), _read(home / "mask_dict_foreground.json")
    for one in drawn:
        _jpegs(home / "JPEGImages" / one.name, one)
        first = len(tracks)
        for k, track in enumerate(one.clip.masks):
            tracks[str(first + k)] = [run_lengths.encode(mask) if mask.any() else None for mask in track]
        foreground[one.name] = {"masks_rle": [run_lengths.encode(owner > 0) for owner in one.owner]}
        said = {
            str(k): {
                "exp": expression.text,
                "obj_id": list(expression.targets),
                "anno_id": [first + target for target in expression.targets],
                "type_id": REVOS_TYPES.get(expression.group, 0),
            }
            for k, expression in enumerate(one.said)
        }
        size = {"height": SIZE, "width": SIZE}
        videos[one.name] = {"vid_id": one.number, **size, "frames": one.names, "expressions": said}
    _json(home / f"meta_expressions_{split}_.json", {"videos": videos})
    _json(home / "mask_dict.json", tracks)
    _json(home / "mask_dict_foreground.json", foreground)


def _read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def _jpegs(folder: pathlib.Path, one: _Drawn) -> None:
    folder.mkdir(parents=True)
    for name, frame in zip(one.names, one.frames, strict=True):
        Image.fromarray(frame).save(folder / f"{name}.jpg", quality=_QUALITY)


def _palette(owner: np.ndarray) -> Image.Image:
    image = Image.fromarray(owner)
    image.putpalette(_PALETTE)
    return image


def _pngs(folder: pathlib.Path, names: list[str], images: Any) -> None:
    folder.mkdir(parents=True)
    for name, image in zip(names, images, strict=True):
        image.save(folder / f"{name}.png")


def _text(path: pathlib.Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _json(path: pathlib.Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
