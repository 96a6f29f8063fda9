"""COCO-Interactive (PSALM): a list of {new_img_id, image_info, anns: [{segmentation, point_visual_prompt_mask,
scribble_..., box_..., mask_visual_prompt_mask}]}, with marks as run-length encodings."""

from __future__ import annotations

import os

import numpy as np

from hyperseg_jax.datasets import fields, files, masks
from hyperseg_jax.datasets.check_errors import has_reported_problem
from hyperseg_jax.datasets.id_index import check_image
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import KINDS, Example, Prompt, Region


class CocoInteractive:
    """Random access to the images of one json file in file order, each with visual prompts."""

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike,
        *,
        kinds: tuple[str, ...] = KINDS,
        max_regions: int | None = None,
        prompts_per_example: int = 1,
        point_radius: int | None = None,
        scribble_radius: int | None = None,
        seed: int = 0,
    ):
        """kinds: kinds of marks. Each region uses a nonempty mark of one kind, sampled from seed, index and prompt number (give
        a single kind to evaluate it). max_regions: number of randomly selected regions per prompt; None: all in file order.
        point_radius, scribble_radius: dilation of marks in pixels; None: the same as for prediction."""
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise UserError(f"kinds={tuple(kinds)} is unknown; choose some of {', '.join(KINDS)}")
        for name, value in (("max_regions", max_regions or 1), ("prompts_per_example", prompts_per_example)):
            if value < 1:
                raise UserError(f"{name}={value} is too few; give at least 1")
        self._length = self._open_annotations(json_path)
        self._images = files.existing_folder(image_root)
        self._kinds = tuple(kinds)
        self._max_regions = max_regions
        self._prompts = prompts_per_example
        self._radii = {"point": point_radius, "scribble": scribble_radius}
        self._seed = seed

    def _open_annotations(self, json_path: str | os.PathLike) -> int:
        """Opens the json file and returns its number of images."""
        self._file = files.Json(json_path, list)
        self._name = self._file.path.name
        return len(self._file.content)

    def __len__(self) -> int:
        return self._length

    @guard_record
    def __getitem__(self, index: int) -> Example:
        where, info, anns = self._read_record(index)
        size = fields.declared_image_size(info, where)
        pixels = files.read_image(files.path_field(self._images, info, "file_name", where), size)
        prompts = tuple(
            self._build_prompt(anns, np.random.default_rng([self._seed, index, k]), size, where) for k in range(self._prompts)
        )
        return Example(f"{self._name}#{index}", pixels[None], prompts)

    def _read_record(self, index: int) -> tuple[str, dict, list[dict]]:
        """Returns the location of a record for messages, its image info, and its regions."""
        where, record = f"{self._file.path}#{index}", self._file.content[index]
        info, anns = fields.dict_field(record, "image_info", where), fields.list_field(record, "anns", where)
        if "id" in info:
            for k, ann in enumerate(anns):
                check_image(ann, fields.id_field(info, "id", where), f"{where} anns#{k}")
        return where, info, anns

    def _build_prompt(self, anns: list[dict], rng: np.random.Generator, size: tuple[int, int], where: str) -> Prompt:
        order = np.arange(len(anns)) if self._max_regions is None else rng.permutation(len(anns))
        pairs = []
        for k in order[: self._max_regions]:
            mark = self._draw_random_mark(anns[k], rng, size, f"{where} anns#{k}")
            if mark is not None:
                pairs.append((mark, self._decode_target(anns[k], size, f"{where} anns#{k}")))
        if not pairs:
            if has_reported_problem():
                return Prompt(task="region")
            raise UserError(f"{where}: no region has a mark of kind {', '.join(self._kinds)}; remove the record")
        regions, targets = zip(*pairs, strict=True)
        return Prompt(
            task="region",
            masks=np.stack(targets)[:, None],
            labels=tuple(range(len(targets))),
            regions=regions,
        )

    def _decode_target(self, ann: dict, size: tuple[int, int], where: str) -> np.ndarray:
        return masks.decode_object(fields.field(ann, "segmentation", where), *size, f"{where} segmentation")

    def _draw_random_mark(self, ann: dict, rng: np.random.Generator, size: tuple[int, int], where: str) -> Region | None:
        """Returns one of the nonempty marks as a mask region; None if all are empty."""
        for k in rng.permutation(len(self._kinds)):
            kind = self._kinds[k]
            name = f"{kind}_visual_prompt_mask"
            mask = masks.decode_segmentation(fields.field(ann, name, where), *size, f"{where} {name}")
            if mask.any():
                return Region.from_mask(mask, kind, self._radii.get(kind, 0))
        return None
