"""Run-length encoding of masks in COCO's format. Host side, NumPy and pycocotools."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int
from pycocotools import mask as coco_mask

LONGEST_NUMBER = 6  # characters after the first; more than any image's pixels


def encode(mask: Bool[np.ndarray, "H W"]) -> dict:
    """Encodes a mask as compressed COCO RLE for JSON: {"size": [H, W], "counts": str}."""
    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")}


def decode(counts: object, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Decodes run lengths to a bool mask [height, width].

    counts: the lengths of alternating runs of False and True down the columns, as a list or COCO's compressed text.
    Raises ValueError if they are damaged or do not sum to height * width.
    """
    runs = parse_lengths(counts, height * width)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def parse_lengths(counts: object, pixels: int) -> Int[np.ndarray, " N"]:
    """Parses run lengths, see `decode`. Raises ValueError if they are damaged or do not sum to this many pixels."""
    flat = isinstance(counts, list) and not any(isinstance(run, list) for run in counts)
    runs = np.asarray(counts) if flat else _decode_text(counts)
    if runs.dtype.kind not in "ui" or runs.ndim != 1 or (runs < 0).any() or sum(runs.tolist()) != pixels:
        raise ValueError(f"the run lengths do not sum to {pixels} pixels")
    return runs


def paint_runs(first: Int[np.ndarray, " N"], after: Int[np.ndarray, " N"], pixels: int) -> Bool[np.ndarray, " P"]:
    """Returns a flat bool canvas that is True in all of the runs, which may overlap. first, after: the first pixel of each run,
    and the one after its last. pixels: size of the canvas."""
    if not len(first):
        return np.zeros(pixels, bool)
    order = np.argsort(first)
    first, after = first[order], np.maximum.accumulate(after[order])
    last = np.flatnonzero(np.append(first[1:] > after[:-1], True))  # of those that touch or overlap
    edges = np.stack([first[np.append(0, last[:-1] + 1)], after[last]], 1).reshape(-1)
    runs = np.diff(edges, prepend=0, append=pixels)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def _decode_text(counts: object) -> np.ndarray:
    """Decodes COCO's compressed text to run lengths: 5 bits per character, sign-extended; from the fourth number on, each
    number is the difference to the second-last one. pycocotools is not used, because it accesses invalid memory if the text is
    damaged."""
    raw = counts.encode("ascii") if isinstance(counts, str) else counts
    if not isinstance(raw, bytes):
        raise ValueError("the run lengths are neither a list of numbers nor a string")
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    more = (codes & 32) > 0
    if not len(codes) or (codes < 0).any() or (codes > 63).any() or more[-1]:
        raise ValueError("the compressed run lengths are damaged")
    first = np.flatnonzero(np.concatenate([[True], ~more[:-1]]))
    last = np.flatnonzero(~more)
    digit = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if digit.max() > LONGEST_NUMBER:
        raise ValueError("the compressed run lengths are damaged")
    numbers = np.add.reduceat((codes & 31) << (5 * digit), first)
    numbers -= np.where(codes[last] & 16, np.int64(32) << (5 * digit[last]), 0)
    for chain in (numbers[1::2], numbers[2::2]):
        chain[:] = np.cumsum(chain)
    return numbers
