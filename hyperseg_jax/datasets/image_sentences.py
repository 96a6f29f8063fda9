"""Sentences about COCO images, by the id of the image: those of RefCOCO, RefCOCO+ and RefCOCOg in their original files."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import note_problem
from hyperseg_jax.datasets.refcoco_refs import RefCocoRefs
from hyperseg_jax.structs import Prompt

INSTANCES = "instances.json"
"""The file beside a refs file that has its objects."""


class ImageSentences:
    """The sentences of one split of one or more refs files. notes: what was left out, a line each."""

    def __init__(self, paths: Sequence[str | os.PathLike], image_root: str | os.PathLike, split: str):
        """image_root: an existing folder. Each refs file has its instances.json beside it."""
        self._refs = [self._open(files.as_path(path), image_root, split) for path in paths]
        self.notes: tuple[str, ...] = ()
        for path, refs in zip(paths, self._refs, strict=True):
            for error in refs.damaged:
                note_problem("bad record", str(error))
            if refs.damaged:
                self.notes += (f"{len(refs.damaged)} prompts of {path} are damaged and left out; the first: {refs.damaged[0]}",)

    @staticmethod
    def _open(path: pathlib.Path, image_root: str | os.PathLike, split: str) -> RefCocoRefs:
        return RefCocoRefs(path, files.subpath(path.parent, INSTANCES), image_root, split=split, sentences="raw")

    def prompts_about(self, image_id: int | str, size: tuple[int, int]) -> tuple[Prompt, ...]:
        """Returns a prompt for each sentence about an image. size: its (height, width)."""
        return tuple(prompt for refs in self._refs for prompt in refs.prompts_about(image_id, size))
