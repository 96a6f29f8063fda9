"""LabelMe: a folder with images and X.json {imagePath, imageHeight, imageWidth, shapes: [{label, points, shape_type,
group_id}]}. Shapes with the same label and group_id are one object; shape_type is polygon, rectangle, circle or mask.

As in LabelMe's own converters, shapes with the label __ignore__ are no objects, and _background_ is no class: the pixels of the
first are in Prompt.ignore, and those of the second have no class.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pathlib

import numpy as np

from hyperseg_jax.datasets import fields, files, masks
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.class_prompts import ClassListReader, ClassLists
from hyperseg_jax.datasets.labels import note_grey_mask
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import budget, images
from hyperseg_jax.untrusted.bad_file import BadFile

IGNORED, BACKGROUND = "__ignore__", "_background_"
"""Labels that are no classes, unless the class list names them."""


class LabelMe(ClassListReader):
    """Random access to the images of one folder, sorted by json file name, with every label as a class."""

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        classes: tuple[str, ...] = (),
        stuff: tuple[str, ...] = (),
        max_classes: int | None = None,
        prompts_per_example: int = 1,
        seed: int = 0,
        chosen: tuple[str, ...] = (),
    ):
        """classes: the class list; empty uses the labels of all files, sorted alphabetically. stuff: labels of stuff classes,
        whose instances are not separated. The other arguments: see class_prompts.ClassLists."""
        self._root = files.existing_folder(folder)
        self._paths = files.list_files(self._root, "*.json")
        if not self._paths:
            raise Problem("missing file", f"{self._root}: no json files; give the folder with the LabelMe annotations")
        labels = {label for path in self._paths for label in self._read_labels_of_file(path)}
        names = tuple(classes) or tuple(sorted(labels - {IGNORED, BACKGROUND}))
        self._class_index = {name: k for k, name in enumerate(names)}
        self._class_lists = ClassLists(
            names, tuple(name not in stuff for name in names), max_classes, prompts_per_example, seed, tuple(chosen)
        )

    def _read_labels_of_file(self, path: pathlib.Path) -> list[str]:
        """Returns the labels of one file, without damaged ones, which are reported when its record is read."""
        labels = []
        with contextlib.suppress(Problem):
            for shape in fields.list_field(files.read_json(path), "shapes", str(path)):
                with contextlib.suppress(UserError):
                    labels.append(fields.name_field(shape, "label", str(path)))
        return labels

    def __len__(self) -> int:
        return len(self._paths)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        path = self._paths[index]
        record = files.read_json(path)
        size = fields.declared_image_size(record, str(path), "imageHeight", "imageWidth")
        name = fields.text_field(record, "imagePath", str(path)).replace("\\", "/")
        pixels = files.read_image(files.join_inside(self._root, name, f"{path} imagePath"), size)
        objects: dict[tuple, np.ndarray] = {}
        ignored = np.zeros(size, bool)
        for k, shape in enumerate(fields.list_field(record, "shapes", str(path))):
            where = f"{path} shapes#{k}"
            budget.charge_masks(1, size, where)
            try:
                label = fields.name_field(shape, "label", where)
            except Problem as problem:
                report_problem(problem.kind, str(problem))
                continue
            if label not in (*self._class_index, IGNORED, BACKGROUND):
                report_problem("bad record", f"{where}: label {label!r} is not among the classes; add it or correct the shape")
                continue
            mask = _fill_shape(shape, size, where)
            if mask is None:
                report_problem(
                    "bad mask",
                    f"{where}: not a valid polygon, rectangle, circle or mask in its 'points' and 'shape_type'; draw it again",
                )
                continue
            masks.note_empty(mask, where)
            if label not in self._class_index:
                ignored |= mask & (label == IGNORED)
                continue
            grouped = fields.is_given(shape, "group_id")
            key = (label, "group", fields.id_field(shape, "group_id", where)) if grouped else (label, "shape", k)
            objects[key] = objects.get(key, False) | mask
        stacked = np.array(list(objects.values()), bool).reshape(-1, *size)
        labels = [self._class_index[key[0]] for key in objects]
        prompts = self._class_lists.build_prompts(index, stacked, labels, ignored, key=path.stem)
        return Example(f"{self._root.name}/{path.name}", pixels[None], prompts)


def _fill_shape(shape: dict, size: tuple[int, int], where: str) -> np.ndarray | None:
    """Returns the mask of a polygon, rectangle, circle or mask shape; None if the shape is invalid."""
    points = masks.parse_points(fields.field(shape, "points", where))
    kind = shape["shape_type"] if fields.is_given(shape, "shape_type") else "polygon"
    if points is None:
        return None
    if kind == "polygon" and len(points) > 2:
        return masks.fill_polygons([points], *size, where)
    if len(points) != 2:
        return None
    (x, y), (u, v) = points
    if kind == "rectangle":
        return masks.fill_polygons([np.array([(x, y), (u, y), (u, v), (x, v)])], *size, where)
    if kind == "circle":  # points: the centre and a point on the border
        rows, columns = np.ogrid[: size[0], : size[1]]
        return np.hypot(columns - x, rows - y) <= np.hypot(u - x, v - y)
    return _paste_mask(shape, (min(x, u), min(y, v)), (abs(v - y), abs(u - x)), size, where) if kind == "mask" else None


def _paste_mask(
    shape: dict, corner: tuple[float, float], sides: tuple[float, float], size: tuple[int, int], where: str
) -> np.ndarray | None:
    """Pastes a base64 mask image at its corner into an empty mask, clipped at the image border.

    sides: the distance between its two points (height, width), which may differ from the mask size by one pixel.
    """
    try:
        data = base64.b64decode(shape["mask"], validate=True)
        part, is_grey = images.read_mask(data)
    except (KeyError, TypeError, ValueError, BadFile):
        return None
    if any(abs(length - round(side)) > 1 for length, side in zip(part.shape, sides, strict=True)):
        return None
    if is_grey:
        note_grey_mask(where)
    mask = np.zeros(size, bool)
    x, y = map(round, corner)
    part = part[max(0, -y) :, max(0, -x) :]
    window = mask[max(0, y) :, max(0, x) :][: part.shape[0], : part.shape[1]]
    window |= part[: window.shape[0], : window.shape[1]]
    return mask
