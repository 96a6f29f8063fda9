"""Leaves the images of a benchmark out of the training data: those of a split of RefCOCO, RefCOCO+ or RefCOCOg."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.datasets.refer_files import list_splits, read_refs
from hyperseg_jax.errors import UserError


def leave_out(
    image_ids: Sequence[int | str | None], refs_path: str | os.PathLike | None, split: str
) -> tuple[list[int], tuple[str, ...]]:
    """Returns the positions of the records that stay, and a line that counts the others.

    image_ids: of each record; None stays. refs_path: the refs file; None leaves nothing out. split: of the images to leave out.
    Raises UserError if the file cannot be read or has no such split.
    """
    if refs_path is None:
        return list(range(len(image_ids))), ()
    excluded = image_ids_of_split(refs_path, split)
    kept = [k for k, image_id in enumerate(image_ids) if image_id not in excluded]
    which = f"their images are in the split {split!r} of {refs_path}"
    return kept, (f"{len(image_ids) - len(kept)} of {len(image_ids)} records are left out: {which}",)


def image_ids_of_split(path: str | os.PathLike, split: str) -> frozenset[int | str]:
    """Returns the ids of the images that a split of a refs file is about. Raises UserError if no ref has the split."""
    file = files.as_path(path)
    ids, splits = set[int | str](), set[str]()
    for k, ref in enumerate(read_refs(file)):
        of_ref = fields.text_field(ref, "split", f"{file}#{k}")
        splits.add(of_ref)
        if of_ref == split:
            ids.add(fields.id_field(ref, "image_id", f"{file}#{k}"))
    if not ids:
        raise UserError(f"{file}: no split {split!r}; available splits: {list_splits(splits)}")
    return frozenset(ids)
